"""What a model makes of images is kept, so that it is computed once.

A store keeps it in one of two forms:

* parts, for queries: projected representations and class probabilities by the digest of the image's bytes, not by its place
  or name. Parts are written atomically: what a killed query had finished is kept, queries at the same time do not
  disturb each other, and the folder may be deleted at any time. Those of another model are deleted when the present one first
  adds some. :func:`store_of` is the store of a run, its folder `scores/`.
* whole files, for annotation jobs and studies: the unprojected representations of all images, in their order, as one
  memory-mapped array.
"""

import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import RunError, StateError
from ssl_diffusion.inference.projection import DIMENSIONS
from ssl_diffusion.inference.run import Run
from ssl_diffusion.storage import (
    IN_MEMORY,
    allocate,
    atomic_file,
    atomic_folder,
    atomic_write_text,
    clear_place,
    create_array,
    map_array,
    read_regular,
    verify_checksums,
    write_checksums,
)

__all__ = ["EmbeddingStore", "Embeddings", "digests", "store_of"]

_log = logging.getLogger(__name__)

_KEY = np.dtype("S16")
_BLOCK = 8192
_FILES = ("keys", "representation", "probabilities")
_NAMES = tuple(f"{name}.npy" for name in _FILES)
_FOLDER = re.compile("[0-9a-f]{24}")


class Embeddings:
    """Embeddings of N images.

    Attributes:
        representation: Representations, float32 (N, F); memory-mapped where they are large.
        probabilities: Class probabilities, float32 (N, K); K is 0 where there are none.
    """

    def __init__(self, n: int, n_features: int, n_classes: int) -> None:
        self.representation = allocate((n, n_features), np.float32, IN_MEMORY)
        self.probabilities = np.empty((n, n_classes), dtype=np.float32)


class EmbeddingStore:
    """Embeddings in a folder.

    Args:
        folder: Folder of the store; created when something is kept.
        identity: Description of model, precision and the like; embeddings of another identity are not used.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._root, self._identity = folder, identity
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:24]
        self._verified: set[str] = set()  # parts whose checksums were right, as parts are never changed

    @property
    def empty(self) -> bool:
        """Whether no part is kept for this identity."""
        return next(self._folder.glob("part-*"), None) is None

    def fill(self, keys: NDArray[np.bytes_], scores: Embeddings) -> NDArray[np.int64]:
        """Copy what is known of images into their rows.

        Args:
            keys: Digests of the images, (N,); see :func:`digests`.
            scores: Embeddings to fill, of N images.

        Returns:
            Rows of which nothing is known, int64 (n,); they are left as they were.
        """
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
        """Add a part; where the folder cannot be written, this is logged and nothing is kept.

        Args:
            keys: Digests of the images, (n,).
            representation: Representations, float32 (n, F).
            probabilities: Class probabilities, float32 (n, K).
        """
        try:
            if not self._folder.exists():
                self._delete_others()
            with atomic_folder(self._folder / f"part-{uuid.uuid4().hex[:8]}") as made:
                for name, values in zip(_FILES, (keys, representation, probabilities), strict=True):
                    np.save(made / f"{name}.npy", values, allow_pickle=False)
                write_checksums(made, *_NAMES)
        except (OSError, RunError) as error:
            _log.info("scores are not kept: %s", error)

    def whole(self, name: str, shape: tuple[int, int], fill: Callable[[NDArray[np.float32]], None]) -> NDArray[np.float32]:
        """Representations of all images in one file, which is computed if it is not there.

        The file is `NAME.npy` in the folder of the store, beside it `NAME.txt` with the identity of the store and the SHA-256
        of the file. A file of another identity or shape is made again, and so is one that is damaged, which is logged as a
        warning. It is written atomically.

        Args:
            name: Name of the file.
            shape: Numbers of images and features, (N, F).
            fill: Function that computes the representations into an array, float32 (N, F).

        Returns:
            Representations, float32 (N, F), memory-mapped and read-only.

        Raises:
            DataError: If the disk is too full for the file.
            RunError: If the file cannot be written.
        """
        path, note = self._root / f"{name}.npy", self._root / f"{name}.txt"
        if (found := self._opened(path, note, shape)) is not None:
            return found
        for place in (path, note):
            clear_place(place)
        with atomic_file(path) as temporary:
            made = create_array(temporary, shape, np.float32)
            fill(made)
            made.flush()
            note.unlink(missing_ok=True)  # it belongs to the file that is replaced
        atomic_write_text(note, self._note(path))
        return map_array(path, np.float32, shape)

    def _opened(self, path: Path, note: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        if not os.path.lexists(note) or not os.path.lexists(path):
            return None
        try:
            said = read_regular(note).decode(errors="replace")
            if not said.startswith(self._identity + "\n"):
                return None
            values = map_array(path, np.float32, shape)
            if said != self._note(path):
                raise StateError(f"{path} is damaged: its checksum is another one than when it was written")
        except (StateError, OSError) as error:
            _log.warning("what is kept of images is made again: %s", error)
            return None
        return values

    def _note(self, path: Path) -> str:
        with path.open("rb") as file:
            return f"{self._identity}\nsha256 {hashlib.file_digest(file, 'sha256').hexdigest()}\n"

    def _delete_others(self) -> None:
        for folder in self._root.glob("*"):
            if _FOLDER.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _parts(self) -> Iterator[tuple[NDArray[np.bytes_], NDArray[np.float32], NDArray[np.float32]]]:
        for folder in sorted(self._folder.glob("part-*")):
            try:
                if folder.name not in self._verified:
                    verify_checksums(folder, *_NAMES)
                    self._verified.add(folder.name)
                keys = map_array(folder / _NAMES[0], _KEY, (None,))
                representation, probabilities = (map_array(folder / n, np.float32, (len(keys), None)) for n in _NAMES[1:])
            except (StateError, OSError) as error:
                _log.warning("what is kept of images is made again: %s", error)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            yield np.asarray(keys), representation, probabilities


def digests(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.bytes_]:
    """Digests of the bytes of images, (n,).

    Example:
        >>> len(set(digests([np.zeros((1, 2, 2), np.uint8), np.ones((1, 2, 2), np.uint8)])))
        2
    """
    return np.fromiter((hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in images), dtype=_KEY)


def store_of(run: Run) -> EmbeddingStore:
    """The store in the folder of a run, for what its present model makes of images.

    Example:
        >>> store = store_of(load_run("runs/digits-40-s0"))
    """
    device = next(run.model.parameters()).device.type
    return EmbeddingStore(run.path / "scores", f"1 {run.digest()} {run.precision} {device} {DIMENSIONS}")
