"""Whether one picture shows the same as another: how well they agree where one is laid over the other, cropped or mirrored."""

from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["agreement"]

# Sides of the smaller picture at 16 pixels, and those tried then at 32, the others only if the first one is promising: a crop
# keeps 70 % of a side or more. Those of neighbors overlap, as 16 pixels do not always tell which is nearest.
_SIDES = {16: (32, 31, 30, 29), 14: (28, 27, 29, 26, 30, 25), 12: (24, 25, 23, 26, 22)}
_PROMISING = 0.7
_WORTH_A_LOOK = 0.85  # of the coarse correlation
_BLUR = 9  # pixels; what is coarser is left out of the second correlation
_BATCH = 256
_PAIRS = 131_072  # whose windows are in memory at a time
_LEAST = 1e-3
_WAYS = [
    (swapped, mirrored, side)
    for mirrored in (False, True)
    for side in _SIDES
    for swapped in (False, True)
    if side < 16 or not swapped
]


def agreement(
    small: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64], *, look_at_all: bool = False
) -> NDArray[np.float32]:
    """How well the pixels of pairs of pictures agree, at best over crops of either one and the mirror image.

    It is the mean of two correlations at the same place: that of all colors, which knows a red shirt from a blue one, and that
    of their details, which knows one ship on a gray sea from another. Both outlive a change of brightness or contrast.

    Args:
        small: Small pictures, uint8 (n, C, 32, 32).
        first: Number of the first picture of each pair, int64 (m,).
        second: Number of the second one, int64 (m,).
        look_at_all: Whether pairs are looked at closely that are not alike in coarse gray pictures.

    Returns:
        Agreement, float32 (m,), from -1 to 1; below 0.85, unless all are looked at, that of the coarse pictures.

    Example:
        >>> same = np.array([0])
        >>> agreement(pool.images[:1].repeat(4, axis=2).repeat(4, axis=3), same, same).round(2).tolist()
        [1.0]
    """
    if len(first) > _PAIRS:
        parts = _batches(np.arange(len(first)), _PAIRS)
        return np.concatenate([agreement(small, first[at], second[at], look_at_all=look_at_all) for at in parts])
    if not len(first):
        return np.zeros(0, dtype=np.float32)
    best, way = _coarse(small, first, second)
    alike = np.ones(len(first), dtype=bool) if look_at_all else best >= _WORTH_A_LOOK
    with torch.inference_mode():
        for i, (swapped, mirrored, side) in enumerate(_WAYS):
            for rows in _batches(np.flatnonzero(alike & (way == i))):
                a, b = (torch.from_numpy(small[which[rows]]).float() / 255 for which in (first, second))
                b = b.flip(-1) if mirrored else b
                under, over = ((x, _details(x)) for x in ((b, a) if swapped else (a, b)))
                found = _closely(tuple(map(_Under, under)), over, _SIDES[side][0])
                if (promising := found >= _PROMISING).any():
                    again = (tuple(_Under(x[promising]) for x in under), tuple(x[promising] for x in over))
                    others = [_closely(*again, other) for other in _SIDES[side][1:]]
                    found[promising] = torch.stack([found[promising], *others]).amax(dim=0)
                best[rows] = found.numpy()
    return best


def _coarse(
    small: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Correlations of gray pictures of 6 to 8 pixels, and the number of the best way of laying one over the other."""
    used, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    a, b = np.split(at, 2)
    gray = _fours(small[used].astype(np.float32).mean(axis=1))[:, ::2, ::2]
    fours = _fours(gray)
    best, way = np.full(len(first), -1, dtype=np.float32), np.zeros(len(first), dtype=np.int64)
    for side in _SIDES:
        windows = np.lib.stride_tricks.sliding_window_view(fours, (side - 1, side - 1), axis=(1, 2))[..., ::2, ::2]
        windows = _unit(windows.reshape(len(used), -1, side // 2, side // 2))
        whole = functional.interpolate(torch.from_numpy(gray)[:, None], (side // 2, side // 2), mode="area").numpy()
        for mirrored in (False, True):
            template = _unit(whole)[:, 0]
            flipped = _unit(whole[..., ::-1])[:, 0]
            for swapped in (False, True) if side < 16 else (False,):
                # The mirror image of the second picture; of its windows, laid over by the first one, that of the first.
                inner = (flipped if mirrored else template)[a if swapped else b]
                for rows in _batches(np.arange(len(first)), 2 * _BATCH):
                    found = np.einsum("pwk,pk->pw", windows[(b if swapped else a)[rows]], inner[rows]).max(axis=1)
                    better = found > best[rows]
                    best[rows[better]], way[rows[better]] = found[better], _WAYS.index((swapped, mirrored, side))
    return best, way


def _fours(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of every pixel and those right of it and below, (m, h - 1, w - 1)."""
    rows = x[:, :-1] + x[:, 1:]
    return np.asarray((rows[..., :-1] + rows[..., 1:]) / 4, dtype=np.float32)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures (..., s, s) without their means, as long as each other, (..., s * s)."""
    flat = x.reshape(*x.shape[:-2], -1)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1.0))


def _batches(rows: NDArray[np.int64], size: int = _BATCH) -> list[NDArray[np.int64]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


class _Under:
    """Pictures that others are laid over, with what does not depend on those.

    Args:
        x: Pictures, (m, C, 32, 32).
    """

    def __init__(self, x: Tensor) -> None:
        self.side = x.shape[2]
        self.x = x - x.mean(dim=(1, 2, 3), keepdim=True)  # the products stay as they are, and are more exact

    @cached_property
    def spectrum(self) -> Tensor:
        found: Tensor = torch.fft.rfft2(self.x)
        return found

    @cached_property
    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums of squares and of pixels above and left of every corner, in double precision, (m, 33, 33) each."""
        return _totals(self.x.double().square().sum(dim=1)), _totals(self.x.sum(dim=1))

    def variance(self, side: int) -> Tensor:
        """Sums of squares of every window, without the mean of its colors and pixels, (m, places)."""
        n = self.x.shape[1] * side**2
        if side == self.side:
            squares, sums = (x.sum(dim=(1, 2, 3), dtype=torch.float64)[:, None] for x in (self.x.double().square(), self.x))
        else:
            squares, sums = (_windows(total, side).flatten(1) for total in self.totals)
        return squares - sums.square() / n


def _closely(under: tuple[_Under, ...], over: tuple[Tensor, ...], side: int) -> Tensor:
    """The mean of the correlations of pictures and of their details at the best place, (m,)."""
    each = [_laid_over(x, y, side) for x, y in zip(under, over, strict=True)]
    return torch.stack(each).mean(dim=0).amax(dim=1)


def _details(x: Tensor) -> Tensor:
    blur = _blur(x.shape[2]).to(x)
    return x - blur @ x @ blur.T


@cache
def _blur(side: int) -> Tensor:
    """Means of neighbors, mirrored at the ends, as a matrix, (side, side)."""
    margin = _BLUR // 2
    rows = functional.pad(torch.eye(side, dtype=torch.float64)[None], (margin, margin), mode="reflect")
    return functional.avg_pool1d(rows, _BLUR, stride=1)[0].T


@cache
def _smaller(h: int, side: int) -> Tensor:
    """A picture of h pixels scaled down, as a matrix, (side, h): a third of the time of an interpolation."""
    columns = torch.eye(h, dtype=torch.float64)[None, None]
    return functional.interpolate(columns, (side, h), mode="bilinear", antialias=True)[0, 0]


def _laid_over(under: _Under, over: Tensor, side: int) -> Tensor:
    """Correlations of `over`, made smaller, with what it covers of `under`, at every place, (m, places)."""
    h = under.side
    smaller = _smaller(h, side).to(over)
    template = smaller @ over @ smaller.T if side < h else over
    template = template - template.mean(dim=(1, 2, 3), keepdim=True)
    energy = template.square().sum(dim=(1, 2, 3))
    if side == h:
        products = (under.x * template).sum(dim=(1, 2, 3))[:, None]
    else:  # in the frequencies: a tenth of the time of sums over windows
        spectrum = under.spectrum * torch.fft.rfft2(template, s=(h, h)).conj()
        products = torch.fft.irfft2(spectrum.sum(dim=1), s=(h, h))[:, : h - side + 1, : h - side + 1].flatten(1)
    variance = under.variance(side).to(products)
    return products / (variance.clamp_min(_LEAST) * energy.clamp_min(_LEAST)[:, None]).sqrt()


def _totals(x: Tensor) -> Tensor:
    return functional.pad(x.double(), (1, 0, 1, 0)).cumsum(dim=1).cumsum(dim=2)


def _windows(totals: Tensor, side: int) -> Tensor:
    """Sums over every window, (m, places, places)."""
    rows = totals[:, side:] - totals[:, :-side]
    return rows[..., side:] - rows[..., :-side]
