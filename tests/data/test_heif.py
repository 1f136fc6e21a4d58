"""Photos of newer phones: read where pillow-heif is installed, else named in one sentence."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_diffusion.data import decoding, image_files
from ssl_diffusion.data.decoding import read_header
from ssl_diffusion.data.folders import load_folder
from ssl_diffusion.data.image_files import list_images
from ssl_diffusion.errors import DataError


def test_without_the_package_they_are_skipped_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_files, "reads_heif", lambda: False)
    monkeypatch.setattr(decoding, "reads_heif", lambda: False)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("b.heic", "c.HEIF"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with caplog.at_level(logging.WARNING):
        assert [path.name for path in list_images(tmp_path)] == ["a.png"]
    (said,) = caplog.messages
    assert said == f"2 .heic files under {tmp_path} are skipped (such as b.heic): to read them, pip install pillow-heif"
    assert "pip install pillow-heif" in str(read_header(tmp_path / "b.heic"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="there are no images under"):
        load_folder(tmp_path)


def test_with_the_package_they_are_images(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the package pillow-heif is not installed (extra: heif)")
    pixels = np.full((16, 24, 3), (200, 30, 60), dtype=np.uint8)
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=95)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    pool = load_folder(tmp_path, size=16)
    assert pool.ids.tolist() == ["a.heic", "b.png"]
    assert np.abs(pool.images[0].astype(int) - pool.images[1]).max() < 16
