"""The run folder: one fitted model and everything that belongs to it.

recipe.toml          every setting, resolved
pool.json            facts about the pool: fingerprint, sizes, classes
conditions.json      cache, threads, device and precision that the run began with
plan.json            how the steps were planned from a given time; only with one
labeled.csv          the labels that were used: id, label, role
history.csv          losses over steps, pretraining first
metrics.json         the metrics; written last, so a folder with it is a finished run
model.safetensors    EMA and raw weights, with the configuration in the header
last/                the state to resume from, while training
history.png  confusion.png  reconstructions.png  skipped.csv  log.txt
shards.json  held_out.csv   of runs on shards, see :mod:`ssl_diffusion.training.shard_record`
scores/              cached outputs of the encoder for the pool, by :mod:`ssl_diffusion.inference.embedding_store`
.ssld-run            marks the folder as a run, so that it can be overwritten
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from filelock import FileLock, Timeout
from pydantic import Field, RootModel
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.loading import input_paths
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.weights import prefixed, save_tensors
from ssl_diffusion.outputs import place_fault, refuse_inputs
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.storage import TEMPORARY, atomic_write_text, cannot_write, remove_temporary
from ssl_diffusion.training.conditions import RunConditions
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.settings import TrainingSettings
from ssl_diffusion.training.shard_record import HELD_OUT, SHARDS, record_shards, shard_changes

__all__ = ["RunFolder", "default_run_name", "load_metrics", "model_metadata", "run_inputs"]

_MARKER = ".ssld-run"
_LOCK, _HOLDER = ".ssld-lock", ".ssld-lock-holder"
_OURS = frozenset(
    (
        *(_MARKER, _LOCK, _HOLDER, "recipe.toml", "pool.json", "labeled.csv", "skipped.csv", "history.csv", "metrics.json"),
        *("scores", "log.txt", "conditions.json", "plan.json", "model.safetensors", "history.png", "confusion.png"),
        *("reconstructions.png", "last", SHARDS, HELD_OUT),
    )
)


_Count = Annotated[int, Field(ge=0)]


class _PoolFacts(State):
    """Facts about the pool of a run, as pool.json has them."""

    name: str
    n_train: _Count
    n_test: _Count
    image_shape: tuple[_Count, _Count, _Count]
    classes: tuple[str, ...]
    multilabel: bool
    fingerprint: str
    labeled: str | None = None
    """Digest of the labels; None without labels."""

    @classmethod
    def of(cls, pool: Pool, fingerprint: str, labeled: str | None = None) -> "_PoolFacts":
        """The facts about a pool."""
        return cls(
            name=pool.name,
            n_train=len(pool.train),
            n_test=len(pool.test),
            image_shape=pool.image_shape,
            classes=tuple(pool.classes),
            multilabel=pool.multilabel,
            fingerprint=fingerprint,
            labeled=labeled,
        )


class RunFolder:
    """Paths and files of a run.

    Args:
        path: Folder; nothing is created before :meth:`create`.

    Attributes:
        path: Folder of the run.
        model: File of the final weights.
        metrics: File of the metrics.
        log: File of the log.
        conditions: File of the conditions that the run began with, see :mod:`ssl_diffusion.training.conditions`.
        checkpoint: File of the state to resume from, while training.

    Example:
        >>> RunFolder(Path("runs/digits-40-s0")).finished
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.safetensors"
        self.metrics = path / "metrics.json"
        self.log = path / "log.txt"
        self.conditions = path / "conditions.json"
        self.checkpoint = path / "last" / "checkpoint.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.metrics.exists()

    def check_free(self, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
        """Refuse a folder that exists, unless it is empty, or holds only a run that may be overwritten.

        Args:
            overwrite: Whether a run may be replaced.
            inputs: Files and folders that are read; the run may not be one of them or lie in one.

        Raises:
            RunError: If the folder is not free.
        """
        if (fault := place_fault(self.path)) is not None:
            raise RunError(f"{fault}; choose another --out")
        refuse_inputs(self.path, inputs)
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose another --out")
        if not overwrite:
            if not (self.path / _MARKER).exists():
                raise RunError(f"{self.path} exists and is not a run folder; choose another --out")
            how = "it holds a finished run" if self.finished else f"continue it with --resume {self.path}"
            raise RunError(f"{self.path} exists: {how}; --overwrite replaces it, --out chooses another folder")
        if not (self.path / _MARKER).exists():
            raise RunError(f"{self.path} is not a run folder, so --overwrite will not delete it; choose another --out")
        if foreign := self._foreign():
            raise RunError(
                f"{self.path} holds files that no run writes ({', '.join(foreign[:3])}), so --overwrite will not delete it; "
                "move them, or choose another --out"
            )

    def _foreign(self) -> list[str]:
        """Names in the folder that no run writes."""
        names = sorted(item.name for item in self.path.iterdir())
        return [name for name in names if name not in _OURS and not name.startswith(TEMPORARY)]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the run, which one process at a time may continue; it ends with the process, however that ends.

        Raises:
            RunError: If another process holds it, which is named, or the folder cannot be written.
        """
        lock, holder = FileLock(self.path / _LOCK, timeout=0), self.path / _HOLDER
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not any(self.path.iterdir()):
                (self.path / _MARKER).touch()  # first of all: a folder that is left like this can be overwritten
            lock.acquire()
            atomic_write_text(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
        except Timeout:
            try:
                who = holder.read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                who = "another process"
            raise RunError(f"{self.path} is being fitted by {who}; wait for it, or stop it") from None
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            yield
        finally:
            with suppress(OSError):
                holder.unlink(missing_ok=True)
                if self.finished:  # nobody continues it any more
                    (self.path / _LOCK).unlink(missing_ok=True)
            lock.release()

    def create(
        self, recipe: Recipe, pool: Pool, labeled: LabeledSet | None, fingerprint: str, conditions: RunConditions | None = None
    ) -> None:
        """Write the files that identify the run, replacing an older run in the same place.

        The marker comes first and stays while an older run is removed, so that a folder that is left incomplete is still
        recognised as a run folder and can be overwritten; pool.json comes last and marks the folder as complete.

        Args:
            recipe: Resolved settings.
            pool: Images and labels.
            labeled: Labels that are used; None without labels.
            fingerprint: Fingerprint of the pool.
            conditions: Conditions that the run begins with; None leaves them unknown.

        Raises:
            RunError: If the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.joinpath(_MARKER).touch()
            for item in sorted(self.path.iterdir(), key=lambda item: item.name not in ("pool.json", "metrics.json")):
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item)
                elif item.name not in (_MARKER, _LOCK, _HOLDER, "recipe.toml"):
                    item.unlink()
            atomic_write_text(self.path / "recipe.toml", recipe.to_toml())
            if labeled is not None:
                labeled.save(self.path / "labeled.csv", pool)
            if pool.skipped:
                skipped = pd.DataFrame(pool.skipped, columns=["id", "reason"])
                atomic_write_text(self.path / "skipped.csv", skipped.to_csv(index=False))
            if conditions is not None:
                atomic_write_text(self.conditions, conditions.model_dump_json(indent=2) + "\n")
            record_shards(self.path, pool, recipe.data.test_fraction)
            facts = _PoolFacts.of(pool, fingerprint, _digest(labeled)).model_dump(mode="json")
            atomic_write_text(self.path / "pool.json", json.dumps(facts, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"cannot create the run folder {self.path} ({error})") from error

    def save_plan(self, recipe: Recipe, plan: dict[str, Any] | None) -> None:
        """Write the recipe with the steps that were planned from a given time, and what they were planned from.

        Args:
            recipe: Resolved settings.
            plan: Plain values; None leaves them as they are.

        Raises:
            RunError: If the folder cannot be written.
        """
        try:
            if plan is not None:
                atomic_write_text(self.path / "plan.json", json.dumps(plan, indent=2) + "\n")
            atomic_write_text(self.path / "recipe.toml", recipe.to_toml())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        path = self.path / "recipe.toml"
        if not os.path.lexists(path):
            raise RunError(f"{self.path} is not a run folder (it has no recipe.toml)")
        return read_state(path, Recipe, remedy="put it back as it was, or fit again with --overwrite")

    def labeled(self, pool: Pool) -> LabeledSet | None:
        """The labels of the run; None if it has none.

        Args:
            pool: Pool of the run.

        Raises:
            DataError: If they do not belong to the pool, or are not those that the run was started with.
        """
        path = self.path / "labeled.csv"
        labeled = LabeledSet.load(path, pool) if path.exists() else None
        if _digest(labeled) != self._pool_facts().labeled:
            raise DataError(f"{path} lists other samples, or is missing; start another run")
        return labeled

    def check_pool(self, pool: Pool, fingerprint: str) -> None:
        """Raise :class:`RunError`, which names the differences, if a pool is not the one of the run."""
        kept, now = self._pool_facts(), _PoolFacts.of(pool, fingerprint)
        pairs = [(key, getattr(kept, key), value) for key, value in now if key != "labeled"]
        differences = [f"{key}: {before!r} -> {value!r}" for key, before, value in pairs if before != value]
        if differences:
            differences += shard_changes(self.path, pool)
            raise RunError(f"the pool is not the one that {self.path} was started with: {'; '.join(differences)}")

    def changes(self, pool: Pool) -> list[str]:
        """Differences between a pool and the one that the run was fitted to, a phrase each; empty if there are none."""
        kept, now = self._pool_facts(), _PoolFacts.of(pool, "")
        names = {"n_train": "training images", "n_test": "test images", "classes": "classes", "image_shape": "image shape"}
        pairs = [(what, getattr(kept, key), getattr(now, key)) for key, what in names.items()]
        found = [f"{what}: {_listed(before)} -> {_listed(value)}" for what, before, value in pairs if before != value]
        if not found and kept.fingerprint != pool.fingerprint():
            found = shard_changes(self.path, pool) or ["other training images or ids"]
        return found

    def used_ids(self) -> list[str]:
        """Ids of the samples whose labels the run was fitted or validated with; empty if it had none.

        Raises:
            DataError: If labeled.csv is damaged.
        """
        path = self.path / "labeled.csv"
        return read_table(path).column("id") if path.exists() else []

    def _pool_facts(self) -> "_PoolFacts":
        path = self.path / "pool.json"
        if not os.path.lexists(path):
            raise RunError(f"{self.path} was never begun in full (no readable pool.json); fit it again with --overwrite")
        return read_state(path, _PoolFacts, remedy="put it back as it was, or fit again with --overwrite")

    def save_history(self, history: list[dict[str, Any]]) -> pd.DataFrame:
        """Write history.csv and return it as a table."""
        frame = pd.DataFrame(history)
        atomic_write_text(self.path / "history.csv", frame.to_csv(index=False))
        return frame

    def save_model(self, metadata: dict[str, Any], ema: dict[str, Tensor], raw: dict[str, Tensor]) -> None:
        """Write the final weights."""
        save_tensors(self.model, {**prefixed("ema", ema), **prefixed("raw", raw)}, metadata)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, which marks the run as finished, and drop the state for resuming and half-written files."""
        atomic_write_text(self.metrics, json.dumps(metrics, indent=2) + "\n")
        shutil.rmtree(self.checkpoint.parent, ignore_errors=True)
        remove_temporary(self.path)


def model_metadata(config: JointConfig, pool: Pool, objective: str) -> dict[str, Any]:
    """Metadata of a model file.

    Args:
        config: Configuration of the model.
        pool: Pool that it was fitted to.
        objective: Objective of the fit.

    Example:
        >>> model_metadata(model.config, pool, "joint")["objective"]
        'joint'
    """
    return {
        "config": config.to_dict(),
        "classes": list(pool.classes) if config.n_classes else [],
        "multilabel": pool.multilabel,
        "objective": objective,
    }


def run_inputs(run: Run) -> list[Path]:
    """Files and folders that a run's images are read from, which no output may replace; empty if its recipe is missing.

    Example:
        >>> run_inputs(load_run("runs/digits-40-s0"))
        []
    """
    there = os.path.lexists(run.path / "recipe.toml")
    return input_paths(RunFolder(run.path).recipe().data) if there else []


def load_metrics(path: Path) -> dict[str, Any]:
    """The metrics of a finished run.

    Args:
        path: Run folder.

    Raises:
        RunError: If the run is not finished, or the file is damaged.

    Example:
        >>> load_metrics(Path("runs/digits-40-s0"))["test_accuracy"]
    """
    metrics = path / "metrics.json"
    if not os.path.lexists(metrics):
        raise RunError(f"{path} is not finished; continue it with: ssld fit --resume {path}")
    remedy = "put it back as it was, or fit again with --overwrite"
    return read_state(metrics, RootModel[dict[str, Any]], remedy=remedy, nan=True).root


def default_run_name(pool_name: str, n_labeled: int, training: TrainingSettings) -> str:
    """Name of a run, such as "fashion-mnist-4000-s0"; differences from plain joint training are part of it.

    Args:
        pool_name: Name of the pool.
        n_labeled: Number of labels; 0 leaves it out.
        training: Settings of the training.

    Example:
        >>> default_run_name("digits", 40, TrainingSettings(objective="labels-only"))
        'digits-40-labels-only-s0'
    """
    parts = [pool_name, *([str(n_labeled)] if n_labeled else [])]
    parts += [training.objective] if training.objective != "joint" else []
    parts += [training.consistency] if training.consistency != "none" else []
    return "-".join([*parts, f"s{training.seed}"])


def _digest(labeled: LabeledSet | None) -> str | None:
    return labeled.digest() if labeled is not None else None


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
