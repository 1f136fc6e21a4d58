"""Arrays that may be larger than memory: memory maps of files whose space is set aside first.

Without that, a full disk would kill the process (SIGBUS) at some later write.
"""

import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ssl_diffusion.errors import CheckpointError, DataError

__all__ = ["IN_MEMORY", "allocate", "atomic_write_text", "create_array", "default_cache_dir"]

IN_MEMORY = 2**28  # bytes of an array that is not worth a file


def allocate(shape: tuple[int, ...], dtype: DTypeLike = np.uint8, max_memory: int | None = None) -> NDArray[Any]:
    """An uninitialised array; beyond `max_memory` bytes a memory map of a temporary file that vanishes with it.

    The file lies in $TMPDIR, else in /var/tmp (/tmp is often memory itself), else where :mod:`tempfile` puts it.

    Raises:
        DataError: if the file cannot be created or the disk is too full.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if max_memory is None or n_bytes <= max_memory or n_bytes == 0:
        return np.empty(shape, dtype=dtype)
    folder = "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="ssld-") as file:
            _set_aside(file.fileno(), n_bytes)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise DataError(
            f"cannot set aside {n_bytes / 1e9:.1f} GB in {folder} ({error.strerror or error}): "
            "set TMPDIR to a folder with more space, or use smaller images"
        ) from error


def create_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> "np.memmap[Any, np.dtype[Any]]":
    """A new file for :func:`numpy.load` as a memory map to be written; its contents are undefined.

    Raises:
        DataError: if the file cannot be created or the disk is too full; it is not left behind.
    """
    kind = np.dtype(dtype)
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            )
            file.flush()
            _set_aside(file.fileno(), file.tell() + math.prod(shape) * kind.itemsize)
        return np.lib.format.open_memmap(path, mode="r+")
    except OSError as error:
        path.unlink(missing_ok=True)
        n_bytes = math.prod(shape) * kind.itemsize
        raise DataError(f"cannot set aside {n_bytes / 1e9:.3g} GB for {path} ({error.strerror or error})") from error


def _set_aside(descriptor: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.truncate(descriptor, n_bytes)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file beside its target and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path} ({error})") from error


def default_cache_dir() -> Path:
    """Where downloads are kept: $SSLD_CACHE, else $XDG_CACHE_HOME/ssld, else ~/.cache/ssld."""
    if cache := os.environ.get("SSLD_CACHE"):
        return Path(cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssld"
