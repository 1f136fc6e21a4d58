"""What :mod:`train_speed` times: a plain implementation on diffusers, the library's training, and steps in between.

The plain one is what a careful user writes from the documentation: `UNet2DModel`, `DDPMScheduler.add_noise`, `EMAModel`,
`torch.optim.AdamW` and `DataLoader` with their default settings, fp32; the classifier is a second pass through the
encoder on clean labeled images, as in the official code of the joint diffusion paper. Its images are served from memory
and not augmented, which favours it: the library's figures include strong augmentation of the labeled images.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training import loop
from ssl_diffusion.training.augment import policy
from ssl_diffusion.training.batches import BatchSampler, Phase, TrainingData
from ssl_diffusion.training.objective import DenoisingBatch, LabeledBatch, Objective, TrainingBatch
from ssl_diffusion.training.optimizer import make_optimizer
from ssl_diffusion.training.settings import ComputeSettings, TrainingSettings

_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Architecture:
    """A network that both the library and diffusers can express; `attention` as in :class:`ModelSettings`.

    diffusers fixes the channels of an attention head and the library the number of heads, so levels with attention
    must be as wide as the last.
    """

    name: str
    image_shape: tuple[int, int, int]
    channels: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...]
    policy: str
    blocks: int = 2
    groups: int = 16
    heads: int = 4

    def joint_config(self) -> JointConfig:
        """The library's form, with all maps pooled, as the official code does, and a linear head."""
        model = ModelSettings(
            channels=self.channels,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            heads=self.heads,
            groups=self.groups,
            pool_maps="blocks",
            pool_grids=(1, 2),
            head_width=0,
            head_dropout=0.2,
        )
        return JointConfig(model=model, n_classes=10, image_shape=self.image_shape)

    def diffusers_unet(self) -> UNet2DModel:
        """The form of diffusers."""
        levels = range(len(self.multipliers))
        widths = tuple(self.channels * m for m in self.multipliers)
        if any(widths[level] != widths[-1] for level in self.attention):
            raise ValueError(f"{self.name}: levels with attention must be as wide as the last level")
        return UNet2DModel(
            sample_size=self.image_shape[1],
            in_channels=self.image_shape[0],
            out_channels=self.image_shape[0],
            down_block_types=tuple("AttnDownBlock2D" if level in self.attention else "DownBlock2D" for level in levels),
            up_block_types=tuple("AttnUpBlock2D" if level in self.attention else "UpBlock2D" for level in reversed(levels)),
            block_out_channels=widths,
            layers_per_block=self.blocks,
            attention_head_dim=widths[-1] // self.heads,
            norm_num_groups=self.groups,
            resnet_time_scale_shift="scale_shift",
        )


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("default", (1, 28, 28), 64, (1, 2), (), "fashion"),
        Architecture("cifar", (3, 32, 32), 96, (1, 2, 2), (1,), "photo"),
    )
}


@dataclass(frozen=True)
class Setting:
    """What is equal for all contestants of one comparison."""

    architecture: Architecture
    data: TrainingData
    batch: int
    labeled_batch: int

    def job(self, steps: int, precision: str) -> Phase:
        """The library's training of this setting, without checkpoints."""
        settings = TrainingSettings(
            steps=steps, batch_size=self.batch, labeled_batch_size=self.labeled_batch, learning_rate=_LEARNING_RATE
        )
        weak, strong = (policy(self.architecture.policy, strength) for strength in ("weak", "strong"))
        return Phase(
            name="training",
            objective="joint",
            config=self.architecture.joint_config(),
            initial=None,
            data=self.data,
            settings=settings,
            view=strong,
            weak=weak,
            strong=strong,
            flip=weak.flip,
            compute=ComputeSettings(accelerator="cpu", precision=precision),
        )


def synthetic_data(shape: tuple[int, int, int], n: int, n_labeled: int) -> TrainingData:
    """Random images: the time of a step does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    return TrainingData(
        images=torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator),
        train=torch.arange(n),
        labeled=torch.arange(n_labeled),
        labels=torch.randint(0, 10, (n_labeled,), generator=generator),
    )


class SingleImages(Dataset[tuple[Tensor, Tensor]]):
    """One image and its label at a time, as `DataLoader` asks for them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].float() / 127.5 - 1, self.labels[index]


def loader(images: Tensor, labels: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a default DataLoader without end."""
    batches = DataLoader(SingleImages(images, labels), batch_size=batch, shuffle=True, drop_last=True)
    while True:
        yield from batches


def loaders(setting: Setting) -> tuple[Iterator[tuple[Tensor, Tensor]], Iterator[tuple[Tensor, Tensor]]]:
    """Streams of all images and of the labeled ones."""
    data = setting.data
    pool = loader(data.images, torch.full((len(data.images),), -1), setting.batch)
    return pool, loader(data.images[data.labeled], data.labels, setting.labeled_batch)


class PlainModel(nn.Module):
    """diffusers' U-Net with a classifier on the pooled maps of its encoder and middle block."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.unet = architecture.diffusers_unet()
        config = architecture.joint_config()
        self.grids = config.model.pool_grids
        self.head = copy.deepcopy(JointDiffusion(config).head)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The predicted noise."""
        prediction: Tensor = self.unet(x, t).sample
        return prediction

    def classify(self, x: Tensor) -> Tensor:
        """Logits of clean images: the first half of `UNet2DModel.forward` at step 0, then the head."""
        unet = self.unet
        embedding = unet.time_embedding(unet.time_proj(torch.zeros(len(x), dtype=torch.long)))
        h = unet.conv_in(x)
        maps = [h]
        for block in unet.down_blocks:
            h, block_maps = block(hidden_states=h, temb=embedding)
            maps += block_maps
        maps.append(unet.mid_block(h, embedding))
        pooled = [functional.adaptive_avg_pool2d(m, g).flatten(1) for m in maps for g in self.grids]
        assert self.head is not None
        logits: Tensor = self.head(torch.cat(pooled, dim=1))
        return logits


class PlainTrainer:
    """Training steps of the plain implementation, in fp32 or under autocast."""

    def __init__(self, setting: Setting, precision: str = "fp32") -> None:
        self.precision = precision
        self.model = PlainModel(setting.architecture).train()
        self.scheduler = DDPMScheduler()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=_LEARNING_RATE)
        self.ema = EMAModel(self.model.parameters())
        self.pool, self.labeled = loaders(setting)

    def step(self) -> None:
        """One step."""
        clean, _ = next(self.pool)
        images, labels = next(self.labeled)
        noise = torch.randn_like(clean)
        t = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(clean),))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = functional.mse_loss(self.model.denoise(self.scheduler.add_noise(clean, noise, t), t), noise)
            loss = loss + functional.cross_entropy(self.model.classify(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.step(self.model.parameters())
        self.optimizer.zero_grad()
        loss.item()  # as a progress bar shows it


@dataclass(frozen=True)
class Lever:
    """Switches of one row of the lever table; the defaults are the plain way, on the library's network."""

    name: str
    tensor_data: bool = False
    shared_pass: bool = False
    fused_adamw: bool = False
    foreach_ema: bool = False
    bf16: bool = False
    stem: int = 1
    decoder_blocks: int = 0


def ladder() -> list[Lever]:
    """The plain way, then one lever more in each row; the last two change the network."""
    first = Lever("plain way: DataLoader, two encoder passes, default AdamW, EMA in a loop, fp32")
    switches: list[tuple[str, dict[str, object]]] = [
        ("images as one tensor", {"tensor_data": True}),
        ("one shared encoder pass", {"shared_pass": True}),
        ("fused AdamW", {"fused_adamw": True}),
        ("foreach EMA", {"foreach_ema": True}),
        ("bf16 autocast", {"bf16": True}),
        ("pixel-unshuffle stem 2 (another network)", {"stem": 2}),
        ("one decoder block a level (another network)", {"decoder_blocks": 1}),
    ]
    rows = [first]
    for name, switch in switches:
        rows.append(replace(rows[-1], name=f"+ {name}", **switch))  # type: ignore[arg-type]
    return rows


class LeverTrainer:
    """Training steps of the library's network, as far in the library's way as a lever row says."""

    def __init__(self, setting: Setting, lever: Lever) -> None:
        self.setting, self.lever, self.steps = setting, lever, 0
        job = setting.job(1, "fp32")
        model = job.config.model.replace(stem=lever.stem, decoder_blocks=lever.decoder_blocks)
        self.model = build_model(job.config.replace(model=model), seed=0).train()
        self.objective = Objective(self.model, "joint")
        self.parameters = list(self.model.parameters())
        self.optimizer: torch.optim.Optimizer
        if lever.fused_adamw:
            self.optimizer = make_optimizer(self.model, job.settings, torch.device("cpu"))
        else:
            self.optimizer = torch.optim.AdamW(self.parameters, lr=_LEARNING_RATE)
        self.averages = [p.detach().clone() for p in self.parameters]
        self.ema = EMAModel(self.parameters)
        self.sampler = BatchSampler(job, self.model.noise)
        self.pool, self.labeled = loaders(setting)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """One step."""
        batch = self.sampler(self.steps) if self.lever.tensor_data else self._loaded_batch()
        self.steps += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=self.lever.bf16):
            if self.lever.shared_pass:
                loss = self.objective(batch)["loss"]
            else:
                labeled, denoising = TrainingBatch(labeled=batch.labeled), TrainingBatch(denoising=batch.denoising)
                loss = self.objective(denoising)["loss"] + self.objective(labeled)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        if self.lever.foreach_ema:
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1e-3)
        else:
            self.ema.step(self.parameters)
        self.optimizer.zero_grad()

    def _loaded_batch(self) -> TrainingBatch:
        clean, _ = next(self.pool)
        images, labels = next(self.labeled)
        sigma = self.model.noise.draw(len(clean), self.generator)
        denoising = DenoisingBatch(clean, sigma, torch.randn_like(clean))
        return TrainingBatch(denoising, LabeledBatch(images, labels, torch.zeros(len(images))))


class Interleaver:
    """Progress callback of the library's training: times it in rounds, and the other contestant between them.

    The library's clock runs from the return of one callback to the next call, which is its whole loop.
    """

    def __init__(self, other: Callable[[], None], warmup: int, steps: int) -> None:
        self.other, self.warmup, self.steps = other, warmup, steps
        self.ours: list[float] = []
        self.others: list[float] = []
        self._done, self._elapsed, self._began = 0, 0.0, time.perf_counter()

    def __call__(self, update: ProgressUpdate) -> None:
        """Called by the library after each step."""
        now = time.perf_counter()
        self._done += 1
        if self._done <= self.warmup:
            self.other()
        else:
            self._elapsed += now - self._began
            if (self._done - self.warmup) % self.steps == 0:
                self.ours.append(self._elapsed)
                self.others.append(_seconds(self.other, self.steps))
                self._elapsed = 0.0
        self._began = time.perf_counter()


def compare(setting: Setting, other: Callable[[], None], precision: str, warmup: int, steps: int, rounds: int) -> Interleaver:
    """Time the library's own training loop against another contestant's steps."""
    timer = Interleaver(other, warmup, steps)
    result = loop.train(setting.job(warmup + rounds * steps, precision), timer)
    if result.non_finite_steps or len(timer.ours) != rounds:
        raise RuntimeError(f"{result.non_finite_steps} steps were left out, {len(timer.ours)} rounds of {rounds} timed")
    return timer


def interleave(contestants: Sequence[Callable[[], None]], warmup: int, steps: int, rounds: int) -> list[list[float]]:
    """Seconds of each contestant in each round; within a round they run one after the other."""
    for contestant in contestants:
        _seconds(contestant, warmup)
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for times, contestant in zip(seconds, contestants, strict=True):
            times.append(_seconds(contestant, steps))
    return seconds


def _seconds(step: Callable[[], None], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - began
