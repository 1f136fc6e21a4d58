"""A counterfactual as people look at it: panels side by side, in the pixels of the images themselves, with captions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssl_diffusion.data.thumbnails import to_pil

__all__ = [
    "CHANGE_COLORS",
    "GAIN",
    "SOURCE",
    "TARGET",
    "Panel",
    "change_colors",
    "difference",
    "enlarged",
    "strip",
    "write_caption",
]

GAIN = 6  # of the pictures of a change
SOURCE, TARGET = "#2a6f97", "#d1603d"  # colors of the classes
CHANGE_COLORS = "RdBu_r"
_LEAST, _LARGEST = 168, 640  # sides in pixels: smaller images are enlarged in whole steps, larger ones shrunk
_REDUCED = 320
_GAP, _POINTS = 8, 13
_LINE = 18  # pixels


class Panel(NamedTuple):
    """An image, uint8 (C, H, W), of 1 or 3 channels, what stands above it, and in what color."""

    image: NDArray[np.uint8]
    caption: str
    color: str = "black"

    def reduced(self) -> "Panel":
        """The panel with an image of no more pixels than the overview of many pairs shows."""
        if max(self.image.shape[1:]) <= _REDUCED:
            return self
        picture = to_pil(self.image)
        picture.thumbnail((_REDUCED, _REDUCED), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture)
        return self._replace(image=pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def difference(original: NDArray[np.uint8], changed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The signed difference of two images, six-fold: red where it became lighter, blue where darker, white elsewhere.

    Of several channels that which changed most counts: a change of color alone can be seen, too.

    Args:
        original: Image, uint8 (C, H, W).
        changed: The same image after a change, uint8 (C, H, W).

    Returns:
        Colors, uint8 (3, H, W).
    """
    change: NDArray[np.float32] = (changed.astype(np.float32) - original.astype(np.float32)) / np.float32(255)
    return change_colors(change, GAIN)


def change_colors(change: NDArray[np.float32], gain: float) -> NDArray[np.uint8]:
    """The colors of a signed change: red where it makes an image lighter, blue where darker, white elsewhere.

    Args:
        change: Change of an image on the scale [0, 1], float32 (C, H, W); of several channels that which changed most counts.
        gain: Factor of the change before 1 is fully red and -1 fully blue.

    Returns:
        Colors, uint8 (3, H, W).
    """
    most = np.abs(change).argmax(axis=0)[None]
    signed = np.take_along_axis(change, most, axis=0)[0]
    colors: NDArray[np.uint8] = colormaps[CHANGE_COLORS](np.clip((gain * signed + 1) / 2, 0, 1), bytes=True)
    return np.ascontiguousarray(colors[..., :3].transpose(2, 0, 1))


def enlarged(image: NDArray[np.uint8]) -> Image.Image:
    """An image as it stands on a strip: small ones enlarged by whole factors (pixels stay pixels), and large ones shrunk.

    Args:
        image: Image, uint8 (C, H, W).
    """
    picture = to_pil(image[:3] if len(image) >= 3 else image[:1]).convert("RGB")
    longer = max(picture.size)
    if longer > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    elif longer < _LEAST:
        factor = -(-_LEAST // longer)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture


def strip(panels: Sequence[Panel]) -> Image.Image:
    """Panels side by side on white, with their captions above them.

    Args:
        panels: Panels of images of one size.

    Example:
        >>> strip([Panel(original, "coat"), Panel(changed, "pullover"), Panel(difference(original, changed), "change x 6")])
    """
    pictures = [enlarged(panel.image) for panel in panels]
    width, height = pictures[0].size
    column = max(width, _LEAST)
    made = Image.new("RGB", (len(panels) * (column + _GAP) + _GAP, _LINE + height + 2 * _GAP), "white")
    for i, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        left = _GAP + i * (column + _GAP)
        write_caption(made, panel.caption, (left, _GAP // 2), column, panel.color)
        made.paste(picture, (left + (column - width) // 2, _GAP + _LINE))
    return made


def write_caption(picture: Image.Image, text: str, place: tuple[int, int], width: int, color: str = "black") -> None:
    """Write a line into a picture, in the middle of a width, as much of it as fits.

    Args:
        picture: Picture, which is changed.
        text: One line.
        place: Left upper corner of its room, in pixels.
        width: Width of its room, in pixels.
        color: Color of the letters.
    """
    draw, font = ImageDraw.Draw(picture), _font()
    text = " ".join(text.split())
    if draw.textlength(text, font=font) > width:
        while text and draw.textlength(text + "…", font=font) > width:
            text = text[:-1]
        text += "…"
    left = place[0] + (width - draw.textlength(text, font=font)) / 2
    draw.text((left, place[1]), text, fill=color, font=font)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """The font of the figures, which has more letters than Pillow's."""
    return ImageFont.truetype(findfont("DejaVu Sans"), _POINTS)
