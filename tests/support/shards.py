"""Shards of a few images of noise, of every kind."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.shards.pack import pack

SHAPE = (3, 6, 5)


def noise(n: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images of noise, (n, 6, 5, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path, n: int = 14) -> Path:
    """A folder of images in two classes."""
    for i, image in enumerate(noise(n)):
        place = folder / ("ant" if i % 2 else "bee")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:02d}.png")
    return folder


def write_packed(folder: Path, n: int = 14, per_shard: int = 5) -> Path:
    """Packed shards of such a folder."""
    pack(list_folder(write_folder(folder.with_name(f"{folder.name}-images"), n)), folder, SHAPE, per_shard=per_shard)
    return folder


def write_parquet(folder: Path, sizes: tuple[int, ...] = (4, 1, 5), *, struct: bool = False) -> Path:
    """Parquet shards of image files, as other programs write them: row groups of two."""
    folder.mkdir(parents=True, exist_ok=True)
    images = noise(sum(sizes))
    start = 0
    for k, size in enumerate(sizes):
        rows = range(start, start + size)
        files = [png(images[i]) for i in rows]
        column = pa.array([{"bytes": f, "path": None} for f in files] if struct else files)
        labels = pa.array([i % 3 for i in rows])
        table = pa.table({"id": [f"é{i}" for i in rows], "image": column, "label": labels})
        pq.write_table(table, folder / f"{k}.parquet", row_group_size=2)
        start += size
    return folder


def write_tar(folder: Path, sizes: tuple[int, ...] = (4, 1, 5)) -> Path:
    """Tar shards in the layout of WebDataset."""
    folder.mkdir(parents=True, exist_ok=True)
    images = noise(sum(sizes))
    start = 0
    for k, size in enumerate(sizes):
        with tarfile.open(folder / f"{k:02d}.tar", "w") as archive:
            for i in range(start, start + size):
                for name, content in ((f"a/{i}.png", png(images[i])), (f"a/{i}.cls", str(i % 3).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        start += size
    return folder
