"""Images and tables with damaged bytes, by hypothesis: each is read, or refused in one sentence, and none hangs or crashes.

By default a hundred of each are tried, with `-m slow` ten minutes' for the images and as much for the tables;
SSLD_FUZZ_SECONDS sets another number of seconds.
"""

import io
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from PIL import Image
from support.tried import tried

from ssl_diffusion.data.decoding import Decoded, Header, decode, read_header
from ssl_diffusion.data.folders import load_csv
from ssl_diffusion.data.images import read_images
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import shown_bytes
from ssl_diffusion.errors import DataError

SLOW_SECONDS = float(os.environ.get("SSLD_FUZZ_SECONDS", "600"))
SOME = 100  # damaged files at a time
LONGEST = 20.0  # processor seconds for one small file


def image_files() -> dict[str, bytes]:
    """A valid file of each kind that is read, and of each way in which its pixels may be stored."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    clear = color.copy()
    clear.putalpha(128)
    deep = Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {}

    def add(name: str, image: Image.Image, form: str, **how: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, form, **how)
        found[name] = buffer.getvalue()

    add("png", color, "PNG", exif=exif)
    add("png-alpha", clear, "PNG")
    add("png-gray", color.convert("L"), "PNG", transparency=3)
    add("png-palette", color.convert("P"), "PNG", transparency=bytes(range(256)))
    add("png-bits", color.convert("1"), "PNG")
    add("png-deep", deep, "PNG")
    add("png-frames", color, "PNG", save_all=True, append_images=[color.rotate(90)])
    add("jpeg", color, "JPEG", exif=exif, icc_profile=bytes(200))
    add("jpeg-progressive", color, "JPEG", progressive=True)
    add("jpeg-cmyk", color.convert("CMYK"), "JPEG")
    add("mpo", color, "MPO", save_all=True, append_images=[color])
    add("webp", color, "WEBP", exif=exif)
    add("webp-lossless", clear, "WEBP", lossless=True)
    add("webp-frames", color, "WEBP", save_all=True, append_images=[color.rotate(90)])
    add("bmp", color, "BMP")
    add("bmp-palette", color.convert("P"), "BMP")
    add("bmp-bits", color.convert("1"), "BMP")
    add("gif", color, "GIF")
    add("gif-frames", color, "GIF", save_all=True, append_images=[color.rotate(90)], comment=b"x" * 300)
    add("tiff", color, "TIFF", exif=exif)
    add("tiff-lzw", color, "TIFF", compression="tiff_lzw")
    add("tiff-deflate", clear, "TIFF", compression="tiff_deflate")
    add("tiff-jpeg", color, "TIFF", compression="jpeg")
    add("tiff-group4", color.convert("1"), "TIFF", compression="group4")
    add("tiff-deep", deep, "TIFF")
    add("tiff-pages", color, "TIFF", save_all=True, append_images=[color])
    return found


TABLES = {
    "plain": b"path,label\na.png,0\nb.png,1\nc.png,\nd.png,0\n",
    "semicolons": b"\xef\xbb\xbfimage;class;split\r\na.png;0;train\r\nb.png;1;train\r\nc.png;0;test\r\n",
    "quoted": b'path,label\n"a.png","x ""y"""\n"b.png","two\nlines"\nsub/../c.png,\xc3\xa9\n',
    "tabs": b"file\ttarget\na.png\tant\nb.png\tant\nc.png\tbee\n",
}
IMAGES = image_files()
awkward_bytes = st.sampled_from(
    [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", bytes(8), b"\xff\xd8"]
)
awkward_text = st.sampled_from(
    [b"\0", b'"', b"'", b",", b";", b"\t", b"\r", b"\n", b"\\", b"/", b"..", b"\xff", b"\xef\xbb\xbf"]
)


@st.composite
def damaged(draw: Callable[[st.SearchStrategy[Any]], Any], files: dict[str, bytes], awkward: Any) -> bytes:
    """A valid file of which some bytes were changed, inserted, left out or repeated, or two that were spliced."""
    data = bytearray(files[draw(st.sampled_from(sorted(files)))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)) | st.integers(0, min(64, len(data))))
        part = slice(at, at + draw(st.integers(1, 8) | st.integers(1, 400)))
        match draw(st.integers(0, 7)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                data[at : at + 1] = bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) if at < len(data) else b"\1"
            case 2:
                more = draw(awkward)
                data[at : at + len(more)] = more
            case 3:
                data[at:at] = draw(awkward | st.binary(max_size=20))
            case 4:
                del data[part]
            case 5:
                del data[at:]
            case 6:
                data[at:at] = data[part] * draw(st.integers(1, 20))
            case _:
                data[at:] = files[draw(st.sampled_from(sorted(files)))][at:]
    return bytes(data)


def one_sentence(said: str) -> None:
    assert 3 < len(said) < 300, said
    assert "\n" not in said, said
    assert said.isprintable(), said


def check_image(data: bytes, folder: Path) -> None:
    """Every reader of images gives an image, or says why it cannot."""
    path = folder / "x.png"
    path.write_bytes(data)
    started = time.thread_time()
    header = read_header(path)
    for channels in (1, 3):
        out = np.zeros((channels, 8, 8), dtype=np.uint8)
        outcome = decode(path, out)
        assert isinstance(outcome, Decoded | str)
        if isinstance(outcome, str):
            one_sentence(outcome)
    if isinstance(header, str):
        one_sentence(header)
    else:
        assert isinstance(header, Header)
        assert min(header.height, header.width) >= 1
    if isinstance(header, str) or isinstance(outcome, str):
        with pytest.raises(DataError, match="\n  x: "):
            read_images([path], ids=["x"], size=8, workers=1)
    else:
        assert read_images([path], ids=["x"], size=8, workers=1).images.shape[2:] == (8, 8)
    for side in (4, None):
        try:
            content, kind = shown_bytes(data, "x.tif" if side is None else "x.png", side)
        except DataError as error:
            one_sentence(str(error))
        else:
            assert content
            assert kind.startswith("image/")
    assert time.thread_time() - started < LONGEST


def check_table(data: bytes, folder: Path) -> None:
    """A table is a pool, or is refused in a message that names what is wrong."""
    path = folder / "t.csv"
    path.write_bytes(data)
    started = time.thread_time()
    for multilabel in (False, True):
        try:
            pool = load_csv(path, multilabel=multilabel, size=8)
        except DataError as error:
            said = str(error)
            assert len(said) < 900, said
            assert all(line.isprintable() for line in said.split("\n")), said
            assert all(line.startswith("  ") for line in said.split("\n")[1:]), said
        else:
            assert isinstance(pool, Pool)
            assert len(set(pool.ids.tolist())) == len(pool.ids) > 0
    assert time.thread_time() - started < LONGEST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("damaged")
    for name in ("a", "b", "c", "d"):
        (made / f"{name}.png").write_bytes(IMAGES["png"])
    return made


READERS = {
    "image files": (damaged(IMAGES, awkward_bytes), check_image),
    "table files": (damaged(TABLES, awkward_text), check_table),
}


def try_some(kind: str, folder: Path, seed: int) -> None:
    """Try some damaged files."""
    strategy, check = READERS[kind]

    @seeded(seed)
    @settings(max_examples=SOME, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def once(data: bytes) -> None:
        with tried(kind):
            check(data, folder)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damage that it can do without
        once()


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused(kind: str, folder: Path) -> None:
    try_some(kind, folder, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(SLOW_SECONDS + 600)
@pytest.mark.parametrize("kind", READERS)
def test_many_damaged_files_are_read_or_refused(kind: str, folder: Path) -> None:
    end, seed = time.monotonic() + SLOW_SECONDS, int(time.time())
    while time.monotonic() < end:
        try_some(kind, folder, seed)
        seed += 1


@pytest.mark.parametrize("name", IMAGES)
def test_the_files_are_valid_before_they_are_damaged(name: str, folder: Path) -> None:
    path = folder / "valid"
    path.write_bytes(IMAGES[name])
    assert isinstance(decode(path, np.zeros((3, 8, 8), dtype=np.uint8)), Decoded)
