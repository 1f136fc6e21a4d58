"""The change of a small image, enlarged and added to the file that it was made from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.images import read_images
from ssl_diffusion.generation.original_size import with_change


@pytest.mark.parametrize("aspect", ["squeeze", "crop", "pad"])
@pytest.mark.parametrize("size", [(96, 48), (48, 96), (64, 64)])
def test_the_change_comes_where_the_small_image_shows_it(tmp_path: Path, size: tuple[int, int], aspect: Aspect) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", size, (100, 100, 100)).save(path)
    image = read_images([path], size=16, aspect=aspect).images[0]
    changed = image.copy()
    changed[0, 6:10, 6:10] += 80  # the middle of the small image, which is that of the file with any treatment
    made = with_change(path, image, changed, aspect=aspect)
    assert made.shape == (3, size[1], size[0])
    Image.fromarray(made.transpose(1, 2, 0)).save(path)
    again = read_images([path], size=16, aspect=aspect).images[0].astype(int)
    assert np.abs(again - changed).max() < 25  # of 80
    assert np.abs(again - changed).mean() < 3  # the padding has the mean color, which changes, too
    np.testing.assert_array_equal(made[1:], 100)
