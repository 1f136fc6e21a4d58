r"""The joint loss.

.. math::
    L = \mathbb E_{x \in \text{all}} \, w(\sigma) |D(x_\sigma; \sigma) - x|^2
        + \lambda \, \mathbb E_{(x, y) \in \text{labeled}} \, CE(head(rep(aug(x))), y)

The denoising term sees all images; the classification term sees labeled images only, drawn from their own stream. Both share
one encoder pass: noised images and augmented labeled images are one batch until the decoder, which runs on the former only.
Everything random is in the :class:`TrainingBatch`, apart from dropout.

With a consistency term (:mod:`ssl_diffusion.training.consistency`), weighted like the classification loss, strong views of
unlabeled images join that pass. Their weak views need no gradient and go through the moving average of the weights, encoder
only.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.noise import target
from ssl_diffusion.training.consistency import Match

__all__ = ["OBJECTIVES", "DenoisingBatch", "LabeledBatch", "Objective", "TrainingBatch", "UnlabeledBatch"]

# Which parts of the model an objective trains; the others get no gradient (and, on several ranks, no communication).
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "joint": ("encoder", "decoder", "head"),
    "labels-only": ("encoder", "head"),
    "denoise-only": ("encoder", "decoder"),
}


# The batches are not frozen: Fabric takes them apart to convert their tensors.
@dataclass
class _Part(ABC):
    """Tensors of one term of the loss, aligned by their first dimension."""

    @abstractmethod
    def encoder_input(self, model: JointDiffusion) -> tuple[Tensor, Tensor]:
        """Images and the noise levels at which the encoder reads them, (B, C, H, W) and (B,)."""

    def for_rank(self, rank: int, ranks: int, device: torch.device) -> Self:
        """One rank's equal part, on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.chunk(ranks)[rank].to(device) for name, t in tensors.items() if t is not None})


@dataclass
class DenoisingBatch(_Part):
    """Images of the denoising term.

    Attributes:
        clean: Images without noise, float32, (B, C, H, W), in [-1, 1].
        sigma: Noise levels, float32, (B,).
        eps: Standard normal noise, float32, (B, C, H, W).
    """

    clean: Tensor
    sigma: Tensor
    eps: Tensor

    def noised(self) -> Tensor:
        """The images at their noise levels, (B, C, H, W)."""
        return self.clean + self.sigma[:, None, None, None] * self.eps

    def encoder_input(self, model: JointDiffusion) -> tuple[Tensor, Tensor]:
        """Images and the noise levels at which the encoder reads them."""
        return self.noised(), self.sigma


@dataclass
class LabeledBatch(_Part):
    """Images of the classification term.

    Attributes:
        images: Augmented views with their noise, float32, (B, C, H, W).
        labels: Classes, int64, (B,), or 0/1 for every class, float32, (B, K), for multi-label data.
        sigma: Noise levels of the views, float32, (B,).
        features: Features of views of the same images by the backbone, float32, (B, Fb); None for a model without one.
    """

    images: Tensor
    labels: Tensor
    sigma: Tensor
    features: Tensor | None = None

    def encoder_input(self, model: JointDiffusion) -> tuple[Tensor, Tensor]:
        """Images and the noise levels at which the encoder reads them."""
        return self.images, model.read_level(self.sigma)


@dataclass
class UnlabeledBatch(_Part):
    """Images of the consistency term.

    Attributes:
        weak: Weakly augmented views without noise, float32, (B, C, H, W), in [-1, 1].
        strong: Strongly augmented views with their noise, float32, (B, C, H, W).
        sigma: Noise levels of the strong views, float32, (B,).
        hidden: True classes, int64, (B,), -1 where unknown; for the history only. None leaves the pseudo-labels unmeasured.
        features: Features of the same images by the backbone, float32, (B, Fb); None for a model without one.
        start: Class probabilities by the probe that the training began at, float32, (B, K); None leaves out the anchor.
    """

    weak: Tensor
    strong: Tensor
    sigma: Tensor
    hidden: Tensor | None = None
    features: Tensor | None = None
    start: Tensor | None = None

    def encoder_input(self, model: JointDiffusion) -> tuple[Tensor, Tensor]:
        """Strong views and the noise levels at which the encoder reads them."""
        return self.strong, model.read_level(self.sigma)


@dataclass
class TrainingBatch:
    """Data of one step: one part for each term of the loss; None for a term that the objective does not have."""

    denoising: DenoisingBatch | None = None
    labeled: LabeledBatch | None = None
    unlabeled: UnlabeledBatch | None = None

    def for_rank(self, rank: int, ranks: int, device: torch.device) -> "TrainingBatch":
        """One rank's equal part of the global batch, on `device`."""
        return TrainingBatch(
            self.denoising and self.denoising.for_rank(rank, ranks, device),
            self.labeled and self.labeled.for_rank(rank, ranks, device),
            self.unlabeled and self.unlabeled.for_rank(rank, ranks, device),
        )


class Objective(nn.Module):
    """Loss of a batch under one of :data:`OBJECTIVES`.

    Args:
        model: Joint model.
        name: Name of the objective: "joint", "labels-only" or "denoise-only".
        classification_weight: Weight lambda of the formula above.
        label_smoothing: Fraction of the target that is spread over all classes, in [0, 1); single-label data only.
        class_weights: Weights of the classes in the classification loss, float32 (K,), or those of the answer "yes" for
            multi-label data; None weighs all samples alike.
        consistency: Pseudo-label term; None leaves it out.
        teacher: Model that reads the weak views, in evaluation mode; the caller updates its weights.
        anchor: Weight of the cross-entropy of the strong views to what the probe says of their images, relative to
            `classification_weight`.
    """

    def __init__(
        self,
        model: JointDiffusion,
        name: str,
        *,
        classification_weight: float = 1.0,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        consistency: Match | None = None,
        teacher: JointDiffusion | None = None,
        anchor: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.classification_weight = classification_weight
        self.label_smoothing = label_smoothing
        self._class_weights = (class_weights,)  # in a tuple, so that no state of the model holds them
        self.consistency = consistency
        self.anchor = anchor
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule: neither trained nor saved with this one
        for part, parameters in model.parameter_groups().items():
            for parameter in parameters:
                parameter.requires_grad_(part in OBJECTIVES[name])

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Losses of a batch, as scalars: "loss", to be minimised, and, detached, its terms and what describes them."""
        model, weight = self.model, self.classification_weight
        inputs = [p.encoder_input(model) for p in (batch.denoising, batch.labeled, batch.unlabeled) if p is not None]
        images, levels = (torch.cat(tensors) for tensors in zip(*inputs, strict=True))
        n = 0 if batch.denoising is None else len(batch.denoising.clean)
        noised_features, read_features = model.encode(images, levels).split(n)
        loss, terms = levels.new_zeros(()), {}
        if batch.denoising is not None:
            clean, c = batch.denoising.clean, model.noise.coefficients(levels[:n])
            raw = model.raw_output(noised_features, clean.shape)
            terms["denoising_loss"] = functional.mse_loss(raw, target(clean, images[:n], c))
            loss = loss + terms["denoising_loss"]
        if batch.labeled is not None:
            labels, z = batch.labeled.labels, model.pool_features(read_features)
            if isinstance(model, FusedDiffusion):
                z = model.fuse(z, _features(batch))
            logits = model.classify_representation(z)
            terms |= self._classification_terms(logits[: len(labels)], labels)
            loss = loss + weight * terms["classification_loss"]
            if batch.unlabeled is not None:
                unlabeled = logits[len(labels) :]
                if self.consistency is not None or batch.unlabeled.start is None:
                    terms |= self._consistency_terms(batch.unlabeled, unlabeled)
                    loss = loss + weight * terms["consistency_loss"]
                if batch.unlabeled.start is not None and self.anchor:
                    terms["anchor_loss"] = functional.cross_entropy(unlabeled, batch.unlabeled.start)
                    loss = loss + weight * self.anchor * terms["anchor_loss"]
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    def _classification_terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        (weights,) = self._class_weights
        weights = weights.to(logits) if weights is not None else None
        if labels.ndim == 2:
            loss = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
            right = (logits > 0) == (labels > 0.5)
        else:
            loss = functional.cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing)
            right = logits.argmax(dim=1) == labels
        return {"classification_loss": loss, "labeled_accuracy": right.float().mean()}

    def _consistency_terms(self, batch: UnlabeledBatch, strong_logits: Tensor) -> dict[str, Tensor]:
        (teacher,) = self._teacher
        if teacher is None or self.consistency is None:
            raise ValueError("a batch with unlabeled images needs an objective with a consistency term and its teacher")
        with torch.no_grad():
            if isinstance(teacher, FusedDiffusion):
                weak_logits = teacher.classify_representation(teacher.representation(batch.weak, features=batch.features))
            else:
                weak_logits = teacher.classify(batch.weak)
        result = self.consistency(weak_logits, strong_logits)
        terms = {"consistency_loss": result.loss, "mask_rate": result.confident.float().mean()}
        if batch.hidden is not None:
            known = batch.hidden >= 0
            # Fractions of the batch, whose means over steps have a meaningful ratio; the ratio of one batch may be 0 / 0.
            terms["pseudo_known"] = (result.confident & known).float().mean()
            terms["pseudo_right"] = (result.confident & known & (result.pseudo_labels == batch.hidden)).float().mean()
        return terms


def _features(batch: TrainingBatch) -> Tensor:
    """Features by the backbone of all images that are classified, labeled ones first."""
    parts = [part.features for part in (batch.labeled, batch.unlabeled) if part is not None]
    known = [features for features in parts if features is not None]
    if len(known) < len(parts):
        raise ValueError("a model with a backbone is trained with its features of the images that are classified")
    return torch.cat(known)
