"""One phase of training as data: what it trains on, how, and the batch of every step.

Every draw of step s comes from a generator seeded with (seed, phase, s), and the streams of images are functions of the
number of images seen: a batch depends on the step alone, not on what was drawn before.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.noise import Parameterisation
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.augment import Augmentation, augment, mirror
from ssl_diffusion.training.objective import TrainingBatch
from ssl_diffusion.training.settings import ComputeSettings, PhaseSettings, TrainingSettings

__all__ = ["BatchSampler", "EndlessShuffle", "Phase", "TrainingData"]


@dataclass(frozen=True)
class TrainingData:
    """What the loop may see: images (uint8, (N, C, H, W)), which of them are for training, and the labeled ones.

    `train` and `labeled` hold positions into `images`, int64; images at other positions are never read, so that a
    memory-mapped pool needs no copy without its test split. `labels` are int64 (m,) or float32 (m, K) for multi-label data.
    `hidden` are the labels of `train` as far as they are known, else -1: int64, aligned with `train`. They are not for
    training: the history says with them how good the pseudo-labels were.
    """

    images: Tensor
    train: Tensor
    labeled: Tensor
    labels: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """One phase to run; picklable, so that ranks can be spawned.

    Args:
        name:             "pretraining" or "training"; part of the seed of every draw
        objective:        see :data:`ssl_diffusion.training.objective.OBJECTIVES`
        config:           model to build
        initial:          weights to start from; the head may be missing. None starts from fresh weights
        data, settings:   what to train on and how
        view:             augmentation of labeled images
        weak, strong:     augmentations of unlabeled images for the consistency term
        flip:             whether images of the denoising loss are mirrored at random
        compute:          device, precision, ranks
        checkpoint:       file to save to and to continue from; None keeps nothing
        checkpoint_every: seconds between checkpoints
        identity:         hash of all that determines the result; a checkpoint with another one is refused
        family:           of a pretraining: hash of all but its length
    """

    name: str
    objective: str
    config: JointConfig
    initial: dict[str, Tensor] | None
    data: TrainingData
    settings: PhaseSettings
    view: Augmentation
    weak: Augmentation
    strong: Augmentation
    flip: bool
    compute: ComputeSettings
    checkpoint: Path | None = None
    checkpoint_every: float = 60.0
    identity: str = ""
    family: str = ""


class BatchSampler:
    """Draws the global batch of a step (the same in every rank); everything random about a step happens here.

    Args:
        job: what to draw from, and with which seed.
        noise: where noise levels come from.
    """

    def __init__(self, job: Phase, noise: Parameterisation) -> None:
        self.job, self.noise = job, noise
        s = job.settings
        seed = derive_seed(s.seed, job.name, "stream")
        labeled_size = s.labeled_batch_size if isinstance(s, TrainingSettings) else 0
        self.n_denoise = 0 if job.objective == "labels-only" else s.batch_size
        self.n_labeled = 0 if job.objective == "denoise-only" else labeled_size
        self.images = EndlessShuffle(len(job.data.train), seed) if self.n_denoise else None
        self.labeled = EndlessShuffle(len(job.data.labeled), seed + 1) if self.n_labeled else None
        matches = self.n_labeled and isinstance(s, TrainingSettings) and s.consistency == "match"
        self.n_unlabeled = s.unlabeled_batch_size if matches and isinstance(s, TrainingSettings) else 0
        self.unlabeled = EndlessShuffle(len(job.data.train), seed + 2) if self.n_unlabeled else None
        self.images_per_step = self.n_denoise + self.n_labeled + self.n_unlabeled

    def __call__(self, step: int) -> TrainingBatch:
        """The batch of a step, on the CPU; a function of the step alone."""
        job, data, batch = self.job, self.job.data, TrainingBatch()
        generator = torch.Generator().manual_seed(derive_seed(job.settings.seed, job.name, step))
        if self.images is not None:
            index = torch.from_numpy(self.images.batch(step * self.n_denoise, self.n_denoise))
            clean = data.images[data.train[index]].float() / 127.5 - 1
            batch.clean = mirror(clean, generator) if job.flip else clean
            batch.sigma = self.noise.draw(self.n_denoise, generator)
            batch.eps = torch.randn(clean.shape, generator=generator)
        if self.labeled is not None:
            chosen = torch.from_numpy(self.labeled.batch(step * self.n_labeled, self.n_labeled))
            view = augment(data.images[data.labeled[chosen]].float() / 255, job.view, generator) * 2 - 1
            batch.labels = data.labels[chosen]
            batch.labeled, batch.labeled_sigma = self._with_noise(view, generator)
        if self.unlabeled is not None:
            index = torch.from_numpy(self.unlabeled.batch(step * self.n_unlabeled, self.n_unlabeled))
            images = data.images[data.train[index]].float() / 255
            batch.weak = augment(images, job.weak, generator) * 2 - 1
            batch.strong, batch.strong_sigma = self._with_noise(augment(images, job.strong, generator) * 2 - 1, generator)
            batch.hidden = None if data.hidden is None else data.hidden[index]
        return batch

    def _with_noise(self, views: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Views to classify with the noise that the head is trained on, and its levels."""
        sigma = self._head_noise(len(views), generator)
        return views + sigma[:, None, None, None] * torch.randn(views.shape, generator=generator), sigma

    def _head_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Half of the images stay clean, half get a level log-uniform up to `head_noise`."""
        highest = getattr(self.job.settings, "head_noise", 0.0)
        low = self.noise.sigma_min
        draws = torch.rand(2, n, generator=generator)
        if highest <= low:
            return torch.zeros(n)
        levels = low * (highest / low) ** draws[0]
        return torch.where(draws[1] < 0.5, levels, torch.zeros(n))


class EndlessShuffle:
    """An endless stream of positions 0..n-1: every pass visits each once, in an order drawn from (seed, pass).

    Stateless: `batch(start, size)` depends on its arguments only, so a resumed run continues the stream from the number
    of samples seen, and every rank of a distributed run can compute the global batch.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError("cannot shuffle an empty set")
        self.n = n
        self.seed = seed
        self._pass = -1
        self._order: NDArray[np.int64] = np.arange(0)

    def batch(self, start: int, size: int) -> NDArray[np.int64]:
        """The `size` positions from stream offset `start` on, int64, (size,)."""
        parts = []
        while size > 0:
            index, offset = divmod(start, self.n)
            if index != self._pass:
                self._pass, self._order = index, np.random.default_rng([self.seed, index]).permutation(self.n)
            part = self._order[offset : offset + size]
            parts.append(part)
            start += len(part)
            size -= len(part)
        return np.concatenate(parts)
