"""Images as people see them: the file itself where a browser can show it, else scaled down to a JPEG."""

import io
import mimetypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["shown_image", "to_pil"]

_SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
_LARGE = 4 * 2**20  # bytes


def shown_image(path: Path, side: int | None = None) -> tuple[bytes, str]:
    """An image file for a browser: bytes and media type.

    Args:
        path: Image file.
        side: Largest width and height in pixels; None leaves files of up to 4 MiB as they are, and scales larger ones to 1,600.
    """
    if path.suffix.lower() in _SHOWN_BY_BROWSERS and path.stat().st_size <= _LARGE and (side is None or _fits(path, side)):
        return path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    with Image.open(path) as opened:
        shown = ImageOps.exif_transpose(opened).convert("RGB")
        shown.thumbnail((side or 1600, side or 1600))
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=92)
    return buffer.getvalue(), "image/jpeg"


def _fits(path: Path, side: int) -> bool:
    with Image.open(path) as opened:
        return max(opened.size) <= side


def to_pil(image: NDArray[np.uint8]) -> Image.Image:
    """An image (C, H, W) of 1 to 4 channels (gray, gray and alpha, RGB, RGBA) for saving."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
