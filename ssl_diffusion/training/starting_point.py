r"""A fit never returns less than its own starting point: the trained model against a probe of the pretrained denoiser.

With validation labels both are scored on them, and the better one is kept. Without, the trained model has seen every label, so
there is no fold of them that is held out for it, and training again without some would double the time of a fit. Two facts that
need no second training decide then, and where neither speaks against it, the trained model is kept:

* Its accuracy on the labels that it was trained with is an optimistic estimate. If even that is below the probe's accuracy on
  folds of the same labels that were held out for it, the probe is the better one.
* Both models label images that have no label. From these, and from the pixels alone, each labeled image is classified by a vote
  of its ten nearest neighbors, once with the labels by either model. Neither model has a part in the pixels, so the better
  labeling of the pool lets the neighbors guess more of the true labels. The probe is kept if :math:`b` labels are guessed only
  from its labeling, :math:`c` only from that of the trained model, and :math:`(b - c) / \sqrt{b + c} > 2` (McNemar 1947).

Beside a backbone the burden of proof is the other way round: the trained model is kept only where something speaks for it. With
few labels the encoder learns to tell apart the labeled images and drowns the backbone, which has ended up to 13 points below
the probe; on no collection of photos has it ended clearly above. Neither of the two facts sees that: the labeled images are all
right, and where the pixels say nothing about the classes, as of digits on photos, the neighbors guess at random. So with
validation labels the trained model has to be right on more of them by a standard error, :math:`c - b > \sqrt{b + c}`, and
without, in the neighbors' votes, by 1.64 of them, which happens to a model that is no better once in twenty times.

Multi-label models are scored by their mean negative log-likelihood per class (NLL) instead of their accuracy: where most
classes are absent from most images, a model that never names one is nearly always right. Their neighbors have no vote.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.class_metrics import METRICS, figure_of_merit
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import predict_logits, probabilities, represent
from ssl_diffusion.machine import Device
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.settings import MetricName
from ssl_diffusion.training.which_is_better import Score, decide, decide_beside_backbone, mcnemar, neighbor_votes, worse

__all__ = [
    "Score",
    "Start",
    "StartComparison",
    "compare_with_start",
    "unlabeled_sample",
]

_log = logging.getLogger(__name__)
_SAMPLE = 2000  # unlabeled images, at most
_LEAST_SAMPLE, _LEAST_LABELS = 100, 20  # below these the neighbors say nothing
_COLLAPSED = 0.4  # total variation between the classes that the two models predict


@dataclass(frozen=True)
class StartComparison:
    """How the trained model compares with the probe; scores are None where they were not measured.

    Attributes:
        kept: Model that the fit returns, "trained", "probe", or "backbone" for a probe on the backbone alone.
        reason: Ground of the decision: "validation", "own labels", "neighbors", "nothing against it", or "nothing for it".
        probe: Scores of the probe: `validation`; `folds`, on labels that were held out for it; `neighbors`.
        trained: Scores of the trained model: `validation`; `own_labels`, on labels that it was trained with; `neighbors`.
        class_change: Total variation between the class frequencies that both predict for unlabeled images, in [0, 1]; None for
            multi-label data.
        score: Meaning of the scores: the setting `training.metric`, or "nll", which is lower for the better one, for
            multi-label data whose metric is the accuracy.
        alone: Score of a probe on the backbone alone on the validation labels; None without one of both.
    """

    kept: Literal["trained", "probe", "backbone"]
    reason: str
    probe: dict[str, float | None]
    trained: dict[str, float | None]
    class_change: float | None
    score: Score = "accuracy"
    alone: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded, for metrics; a score that is not finite is None."""

        def rounded(values: dict[str, float | None]) -> dict[str, float | None]:
            finite = {name: value is not None and math.isfinite(value) for name, value in values.items()}
            return {name: round(value, 4) if value is not None and finite[name] else None for name, value in values.items()}

        change = None if self.class_change is None else round(self.class_change, 4)
        facts = {"probe": rounded(self.probe), "trained": rounded(self.trained), "class_change": change}
        if self.alone is not None:
            facts["backbone"] = rounded({"validation": self.alone})
        return {"kept": self.kept, "reason": self.reason, "score": self.score, **facts}

    def advice(self) -> str:
        """Why the trained model is not kept, and what to do."""
        if self.kept == "backbone":
            shown = [self._shown(value) for value in (self.alone, self.trained["validation"], self.probe["validation"])]
            return (
                f"the backbone alone is better ({shown[0]} of the validation labels, the trained model {shown[1]}, the probe "
                f"on both {shown[2]}), so it is kept: train longer (--steps, --time)"
            )
        if self.reason == "nothing for it":
            return (
                "nothing that the labels say speaks for the trained model, so the probe on both that training began at is "
                "kept: hold out labels to see which is better (--val-fraction 0.2), or use --objective probe for seconds"
            )
        mine, theirs, what = {
            "validation": ("validation", "validation", "of the validation labels"),
            "own labels": ("own_labels", "folds", "of its labels, the probe of labels held out for it"),
            "neighbors": ("neighbors", "neighbors", "of the labels, guessed by neighbors that either labels"),
        }[self.reason]
        value, other = self.trained[mine], self.probe[theirs]
        assert value is not None
        assert other is not None
        scores = f"{self._shown(value)} against {self._shown(other, name=False)}"
        how = "worse" if worse(value, other, self.score) else "not clearly better"
        return (
            f"the trained model is {how} than the probe that training can start from ({scores} {what}), so the probe is kept: "
            "train longer (--steps, --time), or use --objective probe, which takes seconds"
        )

    def _shown(self, value: float | None, name: bool = True) -> str:
        assert value is not None
        if self.score == "nll":
            return f"{'NLL ' if name else ''}{value:.3f}"
        return f"{METRICS[self.score] + ' ' if name and self.score != 'accuracy' else ''}{value:.1%}"


@dataclass(frozen=True)
class Start:
    """The probe that a trained model is compared with.

    Attributes:
        config: Configuration of the model.
        weights: Weights by name.
        comparison: The comparison.
    """

    config: JointConfig
    weights: dict[str, Tensor]
    comparison: StartComparison


def compare_with_start(
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet,
    config: JointConfig,
    denoiser: dict[str, Tensor],
    trained: dict[str, Tensor],
) -> Start:
    """Compare a trained model with a probe of the denoiser that it was trained from; a collapse is logged as a warning.

    Args:
        recipe: Resolved settings.
        pool: Images.
        labeled: Labels that were used.
        config: Configuration of the trained model.
        denoiser: Weights of the pretrained denoiser.
        trained: Weights of the trained model.
    """
    device, seed = Device.resolve(recipe.compute.accelerator, recipe.compute.precision), recipe.training.seed
    positions, val = pool.positions(labeled.fitted), pool.positions(labeled.val)
    unlabeled = unlabeled_sample(pool, labeled, seed)[: 0 if pool.multilabel else None]
    rows = np.concatenate([positions, val, unlabeled])
    model = build_model(config, seed=0, initial=trained).to(device.accelerator)
    logits = predict_logits(model, pool.images[rows], precision=device.precision)
    # The probe is one more forward pass; its features are standardised as in the objective "probe".
    frozen = config.replace(model=config.model.replace(head_width=0, head_dropout=0.0), head_noise=0.0)
    model = build_model(frozen, seed=0, initial=denoiser).to(device.accelerator)
    first = np.concatenate([positions, reference_sample(pool.train, seed)])  # the same batches, hence the same bits
    z, y, k = represent(model, pool.images[first], precision=device.precision), pool.labels[positions], len(pool.classes)
    z, reference = z[: len(positions)], z[len(positions) :]
    balanced = recipe.training.class_weights == "balanced"
    probe = fit_probe(z, y, reference, k, balanced=balanced, seed=seed)
    folds = fold_logits(z, y, reference, k, probe.inverse_penalty, seed, balanced=balanced)
    made = model.with_linear_head(probe.weight, probe.bias)
    others = predict_logits(made, pool.images[rows[len(positions) :]], precision=device.precision)
    start = np.concatenate([probe.logits(z), others])
    comparison = compared(pool, labeled, unlabeled, start, logits, folds, recipe.training.metric)
    weights = {name: tensor.cpu() for name, tensor in made.state_dict().items()}
    return Start(made.config, weights, comparison)


def compared(
    pool: Pool,
    labeled: LabeledSet,
    unlabeled: NDArray[np.int64],
    start: NDArray[np.float32],
    trained: NDArray[np.float32],
    folds: NDArray[np.float32] | None,
    metric: MetricName = "accuracy",
    *,
    beside_backbone: bool = False,
) -> StartComparison:
    """Compare a trained model with a probe by what both say of the same images; a collapse is logged as a warning.

    Args:
        pool: Images.
        labeled: Labels that were used.
        unlabeled: Positions of some images whose labels are not used, int64 (m,); none for multi-label data.
        start: Logits of the probe, float32 (n, K), for the labeled images, those for validation, and these, in this order.
        trained: Logits of the trained model for the same images.
        folds: Logits of probes for labels that were held out for them (:func:`fold_logits`); None without.
        metric: Figure that decides; the NLL instead of the accuracy of multi-label data. Neighbors vote on accuracy only.
        beside_backbone: Whether the trained model has to be better to be kept, and not only no worse.
    """
    positions, val = pool.positions(labeled.fitted), pool.positions(labeled.val)
    rows, y, k, logits = np.concatenate([positions, val, unlabeled]), pool.labels[positions], len(pool.classes), trained
    own, held_out, rest = np.split(np.arange(len(rows)), np.cumsum([len(positions), len(val)]))
    score: Score = "nll" if pool.multilabel and metric == "accuracy" else metric
    probe_scores: dict[str, float | None] = {"validation": None, "folds": None, "neighbors": None}
    scores: dict[str, float | None] = {"validation": None, "own_labels": scored(score, logits[own], y), "neighbors": None}
    if folds is not None:
        probe_scores["folds"] = scored(score, folds, y)
    statistic = change = on_held_out = None
    if len(val):
        probe_scores["validation"] = scored(score, start[held_out], pool.labels[val])
        scores["validation"] = scored(score, logits[held_out], pool.labels[val])
        if score == "accuracy":
            on_held_out = mcnemar(*(values[held_out].argmax(axis=1) == pool.labels[val] for values in (start, logits)))
    if len(rest) >= _LEAST_SAMPLE:
        guesses = [values[rest].argmax(axis=1) for values in (start, logits)]
        counts = [np.bincount(classes, minlength=k) / len(rest) for classes in guesses]
        change = float(np.abs(counts[0] - counts[1]).sum() / 2)
        if len(own) >= _LEAST_LABELS:
            pixels = pool.images[rows].reshape(len(rows), -1)
            right = [votes == y for votes in neighbor_votes(pixels[own], pixels[rest], guesses, k)]
            probe_scores["neighbors"], scores["neighbors"] = (float(r.mean()) for r in right)
            statistic = mcnemar(right[0], right[1]) if score == "accuracy" else None
    if beside_backbone:
        kept, reason = decide_beside_backbone(probe_scores, scores, statistic, on_held_out, score)
    else:
        kept, reason = decide(probe_scores, scores, statistic, score)
    if change is not None and change > _COLLAPSED:
        _log.warning(
            "training has moved %.0f %% of the unlabeled images to other classes than a probe of the denoiser predicts, which "
            "looks like a collapse: train longer (--steps, --time), or use --consistency none or --objective probe",
            100 * change,
        )
    return StartComparison(kept, reason, probe_scores, scores, change, score)


def unlabeled_sample(pool: Pool, labeled: LabeledSet, seed: int, among: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Sorted positions of at most 2,000 training images whose labels a fit does not use, drawn at random.

    Args:
        pool: Images.
        labeled: Labels that are used.
        seed: Random seed.
        among: Positions to draw from, int64 (n,); None draws from all training images.
    """
    others = np.setdiff1d(pool.train if among is None else among, pool.positions([*labeled.train, *labeled.val]))
    return np.sort(np.random.default_rng(seed).permutation(others)[:_SAMPLE])


def fold_logits(
    z: NDArray[np.float32],
    y: NDArray[np.int64],
    reference: NDArray[np.float32] | None,
    n_classes: int,
    inverse_penalty: float,
    seed: int,
    *,
    balanced: bool = False,
) -> NDArray[np.float32] | None:
    """Logits of probes for labels that were held out for them; None if that leaves a class, or everything, without a label.

    Args:
        z: Representations of the labeled images, float32 (n, F); see :func:`ssl_diffusion.models.fit_probe`.
        y: Labels.
        reference: Representations of images of the pool; None if `z` is standardised.
        n_classes: Number of classes K.
        inverse_penalty: Inverse penalty C.
        seed: Random seed of the folds.
        balanced: Whether every class weighs the same.
    """
    multilabel = y.ndim == 2
    folds = min(5, len(y) if multilabel else int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return None
    logits = np.zeros((len(y), n_classes), dtype=np.float32)
    splitter = (KFold if multilabel else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    for fitted, tested in splitter.split(z, y):
        probe = fit_probe(
            z[fitted], y[fitted], reference, n_classes, inverse_penalty=inverse_penalty, balanced=balanced, seed=seed
        )
        logits[tested] = probe.logits(z[tested])
    return logits


def scored(score: Score, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The score of logits, float32 (n, K), by the labels of these images."""
    if score in ("accuracy", "nll"):
        return classification_metrics(logits, labels)[score]
    return figure_of_merit(score, probabilities(logits, labels.ndim == 2), labels)
