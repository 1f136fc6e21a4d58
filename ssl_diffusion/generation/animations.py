"""The way from an image over the boundary to its counterfactual, as a small film that plays forth and back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssl_diffusion.generation.strips import SOURCE, TARGET, enlarged, write_caption

__all__ = ["write_animation"]

_STEPS = 10  # frames between two stations
_STAY, _PASS = 900, 60  # milliseconds at an end, and in between
_LINE, _BAR, _MARGIN = 20, 14, 6


def write_animation(stations: Sequence[NDArray[np.uint8]], names: tuple[str, str], path: Path) -> None:
    """Write the way from the first station to the last as a WebP file.

    Above the image stands the class: the source until the station before the last one, the target from there on. A bar below it
    shows how far on the way the image is.

    Args:
        stations: Images of one size, uint8 (C, H, W): the original, the boundary if it is known, the counterfactual.
        names: Names of the source and of the target.
        path: File to write.
    """
    frames = []
    last = len(stations) - 1
    change = max(1, last - 1) if last > 1 else 1  # the station at which the class changes
    for at in np.linspace(0, last, last * _STEPS + 1):
        i = min(int(at), last - 1)
        one, two = (stations[j].astype(np.float32) for j in (i, i + 1))
        image = np.rint(one + (at - i) * (two - one)).astype(np.uint8)
        frames.append(_frame(image, names[int(at >= change)], at / last, at >= change, change / last))
    film = frames + frames[-2:0:-1]
    stays = [_STAY if frame in (frames[0], frames[-1]) else _PASS for frame in film]
    film[0].save(path, save_all=True, append_images=film[1:], duration=stays, loop=0, lossless=True)


def _frame(image: NDArray[np.uint8], name: str, way: float, changed: bool, mark: float) -> Image.Image:
    """One frame: the class, the image, and a bar with the way that is behind and a mark where the class changes."""
    picture, color = enlarged(image), TARGET if changed else SOURCE
    width = picture.width + 2 * _MARGIN
    frame = Image.new("RGB", (width, picture.height + _LINE + _BAR + _MARGIN), "white")
    write_caption(frame, name, (_MARGIN, 2), picture.width, color)
    frame.paste(picture, (_MARGIN, _LINE))
    draw, top = ImageDraw.Draw(frame), _LINE + picture.height + 5
    draw.rectangle((_MARGIN, top, _MARGIN + picture.width - 1, top + 6), fill="#dddddd")
    draw.rectangle((_MARGIN, top, _MARGIN + max(1, round(way * (picture.width - 1))), top + 6), fill=color)
    if mark < 1:
        x = _MARGIN + round(mark * (picture.width - 1))
        draw.line((x, top - 2, x, top + 8), fill="black", width=2)
    return frame
