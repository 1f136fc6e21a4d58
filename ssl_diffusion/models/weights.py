"""Tensors on disk: safetensors with JSON in the header, never pickle, written atomically.

One file holds one consistent state: weights, optimiser moments and counters cannot come from different steps, whenever the
process dies. A checksum of tensors and metadata stands in the header, so that a flipped bit is an error and not another
prediction.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ssl_diffusion.errors import CheckpointError, RunError, first_line
from ssl_diffusion.storage import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_tensors", "prefixed", "read_metadata", "save_tensors", "with_prefix"]

_ATTEMPTS = 3  # to read a file that another process keeps replacing
_CHECKSUM = "checksum"  # key among the metadata; files of earlier versions have none
# What safetensors and torch raise for files that are damaged, and for kinds of numbers that they do not know.
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError, MemoryError)
_KEY = "ssld-1"  # one key only: safetensors writes several in random order, and equal weights should be equal bytes


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata to one safetensors file, atomically; equal arguments give equal bytes.

    Args:
        path: File to write; missing folders above it are created.
        tensors: Tensors by name, of any shape, data type and device.
        metadata: JSON-serialisable values.

    Raises:
        CheckpointError: If the disk is full or the folder cannot be written; an older file at `path` stays as it was.

    Example:
        >>> save_tensors(Path("model.safetensors"), model.state_dict(), {"classes": ["cat", "dog"]})
        >>> weights, metadata = load_tensors(Path("model.safetensors"))
    """
    from safetensors.torch import save_file

    on_cpu = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = {_KEY: json.dumps({**metadata, _CHECKSUM: _checksum(on_cpu, metadata)})}
    try:
        with atomic_file(path) as temporary:
            save_file(on_cpu, temporary, metadata=header)
    except (RunError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path} ({error.__cause__ or error}); what was there before is untouched: free some space and "
            "continue with --resume"
        ) from error


def load_tensors(path: Path, remedy: str = "") -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read a file of :func:`save_tensors`.

    Args:
        path: File to read.
        remedy: Advice that ends the sentence of an error, such as "fit again"; empty leaves it out.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        CheckpointError: If the file is missing, damaged, or was not written by this program.

    Example:
        >>> weights, metadata = load_tensors(Path("runs/digits-40-s0/model.safetensors"))
    """
    for _ in range(_ATTEMPTS - 1):
        before = _version(path)
        try:
            return _load(path, remedy)
        except CheckpointError:
            # safetensors opens a file twice, for its header and for its tensors; another process may replace it in between.
            if _version(path) == before:
                raise
    return _load(path, remedy)


def _load(path: Path, remedy: str) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    advice = f"; {remedy}" if remedy else ""
    if not _is_file(path):
        raise CheckpointError(f"no checkpoint {path}{advice}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(file.metadata())
            if metadata is None:
                raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of this program{advice}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({first_line(error)}){advice}") from error
    checksum = metadata.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, metadata):
        raise CheckpointError(f"{path} is damaged: its content has another checksum than when it was written{advice}")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of a file of :func:`save_tensors`, without its tensors; None if the file is damaged or foreign.

    Example:
        >>> read_metadata(Path("runs/digits-40-s0/model.safetensors"))["objective"]
        'joint'
    """
    try:
        if not _is_file(path):
            return None
        with safe_open(path, framework="numpy") as file:
            metadata = _metadata(file.metadata())
    except _DAMAGE:
        return None
    if metadata is not None:
        metadata.pop(_CHECKSUM, None)
    return metadata


def _version(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced; empty if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_file(path: Path) -> bool:
    """Whether a path is a regular file: a pipe would never be read to its end."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _checksum(tensors: "Mapping[str, Tensor]", metadata: Mapping[str, Any]) -> int:
    """CRC-32 of the metadata and of names, types, shapes and bytes of the tensors."""
    import torch

    checksum = zlib.crc32(json.dumps(metadata).encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _metadata(header: Mapping[str, str] | None) -> dict[str, Any] | None:
    """The metadata of a header; None if it is not ours."""
    header = header or {}
    if header.get("format") == _KEY:  # how earlier versions wrote it
        header = {_KEY: header["metadata"]}
    metadata = json.loads(header[_KEY]) if _KEY in header else None
    return metadata if isinstance(metadata, dict) else None


def prefixed(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors with "prefix." added in front of their names.

    Example:
        >>> prefixed("ema", {"bias": torch.zeros(1)})
        {'ema.bias': tensor([0.])}
    """
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def with_prefix(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors whose names start with "prefix.", under their names without it.

    Example:
        >>> with_prefix("ema", {"ema.bias": torch.zeros(1), "raw.bias": torch.ones(1)})
        {'bias': tensor([0.])}
    """
    start = len(prefix) + 1
    return {name[start:]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
