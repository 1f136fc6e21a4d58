"""Files that a stranger may name as a table or an image."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

__all__ = ["IMAGES", "TABLES"]

_LONG = b"n" * 100_000
_LINES = "path,label\nphotos/0/a.png,0\n"

# Name of a CSV file: its content.
TABLES = {
    "zero": b"",
    "blank": b"\n\r\n\n",
    "bom": b"\xef\xbb\xbf",
    "header": b"path,label\n",
    "header-bom": b"\xef\xbb\xbfpath,label\r\n",
    "no-column": b"colour,label\na.png,0\n",
    "two-columns": b"path,image,label\na.png,b.png,0\n",
    "same-column": b"path,label,label\na.png,0,0\n",
    "nameless": b",\na.png,0\n",
    "twice": b"path,label\nx.png,0\nx.png,1\n",
    "twice-normal": b"path,label\nx.png,0\n./x.png,1\n",
    "missing": b"path,label\nnowhere.png,0\n",
    "empty-path": b"path,label\n,0\n",
    "blank-path": b"path,label\n   ,0\n",
    "nul": b"path,label\na\x00.png,0\n",
    "all-nul": bytes(64),
    "utf16": _LINES.encode("utf-16"),
    "utf32": _LINES.encode("utf-32"),
    "binary": bytes(range(256)),
    "open-quote": b'path,label\n"x.png,0\n',
    "text-after-quote": b'path,label\n"x.png"y,0\n',
    "short-row": b"path,label\nx.png\n",
    "long-row": b"path,label\nx.png,0,1\n",
    "outside": b"path,label\n../../../../../../etc/passwd,0\n",
    "absolute": b"path,label\n/etc/passwd,0\n",
    "device": b"path,label\n/dev/zero,0\n",
    "pipe": b"path,label\n../fifo,0\n",
    "folder": b"path,label\n../photos,0\n",
    "newline": b'path,label\n"a\nb.png",0\n',
    "escape": b"path,label\n\x1b[31mred.png,0\n",
    "long-cell": b"path,label\n" + b"n" * 200_000 + b",0\n",
    "long-header": b"n" * 200_000 + b"\n1\n",
    "long-path": b"path,label\n" + _LONG + b",0\n",
    "long-twice": b"path,label\n" + _LONG + b",0\n" + _LONG + b",0\n",
    "long-split": b"path,label,split\n../x.png,0," + _LONG + b"\n",
    "long-name": _LONG + b",label\n../x.png,0\n",
    "long-flag": b"path,b\n../x.png," + _LONG + b"\n",
    "many-columns": b",".join(b"c%d" % i for i in range(5000)) + b"\n" + b"," * 4999 + b"\n",
    "ids": b"id,label\nzzz,0\n",
    "long-ids": b"id,label\n" + _LONG + b",0\n",
    "long-label": b"id,label\nzzz," + _LONG + b"\n",
    "bad-split": b"path,label,split\n../x.png,0,validation\n",
    "only-test": b"path,label,split\n../x.png,0,test\n",
    "html": b"<!doctype html>\n<title>404</title>\n",
    "json": b'{"path": "x.png"}\n',
    "flags": b"path,a,b\n../x.png,1,maybe\n",
    "no-image": b"path,label\ntwice.csv,0\n",
}


def _png(mode: str = "L", side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 40).save(buffer, "JPEG")
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(side: int) -> bytes:
    """A PNG file of a few bytes that says it has side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def _float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(buffer, "TIFF")
    return buffer.getvalue()


# Name of a folder: content of the file x.png in it.
IMAGES = {
    "image-zero": b"",
    "image-signature": _png()[:8],
    "image-header": _png()[:33],
    "image-cut": _png("RGB", 16)[:-40],
    "image-jpeg-cut": _jpeg()[:-300],
    "image-jpeg-head": _jpeg()[:30],
    "image-html": b"<!doctype html><title>404</title>",
    "image-text": b"path,label\n",
    "image-svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
    "image-pdf": b"%PDF-1.4\n%%EOF\n",
    "image-garbage": bytes(range(256)) * 4,
    "image-nothing": _bomb(0),
    "image-bomb": _bomb(50_000),
    "image-huge": _bomb(2**31 - 1),
    "image-float": _float_tiff(),
    "image-zlib": _png()[:41] + bytes(20) + _png()[61:],
    "image-ppm": b"P6 8 8 255\n" + bytes(192),
}
