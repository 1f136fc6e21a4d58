"""Settings of the sections [augmentation], [pretraining], [training] and [compute] of a recipe.

The names of policies and objectives are written out here, so that reading a recipe imports neither the augmentations nor the
losses, and with them torch; a test holds them against the registries.
"""

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssl_diffusion.settings import Count, Devices, Fraction, Images, Seed, Settings, Steps, Threads

__all__ = [
    "AugmentationSettings",
    "ComputeSettings",
    "MetricName",
    "ObjectiveName",
    "PhaseSettings",
    "PolicyName",
    "TrainingSettings",
]

PolicyName = Literal["none", "digits", "fashion", "photo"]
ObjectiveName = Literal["joint", "labels-only", "denoise-only", "probe"]
MetricName = Literal["accuracy", "balanced-accuracy", "macro-f1", "auroc", "average-precision"]

_Weight = Annotated[float, Field(ge=0, le=1e6)]


class AugmentationSettings(Settings):
    """Random changes of training images."""

    policy: Literal["auto", PolicyName] = "auto"
    """Kind of images; "auto" is the data set's own."""
    flip: Literal["auto", "on", "off", "color"] = "auto"
    """Mirroring left-right; "auto" is the policy's own, and so is "color", but for gray images, which are not mirrored."""
    labeled: Literal["none", "weak", "strong"] = "strong"
    """Strength for labeled images."""


class PhaseSettings(Settings):
    """Optimisation of one phase; used as it is for [pretraining], the denoise-only phase that is cached."""

    steps: Steps = 1000
    """Optimiser steps."""
    batch_size: Images = 128
    """Images of the denoising loss in one step, over all ranks."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=10)] = 1e-3
    """Peak learning rate, after a linear warm-up and before a cosine to zero."""
    warmup: Fraction = 0.05
    """Fraction of the steps in which the learning rate rises."""
    weight_decay: _Weight = 0.0
    """Decay of AdamW, on weight matrices only."""
    clip: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0
    """Largest gradient norm."""
    ema: Fraction = 0.05
    """Horizon of the weights' moving average, as a fraction of the steps."""
    seed: Seed = 0
    """Seed of the phase's draws."""
    replanned: tuple[Count, ...] = ()
    """Steps at which `--time` has planned the number of steps again, each followed by the number from there on."""

    @model_validator(mode="after")
    def _check_replanned(self) -> Self:
        at, numbers = self.replanned[::2], self.replanned[1::2]
        pairs = list(zip(at, numbers, strict=False))
        rising = all(first < second for first, second in itertools.pairwise((0, *at)))
        reached = all(step < number for step, number in zip(at[1:], numbers, strict=False)) and all(s < n for s, n in pairs)
        if len(at) != len(numbers) or not rising or not reached or (at and at[0] >= self.steps):
            raise ValueError("replanned is a list of pairs of a step, later than those before, and a larger number of steps")
        return self


class TrainingSettings(PhaseSettings):
    """The phase after pretraining, under `objective`."""

    objective: ObjectiveName = "joint"
    """Objective; "probe" fits only the head, by logistic regression."""
    labeled_batch_size: Images = 64
    """Labeled images in one step, over all ranks."""
    classification_weight: _Weight = 1.0
    """Weight lambda of the classification loss."""
    encoder_lr: _Weight = 1.0
    """Learning rate of a pretrained encoder and decoder relative to the head's."""
    encoder_lr_labels: Count = 0
    """Number of labels from which on `encoder_lr` holds; with fewer it is lower in proportion, because few labels are
    memorised before they have taught the encoder anything."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.99)] = 0.0
    """Fraction of the target that is spread over all classes."""
    head_noise: Annotated[float, Field(ge=0, le=80)] = 0.3
    """Largest noise level that half of the labeled images get, so that the head serves guidance too."""
    head_start: Literal["zero", "probe"] = "zero"
    """First weights of the head; "probe" starts a linear head of a pretrained model from logistic regression on its frozen
    representation."""
    keep: Literal["better", "trained"] = "better"
    """Model that a fit returns; "better" is the probe of the pretrained denoiser where the trained model is worse."""
    metric: MetricName = "accuracy"
    """Figure by which validation, and what a fit keeps, go; the others count every class the same."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the labels in the classification loss; "balanced" makes every class weigh the same."""
    anchor: _Weight = 1.0
    """Weight of a term that holds the model, beside a backbone, to what the probe that training began at says of unlabeled
    images."""
    thresholds: Literal["none", "balanced"] = "none"
    """Shift of the fitted logits; "balanced" takes the frequencies of the classes among the labels out of them, so that rare
    classes are named more often."""
    consistency: Literal["none", "match"] = "none"
    """Term for images without labels; "match" adds pseudo-labels."""
    unlabeled_batch_size: Images = 64
    """Unlabeled images of the consistency term in one step, over all ranks."""
    consistency_threshold: Fraction = 0.0
    """Fixed threshold of the pseudo-labels; 0 adapts it."""
    consistency_alignment: bool = True
    """Whether pseudo-labels are aligned to the class frequencies of the labels."""


class ComputeSettings(Settings):
    """What to run on; results depend on it only by rounding."""

    accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = "auto"
    """Kind of processor; "auto" is the fastest there is."""
    devices: Devices = 1
    """Number of devices."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format; "auto" is bf16 where the processor computes in it."""
    threads: Threads = 0
    """Processor threads; 0 is all cores."""
    compile: bool = False
    """Whether the network is compiled by torch.compile before it is trained: for accelerators and long trainings, as it takes
    minutes."""
