"""One pass of a model over many images: what strategies need of each, in memory that does not grow with the network.

Representations may have tens of thousands of features. Strategies measure distances and inner products, which a random
projection to a few hundred dimensions keeps (Johnson and Lindenstrauss 1984): the relative error of a distance is about
1 / sqrt(2 * 512), 3 %. The projection depends on the number of features only, so that all samples of all queries share it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.data.source import ImageSource
from ssl_diffusion.inference.embedding_store import Embeddings, EmbeddingStore, digests
from ssl_diffusion.inference.engines.base import Engine
from ssl_diffusion.inference.engines.local import LocalEngine
from ssl_diffusion.inference.predict import represented
from ssl_diffusion.inference.projection import projection_matrix
from ssl_diffusion.inference.rows import Rows, features_at, rows_of
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["embed", "embed_whole"]

_PART = 2**16  # images; what a query that is killed may lose


def embed(
    model: JointDiffusion,
    source: Rows | ImageSource,
    store: EmbeddingStore | None = None,
    *,
    classify: bool = True,
    projected: bool = True,
    represented: bool = True,
    precision: str = "fp32",
    batch_size: int = 256,
    engine: Engine | None = None,
    progress: ProgressCallback | None = None,
) -> Embeddings:
    """Representations and class probabilities of images.

    Args:
        model: Joint diffusion model.
        source: Images, uint8 (N, C, H, W), by row number or as an image source, then in the order of its ids.
        store: Store to read from and add to; None computes everything. It holds projected representations only.
        classify: Whether class probabilities are wanted; for models with one class an image.
        projected: Whether representations of more than 512 features are projected to 512.
        represented: Whether representations are wanted; without them, class probabilities take a tenth less time.
        precision: "fp32" or "bf16".
        batch_size: Images in a batch.
        engine: Engine that reads the images; None reads them in this process.
        progress: Callback for the number of images read.

    Returns:
        Representations, float32 (N, F) or (N, 512), in a temporary file if they take over 256 MiB, or (N, 0) if not wanted;
        and class probabilities, float32 (N, K), or (N, 0) likewise.

    Raises:
        ValueError: If there is a store and representations are not projected, or not wanted.

    Example:
        >>> found = embed(run.model, pool.images, store_of(run))  # doctest: +SKIP
    """
    if store is not None and not (projected and represented):
        raise ValueError("the store holds projected representations: leave it out, or use embed_whole")
    images = rows_of(source)
    matrix = projection_matrix(model.n_features) if projected and represented else None
    read = _Read(images, classify, matrix, represented)
    n_features = model.n_features if matrix is None else matrix.shape[1]
    found = Embeddings(len(images), n_features if represented else 0, model.config.n_classes if classify else 0)
    keys = digests(_one_by_one(images, batch_size)) if store is not None else np.zeros(0, dtype="S16")
    todo = store.fill(keys, found) if store is not None else np.arange(len(images))
    unsaved: list[NDArray[np.int64]] = []

    def save() -> None:
        if store is not None and unsaved:
            rows = np.concatenate(unsaved)
            store.keep(keys[rows], found.representation[rows], found.probabilities[rows])
        unsaved.clear()

    for rows, (z, *p) in _batches(model, read, images, todo, precision, batch_size, engine, progress):
        found.representation[rows] = z
        if classify:
            found.probabilities[rows] = p[0]
        unsaved.append(rows)
        if sum(map(len, unsaved)) >= _PART:
            save()
    save()
    return found


def embed_whole(
    model: JointDiffusion,
    source: Rows | ImageSource,
    store: EmbeddingStore,
    name: str,
    *,
    precision: str = "fp32",
    batch_size: int = 256,
    engine: Engine | None = None,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Representations of images as they are, in one file of a store; computed only if they are not there.

    Args:
        model: Joint diffusion model.
        source: Images, as :func:`embed` takes them.
        store: Store whose identity tells model and images.
        name: Name of the file; see :meth:`EmbeddingStore.whole`.
        precision: "fp32" or "bf16".
        batch_size: Images in a batch.
        engine: Engine that reads the images; None reads them in this process.
        progress: Callback for the number of images read.

    Returns:
        Representations, float32 (N, F), memory-mapped and read-only.

    Raises:
        DataError: If the file cannot be created or the disk is too full.

    Example:
        >>> z = embed_whole(run.model, pool.images, store_of(run), "pool")  # doctest: +SKIP
    """
    images = rows_of(source)

    def fill(out: NDArray[np.float32]) -> None:
        read = _Read(images, classify=False, matrix=None)
        for rows, (z,) in _batches(model, read, images, np.arange(len(images)), precision, batch_size, engine, progress):
            out[rows] = z

    return store.whole(name, (len(images), model.n_features), fill)


def _batches(
    model: JointDiffusion,
    read: "_Read",
    images: Rows,
    rows: NDArray[np.int64],
    precision: str,
    batch_size: int,
    engine: Engine | None,
    progress: ProgressCallback | None,
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[np.float32], ...]]]:
    """What an engine reads; progress is reported when the caller has dealt with a batch."""
    engine, done = engine or LocalEngine(), 0
    for part, values in engine.map_batches(model, read, images, rows, precision=precision, batch_size=batch_size):
        yield part, values
        done += len(part)
        if progress is not None:
            progress(ProgressUpdate("reading the pool", done, len(rows)))


class _Read:
    """What is read of a batch; a class, since engines may send it to other processes.

    Args:
        images: Images, which may have features by a backbone.
        classify: Whether class probabilities are computed, too.
        matrix: Projection of representations, float32 (F, 512); None leaves them as they are.
        keep: Whether representations are returned; else they have no columns.
    """

    def __init__(self, images: Rows, classify: bool, matrix: NDArray[np.float32] | None, keep: bool = True) -> None:
        self.images, self.classify, self.matrix, self.keep = images, classify, matrix, keep
        self._mixed: Tensor | None = None  # the matrix on the device of the model

    def __call__(self, model: JointDiffusion, x: Tensor, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        z = represented(model, x, self.images, rows)
        p = (model.classify_representation(z).softmax(dim=1),) if self.classify else ()
        if not self.keep:
            return z[:, :0].float(), *p
        if self.matrix is not None:
            if self._mixed is None or self._mixed.device != x.device:
                self._mixed = torch.from_numpy(self.matrix).to(x.device)
            z = (z @ self._mixed).float()
        return z, *p


def _one_by_one(images: Rows, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """The bytes that representations depend on: those of each image and, where it has some, of its features."""
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, min(start + batch_size, len(images)))
        features = features_at(images, rows)
        if features is None:
            yield from images[rows]
        else:
            both = zip(images[rows], np.ascontiguousarray(features), strict=True)
            yield from (np.concatenate([x.ravel(), f.view(np.uint8)]) for x, f in both)
