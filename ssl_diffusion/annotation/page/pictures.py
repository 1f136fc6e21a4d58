"""Images of a job as the page shows them, each with a digest, so that a label is given to the image that was seen."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.data.decoding import decode
from ssl_diffusion.data.shards.rows import ending_of
from ssl_diffusion.data.thumbnails import shown_bytes
from ssl_diffusion.errors import DataError

__all__ = ["ImageChangedError", "Pictures"]

_KEPT = 10_000  # digests
_SMALL, _WHOLE = 320, 2**16  # pixels
_LARGEST = 2**29  # bytes of an image file


class ImageChangedError(DataError):
    """The image of a sample is not the one that was shown."""


class Pictures:
    """Reads the image files of a job, or its images out of their shards.

    Args:
        job: Job with the samples.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._known: dict[int, tuple[tuple[int | str, ...], str]] = {}  # state of a file or shard, and the digest of the image

    def digest(self, position: int) -> str:
        """Digest of a sample's image file, 32 hexadecimal digits.

        Raises:
            DataError: If the file cannot be read, or is a link to another image than the job was made of; or if its shard has
                changed.
        """
        shards = self.job.shards
        state = _state(self.job.image_file(position).stat()) if shards is None else shards.state(position)
        known = self._known.get(position)
        if known is not None and known[0] == state:
            return known[1]
        return self._read(position)[1]

    def shown(self, position: int, digest: str = "", size: Literal["whole", "page", "small"] = "page") -> tuple[bytes, str]:
        """A sample's image for a browser: bytes and media type.

        Args:
            position: Position of the sample.
            digest: Digest that the file must have; empty for any.
            size: "small" for at most 320 pixels, "whole" for all pixels, "page" for as many as a screen shows, see
                :func:`~ssl_diffusion.data.thumbnails.shown_image`.

        Raises:
            ImageChangedError: If the file has another digest.
            DataError: If it cannot be read.
        """
        content, found = self._read(position)
        if digest and digest != found:
            raise self._changed(position)
        name = str(self.job.store.ids[position])
        if self.job.shards is not None:  # where ids have any ending, or none
            name += ending_of(content, name)
        return shown_bytes(content, name, {"whole": _WHOLE, "page": None, "small": _SMALL}[size])

    def check(self, position: int, digest: str) -> None:
        """Check that a digest is that of a sample's image file.

        Raises:
            ImageChangedError: If it is not.
            DataError: If the file cannot be read.
        """
        if digest != self.digest(position):
            raise self._changed(position)

    def _changed(self, position: int) -> ImageChangedError:
        return ImageChangedError(f"the image of {self.job.store.ids[position]} is not the one that was shown: look at it again")

    def _read(self, position: int) -> tuple[bytes, str]:
        """Content and digest of a sample's image file, or of what stands for it in a shard."""
        if self.job.shards is not None:
            state = self.job.shards.state(position)
            content = self.job.shards.image(position).read_bytes()
            return content, self._remembered(position, content, state)
        path = self.job.image_file(position)
        linked = path.is_symlink() or not path.resolve().is_relative_to(self.job.image_root.resolve())
        try:
            # Whatever is put in the place of a file that was looked at, nothing waits (as for a pipe) or follows a link.
            follow = 0 if linked else getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | follow)
            with os.fdopen(descriptor, "rb") as file:
                facts = os.fstat(descriptor)
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST:
                    raise DataError(f"{path} is not an image file of at most {_LARGEST >> 20} MiB")
                content = file.read()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error})") from None
        if linked:
            self._check_link(position, path, content)
        return content, self._remembered(position, content, _state(facts))

    def _remembered(self, position: int, content: bytes, state: tuple[int | str, ...]) -> str:
        """Digest of an image, which is remembered while the file is in this state."""
        digest = hashlib.sha256(content).hexdigest()[:32]
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[position] = (state, digest)
        return digest

    def _check_link(self, position: int, path: Path, content: bytes) -> None:
        """Check that a link leads to the image that the job has: one that was put there later may lead to any file."""
        own = self.job.images[position]
        pixels = np.empty_like(own)
        with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
            copy.write(content)
            copy.flush()
            problem = decode(copy.name, pixels)
        if isinstance(problem, str) or not np.array_equal(pixels, own):
            raise DataError(f"{path} is a link to something else than the image that the job was made of: put the image there")


def _state(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
