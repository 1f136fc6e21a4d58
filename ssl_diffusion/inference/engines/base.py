"""What an engine offers to :func:`ssl_diffusion.inference.embed`."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.inference.predict import BatchFunction, Model
from ssl_diffusion.inference.rows import Rows

__all__ = ["Engine"]


class Engine(Protocol):
    """Applies a function of a model to images, batch by batch, somewhere."""

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
        """Results of a function for some rows; see :func:`ssl_diffusion.inference.map_batches`.

        Yields:
            Numbers of the rows of a batch, and the results for them; every row once, batches in any order.
        """
        ...
