"""Tensors on disk: safetensors with JSON in the header, never pickle, written atomically.

One file holds one consistent state: weights, optimiser moments and counters cannot come from different steps, whenever the
process dies.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssl_diffusion.errors import CheckpointError, RunError
from ssl_diffusion.storage import atomic_file

__all__ = ["load_tensors", "prefixed", "read_metadata", "save_tensors", "with_prefix"]

_KEY = "ssld-1"  # one key only: safetensors writes several in random order, and equal weights should be equal bytes


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
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
    header = {_KEY: json.dumps(metadata)}
    try:
        with atomic_file(path) as temporary:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata=header)
    except (RunError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path} ({error.__cause__ or error}); what was there before is untouched: free some space and "
            "continue with --resume"
        ) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`save_tensors`.

    Args:
        path: File to read.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        CheckpointError: If the file is missing, damaged, or was not written by this program.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(file.metadata())
            if metadata is None:
                raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of this program")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({error})") from error


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of a file of :func:`save_tensors`, without its tensors; None if the file is damaged or foreign."""
    try:
        with safe_open(path, framework="pt") as file:
            return _metadata(file.metadata())
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def _metadata(header: Mapping[str, str] | None) -> dict[str, Any] | None:
    """The metadata of a header; None if it is not ours."""
    header = header or {}
    if header.get("format") == _KEY:  # how earlier versions wrote it
        header = {_KEY: header["metadata"]}
    metadata: dict[str, Any] | None = json.loads(header[_KEY]) if _KEY in header else None
    return metadata


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with "prefix." added in front of their names."""
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with "prefix.", under their names without it."""
    start = len(prefix) + 1
    return {name[start:]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
