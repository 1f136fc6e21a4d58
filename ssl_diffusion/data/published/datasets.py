"""Published data sets -> :class:`~ssl_diffusion.data.Pool`.

Sample ids are `train/00017`, `test/00017` and, for STL-10, `unlabeled/000017`: positions in the published split. Digits has no
published split; its positions are those in scikit-learn's `train_test_split(..., test_size=360, random_state=0)`, stratified.

Files are looked for in the data folder, then in the cache, and those of Fashion-MNIST also where Debian's package puts them.
Only what is in none of these is downloaded, after saying what, from where and how large: the idx files (MNIST,
Fashion-MNIST) into the cache, the others by torchvision into the data folder or, without one, the cache. torchvision
compares checksums; of idx files type, shape and row counts are checked.
"""

import http.client
import logging
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.catalog import DATASETS, LAYOUTS, DatasetInfo
from ssl_diffusion.data.published.idx import find_idx, read_idx_pair
from ssl_diffusion.errors import DataError, nearest_names, shown
from ssl_diffusion.storage import allocate, default_cache_dir

__all__ = ["dataset_info", "find_dataset", "load_dataset"]

logger = logging.getLogger(__name__)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_FAILURES = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
_STALLED = 60.0  # seconds without an answer
# The two sets have the same file names; their first training labels tell them apart.
_FIRST_LABELS = {"mnist": [5, 0, 4, 1, 9, 2, 1, 3], "fashion-mnist": [9, 0, 0, 3, 0, 2, 7, 2]}

_Part = tuple[str, NDArray[np.uint8], NDArray[np.int64]]
"""Split name, images (n, C, H, W), labels (n,)."""


class _TorchvisionSet(Protocol):
    """What is used of torchvision's classes: images and, by one of two names, labels."""

    data: Any
    targets: Any
    labels: Any


def find_dataset(name: str, data_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Path | None:
    """The folder or archive that a data set can be read from without network, or None; files are not opened.

    Raises:
        DataError: for an unknown name.

    Example:
        >>> find_dataset("digits").is_dir()
        True
    """
    dataset_info(name)
    if name == "digits":
        import sklearn.datasets

        return Path(sklearn.datasets.__file__).parent / "data"
    roots, layout = _roots(data_dir, cache_dir), LAYOUTS[name]
    if layout.idx:
        # Not the top of the cache: files of several sets have the same names.
        folders = [*roots[:-1], *(root / layout.folder for root in roots)]
        if name == "fashion-mnist":
            folders.append(DEBIAN_FASHION_MNIST)
        return next((folder for folder in folders if find_idx(folder)), None)
    for root in roots:
        if all((root / layout.folder / file).is_file() for file in layout.files):
            return root / layout.folder
        if layout.archive and (root / layout.archive).is_file():
            return root / layout.archive
    return None


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    max_memory: int | None = None,
    download: bool = True,
) -> Pool:
    """Read a published data set, downloading it first if need be; see the module docstring.

    Args:
        name: one of :data:`DATASETS`.
        data_dir: folder to look into first; laid out as torchvision does, or with the idx files themselves.
        cache_dir: Folder of downloads; None for :func:`default_cache_dir`.
        max_memory: bytes beyond which the images are memory-mapped from a temporary file; None for no limit.
        download: False to raise instead of using the network.

    Raises:
        DataError: if the name is unknown, a file is damaged, or the set is neither here nor can be downloaded.

    Example:
        >>> load_dataset("digits").images.shape
        (1797, 1, 8, 8)
    """
    dataset_info(name)
    if name == "digits":
        return _pool(name, _digits(), max_memory)
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise DataError(f"the data folder {data_dir} does not exist: create it or correct --data-dir")
    roots, layout = _roots(data_dir, cache_dir), LAYOUTS[name]
    # Idx files are never written to the data folder, where their names could be mistaken for those of another set.
    into = roots[-1] if layout.idx else roots[0]
    place = find_dataset(name, data_dir, cache_dir)
    if place is None and not download:
        raise DataError(_missing(name, "is not on this machine", into))
    place = place or _download(name, into)
    logger.info("reading %s from %s", DATASETS[name].title, place)
    return _pool(name, _idx_parts(name, place) if layout.idx else _torchvision_parts(name, place), max_memory)


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a data set by its name; raises :class:`DataError` with the nearest names if there is none.

    Example:
        >>> dataset_info("cifar10").classes[3]
        'cat'
    """
    if name not in DATASETS:
        raise DataError(f"there is no data set {shown(name)}; {nearest_names(name, DATASETS)}")
    return DATASETS[name]


def _roots(data_dir: str | Path | None, cache_dir: str | Path | None) -> list[Path]:
    """Folders to look into, the cache last."""
    cache = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    return [*([Path(data_dir).expanduser()] if data_dir is not None else []), cache]


def _missing(name: str, what: str, into: Path) -> str:
    """One sentence: the set is missing, and all ways to get it."""
    layout = LAYOUTS[name]
    files = "its four files (...-ubyte.gz)" if layout.idx else f"its files ({layout.archive or ', '.join(layout.files)})"
    debian = "install the Debian package dataset-fashion-mnist, " if name == "fashion-mnist" else ""
    return (
        f"{DATASETS[name].title} {what}: put {files} into {into / layout.folder if layout.idx else into}, give their folder "
        f"with --data-dir, {debian}or use --dataset digits, which needs no download"
    )


def _pool(name: str, parts: Sequence[_Part], max_memory: int | None) -> Pool:
    """Join the splits into one pool."""
    info = DATASETS[name]
    n = sum(len(labels) for _, _, labels in parts)
    images = allocate((n, info.channels, info.size, info.size), max_memory=max_memory)
    ids: list[str] = []
    for split, values, _ in parts:
        start, width = len(ids), max(5, len(str(len(values))))
        # In pieces: the values may be a memory map of a file that is larger than the memory.
        for at in range(0, len(values), 4096):
            piece = values[at : at + 4096]
            images[start + at : start + at + len(piece)] = piece
        ids += [f"{split}/{i:0{width}d}" for i in range(len(values))]
    return Pool(
        name=name,
        images=images,
        ids=np.array(ids, dtype=np.str_),
        labels=np.concatenate([labels for _, _, labels in parts]),
        classes=info.classes,
        is_test=np.concatenate([np.full(len(labels), split == "test") for split, _, labels in parts]),
        augmentation=info.augmentation,
    )


def _digits() -> list[_Part]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.rint(data.images * 255 / 16).astype(np.uint8)[:, None]
    labels = data.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    return [("train", images[train], labels[train]), ("test", images[test], labels[test])]


def _idx_parts(name: str, folder: Path) -> list[_Part]:
    info, files = DATASETS[name], find_idx(folder)
    if files is None:
        raise DataError(_missing(name, "has just been removed", folder))
    parts = []
    for split, n in (("train", info.n_train), ("test", info.n_test)):
        images, labels = read_idx_pair(files, split, n, info.size)
        if labels.max() >= len(info.classes):
            raise DataError(f"the {split} labels in {folder} go up to {labels.max()}: replace them by those of {info.title}")
        for other, first in _FIRST_LABELS.items():
            if split == "train" and other != name and labels[: len(first)].tolist() == first:
                title = DATASETS[other].title
                raise DataError(f"{folder} holds {title}, not {info.title}: use --dataset {other} or another --data-dir")
        parts.append((split, images, labels.astype(np.int64)))
    return parts


def _torchvision_parts(name: str, place: Path) -> list[_Part]:
    """Read a set through torchvision, which compares checksums before it opens a file."""
    layout = LAYOUTS[name]
    root = place.parent if layout.folder else place
    packed = place.name == layout.archive
    try:
        if packed and not _intact(name, place):
            raise OSError("its checksum is wrong")
        train, test = (_open(name, root, split, download=packed) for split in ("train", "test"))
    except ImportError as error:
        raise DataError(f"{DATASETS[name].title} needs torchvision ({error}): install it, or use --dataset digits") from error
    except _FAILURES as error:
        files = str(place) if packed else f"one of {', '.join(layout.files)} in {place}"
        raise DataError(f"{files} cannot be read ({_short(error)}): replace it, or remove it to download it again") from error
    parts = []
    for split, data in (("train", train), ("test", test)):
        images = data.data.transpose(0, 3, 1, 2) if hasattr(data, "targets") else data.data
        labels = data.targets if hasattr(data, "targets") else data.labels
        parts.append((split, images, np.asarray(labels, dtype=np.int64)))
    if name == "stl10":
        path = root / layout.folder / "unlabeled_X.bin"
        # Columns come first in the file.
        images = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        parts.append(("unlabeled", images, np.full(len(images), -1, dtype=np.int64)))
    return parts


def _open(name: str, root: Path, split: str, *, download: bool) -> _TorchvisionSet:
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, LAYOUTS[name].torchvision)
    which = {"split": split} if name in ("svhn", "stl10") else {"train": split == "train"}
    opened: _TorchvisionSet = dataset(root, **which, download=download)
    return opened


def _intact(name: str, archive: Path) -> bool:
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, LAYOUTS[name].torchvision)
    return bool(torchvision.datasets.utils.check_integrity(archive, dataset.tgz_md5))


def _download(name: str, root: Path) -> Path:
    """Download a set beside its final folder, then move it there: an interrupted download leaves nothing that looks whole."""
    final = root / LAYOUTS[name].folder
    sources = [("torchvision", _from_torchvision)] + ([("apt-get", _from_apt)] if name == "fashion-mnist" else [])
    failures = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as work:
            for source, fetch in sources:
                try:
                    files = fetch(name, Path(work))
                except (*_FAILURES, ImportError, subprocess.SubprocessError) as error:
                    failures.append(f"{source}: {_short(error)}")
                    logger.info("%s failed: %s", source, _short(error))
                    continue
                final.mkdir(parents=True, exist_ok=True)
                for file in files:
                    os.replace(file, final / file.name)
                return final
    except OSError as error:
        raise DataError(f"cannot write to {root} ({_short(error)}): give a folder with --data-dir or set SSLD_CACHE") from error
    raise DataError(_missing(name, f"could not be downloaded ({'; '.join(failures)})", root))


def _from_torchvision(name: str, work: Path) -> list[Path]:
    layout, info = LAYOUTS[name], DATASETS[name]
    logger.info("downloading %s (%s) from %s into %s", info.title, info.download, layout.url, work.parent)
    stalled = socket.getdefaulttimeout()
    # torchvision sets no limit, so that a silent server would hold us for ever.
    socket.setdefaulttimeout(_STALLED)
    try:
        for split in ("train", "test"):
            _open(name, work, split, download=True)
    finally:
        socket.setdefaulttimeout(stalled)
    folder = work / layout.folder
    return list((find_idx(folder) or {}).values()) if layout.idx else [folder / file for file in layout.files]


def _from_apt(name: str, work: Path) -> list[Path]:
    """Debian's package, unpacked without being installed, which would need root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise OSError("not on this machine")
    info = DATASETS[name]
    logger.info("downloading %s (%s), Debian package dataset-fashion-mnist, into %s", info.title, info.download, work.parent)
    run: dict[str, Any] = {"cwd": work, "check": True, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], timeout=600, **run)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package.name, "unpacked"], timeout=120, **run)
    files = find_idx(work / "unpacked" / DEBIAN_FASHION_MNIST.relative_to("/"))
    if files is None:
        raise OSError("the package does not hold the expected files")
    return list(files.values())


def _short(error: Exception) -> str:
    """An error as one short line."""
    text = error.stderr.strip().rpartition("\n")[2] if isinstance(error, subprocess.CalledProcessError) else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
