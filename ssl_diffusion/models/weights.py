"""Tensors on disk: safetensors with JSON in the header, never pickle, written beside the target and renamed.

One file holds one consistent state: weights, optimiser moments and counters cannot come from different moments, whenever
the process dies.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssl_diffusion.errors import CheckpointError

__all__ = ["load_tensors", "prefixed", "read_metadata", "save_tensors", "with_prefix"]

_FORMAT = "ssld-1"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready metadata to one safetensors file, atomically.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written; an older file at `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    header = {"format": _FORMAT, "metadata": json.dumps(metadata)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata=header)
        temporary.chmod(mode)  # safetensors makes files that nobody else may read, whatever the umask
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path} ({error}); what was there before is untouched: free some space and continue with --resume"
        ) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: (tensors on the CPU, metadata).

    Raises:
        CheckpointError: if the file is missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of this program")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["metadata"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({error})") from error


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of a checkpoint without its tensors; None if it is damaged or foreign."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        metadata: dict[str, Any] | None = json.loads(header["metadata"]) if header.get("format") == _FORMAT else None
        return metadata
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with "prefix." before their names."""
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with "prefix.", without it."""
    start = len(prefix) + 1
    return {name[start:]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
