"""Images, labels and the judge of :mod:`representations`."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.inference.predict import by_batches
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.phases import pretraining_job, training_job
from ssl_diffusion.training.recipe import Recipe, load_recipe

__all__ = ["POOLS", "Judged", "judge", "phase_of", "pool_of", "rows_of"]

Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
POOLS = {  # recipes
    "digits": "digits",
    "fashion-mnist": "fashion-mnist",
    "cifar10": "images",
    "fashion-mnist, quick": "fashion-mnist-quick",
    "fashion-mnist, thorough": "fashion-mnist-thorough",
}


@dataclass(frozen=True)
class Judged:
    """Positions in a pool, int64.

    Attributes:
        labeled: Images among which labels are drawn.
        judged: Images whose classes a probe has to say.
        unseen: Images that no denoiser saw.
        seed: Seed of the draws.
    """

    labeled: NDArray[np.int64]
    judged: NDArray[np.int64]
    unseen: NDArray[np.int64]
    seed: int


def rows_of(pool: Pool, data: str, stage: str, seed: int, most: int) -> Judged:
    """At most `most` images of each kind; those that judge in development are training images, as no reported figure's are."""
    order = np.random.default_rng(derive_seed(seed, data, "images")).permutation(pool.train)
    unseen = np.random.default_rng(0).permutation(pool.test)[:most]
    labeled = order[:most]
    return Judged(labeled, labeled if stage == "development" else unseen, unseen, seed)


@lru_cache(maxsize=len(POOLS))
def pool_of(data: str, cifar: Path | None, cache: Path) -> Pool:
    """A data set; of CIFAR-10 the training photos, one in five of which no denoiser sees."""
    if data != "cifar10":
        return load_dataset(data.split(",")[0])
    kept = cache / "cifar10.npz"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            if cifar is None:
                raise SystemExit("say where CIFAR-10 is as image files: --cifar")
            found = load_pool(DataSettings(path=str(cifar / "train")))
            np.savez(kept, images=found.images, labels=found.labels, ids=found.ids, classes=np.array(found.classes))
    with np.load(kept) as arrays:
        images, labels, ids, classes = (arrays[name] for name in ("images", "labels", "ids", "classes"))
    hidden = np.array([hashlib.sha256(str(i).encode()).digest()[0] % 5 == 0 for i in ids])
    return Pool("cifar10", images, ids, labels, tuple(map(str, classes)), hidden)


def phase_of(data: str, pool: Pool, seed: int, scale: float) -> Phase:
    """The pretraining of the recipe of a data set, with `scale` of its steps."""
    recipe = _recipe(data, "denoise-only")
    steps = max(1, round(scale * recipe.pretraining.steps))
    recipe = recipe.with_settings({"pretraining.steps": steps, "pretraining.seed": seed})
    phase = pretraining_job(recipe, training_job(recipe, pool, None), "")
    assert phase is not None
    return phase


def judge(data: str, pool: Pool, cache: Path, device: str) -> tuple[Features, str]:
    """Channel means of a labels-only fit with all labels, which the cache keeps.

    Returns:
        Function from images to features, float32 (n, F), and a name: distances by judges of different names do not compare.
    """
    data = data.split(",")[0]
    recipe = _recipe(data, "labels-only").with_settings(
        {"training.keep": "trained", "compute.accelerator": device, "training.head_start": "zero"}
    )
    phase, kept = training_job(recipe, pool, choose_labeled(pool, None, seed=0)), cache / f"judge-{data}.pt"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            torch.save(train(phase).ema, kept)
    model = build_model(phase.config, 0, torch.load(kept, weights_only=True)).to(device).eval()

    def means(model: JointDiffusion, x: Tensor, _: NDArray[np.int64]) -> Tensor:
        return model.pool_features(model.encode(x, model.read_level(0.0)), (1,))

    name = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values())).hexdigest()[:8]
    return lambda images: by_batches(copy.copy(model), means, images), name


def _recipe(data: str, objective: str) -> Recipe:
    return load_recipe(POOLS[data]).with_settings(
        {"training.objective": objective, "backbone.name": "none", "compute.threads": 1}
    )
