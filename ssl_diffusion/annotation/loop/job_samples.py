"""The samples, roles and first labels of a new job."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_diffusion.annotation.loop.settings import JobSettings
from ssl_diffusion.annotation.store import class_changes
from ssl_diffusion.annotation.store.store import Action, Actor, Store
from ssl_diffusion.data.loading import is_table
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.places import is_sharded
from ssl_diffusion.errors import DataError, RecipeError, RunError

__all__ = ["Folders", "check_kind", "fill_store"]

Folders = Literal["classes", "ignore"]
"""What sub-folders of a folder of images mean."""


def check_kind(settings: JobSettings, folders: Folders) -> None:
    """Check that the images and labels of a job can be those of a multi-label job, or of another one.

    Args:
        settings: Settings of the job.
        folders: Meaning of the sub-folders of a folder of images.

    Raises:
        RecipeError: If they cannot.
    """
    data = settings.recipe.data
    if not settings.multilabel:
        if data.multilabel or data.label_columns:
            raise RecipeError("the data has several labels an image, and this job takes one label per image: add --multilabel")
        return
    if settings.recipe.training.consistency != "none":
        raise RecipeError("pseudo-labels (training.consistency) are for images with one class each: leave out --multilabel")
    if is_sharded(data.path):
        raise RecipeError(
            "multi-label jobs need image files: a fit on shards takes one label an image, so leave out --multilabel"
        )
    if folders == "classes" and not is_table(Path(data.path)):
        raise RecipeError("sub-folders give one class to an image, and --multilabel asks for sets: leave out one of the two")


def fill_store(
    store: Store, pool: Pool, settings: JobSettings, classes: Sequence[str], targets: Mapping[str, int] | None = None
) -> None:
    """Fill an empty store with the samples of a pool, their roles, and the labels that they have.

    Args:
        store: Store to fill.
        pool: Images of the job.
        settings: Settings of the job.
        classes: Class names besides those of the pool.
        targets: Numbers of labels that are wanted of single classes, by name.

    Raises:
        RunError: If the store holds another job.
        DataError: If the pool has one label an image, and the job is multi-label; or if there is no class of a target.
    """
    if len(store.ids):
        raise RunError(f"the store already holds a job of {len(store.ids)} samples: use an empty database")
    if settings.multilabel and pool.classes and not pool.multilabel:
        raise DataError(
            f"{pool.name} has one label an image, and a multi-label job needs sets: name columns of 0 and 1 with "
            "--set data.label_columns=cat,dog, or say that a cell holds several with --set data.multilabel=true"
        )
    roles = np.where(pool.is_test, "test", "pool").astype("<U5")
    audit = np.random.default_rng([settings.seed, 1]).permutation(pool.train)[: settings.audit]
    roles[audit] = "audit"
    store.add_samples([str(name) for name in pool.ids], roles.tolist())
    store.add_classes([*pool.classes, *classes])
    for name, target in (targets or {}).items():
        class_changes.set_target(store, name, target)
    by = Actor("data", "import")
    known = np.flatnonzero(pool.has_label).tolist()
    store.apply([Action("label", str(pool.ids[i]), by, _label_of(pool, i)) for i in known])


def _label_of(pool: Pool, position: int) -> str | tuple[str, ...]:
    if not pool.multilabel:
        return pool.classes[int(pool.labels[position])]
    return tuple(name for name, flag in zip(pool.classes, pool.labels[position], strict=True) if flag > 0)
