r"""The joint loss.

.. math::
    L = \mathbb E_{x \in \text{all}} \, w(\sigma) |D(x_\sigma; \sigma) - x|^2
        + \lambda \, \mathbb E_{(x, y) \in \text{labeled}} \, CE(head(rep(aug(x))), y)

The denoising term sees all images; the classification term sees labeled batches only, drawn from their own stream. Both
share one encoder pass: noised pool images and augmented labeled images are one batch until the decoder, which runs on
the former only. Everything random is in the :class:`TrainingBatch`, so that the objective itself is a deterministic function.

With a consistency term (`training/consistency.py`), weighted like the classification loss, strong views of unlabeled
images join that pass. Their weak views need no gradient and go through the moving average of the weights, encoder only.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.noise import target
from ssl_diffusion.training.consistency import Match

__all__ = ["OBJECTIVES", "Objective", "TrainingBatch"]

# Which parts of the model an objective trains; the others get no gradient (and, on several ranks, no communication).
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "joint": ("encoder", "decoder", "head"),
    "labels-only": ("encoder", "head"),
    "denoise-only": ("encoder", "decoder"),
}


@dataclass
class TrainingBatch:
    """One step's data. Denoising part: `clean`, `sigma`, `eps`; classification part: `labeled`, `labels`, `labeled_sigma`;
    consistency part: `weak`, `strong`, `strong_sigma` and, for the history only, `hidden`.

    Images are float32 (B, C, H, W) in [-1, 1]; `labeled` and `strong` have their noise added already; noise levels are (B,);
    labels are int64 (B,), or float (B, K) with 0/1 for multi-label data; `hidden` are the true labels of the unlabeled
    images as far as they are known, else -1. A part that an objective does not use is None.
    """

    clean: Tensor | None = None
    sigma: Tensor | None = None
    eps: Tensor | None = None
    labeled: Tensor | None = None
    labels: Tensor | None = None
    labeled_sigma: Tensor | None = None
    weak: Tensor | None = None
    strong: Tensor | None = None
    strong_sigma: Tensor | None = None
    hidden: Tensor | None = None

    def share(self, rank: int, ranks: int, device: torch.device) -> "TrainingBatch":
        """This rank's equal share of the global batch, on `device`."""

        def part(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.chunk(ranks)[rank].to(device)

        return TrainingBatch(**{f.name: part(getattr(self, f.name)) for f in fields(self)})


class Objective(nn.Module):
    """Losses of a batch under one of :data:`OBJECTIVES`.

    Args:
        model: the joint model.
        name: "joint", "labels-only" or "denoise-only".
        classification_weight: lambda of the formula above.
        label_smoothing: share of the target spread over all classes, in [0, 1); single-label data only.
        consistency: the pseudo-label term; None leaves it out.
        teacher: model that reads the weak views, in evaluation mode; its weights are the caller's to update.
    """

    def __init__(
        self,
        model: JointDiffusion,
        name: str,
        *,
        classification_weight: float = 1.0,
        label_smoothing: float = 0.0,
        consistency: Match | None = None,
        teacher: JointDiffusion | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.classification_weight = classification_weight
        self.label_smoothing = label_smoothing
        self.consistency = consistency
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule: neither trained nor saved with this one
        for part, parameters in model.parameter_groups().items():
            for parameter in parameters:
                parameter.requires_grad_(part in OBJECTIVES[name])

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Scalars: "loss" (to minimise) and, detached, what it is made of."""
        model, x, sigma = self.model, [], []
        if batch.clean is not None and batch.sigma is not None and batch.eps is not None:
            noised = batch.clean + batch.sigma[:, None, None, None] * batch.eps
            x.append(noised)
            sigma.append(batch.sigma)
        if batch.labeled is not None and batch.labeled_sigma is not None:
            x.append(batch.labeled)
            sigma.append(model.read_level(batch.labeled_sigma))
        if batch.strong is not None and batch.strong_sigma is not None:
            x.append(batch.strong)
            sigma.append(model.read_level(batch.strong_sigma))
        levels = torch.cat(sigma)
        features = model.encode(torch.cat(x), levels)
        n_denoise = 0 if batch.clean is None else len(batch.clean)
        pool_part, read_part = features.split(n_denoise)

        losses: dict[str, Tensor] = {}
        loss = levels.new_zeros(())
        if batch.clean is not None:
            c = model.noise.coefficients(levels[:n_denoise])
            raw = model.raw_output(pool_part, batch.clean.shape)
            losses["denoising_loss"] = functional.mse_loss(raw, target(batch.clean, noised, c))
            loss = loss + losses["denoising_loss"]
        if batch.labels is not None:
            all_logits = model.classify_representation(model.pool_features(read_part))
            logits = all_logits[: len(batch.labels)]
            losses["classification_loss"] = self._classification_loss(logits, batch.labels)
            losses["labeled_accuracy"] = _accuracy(logits, batch.labels)
            loss = loss + self.classification_weight * losses["classification_loss"]
            if self.consistency is not None and batch.weak is not None:
                losses |= self._consistency_losses(batch.weak, all_logits[len(batch.labels) :], batch.hidden)
                loss = loss + self.classification_weight * losses["consistency_loss"]
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}}

    def _consistency_losses(self, weak: Tensor, strong_logits: Tensor, hidden: Tensor | None) -> dict[str, Tensor]:
        teacher, match = self._teacher[0], self.consistency
        assert teacher is not None
        assert match is not None
        with torch.no_grad():
            weak_logits = teacher.classify(weak)
        result = match(weak_logits, strong_logits)
        losses = {"consistency_loss": result.loss, "mask_rate": result.confident.float().mean()}
        if hidden is not None:
            known = hidden >= 0
            # Shares of the batch, whose means over steps have a meaningful ratio; the ratio of one batch may be 0 / 0.
            losses["pseudo_known"] = (result.confident & known).float().mean()
            losses["pseudo_right"] = (result.confident & known & (result.pseudo_labels == hidden)).float().mean()
        return losses

    def _classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:
            return functional.binary_cross_entropy_with_logits(logits, labels)
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of right predictions; of right single decisions at 0.5 for multi-label data."""
    right = (logits > 0) == (labels > 0.5) if labels.ndim == 2 else logits.argmax(dim=1) == labels
    return right.float().mean()
