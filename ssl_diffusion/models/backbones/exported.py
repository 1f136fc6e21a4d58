"""Programs that torch.export wrote (.pt2).

Reading one may run code that the file holds: torch.export.load unpickles. A file of a stranger is like a program of a stranger.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ssl_diffusion.errors import CheckpointError, SSLDError, first_line
from ssl_diffusion.models.backbones.base import Backbone, fit_images
from ssl_diffusion.models.backbones.registry import register_backbone
from ssl_diffusion.models.backbones.weight_files import file_digest

__all__ = ["ExportedBackbone"]

_UNBOUNDED = 2**31
_HOW = "export one that takes images (B, 3, H, W) and returns vectors (B, F)"


@register_backbone("exported")
class ExportedBackbone(Backbone):
    """A program of torch.export that takes images, float32 (B, C, H, W), and returns vectors, (B, F).

    Images are resized to the size that the program was exported for. Where it takes batches of one size only, images are given
    to it in such batches, the last of which is filled up.

    Args:
        file: File of torch.export.save (.pt2), **from a source that you trust**: reading it may run code in it.
        input_size: Side in pixels that images are resized to, where the program takes any. None: that of the example that it
            was exported with.
        mean: Means of the channels, for images in [0, 1], that are subtracted before. None: the program reads images in [0, 1].
        std: Standard deviations of the channels, that images are then divided by.

    Raises:
        SSLDError: If the program takes something else than images, or returns something else than vectors.
        CheckpointError: If the file is missing, damaged, or not written by torch.export.

    Example:
        >>> ExportedBackbone("network.pt2").n_features  # doctest: +SKIP
        512
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        file: str | Path,
        input_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._path = Path(file)
        program = _read(self._path)
        self._least, self._most, self._channels, self.input_size = _input(program, self._path, input_size)
        channels = (3,) if self._channels is None else (self._channels,)
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and (len(values),) not in ((1,), channels):
                raise SSLDError(f"{name} has {len(values)} values, and {self._path} reads images of {channels[0]} channels")
        self.register_buffer("_mean", torch.tensor([0.0] if mean is None else list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor([1.0] if std is None else list(std)).view(1, -1, 1, 1), persistent=False)
        if not bool((self._std > 0).all()):
            raise SSLDError(f"std holds {float(self._std.min()):g}: standard deviations are above 0")
        self.network: Any = program.module()
        self.requires_grad_(False)
        scale = "" if mean is None and std is None else f" {self._mean.flatten().tolist()} {self._std.flatten().tolist()}"
        self.identity = f"exported {file_digest(self._path)} {self.input_size}px{scale}"
        self.training = False
        self.n_features, self.differentiable = self._probe()

    def train(self, mode: bool = True) -> Self:
        """Nothing changes: an exported program has one mode, that in which it was exported."""
        self.training = False
        return self

    def features(self, x: Tensor) -> Tensor:
        """See :meth:`Backbone.features`; images are resized to the input size, gray ones repeated in every channel."""
        x = ((fit_images(x, channels=self._channels, size=self.input_size) + 1) / 2 - self._mean) / self._std
        parts = []
        for part in torch.split(x, self._most or max(len(x), 1)):
            filling = part[-1:].expand(max(self._least - len(part), 0), -1, -1, -1)
            parts.append(self.network(torch.cat([part, filling]))[: len(part)])
        return torch.cat(parts)

    def _probe(self) -> tuple[int, bool]:
        """Number of features, and whether gradients run through them, found by reading two images."""
        size = self.input_size or 0
        generator = torch.Generator().manual_seed(0)
        n = min(max(self._least, 2), self._most or 2)
        x = torch.rand(n, self._channels or 3, size, size, generator=generator)
        x.requires_grad_()
        buffers = {name: value.clone() for name, value in self.network.named_buffers()}
        try:
            z = self.network(x)
            with torch.no_grad():
                again = self.network(torch.cat([x[:1], x[1:].flip(2)]))
        except Exception as error:  # a stranger's program may raise anything
            raise SSLDError(
                f"{self._path} cannot read images of shape {tuple(x.shape)} ({first_line(error)}): {_HOW}"
            ) from None
        if not isinstance(z, Tensor):
            count = f" of {len(z)}" if isinstance(z, tuple | list | dict) else ""
            raise SSLDError(f"{self._path} returns a {type(z).__name__}{count}, not one tensor: {_HOW}")
        if z.ndim != 2 or len(z) != len(x) or not z.is_floating_point():
            maps = ", and so maps: pool them, as with .mean((2, 3))," if z.ndim == 4 else ":"
            raise SSLDError(f"{self._path} returns {z.dtype} of shape {tuple(z.shape)} for {len(x)} images{maps} {_HOW}")
        changed = [name for name, value in self.network.named_buffers() if not torch.equal(value, buffers[name])]
        if changed or not torch.allclose(z[0], again[0], rtol=1e-3, atol=1e-4 * float(z.detach().abs().max())):
            raise SSLDError(
                f"{self._path} returns other features of an image the next time, or beside other images: export the network "
                "after model.eval()"
            )
        if not z.requires_grad:
            return z.shape[1], False
        (gradient,) = torch.autograd.grad(z.square().sum(), x, allow_unused=True)
        return z.shape[1], gradient is not None and bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())


def _read(path: Path) -> torch.export.ExportedProgram:
    """The program in a file, on the processor."""
    if not path.is_file():
        raise CheckpointError(f"there is no program {path}")
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch raises many kinds for damaged files, and for those of other versions
        raise CheckpointError(
            f"{path} cannot be read by torch {torch.__version__} ({first_line(error)}): write it with torch.export.save"
        ) from None
    return program


def _input(program: torch.export.ExportedProgram, path: Path, wanted: int | None) -> tuple[int, int | None, int | None, int]:
    """Smallest and largest batch, number of channels and side in pixels that a program takes; None where it takes any."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    values = [node.meta.get("val") for node in inputs]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4 or values[0].dtype != torch.float32:
        what = ", ".join(f"{v.dtype} {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in values)
        raise SSLDError(f"{path} takes ({what}), not images, float32 (B, 3, H, W), alone: {_HOW}")
    channels, height, width = (n if isinstance(n, int) else None for n in values[0].shape[1:])
    if channels not in (None, 1, 3):
        raise SSLDError(f"{path} takes images of {channels} channels, not of 1 or 3: {_HOW}")
    if height != width and None not in (height, width):
        raise SSLDError(f"{path} takes images of {height} x {width} pixels: {_HOW} with H = W")
    size = height or width
    if size is None:
        size = wanted or _example(program)
        if size is None:
            raise SSLDError(f"{path} takes images of any size, and has no example of one: give input_size=PIXELS")
    elif wanted not in (None, size):
        raise SSLDError(f"{path} takes images of {size} pixels, not of {wanted}: leave out input_size")
    return *_batches(program, values[0].shape[0]), channels, size


def _batches(program: torch.export.ExportedProgram, batch: int | torch.SymInt) -> tuple[int, int | None]:
    """Smallest and largest batch that a program takes."""
    if isinstance(batch, int):
        return batch, batch
    found = program.range_constraints.get(batch.node.expr)
    if found is None:
        return 1, None
    return max(int(found.lower), 1), int(found.upper) if found.upper < _UNBOUNDED else None


def _example(program: torch.export.ExportedProgram) -> int | None:
    """Side in pixels of the example that a program was exported with."""
    if program.example_inputs is None:
        return None
    positional, named = program.example_inputs
    given = [*positional, *named.values()]
    return int(given[0].shape[-1]) if given and isinstance(given[0], Tensor) else None
