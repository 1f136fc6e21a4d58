"""What decides the weights of a run beside its recipe, its images and its labels: cache, threads, device, precision.

Sums in another order round otherwise, so another number of threads, another device or another precision gives other weights
in their last bits; and so does a denoiser from the cache that was made with any of these. They are written to
`conditions.json` when a run begins, and a resumed run goes on with them.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ssl_diffusion.errors import RecipeError
from ssl_diffusion.machine import Device, usable_cores
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.training.settings import ComputeSettings

__all__ = ["Conditions", "RunConditions", "file_digest", "resumed_conditions", "using_threads"]

_log = logging.getLogger(__name__)


class Conditions(State):
    """What rounding depends on.

    Attributes:
        accelerator: Device that is used, not "auto".
        precision: Precision that is used, not "auto".
        threads: Threads of torch.
        devices: Number of devices.
        compile: Whether the network is compiled.
    """

    accelerator: Literal["cpu", "cuda", "mps"]
    precision: Literal["fp32", "bf16"]
    threads: Annotated[int, Field(ge=1, le=65_536)]
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    compile: bool = False

    @classmethod
    def here(cls, compute: ComputeSettings) -> "Conditions":
        """The conditions that settings mean on this machine, in this process."""
        device = Device.resolve(compute.accelerator, compute.precision)
        # Ranks divide the threads among them, see the loop.
        threads = torch.get_num_threads() if compute.devices == 1 else compute.threads or usable_cores()
        return cls.model_validate(
            {
                "accelerator": device.accelerator,
                "precision": device.precision,
                "threads": threads,
                "devices": compute.devices,
                "compile": compute.compile,
            }
        )

    def key(self) -> str:
        """A short text that differs between conditions, for names of files."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:8]

    def differences(self, other: "Conditions") -> list[str]:
        """The conditions that differ, as "threads: mine -> other's"."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{name}: {value} -> {theirs[name]}" for name, value in mine.items() if value != theirs[name]]


class RunConditions(Conditions):
    """The conditions of a run.

    Attributes:
        cache: Whether the cache of denoisers is used.
        denoiser: SHA-256 of the file in the cache that the run began with; None if there was none, or no cache.
    """

    cache: bool
    denoiser: str | None = None

    @classmethod
    def read(cls, path: Path) -> "RunConditions | None":
        """The conditions in a file; None if it is missing, as in runs of earlier versions.

        Raises:
            StateError: If the file is damaged.
        """
        return read_state(path, cls, remedy="fit again with --overwrite") if path.exists() else None

    def rounding(self) -> Conditions:
        """The part that denoisers share with runs."""
        return Conditions.model_validate({name: getattr(self, name) for name in Conditions.model_fields})


def resumed_conditions(
    path: Path, kept: RunConditions, begun: ComputeSettings, requested: ComputeSettings
) -> tuple[ComputeSettings, int]:
    """Settings with which a run goes on: those it began with, but for what the caller asks for; a difference is a warning.

    Args:
        path: Run folder, for messages.
        kept: Conditions that the run began with.
        begun: Settings of the recipe of the run.
        requested: Settings of the caller; where they are those of the recipe, nothing is asked for.

    Returns:
        The settings, and the number of threads of torch.
    """

    def asked(name: str) -> bool:
        return bool(getattr(begun, name) != getattr(requested, name))

    values: dict[str, Any] = {
        name: getattr(requested if asked(name) else kept, name) for name in ("accelerator", "precision", "devices", "compile")
    }
    try:
        Device.resolve(values["accelerator"], values["precision"])
    except RecipeError:
        if asked("accelerator"):
            raise
        values["accelerator"] = "auto"  # the run has moved to another machine
    threads = requested.threads if asked("threads") and requested.threads else kept.threads
    compute = requested.replace(threads=threads if asked("threads") or kept.devices > 1 else begun.threads, **values)
    with using_threads(threads):
        now = Conditions.here(compute)
    if differences := kept.rounding().differences(now):
        _log.warning(
            "%s goes on with other conditions than it began with (%s), so its weights will differ in their last bits from "
            "those of an uninterrupted run",
            path,
            "; ".join(differences),
        )
    return compute, threads


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """A number of threads of torch, restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file as hexadecimal digits; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
