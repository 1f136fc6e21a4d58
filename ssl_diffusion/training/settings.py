"""Settings of the sections [augmentation], [pretraining], [training] and [compute] of a recipe."""

from dataclasses import dataclass

__all__ = ["AugmentationSettings", "ComputeSettings", "PhaseSettings", "TrainingSettings"]


@dataclass(frozen=True)
class AugmentationSettings:
    """`policy` "auto" is the data set's own; `flip` is "auto", "on" or "off"; `labeled` is "none", "weak" or "strong"."""

    policy: str = "auto"
    flip: str = "auto"
    labeled: str = "strong"


@dataclass(frozen=True)
class PhaseSettings:
    """Optimisation of one phase; used as it is for `[pretraining]`, the denoise-only phase that is cached.

    Args:
        steps:         optimiser steps
        batch_size:    images of the denoising loss in one step, over all ranks
        learning_rate: peak, after a linear warm-up and before a cosine to zero
        warmup:        share of the steps
        weight_decay:  AdamW, on weight matrices only
        clip:          largest gradient norm
        ema:           horizon of the weights' moving average, share of the steps
        seed:          of this phase's draws
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class TrainingSettings(PhaseSettings):
    """The phase after pretraining, under `objective`.

    Args:
        objective:             "joint", "labels-only", "probe" (only the head, by logistic regression) or "denoise-only"
        labeled_batch_size:    labeled images in one step, over all ranks
        classification_weight: lambda, weight of the classification loss
        encoder_lr:            learning rate of a pretrained encoder and decoder relative to the head's
        encoder_lr_labels:     number of labels from which on `encoder_lr` holds; with fewer it is lower in proportion, as
                               few labels are learned by heart before they have taught the encoder anything
        label_smoothing:       share of the target spread over all classes
        head_noise:            half of the labeled images get noise up to this level, so that the head serves guidance too
        head_start:            "probe" starts a linear head of a pretrained model from logistic regression on its frozen
                               representation; "zero" from nothing
        consistency:           "match" adds pseudo-labels (:mod:`ssl_diffusion.training.consistency`); "none"
        unlabeled_batch_size:  unlabeled images in one step of the consistency term, over all ranks
        consistency_threshold: fixed threshold of the pseudo-labels; 0 adapts it
        consistency_alignment: align pseudo-labels to the class shares of the labels
    """

    objective: str = "joint"
    labeled_batch_size: int = 64
    classification_weight: float = 1.0
    encoder_lr: float = 1.0
    encoder_lr_labels: int = 0
    label_smoothing: float = 0.0
    head_noise: float = 0.3
    head_start: str = "zero"
    consistency: str = "none"
    unlabeled_batch_size: int = 64
    consistency_threshold: float = 0.0
    consistency_alignment: bool = True


@dataclass(frozen=True)
class ComputeSettings:
    """What to run on; `precision` "auto" is bf16 where the processor computes in it, `threads` 0 is all cores."""

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "auto"
    threads: int = 0
