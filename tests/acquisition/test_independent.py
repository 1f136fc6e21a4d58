"""Classes of which an image may have several: what strategies see of them, and which strategies are refused."""

import numpy as np
import pytest

from ssl_diffusion.acquisition.independent import check_independent, two_sided
from ssl_diffusion.acquisition.names import get_variant
from ssl_diffusion.errors import SSLDError


def test_the_class_that_is_nearest_to_one_half_stands_for_the_image() -> None:
    p = np.array([[0.9, 0.45, 0.0], [1.0, 0.0, 1.0], [0.5, 0.5, 0.5]], dtype=np.float32)
    assert two_sided(p) == pytest.approx(np.array([[0.55, 0.45], [1, 0], [0.5, 0.5]]))


def test_strategies_of_independent_classes() -> None:
    for name in ("margin", "uherding", "entropy:sampled", "typiclust", "random", "margin:diverse"):
        check_independent(get_variant(name))
    for name in ("badge", "margin:balanced", "margin:relabel", "bald"):
        with pytest.raises(SSLDError, match="one class each"):
            check_independent(get_variant(name))
