"""What the encoder said of an image is kept beside the model that said it, so that a second query costs only the selection.

A store is a folder inside the run folder, `scores/`, of parts that are written beside and renamed: what a killed query had
finished is kept, queries at the same time do not disturb each other, and the folder may be deleted at any time. An image is
known by the digest of its bytes, not by its place or name; what another model said (the digest of its file is in the name of
the folder) is deleted when the present one is first asked.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["EmbeddingStore", "Embeddings", "digests"]

_log = logging.getLogger(__name__)

_KEY = np.dtype("S16")
_BLOCK = 8192
_FILES = ("keys", "representation", "probabilities")


class Embeddings:
    """Embeddings of N images.

    Attributes:
        representation: float32 (N, F); memory-mapped where it is large.
        probabilities: class probabilities, float32 (N, K); K is 0 for models without classes.
    """

    def __init__(self, n: int, n_features: int, n_classes: int) -> None:
        self.representation = allocate((n, n_features), np.float32, IN_MEMORY)
        self.probabilities = np.empty((n, n_classes), dtype=np.float32)


class EmbeddingStore:
    """Embeddings by the digest of the image.

    Args:
        folder: of the store; created when something is kept.
        identity: of what makes the scores: model, precision and the like. Embeddings of other identities are deleted.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._root = folder
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:24]

    def fill(self, keys: NDArray[np.bytes_], scores: Embeddings) -> NDArray[np.int64]:
        """Copy what is known of the images with these digests, (N,), into their rows; returns the rows that are not known."""
        unknown = np.arange(len(keys))
        for part, representation, probabilities in self._parts():
            if representation.shape[1:] != scores.representation.shape[1:] or not len(part):
                continue
            order = np.argsort(part)
            at = order[np.searchsorted(part, keys[unknown], sorter=order).clip(max=len(part) - 1)]
            hit = part[at] == keys[unknown]
            rows, at = unknown[hit], at[hit]
            for block in (slice(i, i + _BLOCK) for i in range(0, len(rows), _BLOCK)):
                scores.representation[rows[block]] = representation[at[block]]
                scores.probabilities[rows[block]] = probabilities[at[block]]
            unknown = unknown[~hit]
        return unknown

    def keep(self, keys: NDArray[np.bytes_], representation: NDArray[np.float32], probabilities: NDArray[np.float32]) -> None:
        """Add a part; where the folder cannot be written, say so in the log and go on."""
        try:
            if not self._folder.exists():
                shutil.rmtree(self._root, ignore_errors=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".part-", dir=self._folder))
            for name, values in zip(_FILES, (keys, representation, probabilities), strict=True):
                np.save(made / f"{name}.npy", values)
            made.chmod(0o755)
            made.rename(made.with_name(made.name.removeprefix(".")))
        except OSError as error:
            _log.info("scores are not kept: %s", error)

    def _parts(self) -> Iterator[tuple[NDArray[np.bytes_], NDArray[np.float32], NDArray[np.float32]]]:
        for folder in sorted(self._folder.glob("part-*")):
            try:
                keys, representation, probabilities = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES)
                if not keys.dtype == _KEY or not len(keys) == len(representation) == len(probabilities):
                    raise ValueError("its files do not match")
            except (OSError, ValueError, EOFError) as error:
                _log.info("%s is damaged and is not used: %s", folder, error)
                continue
            yield np.asarray(keys), representation, probabilities


def digests(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.bytes_]:
    """Digest of each image's bytes, (n,)."""
    return np.fromiter((hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in images), dtype=_KEY)
