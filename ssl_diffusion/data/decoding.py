"""One image file, or its bytes -> its header, or its pixels in a row of an array.

Both functions return why a file cannot be read as text instead of raising, so that a reader can go on and report all such
files together. They are safe to call from several threads. Whatever a file is called, its content is read by the decoders of
:data:`FORMATS` and by no other: Pillow would hand PostScript to an interpreter.
"""

import io
import os
import stat
import struct
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = [
    "DAMAGE",
    "FORMATS",
    "HEIF",
    "Aspect",
    "Decoded",
    "Header",
    "decode",
    "open_image",
    "read_header",
    "reads_heif",
    "reason_of",
]

Aspect = Literal["crop", "pad", "squeeze"]
"""What becomes of an image with another aspect ratio: its middle, all of it on its mean color, or all of it distorted."""

# Names of Pillow's decoders. Phones write several pictures into one JPEG file (MPO), which its decoder opens, too.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
HEIF = (".heic", ".heif")
"""Endings of images of newer phones, which the package pillow-heif decodes where it is installed."""

# Whatever Pillow's decoders are known to raise on damaged files. Not `Exception`: running out of memory is no fault of a file.
DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    struct.error,
    Image.DecompressionBombError,
)
_GRAY = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


class Header(NamedTuple):
    """What one file's header says, upright."""

    height: int
    width: int
    gray: bool


class Decoded(NamedTuple):
    """What had to be done to one image; the names of the fields that are True become notes."""

    resized: bool
    stretched: bool
    colored: bool
    transparent: bool
    deep: bool


@lru_cache(maxsize=1)
def reads_heif() -> bool:
    """Whether images in HEIF can be read: the package pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _formats() -> tuple[str, ...]:
    return (*FORMATS, "HEIF") if reads_heif() else FORMATS


def open_image(path: str | Path | bytes) -> Image.Image:
    """Open an image file, of one of :data:`FORMATS`, or HEIF where it can be read.

    Args:
        path: Image file; links are followed. Bytes are the content of one.

    Raises:
        OSError: If it is no regular file, cannot be read, or holds no such image.
    """
    if isinstance(path, bytes):
        return Image.open(io.BytesIO(path), formats=_formats())
    if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would keep its reader waiting for ever
        raise OSError("not a regular file")
    return Image.open(path, formats=_formats())


def read_header(path: str | Path | bytes) -> Header | str:
    """Size and color of an image without decoding it, or why it cannot be read."""
    try:
        with open_image(path) as image:
            width, height = image.size
            # In PNG files asking for EXIF data that is not at the front would decode the whole image.
            if (image.format != "PNG" or "exif" in image.info) and _orientation(image) >= 5:
                width, height = height, width
            return Header(height, width, image.mode in _GRAY)
    except DAMAGE as error:
        return reason_of(path, error)


def decode(path: str | Path | bytes, out: NDArray[np.uint8], aspect: Aspect = "squeeze") -> Decoded | str:
    """Decode one image into `out`, uint8 (C, H, W), or say why it cannot be read.

    Args:
        path: Image file, or its bytes.
        out: Array to write to.
        aspect: Treatment of the image if its aspect ratio is not that of `out`.
    """
    c, h, w = out.shape
    try:
        with open_image(path) as image:
            width, height = image.size
            # Lets the JPEG decoder shrink large photos on the fly, to no less than that on either side; twice the target leaves
            # the filter enough to work on.
            image.draft(None, (2 * max(h, w), 2 * max(h, w)))
            image.load()
            orientation = _orientation(image)
            mode, transparent = image.mode, image.has_transparency_data
            flat = _flatten(image, "L" if c == 1 else "RGB")
        if orientation in _UPRIGHT:
            flat = flat.transpose(_UPRIGHT[orientation])
            if orientation >= 5:
                width, height = height, width
        if flat.size != (w, h):
            flat = _resized(flat, w, h, aspect)
        pixels = np.asarray(flat)
    except DAMAGE as error:
        return reason_of(path, error)
    out[:] = pixels[None] if c == 1 else pixels.transpose(2, 0, 1)
    return Decoded(
        resized=(width, height) != (w, h),
        stretched=width * h != height * w,
        colored=c == 3 and mode in _GRAY,
        transparent=transparent,
        deep=mode.startswith("I;16"),
    )


def _resized(image: Image.Image, width: int, height: int, aspect: Aspect) -> Image.Image:
    """The image at another size."""
    w, h = image.size
    if aspect == "crop":
        scale = min(w / width, h / height)
        left, top = (w - scale * width) / 2, (h - scale * height) / 2
        return image.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, w - left, h - top))
    inside = width, height
    if aspect == "pad":
        scale = max(w / width, h / height)
        inside = max(1, min(width, round(w / scale))), max(1, min(height, round(h / scale)))
    small = image.resize(inside, Image.Resampling.BICUBIC)
    if inside == (width, height):
        return small
    mean = np.asarray(small).reshape(-1, len(small.getbands())).mean(axis=0)
    color = tuple(int(value) for value in np.rint(mean))
    whole = Image.new(small.mode, (width, height), color if len(color) > 1 else color[0])
    whole.paste(small, ((width - inside[0]) // 2, (height - inside[1]) // 2))
    return whole


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8-bit `mode` ("L" or "RGB"), transparency put on white."""
    if image.mode in ("I", "F"):
        raise ValueError("its 32-bit pixels have no fixed range; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion has clipped instead of scaled in some versions.
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; damaged EXIF data does not make an image unreadable."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except DAMAGE:
        return 1


def reason_of(path: str | Path | bytes, error: Exception) -> str:
    """Why an image cannot be read, in words, from the exception that Pillow raised for it."""
    for kind, text in ((FileNotFoundError, "file not found"), (PermissionError, "no permission to read it")):
        if isinstance(error, kind):
            return text
    if (not path) if isinstance(path, bytes) else os.path.isfile(path) and os.path.getsize(path) == 0:
        return "zero bytes"
    if isinstance(error, UnidentifiedImageError):
        if not isinstance(path, bytes) and str(path).lower().endswith(HEIF) and not reads_heif():
            return "an image in HEIF, which the package pillow-heif reads: pip install pillow-heif"
        return "not an image, or damaged at its start"
    return " ".join(str(error).split()) or type(error).__name__
