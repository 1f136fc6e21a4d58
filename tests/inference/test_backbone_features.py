"""A backbone reads a pool: every row belongs to its id, and features that cannot be used are refused."""

from typing import Any

import numpy as np
import pytest
import torch
from support.backbones import Mean
from torch import Tensor

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.inference import pool_features


def test_features_of_a_pool_are_in_the_order_of_its_ids(small_pool: Pool) -> None:
    done: list[int] = []
    z = pool_features(Mean(), small_pool, batch_size=25, progress=lambda update: done.append(update.done))
    assert done == [25, 50, 60]
    x = small_pool.images.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(z[:, 0], x[:, 0, :3, :3].mean(axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda z: z[:, :3], r"mean gave features of shape \(40, 3\), not \(40, 12\)"),
        (lambda z: z[1:], r"shape \(37, 12\)"),  # of each of three parts
        (lambda z: torch.where(torch.arange(len(z))[:, None] == 5, float("nan"), z), "of sample 's05' that are not finite"),
    ],
)
def test_features_that_cannot_be_used_are_refused(wrong: Any, message: str, small_pool: Pool) -> None:
    class Wrong(Mean):
        def features(self, x: Tensor) -> Tensor:
            return wrong(super().features(x))

    with pytest.raises(SSLDError, match=message):
        pool_features(Wrong(), small_pool, batch_size=40)


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(SSLDError, match="1 or 3 channels, not 4"):
        Mean()(torch.zeros(1, 4, 6, 5))
