"""Images as people see them: the file itself where a browser can show it, else scaled down to a JPEG."""

import io
import mimetypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ssl_diffusion.data.decoding import DAMAGE, FORMATS, reason_of
from ssl_diffusion.errors import DataError
from ssl_diffusion.outputs import path_fault

__all__ = ["png_of", "shown_bytes", "shown_image", "to_pil"]

_SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
_LARGE = 4 * 2**20  # bytes
_SCREEN = 1600  # pixels


def shown_image(path: Path, side: int | None = None) -> tuple[bytes, str]:
    """An image file for a browser: bytes and media type.

    Args:
        path: Image file.
        side: Largest width and height in pixels; None leaves files of up to 4 MiB as they are, and scales larger ones to 1,600.

    Raises:
        DataError: If it has to be scaled or converted, and is damaged or too large for that.
    """
    if (fault := path_fault(path)) is not None:  # a named pipe would keep its reader waiting
        raise DataError(fault)
    return shown_bytes(path.read_bytes(), str(path), side)


def shown_bytes(content: bytes, name: str, side: int | None = None) -> tuple[bytes, str]:
    """An image in memory for a browser, see :func:`shown_image`.

    Args:
        content: Content of the image file.
        name: Name of the file, whose ending says what a browser can show.
        side: See :func:`shown_image`.
    """
    try:
        if (
            Path(name).suffix.lower() in _SHOWN_BY_BROWSERS
            and (len(content) <= _LARGE or (side or 0) > _SCREEN)
            and (side is None or _fits(content, side))
        ):
            return content, mimetypes.guess_type(name)[0] or "application/octet-stream"
        limit = side or _SCREEN
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            opened.draft("RGB", (limit, limit))  # lets the JPEG decoder shrink large photos on the fly
            shown = ImageOps.exif_transpose(opened).convert("RGB")
            shown.thumbnail((limit, limit))
    except DAMAGE as error:
        raise DataError(f"{name} cannot be shown: {reason_of(name, error)}") from None
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=92)
    return buffer.getvalue(), "image/jpeg"


def _fits(content: bytes, side: int) -> bool:
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        return max(opened.size) <= side


def png_of(image: NDArray[np.uint8]) -> bytes:
    """An image (C, H, W) as the content of a PNG file, see :func:`to_pil`."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def to_pil(image: NDArray[np.uint8]) -> Image.Image:
    """An image (C, H, W) of 1 to 4 channels (gray, gray and alpha, RGB, RGBA) for saving."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
