"""The network compiled by torch, an option for long trainings on an accelerator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["compile_network", "compiler_errors"]


def compile_network(model: JointDiffusion) -> None:
    """Replace encoder and decoder of a model by compiled ones; names and values of its weights stay.

    They are compiled when they are first called with a batch of another shape, which takes up to minutes.
    """
    for name in ("encode", "decode"):
        setattr(model.unet, name, torch.compile(getattr(model.unet, name)))


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Raise :class:`SSLDError` where torch cannot compile the network, as without a compiler."""
    try:
        yield
    except RuntimeError as error:
        # The class is not public, and importing its module takes a second.
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SSLDError(
            f"torch cannot compile the network here ({lines[0]}): leave out compute.compile, or install what torch.compile "
            "needs, a C++ compiler for processors or Triton for CUDA"
        ) from error
