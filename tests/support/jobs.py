"""Training jobs of a fraction of a second, and comparisons of what they make."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.augment import Augmentation
from ssl_diffusion.training.batches import Phase, TrainingData
from ssl_diffusion.training.result import Fitted
from ssl_diffusion.training.settings import ComputeSettings, PhaseSettings, TrainingSettings

CPU = ComputeSettings(accelerator="cpu", precision="fp32")

# Arguments of `ssld` for a process of its own.
TINY_RUN = [
    *("--dataset", "digits", "--labeled", "20", "--seed", "1", "--pretrain-steps", "10", "--steps", "16", "--quiet"),
    *("--accelerator", "cpu", "--precision", "fp32", "--set", "model.channels=8", "--set", "model.blocks=1"),
    *("--set", "model.dropout=0.1", "--set", "pretraining.batch_size=16", "--set", "training.batch_size=16"),
    *("--set", "training.labeled_batch_size=16", "--set", "training.keep=trained"),
]

# Files of a run that is finished.
FINISHED_RUN = {
    *(".ssld-run", "recipe.toml", "conditions.json", "pool.json", "labeled.csv", "history.csv", "metrics.json"),
    *("model.safetensors", "log.txt", "history.png", "confusion.png", "reconstructions.png"),
}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


def equal(first: Fitted, second: Fitted) -> bool:
    return same(first.ema, second.ema) and same(first.raw, second.raw)


def make_job(settings: PhaseSettings | None = None, **changes: object) -> Phase:
    """Twelve images of noise, six of them labeled, on a tiny network."""
    rng = np.random.default_rng(0)
    job = Phase(
        name="training",
        objective="joint",
        config=JointConfig(model=ModelSettings(channels=8, blocks=1, groups=4), n_classes=3, image_shape=(1, 6, 6)),
        initial=None,
        data=TrainingData(
            images=torch.from_numpy(rng.integers(0, 256, (12, 1, 6, 6), dtype=np.uint8)),
            train=torch.arange(12),
            labeled=torch.arange(6),
            labels=torch.arange(6) % 3,
        ),
        settings=settings or TrainingSettings(steps=5, batch_size=4, labeled_batch_size=4),
        view=Augmentation(),
        weak=Augmentation(),
        strong=Augmentation(),
        flip=False,
        compute=CPU,
    )
    return replace(job, **changes)  # type: ignore[arg-type]
