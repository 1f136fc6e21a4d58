"""The engine of this process and the device of the model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.inference.predict import BatchFunction, Model, map_batches
from ssl_diffusion.inference.rows import Rows

__all__ = ["LocalEngine"]


class LocalEngine:
    """One batch after the other, in the order of the rows; see :class:`~ssl_diffusion.inference.engines.base.Engine`."""

    def map_batches(
        self,
        model: Model,
        function: BatchFunction[Model],
        images: Rows,
        rows: NDArray[np.int64],
        *,
        precision: str,
        batch_size: int,
    ) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[Any], ...]]]:
        """See :func:`ssl_diffusion.inference.map_batches`."""
        return map_batches(model, function, images, rows, precision=precision, batch_size=batch_size)
