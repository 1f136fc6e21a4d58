"""The job folder: a pool of images, the store of their labels, and the models fitted to them.

job.toml             settings: a recipe for the fits, and the section [job]
job.db               the store, unless it is on a server
images.npy           the images as models see them, uint8 (N, C, H, W), by position; images.json says which they are
shards.json          in their place for images in shards, which are not copied: the digests of the shards
pixels.npy           principal components of the pixels, on which the first samples are chosen; with a backbone
backbone.npy         its features of all images
model.json           name of the run that is the current model; replaced when a fit has finished
models/NNN/          run folders of `ssld fit`; models/NNN.csv lists the samples and labels they were fitted to
models/NNN.npy       the representation of all images by that run
batches/             samples of every round, as CSV files
*.lock, *.lock.json  locks, and which process holds them
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from sqlalchemy import URL

from ssl_diffusion.annotation.loop.job_images import open_images, save_images, without_classes
from ssl_diffusion.annotation.loop.job_samples import Folders, check_kind, fill_store
from ssl_diffusion.annotation.loop.job_shards import JobShards, save_shards
from ssl_diffusion.annotation.loop.settings import JobSettings
from ssl_diffusion.annotation.store.faults import store_name
from ssl_diffusion.annotation.store.store import Actor, Store
from ssl_diffusion.annotation.store.votes import Status
from ssl_diffusion.data.loading import check_there, check_used, image_folder, input_paths, is_table, load_pool, with_size_of
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shards.places import is_sharded, located
from ssl_diffusion.data.shards.rows import ImageInShard, as_array
from ssl_diffusion.errors import DataError, RecipeError, RunError, StateError
from ssl_diffusion.outputs import refuse_inputs, remove_left
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.storage import atomic_folder, atomic_write_text, cannot_write

if TYPE_CHECKING:
    from ssl_diffusion.annotation.loop.rounds import Round
    from ssl_diffusion.annotation.loop.status import JobStatus

__all__ = ["Folders", "Job", "create_job", "move_images", "open_job"]

_log = logging.getLogger(__name__)
_PATIENCE = 0.5  # seconds; a process that only checks a lock holds it for a moment
_SHOWN = 5  # names in a message


class _Holder(State):
    """Process that holds a lock."""

    process: int
    host: str
    since: str


class Job:
    """An existing job; see :func:`open_job`.

    Attributes:
        path: Job folder.
        settings: Settings of the job.
        store: Store of the labels.
    """

    def __init__(self, path: Path, settings: JobSettings, *, is_new: bool = False) -> None:
        self.path = path
        self.settings = settings
        # Not as text, in which a "?" in the name of a folder would begin options.
        url = settings.store or URL.create("sqlite", database=str(path.resolve() / "job.db"))
        self.store = Store(url, settings.agreement, exists=not is_new, multilabel=settings.multilabel)

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """All images by position, uint8 (N, C, H, W), memory-mapped; see :func:`~.job_images.open_images`.

        Those in shards are read when they are asked for, see :class:`~ssl_diffusion.data.shards.rows.ShardImages`.
        """
        return self.open_images("r") if self.shards is None else as_array(self.shards.images)

    @cached_property
    def shards(self) -> JobShards | None:
        """The shards in which the images lie; None for image files."""
        there = JobShards.known(self.path)
        return JobShards(self.path, self.settings.recipe.data, self.store.ids) if there else None

    def open_images(self, mode: Literal["r", "c"]) -> NDArray[np.uint8]:
        """Map the images, for reading ("r") or as a copy on write ("c"); those in shards are read into an array."""
        if self.shards is not None:
            return self.shards.read()
        data = self.settings.recipe.data
        return open_images(self.path, data, self.store.ids.tolist(), mode, store=store_name(self.store.engine.url))

    @property
    def inputs(self) -> list[Path]:
        """Folders and files that the images are read from, which no output may replace."""
        if self.shards is not None:
            return list(self.shards.folders)
        return [self.image_root, *input_paths(self.settings.recipe.data)]

    @property
    def image_root(self) -> Path:
        """Folder that sample ids are relative to."""
        return image_folder(self.settings.recipe.data)

    @property
    def trained(self) -> NDArray[np.int64]:
        """Positions of the samples whose images training may see, ascending."""
        return np.sort(np.concatenate([self.store.of_role("pool"), self.store.of_role("audit")]))

    def image_content(self, position: int) -> Path | ImageInShard:
        """The image of a sample: its file, or what is read out of a shard as the content of one.

        Raises:
            DataError: If the file is missing, as :meth:`image_file`.
        """
        return self.image_file(position) if self.shards is None else self.shards.image(position)

    def image_file(self, position: int) -> Path:
        """File of a sample.

        Raises:
            DataError: If it is missing; the message says how to tell the job where the images are.
        """
        path = self.image_root / str(self.store.ids[position])
        if not path.is_file():
            raise DataError(
                f"{path} does not exist: if the images were moved, name their folder: ssld loop move {self.path} --data FOLDER"
            )
        return path

    def check_files(self) -> None:
        """Raise :class:`DataError` if image files are missing; it says how to tell the job where they are."""
        if self.shards is not None:  # which are looked at when they are opened
            return
        if fault := _missing(self, self.image_root):
            raise DataError(
                f"{fault}; {self.settings.recipe.backbone.name} reads the files themselves: if they were moved, name their "
                f"folder: ssld loop move {self.path} --data FOLDER"
            )

    def folder(self, name: str) -> Path:
        """A folder inside the job, created if necessary."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Hold the lock of an activity, such as "next" or "fit", which one process at a time may do.

        Raises:
            RunError: If another process holds it; names the process.
        """
        lock, note = FileLock(self.path / f"{what}.lock", timeout=_PATIENCE), self.path / f"{what}.lock.json"
        try:
            with lock:
                facts = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                atomic_write_text(note, json.dumps(facts))
                try:
                    yield
                finally:
                    note.unlink(missing_ok=True)
        except Timeout:
            raise RunError(f"{self.path} is in use: {what} by {_whom(note)}; wait for it, or stop it") from None
        except OSError as error:
            if Path(error.filename or "") != self.path / f"{what}.lock":
                raise
            raise cannot_write(self.path / f"{what}.lock", error) from None

    def busy_with(self, what: str) -> str | None:
        """Process that holds the lock of an activity, see :meth:`alone`; None if none does."""
        note = self.path / f"{what}.lock.json"
        try:
            with FileLock(self.path / f"{what}.lock", timeout=0):
                return None
        except Timeout:
            return _whom(note) if note.exists() else None  # without a note another process only checks the lock
        except OSError:  # a job that may only be read: nobody works on it
            return None

    # -- from a notebook ----------------------------------------------------------------------------------------------

    def next(self, n: int | None = None, strategy: str | None = None) -> "Round":
        """Choose samples to label, see :func:`ssl_diffusion.annotation.loop.rounds.next_round`.

        Args:
            n: Samples to choose; None takes the job's setting.
            strategy: Strategy name, or "auto"; None takes the job's setting.
        """
        from ssl_diffusion.annotation.loop.rounds import next_round

        return next_round(self, n, strategy)

    def label(self, id_: str, label: str | Sequence[str], annotator: str = "api", *, final: bool = False) -> Status:
        """Label a sample, or correct it; returns its status.

        Args:
            id_: Sample id.
            label: Class name; in a multi-label job the names of a set, also of none.
            annotator: Name of the annotator.
            final: Whether the label overrides the votes of others.

        Raises:
            DataError: If there is no such sample or class.
        """
        return self.store.label(id_, label, Actor(annotator), final=final)

    def fit(self) -> str:
        """Fit a model to the labels so far, see :func:`ssl_diffusion.annotation.loop.fits.fit_job`; returns its name."""
        from ssl_diffusion.annotation.loop.fits import fit_job

        return fit_job(self)

    def status(self) -> "JobStatus":
        """Labels, model, accuracy, speed and advice, see :func:`ssl_diffusion.annotation.loop.status.status_of`."""
        from ssl_diffusion.annotation.loop.status import status_of

        return status_of(self)

    def save_settings(self, settings: JobSettings) -> None:
        """Replace the settings."""
        atomic_write_text(self.path / "job.toml", settings.to_toml(), mode=0o600)  # the store's URL may hold a password
        self.settings = settings


def create_job(
    path: Path,
    settings: JobSettings,
    classes: Sequence[str] = (),
    *,
    folders: Folders = "ignore",
    targets: Mapping[str, int] | None = None,
    progress: ProgressCallback | None = None,
) -> Job:
    """Create a job folder.

    Existing labels, from the CSV file or, where that is said, class folders, are imported. Images of a test split are never
    queued and only measure models; so do the `settings.audit` samples of the audit set, once they are labeled.

    Args:
        path: Job folder; it must not exist, or be empty.
        settings: Settings of the job; the recipe names a folder or CSV file of images, or shards, whose images are not copied.
        classes: Class names besides those of the data.
        folders: Meaning of the sub-folders of a folder of images: "classes" of the images in them, or nothing ("ignore").
        targets: Numbers of labels that are wanted of single classes, by name; the other classes have that of the settings.
        progress: Callback for the number of images read.

    Raises:
        SSLDError: If the folder exists, the images cannot be used, or the store holds another job; or if the backbone that the
            recipe names is not installed, is not read by its objective, or has no features of some image.

    Example:
        >>> job = create_job(Path("job"), JobSettings(...), ["cat", "dog"])  # doctest: +SKIP
    """
    from ssl_diffusion.training.backbones import fit_backbone, with_backbone_of

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "holds a job" if (path / "job.toml").exists() else "exists"
        raise RunError(f"{path} {what}: choose another folder")
    data = settings.recipe.data
    if not data.path:
        raise RecipeError("a job needs images: name their folder, a CSV file that lists them, or shards, with --data")
    check_kind(settings, folders)
    if data.unlabeled:
        raise RecipeError(
            "a job takes all of its images from one place: leave out data.unlabeled, or put the images into one folder"
        )
    _check_root(data)
    ignored = folders == "ignore" and not is_table(Path(data.path)) and not is_sharded(data.path)
    if ignored and data.test_fraction:
        raise RecipeError("--test-fraction holds out labels, and sub-folders are taken for none: add --folders classes")
    check_used(data)
    refuse_inputs(path, input_paths(data))
    remove_left(path.parent)
    backbone = fit_backbone(settings.recipe)  # one that is not to be had is an error before images are read
    pool = load_pool(data, lazy=True, progress=progress)
    if ignored:
        pool = without_classes(pool, data.path)
    for note in pool.notes:
        _log.info("%s", note)
    if backbone is not None and backbone.by_id:
        backbone.embed(pool.ids, None)  # refuses samples without features
    settings = settings.replace(recipe=with_backbone_of(settings.recipe.replace(data=with_size_of(pool, data)), pool))
    if settings.audit >= len(pool.train):
        raise DataError(f"an audit of {settings.audit} samples leaves none of {len(pool.train)} for training")
    with atomic_folder(path) as temporary:
        if pool.shards:
            save_shards(temporary, pool)
        else:
            save_images(temporary, pool.images, pool.file_size)
        job = Job(temporary, settings, is_new=True)
        job.save_settings(settings)
        try:
            fill_store(job.store, pool, settings, classes, targets)
        finally:
            job.store.close()
    return Job(path, settings)


def move_images(job: Job, data: str | Path, image_root: Path | None = None) -> None:
    """Tell a job where its images are now.

    Args:
        job: Job whose images were moved.
        data: Folder, or CSV file that lists the images; or shards: folder, pattern or URL.
        image_root: Folder that the paths of a CSV file are relative to; None is the folder of the file.

    Raises:
        DataError: If images of the job are missing there, or shards have another content; names some. Nothing is changed then.

    Example:
        >>> move_images(open_job(Path("job")), Path("elsewhere/photos"))  # doctest: +SKIP
    """
    recipe = job.settings.recipe
    _check_root(recipe.data.replace(path=str(data), image_root=str(image_root or "")))
    root = str(image_root.resolve()) if image_root is not None else ""
    settings = job.settings.replace(recipe=recipe.replace(data=recipe.data.replace(path=located(data), image_root=root)))
    if JobShards.known(job.path):
        JobShards(job.path, settings.recipe.data, job.store.ids)
    else:
        check_there(settings.recipe.data)
        if fault := _missing(job, image_folder(settings.recipe.data)):
            raise DataError(fault)
    job.save_settings(settings)
    job.__dict__.pop("shards", None)
    job.__dict__.pop("images", None)


def _missing(job: Job, folder: Path) -> str:
    """Which images of a job are missing in a folder, in words; empty if none are."""
    missing = [str(id_) for id_ in job.store.ids if not (folder / str(id_)).is_file()]
    if not missing:
        return ""
    names = ", ".join(missing[:_SHOWN])
    return f"{len(missing)} of {len(job.store.ids)} images are missing in {folder}: {names}{' ...' if missing[_SHOWN:] else ''}"


def open_job(path: Path) -> Job:
    """Open a job folder.

    Raises:
        SSLDError: If it is not a job folder, or its store cannot be opened.

    Example:
        >>> job = open_job(Path("job"))  # doctest: +SKIP
    """
    file = path / "job.toml"
    if not os.path.lexists(file):
        raise RunError(f"{path} is not a job folder (it has no job.toml): create one with: ssld loop init {path} --data FOLDER")
    remove_left(path.parent)
    return Job(path, read_state(file, JobSettings, remedy="put back a copy of it, or correct it"))


def _check_root(data: DataSettings) -> None:
    if data.image_root and not is_table(Path(data.path)):
        raise RecipeError(f"--image-root is for a CSV file that lists images; {data.path} is none, so leave it out")


def _whom(note: Path) -> str:
    try:
        facts = read_state(note, _Holder, remedy="")
    except StateError:
        return "another process"
    return f"process {facts.process} on {facts.host} since {facts.since}"
