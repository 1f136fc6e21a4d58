"""Data sets of :mod:`photos`: what `ssld fit` is told to read, and what the rivals read of the same images.

cifar10        60,000 photos of 32 px as JPEG files, in folders train/ and test/ (`--cifar`)
digits-on-photos, garments-in-color   simple pictures of simple_pictures.py
cifar10-2000   the first 200 photos of each class of train/ and of test/, copied to the cache: a small collection of one's own
fashion-mnist  70,000 gray pictures of 28 px
elpv           2,624 gray pictures of solar cells, 300 px, in four grades by their probability of a defect (0, 1/3, 2/3, 1),
               from the package elpv-dataset. In each grade the 30 % of the files whose names have the smallest SHA-256 are the
               test split: 786 cells.
"""

import hashlib
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from baselines import components
from numpy.typing import NDArray
from simple_pictures import SIMPLE_PICTURES

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.source import FileSource
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads
from ssl_diffusion.machine import resolve_accelerator
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.backbones.registry import load_backbone

__all__ = ["BACKBONE", "INPUTS", "PhotoSet", "first_photos", "hog", "photo_set"]

BACKBONE = "efficientnet-lite0"
_EACH = 200  # photos of a class of cifar10-2000, for training and to test
_LAST = 1280  # features of the last level of the backbone, which are what a rival would take
_READ_AT = 160  # the side in pixels at which HOG and fine-tuning read larger files, as the backbone does


@dataclass(frozen=True)
class PhotoSet:
    """A data set.

    Attributes:
        settings: Section [data] of a recipe.
        cache: Cache directory, of `ssld` too.
    """

    name: str
    settings: DataSettings
    cache: Path

    @property
    def arguments(self) -> list[str]:
        """How `ssld fit` is told to read it."""
        told = self.settings.model_dump(exclude_defaults=True)
        options = {"dataset": "--dataset", "path": "--data", "image_root": "--image-root"}
        return [word for key, value in told.items() for word in (options[key], str(value))]

    @cached_property
    def pool(self) -> Pool:
        """The images as `ssld fit` reads them: those of the solar cells at 32 px."""
        return load_pool(self.settings)

    def images(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images, uint8 (n, C, H, W): files that are larger than the pool's images at 160 px, others as the pool has them."""
        ids = self.pool.ids[positions].tolist()
        if not self.settings.image_root:
            return self.pool.images[positions]
        root = Path(self.settings.image_root)
        return FileSource([root / name for name in ids], ids, (self.pool.image_shape[0], _READ_AT, _READ_AT)).take(ids)

    @cached_property
    def hog(self) -> NDArray[np.float32]:
        """Histograms of oriented gradients of all images."""
        return hog(self.images(np.arange(len(self.pool))))

    def features(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of the backbone, float32 (n, F), which `ssld fit` keeps in the same cache: nothing is read twice."""
        reads = backbone_reads(self._backbone, self.pool)
        return backbone_features(self._backbone, self.pool, positions, reads, cache_dir=self.cache)

    @cached_property
    def feature_components(self) -> NDArray[np.float32]:
        """First 50 principal components of the features of all images, each made as long as the others."""
        z = self.features(np.arange(len(self.pool)))[:, -_LAST:]
        return components(z / np.linalg.norm(z, axis=1, keepdims=True))

    @property
    def read_seconds(self) -> float:
        """CPU seconds of one core in which the backbone reads all images, by the time of 256 of them; measured once."""
        path = self.cache / f"{self.name} {self._backbone.identity}.json"
        if not path.exists():
            some = np.random.default_rng(0).permutation(len(self.pool))[:256]
            began = time.process_time()
            backbone_features(load_backbone(BACKBONE), self.pool, some, backbone_reads(self._backbone, self.pool))
            spent = 1000 * (time.process_time() - began) / len(some)
            path.write_text(json.dumps({"ms_an_image": round(spent, 2)}), encoding="utf-8")
        return round(len(self.pool) * float(json.loads(path.read_text(encoding="utf-8"))["ms_an_image"]) / 1000, 1)

    @cached_property
    def _backbone(self) -> Backbone:
        return load_backbone(BACKBONE).to(resolve_accelerator("auto"))


def hog(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of oriented gradients of scikit-image: 9 orientations, 8 x 8 cells, blocks of 2 x 2, the strongest channel."""
    from skimage.feature import hog as describe

    side = round(images.shape[-1] / 8)  # of a cell; images of 28 px have 7 x 7 cells of 4 px
    rows = [describe(x.transpose(1, 2, 0), 9, (side, side), (2, 2), channel_axis=-1) for x in images]
    return np.asarray(rows, dtype=np.float32)


def _pixels(data: PhotoSet, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    return data.pool.images[positions].reshape(len(positions), -1).astype(np.float32) / 255


# What rivals read of images of the pool, by position.
INPUTS: dict[str, Callable[[PhotoSet, NDArray[np.int64]], NDArray[Any]]] = {
    "pixels": _pixels,
    "HOG": lambda data, positions: data.hog[positions],
    "images": lambda data, positions: data.images(positions),
    "features": lambda data, positions: data.features(positions)[:, -_LAST:],
    "features of all levels": lambda data, positions: data.features(positions),
    "feature components": lambda data, positions: data.feature_components[positions],
}


def photo_set(name: str, cache: Path, cifar: Path | None) -> PhotoSet:
    """A data set by name; what it needs is put into the cache.

    Args:
        name: Name of the data set.
        cache: Folder.
        cifar: Folder with train/ and test/ of CIFAR-10 as image files.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if name == "fashion-mnist":
        return PhotoSet(name, DataSettings(dataset=name), cache)
    if name == "elpv":
        table, root = _solar_cells(cache)
        return PhotoSet(name, DataSettings(path=str(table), image_root=str(root)), cache)
    if name in SIMPLE_PICTURES:
        return PhotoSet(name, DataSettings(path=str(SIMPLE_PICTURES[name](cache / name, cifar))), cache)
    if cifar is None:
        raise SystemExit(f"{name} is made of CIFAR-10 as image files: say where with --cifar")
    return PhotoSet(name, DataSettings(path=str(cifar if name == "cifar10" else first_photos(cifar, cache / name))), cache)


def first_photos(cifar: Path, into: Path, classes: Sequence[str] | None = None, each: dict[str, int] | None = None) -> Path:
    """A folder with copies of the first photos of CIFAR, for training and to test; made if it is not there.

    Args:
        cifar: Folder with train/ and test/ of CIFAR-10 as image files.
        into: The folder.
        classes: Names of the classes; all, if it is not given.
        each: Number of photos of a class in a split, by its name; 200, if it is not given.
    """
    if not into.exists():
        new = into.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        for split in ("train", "test"):
            for name in classes or sorted(p.name for p in (cifar / split).iterdir()):
                (new / split / name).mkdir(parents=True)
                for file in sorted((cifar / split / name).iterdir())[: (each or {}).get(split, _EACH)]:
                    shutil.copy(file, new / split / name / file.name)
        new.rename(into)
    return into


def _solar_cells(cache: Path) -> tuple[Path, Path]:
    """A CSV file of the cells and the folder that its paths are relative to."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise SystemExit("elpv needs the package elpv-dataset: pip install elpv-dataset")
    root = Path(package.origin).parent / "data"
    frame = pd.read_csv(root / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    frame["label"] = [f"{p:.2f}" for p in frame["probability"]]
    frame["order"] = [hashlib.sha256(Path(p).name.encode()).hexdigest() for p in frame["path"]]
    rank = frame.groupby("label")["order"].rank(method="first")
    size = frame.groupby("label")["order"].transform("size")
    frame["split"] = np.where(rank <= (0.3 * size).round(), "test", "train")
    table = cache / "elpv.csv"
    text = frame[["path", "label", "split"]].to_csv(index=False)
    if not table.exists() or table.read_text(encoding="utf-8") != text:  # several processes may be reading it
        table.write_text(text, encoding="utf-8")
    return table, root
