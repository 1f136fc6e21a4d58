"""The idx format of MNIST and its relatives: a big-endian header (two zero bytes, type 8 for uint8, number of axes, one
32-bit length an axis), then the values; often gzipped.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError

__all__ = ["IDX_NAMES", "find_idx", "read_idx", "read_idx_pair"]

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of each published split; a file may also end in .gz."""


def find_idx(folder: Path) -> dict[str, Path] | None:
    """The four files of :data:`IDX_NAMES` in a folder, by name, gzipped or not; None if one is missing."""
    found = {}
    for name in (name for pair in IDX_NAMES.values() for name in pair):
        path = next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
        if path is None:
            return None
        found[name] = path
    return found


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one idx file of uint8 values, gzipped if its name ends in .gz.

    Raises:
        DataError: naming the file, if it is damaged, of another type, or shorter or longer than its header says.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read ({error}): remove it, or replace it by an intact copy") from error
    n_axes = data[3] if len(data) >= 4 else 0
    offset = 4 + 4 * n_axes
    if data[:3] != b"\x00\x00\x08" or n_axes == 0 or len(data) < offset:
        raise DataError(f"{path} is not an idx file of bytes: remove it, or replace it by an intact copy")
    shape = tuple(int(length) for length in np.frombuffer(data, dtype=">u4", count=n_axes, offset=4))
    values = np.frombuffer(data, dtype=np.uint8, offset=offset)
    # Python's integers, as a damaged header may name more values than fit into 64 bits.
    expected = 1
    for length in shape:
        expected *= length
    if len(values) != expected:
        raise DataError(
            f"{path} holds {len(values)} values but its header says {' x '.join(map(str, shape))}: "
            "remove it, or replace it by an intact copy"
        )
    return values.reshape(shape)


def read_idx_pair(files: dict[str, Path], split: str, n: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images, uint8 (n, 1, size, size), and labels, uint8 (n,), of a split, from the files that :func:`find_idx` found.

    Raises:
        DataError: naming the file that is damaged or has another number of rows or another image size.
    """
    images_path, labels_path = (files[name] for name in IDX_NAMES[split])
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, shape in ((images_path, images, (n, size, size)), (labels_path, labels, (n,))):
        if array.shape != shape:
            raise DataError(
                f"{path} holds an array of {' x '.join(map(str, array.shape))}, not {' x '.join(map(str, shape))}: "
                "replace it by the published file"
            )
    return images[:, None], labels
