"""One phase of training as data: its images, its settings, and the batch of every step.

Every draw of step s comes from a generator seeded with (seed, phase, s), and the streams of images are functions of the
number of images seen: a batch depends on the step alone, not on what was drawn before. So the images of the next step are
known, too, and a mapped pool brings them in from the disk while this one computes. Images that are streamed out of shards
come in another order, which is a function of the number of images seen as well (:mod:`ssl_diffusion.training.streaming`).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.machine import read_ahead
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.noise import Parameterisation
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.augment import Augmentation, augment, mirror
from ssl_diffusion.training.objective import DenoisingBatch, LabeledBatch, TrainingBatch, UnlabeledBatch
from ssl_diffusion.training.schedule import Schedule
from ssl_diffusion.training.settings import ComputeSettings, PhaseSettings, TrainingSettings
from ssl_diffusion.training.streaming import ShardStream, StreamedImages

__all__ = ["BatchSampler", "EndlessShuffle", "Phase", "TrainingData"]


@dataclass(frozen=True)
class ReadImages:
    """Training images that a backbone has read and whose labels are not used: those of the terms without labels beside it.

    Args:
        rows:     positions of the images, int64, (l,)
        features: features of the images by the backbone, float32, (l, Fb); None in a phase that is only measured
        start:    class probabilities by the probe that the training begins at, float32, (l, K)
        hidden:   classes of the images, int64, (l,), -1 where unknown; not for training: they measure the pseudo-labels
    """

    rows: Tensor
    features: Tensor | None
    start: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True)
class TrainingData:
    """Data of a phase. Images at other positions than `train` and `labeled` are never read, so that a memory-mapped pool needs
    no copy without its test split.

    Args:
        images:  images of the pool, uint8, (N, C, H, W)
        train:   positions of the training images, int64, (n,)
        labeled: positions of the images whose labels may be used, int64, (m,)
        labels:  classes of the labeled images, int64, (m,), or 0/1 for every class, float32, (m, K), for multi-label data
        hidden:  classes of `train`, int64, (n,), -1 where unknown; not for training: they measure the pseudo-labels. None
                 leaves those unmeasured
        features: features of V views of every labeled image by a backbone, float32, (m, V, Fb); None without one
        mapped:  whether the images are those of a mapped file, which are read from the disk when memory has no room for them
        read:    images that the terms without labels draw among beside a backbone; None draws among all of `train`
        stream:  shards that the terms without labels stream their images from; `images` are then the labeled ones alone, at
                 whose positions `labeled` points. None: all are in `images`
    """

    images: Tensor
    train: Tensor
    labeled: Tensor
    labels: Tensor
    hidden: Tensor | None = None
    features: Tensor | None = None
    mapped: bool = False
    read: ReadImages | None = None
    stream: ShardStream | None = None

    def standing_in(self) -> "TrainingData":
        """Data of the same shape whose images say nothing, for measuring what a step costs; those of a stream are not read."""
        if self.stream is None:
            return self
        images = torch.zeros(max(1, len(self.labeled)), *self.stream.images.shape[1:], dtype=torch.uint8)
        read = None if self.read is None else replace(self.read, rows=torch.zeros_like(self.read.rows))
        return replace(self, images=images, train=torch.zeros_like(self.train), read=read, stream=None)


@dataclass(frozen=True)
class Phase:
    """One phase of training; picklable, so that ranks can be spawned.

    Args:
        name:             name, "pretraining" or "training"; part of the seed of every draw
        objective:        key of :data:`ssl_diffusion.training.objective.OBJECTIVES`
        config:           configuration of the model to build
        initial:          weights to start from; the head may be missing. None starts from random weights
        data:             images and labels
        settings:         settings of the optimisation
        view:             augmentation of labeled images
        weak:             augmentation of unlabeled images that are pseudo-labeled
        strong:           augmentation of unlabeled images that the pseudo-labels train
        flip:             whether images of the denoising term are mirrored at random
        compute:          device, precision, ranks
        checkpoint:       file to save to and to continue from; None keeps nothing
        checkpoint_every: seconds between checkpoints
        identity:         hash of everything that determines the result; a checkpoint with another one is refused
        family:           hash of everything but the number of steps; of a pretraining only
        key:              identity, with the steps at which the number of steps was planned again; of a pretraining only
        pace:             function that is told the number of steps taken and the schedule after every step, and says how many
                          steps there will be from there on; 0 leaves the schedule as it is. None never asks
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
    key: str = ""
    pace: Callable[[int, Schedule], int] | None = None

    @property
    def supervision(self) -> TrainingSettings | None:
        """Settings of the terms that use labels; None if the objective has none."""
        s = self.settings
        return s if isinstance(s, TrainingSettings) and self.objective != "denoise-only" else None

    @property
    def denoising_batch_size(self) -> int:
        """Images of the denoising term in one step, over all ranks; 0 without that term."""
        return 0 if self.objective == "labels-only" else self.settings.batch_size

    @property
    def labeled_batch_size(self) -> int:
        """Labeled images in one step, over all ranks; 0 without the classification term."""
        return 0 if self.supervision is None else self.supervision.labeled_batch_size

    @property
    def unlabeled_batch_size(self) -> int:
        """Images of the consistency term or the anchor in one step, over all ranks; 0 without both."""
        s = self.supervision
        return 0 if s is None or (s.consistency == "none" and not self.anchor) else s.unlabeled_batch_size

    @property
    def anchor(self) -> float:
        """Weight of the term that holds the model to what the training begins at; 0 without a backbone."""
        return 0.0 if self.supervision is None or self.data.read is None else self.supervision.anchor

    @property
    def batch_sizes(self) -> list[int]:
        """Batch sizes of the terms that the phase has."""
        return [size for size in (self.denoising_batch_size, self.labeled_batch_size, self.unlabeled_batch_size) if size]

    @property
    def images_per_step(self) -> int:
        """Images that one step reads, over all ranks."""
        return sum(self.batch_sizes)

    @property
    def head_noise(self) -> float:
        """Largest noise level of the images to classify; 0 leaves them clean."""
        return 0.0 if self.supervision is None else self.supervision.head_noise


class BatchSampler:
    """Draws the global batch of a step (the same in every rank); everything random about a step happens here.

    Args:
        phase: Phase to draw for.
        noise: Distribution of noise levels.
    """

    def __init__(self, phase: Phase, noise: Parameterisation) -> None:
        self.phase, self.noise = phase, noise
        seed = derive_seed(phase.settings.seed, phase.name, "stream")
        data, labeled = phase.data, phase.labeled_batch_size
        self._denoising = _unlabeled(phase, data.train, phase.denoising_batch_size, seed)
        self._labeled = _Stream(data.images, data.labeled, labeled, seed + 1) if labeled else None
        among = data.train if data.read is None else data.read.rows
        self._unlabeled = _unlabeled(phase, among, phase.unlabeled_batch_size, seed + 2)
        self._asked = -1  # the last step whose images have been asked for, in another thread
        self._reader = ThreadPoolExecutor(1)
        self._asking: Future[None] = Future()

    def __call__(self, step: int) -> TrainingBatch:
        """The batch of a step, on the CPU; a function of the step alone."""
        self._read_ahead(step)
        generator = torch.Generator().manual_seed(derive_seed(self.phase.settings.seed, self.phase.name, step))
        batch = TrainingBatch()
        if self._denoising is not None:
            batch.denoising = self._denoising_batch(self._denoising.take(step)[1], generator)
        if self._labeled is not None:
            batch.labeled = self._labeled_batch(*self._labeled.take(step), generator)
        if self._unlabeled is not None:
            batch.unlabeled = self._unlabeled_batch(*self._unlabeled.take(step), generator)
        return batch

    def close(self) -> None:
        """End what reads ahead."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        for stream in (self._denoising, self._unlabeled):
            if isinstance(stream, _Streamed):
                stream.close()

    def _read_ahead(self, step: int) -> None:
        """Begin to read the images of the next step, and of this one if that has not been done."""
        if not self.phase.data.mapped:
            return
        if self._asked != step:
            self._asking = self._reader.submit(self._ask_for, self._positions(step))
        self._asking.result()  # asking itself waits where the disk has a long queue, for which the step before had time
        self._asked = step + 1
        if self._asked < self.phase.settings.steps:
            self._asking = self._reader.submit(self._ask_for, self._positions(self._asked))

    def _positions(self, step: int) -> list[int]:
        """Positions of all images of a step."""
        streams = (self._denoising, self._labeled, self._unlabeled)
        return [i for stream in streams if isinstance(stream, _Stream) for i in stream.positions(step).tolist()]

    def _ask_for(self, positions: list[int]) -> None:
        images = self.phase.data.images
        n_bytes = images[0].nbytes
        for position in positions:
            read_ahead(images.data_ptr() + position * n_bytes, n_bytes)

    def _denoising_batch(self, images: Tensor, generator: torch.Generator) -> DenoisingBatch:
        clean = images.float() / 127.5 - 1
        if self.phase.flip:
            clean = mirror(clean, generator)
        sigma = self.noise.draw(len(clean), generator)
        return DenoisingBatch(clean, sigma, torch.randn(clean.shape, generator=generator))

    def _labeled_batch(self, rows: Tensor, images: Tensor, generator: torch.Generator) -> LabeledBatch:
        data = self.phase.data
        view = augment(images.float() / 255, self.phase.view, generator) * 2 - 1
        images, sigma = self._with_noise(view, generator)
        features = None
        if data.features is not None:
            views = torch.randint(data.features.shape[1], (len(rows),), generator=generator)
            features = data.features[rows, views]
        return LabeledBatch(images, data.labels[rows], sigma, features)

    def _unlabeled_batch(self, rows: Tensor, images: Tensor, generator: torch.Generator) -> UnlabeledBatch:
        data = self.phase.data
        images = images.float() / 255
        weak = augment(images, self.phase.weak, generator) * 2 - 1
        strong, sigma = self._with_noise(augment(images, self.phase.strong, generator) * 2 - 1, generator)
        if (read := data.read) is None:
            return UnlabeledBatch(weak, strong, sigma, None if data.hidden is None else data.hidden[rows])
        hidden, features = (None if t is None else t[rows] for t in (read.hidden, read.features))
        return UnlabeledBatch(weak, strong, sigma, hidden, features, read.start[rows])

    def _with_noise(self, views: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Views with the noise that the head is trained on, and its levels."""
        sigma = self._head_noise(len(views), generator)
        return views + sigma[:, None, None, None] * torch.randn(views.shape, generator=generator), sigma

    def _head_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Noise levels, (n,): half of the images stay clean, half get a level log-uniform up to `head_noise`."""
        low, highest = self.noise.sigma_min, self.phase.head_noise
        draws = torch.rand(2, n, generator=generator)
        if highest <= low:
            return torch.zeros(n)
        levels = low * (highest / low) ** draws[0]
        return torch.where(draws[1] < 0.5, levels, torch.zeros(n))


class EndlessShuffle:
    """Endless stream of the positions 0..n-1: every pass visits each once, in an order drawn from (seed, pass).

    Stateless: :meth:`batch` depends on its arguments only, so a resumed run continues the stream from the number of samples
    seen, and every rank of a distributed run can compute the global batch.

    Args:
        n: Number of positions, at least 1.
        seed: Random seed.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError("cannot shuffle an empty set")
        self.n = n
        self.seed = seed
        self._pass = -1
        self._order: NDArray[np.int64] = np.arange(0)

    def batch(self, start: int, size: int) -> NDArray[np.int64]:
        """The `size` positions from offset `start` of the stream on, int64, (size,)."""
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


class _Stream(EndlessShuffle):
    """Images of one term, `size` in each step, among those at some positions."""

    def __init__(self, images: Tensor, among: Tensor, size: int, seed: int) -> None:
        super().__init__(len(among), seed)
        self.images, self.among, self.size = images, among, size

    def rows(self, step: int) -> Tensor:
        """The rows of a step, int64, (size,)."""
        return torch.from_numpy(self.batch(step * self.size, self.size))

    def positions(self, step: int) -> Tensor:
        """Positions of the images of a step, int64, (size,)."""
        return self.among[self.rows(step)]

    def take(self, step: int) -> tuple[Tensor, Tensor]:
        """The rows of a step and their images, uint8, (size, C, H, W)."""
        rows = self.rows(step)
        return rows, self.images[self.among[rows]]


class _Streamed:
    """Images of one term that are streamed out of shards, `size` in each step."""

    def __init__(self, images: StreamedImages, size: int) -> None:
        self.images, self.size = images, size
        self.close = images.close

    def take(self, step: int) -> tuple[Tensor, Tensor]:
        """The rows of a step and their images, uint8, (size, C, H, W)."""
        rows, images = self.images.take(step * self.size, self.size)
        return torch.from_numpy(rows), torch.from_numpy(images)


def _unlabeled(phase: Phase, among: Tensor, size: int, seed: int) -> _Stream | _Streamed | None:
    """The images of a term that needs no labels, among those at some positions; None without the term."""
    data = phase.data
    if not size:
        return None
    if data.stream is None:
        return _Stream(data.images, among, size, seed)
    n_terms = sum(1 for n in (phase.denoising_batch_size, phase.unlabeled_batch_size) if n)
    buffer = max(1, data.stream.buffer // n_terms)  # the terms share the memory
    if data.read is not None and among is data.read.rows and len(among) <= buffer:  # few, all over the shards
        held = torch.from_numpy(data.stream.images[among.numpy()])
        return _Stream(held, torch.arange(len(held)), size, seed)
    return _Streamed(StreamedImages(replace(data.stream, rows=among.numpy(), buffer=buffer), seed), size)
