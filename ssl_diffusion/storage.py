"""Files and folders that are complete or absent, and arrays that may be larger than memory.

A file or folder is written under a temporary name beside its target, flushed to the disk and renamed, so that whoever reads
the target finds the old or the new content, whenever the writer dies. Temporary names start with :data:`TEMPORARY`.

The space of a memory-mapped array is reserved before it is used: otherwise a full disk would kill the process (SIGBUS) at
some later write.
"""

import hashlib
import math
import os
import secrets
import shutil
import socket
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ssl_diffusion.errors import DataError, RunError, StateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "CHECKSUMS",
    "IN_MEMORY",
    "LARGEST_STATE",
    "TEMPORARY",
    "allocate",
    "atomic_file",
    "atomic_folder",
    "atomic_write_text",
    "cannot_write",
    "clear_place",
    "create_array",
    "damaged",
    "default_cache_dir",
    "map_array",
    "read_regular",
    "remove_temporary",
    "verify_checksums",
    "write_checksums",
]

IN_MEMORY = 2**28  # bytes of an array that is not worth a file
CHECKSUMS = "SHA256SUMS"
LARGEST_STATE = 2**26  # bytes of a file of facts or settings
TEMPORARY = ".tmp"  # safetensors names its own temporary files like this, too
HERE = format(zlib.crc32(f"{socket.gethostname()} {os.path.basename(os.path.realpath('/proc/self/ns/pid'))}".encode()), "08x")


@contextmanager
def atomic_file(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Write a file atomically: the block gets an empty temporary file, which replaces `path` when the block ends.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: File to write; missing folders above it are created.
        mode: Permission bits, such as 0o600; None follows the umask.

    Yields:
        Path of the temporary file, in the same folder and with the same suffix.

    Raises:
        RunError: If the file cannot be written, as on a full disk.

    Example:
        >>> with atomic_file(Path("scores.csv")) as temporary:
        ...     frame.to_csv(temporary)
    """
    temporary = _beside(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o666 if mode is None else mode, exist_ok=False)
        permissions = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(permissions)  # whatever the block made of it: safetensors creates files that only their owner may read
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Write a UTF-8 text file atomically; raises :class:`RunError` as :func:`atomic_file` does."""
    with atomic_file(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def atomic_folder(path: Path, discard: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Write a folder atomically: the block gets an empty temporary folder, which becomes `path` when the block ends.

    If the block raises, the temporary folder is removed and `path` stays as it was.

    Args:
        path: Folder to write; missing folders above it are created.
        discard: Function that removes the folder that was at `path` before, such as :func:`shutil.rmtree`; it is called with
            that folder's new, temporary name. With None, `path` must be missing or empty.

    Yields:
        Path of the temporary folder, beside `path`.

    Raises:
        RunError: If the folder cannot be written, as on a full disk, or `path` is taken.

    Example:
        >>> with atomic_folder(Path("report")) as temporary:
        ...     frame.to_csv(temporary / "scores.csv")
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        _flush(*(file for file in temporary.rglob("*") if file.is_file()))
        if discard is not None and path.exists():
            _exchange(temporary, path, discard)
        else:
            if path.exists():
                path.rmdir()  # fails unless it is empty
            temporary.rename(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, path: Path, discard: Callable[[Path], object]) -> None:
    """Put a folder in the place of another one, which goes back there if that fails."""
    old = path.with_name(f"{TEMPORARY}-old-{secrets.token_hex(4)}")  # no leftover: for a moment it is the only copy
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    discard(old)


def _beside(path: Path, suffix: str = "") -> Path:
    """A temporary name beside `path` that no other writer uses; it names process and machine (or container)."""
    return path.with_name(f"{TEMPORARY}-{os.getpid()}-{HERE}-{secrets.token_hex(4)}{suffix}")


def _flush(*files: Path) -> None:
    """Wait until the content of files is on the disk."""
    if len(files) > 200 and hasattr(os, "sync"):
        os.sync()  # thousands of files one by one would take minutes
        return
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left in a folder; only for folders that nobody else is writing to."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def read_regular(path: Path, *, remedy: str = "", largest: int = LARGEST_STATE) -> bytes:
    """The content of a regular file; folders, pipes, sockets and devices are refused without being opened.

    Args:
        path: File to read; links are followed.
        remedy: Advice that ends the sentence of an error, such as "fit again"; empty leaves it out.
        largest: Largest size in bytes that is read.

    Raises:
        StateError: If there is no such file, it is something else than a regular file, too large, or cannot be read.

    Example:
        >>> read_regular(Path("run/pool.json"), remedy="fit again")
    """
    try:
        # A pipe would wait for its writer, and opening a device may act on it; one that takes the file's place in between is
        # opened without waiting, and refused.
        if reason := _irregular(path.stat()):
            raise damaged(path, reason, remedy)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            if reason := _irregular(os.fstat(descriptor)):
                raise damaged(path, reason, remedy)
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise damaged(path, "is missing", remedy) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise damaged(path, f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy) from None
    if len(data) > largest:
        raise damaged(path, f"is larger than {largest / 2**20:.3g} MiB", remedy)
    return data


def damaged(path: Path, reason: str, remedy: str = "") -> StateError:
    """The error about a file that the program keeps for itself: its path, what is wrong, and what to do."""
    return StateError(f"{path} {reason}" + (f"; {remedy}" if remedy else ""))


def map_array(
    path: Path, dtype: "DTypeLike | None" = None, shape: tuple[int | None, ...] | None = None, *, remedy: str = ""
) -> "NDArray[Any]":
    """Map a `.npy` file of numbers after its header and its length were checked; nothing is ever unpickled.

    Args:
        path: File to map.
        dtype: Data type that it must have; None takes any but Python objects.
        shape: Shape that it must have, None for an axis of any length; None takes any.
        remedy: Advice that ends the sentence of an error; empty leaves it out.

    Returns:
        The array, read-only, memory-mapped.

    Raises:
        StateError: If the file is missing, no regular file, damaged, longer or shorter than its header says, or holds another
            kind of array.

    Example:
        >>> map_array(Path("keys.npy"), "S16", (None,))
    """
    import numpy as np

    try:
        if reason := _irregular(path.stat()):
            raise damaged(path, reason, remedy)
        with path.open("rb") as file:
            found, fortran, kind = _array_header(file)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise damaged(path, "is missing", remedy) from None
    except StateError:
        raise
    except Exception as error:  # numpy parses the header as Python, with as many kinds of errors
        reason = f"({error.strerror})" if isinstance(error, OSError) else "(it has no header of a .npy file)"
        raise damaged(path, f"cannot be read {reason}", remedy) from None
    n_bytes = math.prod(found) * kind.itemsize
    if kind.hasobject or min(found, default=0) < 0:
        raise damaged(path, "is damaged: it holds no numbers or text", remedy)
    if size != start + n_bytes:
        raise damaged(path, f"is damaged: it has {size} bytes, and its header says {start + n_bytes}", remedy)
    if (dtype is not None and kind != np.dtype(dtype)) or (shape is not None and not _fits(found, shape)):
        raise damaged(path, f"holds another array, {kind} of shape {found}", remedy)
    if not n_bytes:
        return np.zeros(found, kind)
    return np.memmap(path, kind, mode="r", offset=start, shape=found, order="F" if fortran else "C")


def _array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(n in (None, m) for m, n in zip(found, shape, strict=True))


def write_checksums(folder: Path, *names: str) -> None:
    """Write :data:`CHECKSUMS` with the SHA-256 of files in a folder, in the format of `sha256sum`."""
    lines = []
    for name in names:
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path, *names: str) -> None:
    """Compare files with what :func:`write_checksums` wrote; a folder of an earlier version, without checksums, passes.

    Raises:
        StateError: If a file or the checksums are damaged, or a file is missing.
    """
    if not os.path.lexists(folder / CHECKSUMS):
        return
    said = read_regular(folder / CHECKSUMS).decode(errors="replace").splitlines()
    for name in names:
        path = folder / name
        try:
            if reason := _irregular(path.stat()):
                raise damaged(path, reason)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise damaged(path, f"cannot be read ({error.strerror})") from None
        if f"{digest}  {name}" not in said:
            raise damaged(path, "is damaged: its checksum is another one than when it was written")


def clear_place(path: Path) -> None:
    """Move a folder aside that stands where a file of ours is to be written again, to a name that ends in ".damaged".

    A folder there is nothing that we wrote, so it is kept; a file need not be moved, since writing replaces it.

    Raises:
        RunError: If the folder cannot be moved.
    """
    if path.is_dir() and not path.is_symlink():
        try:
            path.rename(path.with_name(f"{path.name}-{secrets.token_hex(2)}.damaged"))
        except OSError as error:
            raise cannot_write(path, error) from error


def _irregular(facts: os.stat_result) -> str:
    """What a path is, if it is no regular file; else empty."""
    if stat.S_ISREG(facts.st_mode):
        return ""
    return "is a folder, not a file" if stat.S_ISDIR(facts.st_mode) else "is a pipe, socket or device, not a regular file"


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error that says that a file or folder could not be written, and why."""
    return RunError(f"cannot write {path} ({error.strerror or error})")


def allocate(shape: tuple[int, ...], dtype: "DTypeLike" = "uint8", max_memory: int | None = None) -> "NDArray[Any]":
    """An uninitialised array; above `max_memory` bytes a memory map of a temporary file that vanishes with it.

    The file lies in $TMPDIR, else in /var/tmp (/tmp is often memory itself), else where :mod:`tempfile` puts it.

    Args:
        shape: Shape of the array.
        dtype: Data type of its elements.
        max_memory: Largest size in bytes that is kept in memory; None sets no limit.

    Raises:
        DataError: If the file cannot be created or the disk is too full.
    """
    import numpy as np

    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if max_memory is None or n_bytes <= max_memory or n_bytes == 0:
        return np.empty(shape, dtype=dtype)
    folder = "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="ssld-") as file:
            _reserve(file.fileno(), n_bytes)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise DataError(
            f"cannot reserve {n_bytes / 1e9:.1f} GB in {folder} ({error.strerror or error}): "
            "set TMPDIR to a folder with more space, or use smaller images"
        ) from error


def create_array(path: Path, shape: tuple[int, ...], dtype: "DTypeLike") -> "np.memmap[Any, np.dtype[Any]]":
    """Create a `.npy` file and open it as a writable memory map; its contents are undefined.

    Args:
        path: File to create.
        shape: Shape of the array.
        dtype: Data type of its elements.

    Raises:
        DataError: If the file cannot be created or the disk is too full; no file is left behind.
    """
    import numpy as np

    kind = np.dtype(dtype)
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            )
            file.flush()
            _reserve(file.fileno(), file.tell() + math.prod(shape) * kind.itemsize)
        return np.lib.format.open_memmap(path, mode="r+")
    except OSError as error:
        path.unlink(missing_ok=True)
        n_bytes = math.prod(shape) * kind.itemsize
        raise DataError(f"cannot reserve {n_bytes / 1e9:.3g} GB for {path} ({error.strerror or error})") from error


def _reserve(descriptor: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.truncate(descriptor, n_bytes)


def default_cache_dir() -> Path:
    """Folder of downloads and caches: $SSLD_CACHE, else $XDG_CACHE_HOME/ssld, else ~/.cache/ssld."""
    cache = os.environ.get("SSLD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ssld")
    return Path(cache).expanduser()
