"""Where shards lie: folders, patterns and braces on any file system that fsspec knows.

`photos/`, `photos/*.parquet`, `s3://bucket/pool/*.parquet` and `shards/{000..127}.tar` are such places.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from ssl_diffusion.data.image_files import ENDINGS as IMAGE_ENDINGS
from ssl_diffusion.errors import DataError, first_line
from ssl_diffusion.outputs import shown_path

__all__ = ["ENDINGS", "Place", "expand_braces", "find_shards", "is_sharded", "located", "reading"]

ENDINGS = (".parquet", ".tar")
_PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_STAMPS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "md5Hash", "created")
_MOST = 1_000_000  # files that braces may stand for


@dataclass(frozen=True)
class Place:
    """One shard as it was when it was found.

    Attributes:
        path: Path on its file system.
        name: Path or URL for messages.
        size: Size in bytes.
        stamp: Time of its last change, or whatever else tells one version from another; "" where nothing does.
        system: File system, of fsspec.
    """

    path: str
    name: str
    size: int
    stamp: str
    system: Any

    @property
    def stem(self) -> str:
        """Name of the file without folder and ending."""
        return self.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk of this machine, or one that is mounted."""
        return isinstance(self.system, LocalFileSystem)

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar file, else Parquet."""
        return self.path.lower().endswith(".tar")

    def open(self) -> Any:
        """Open the file for reading, as bytes.

        Raises:
            DataError: If it cannot be read, or is another file than when it was found.
        """
        self.check()
        with reading(self.name):
            return open(self.path, "rb") if isinstance(self.system, LocalFileSystem) else self.system.open(self.path, "rb")

    def check(self) -> None:
        """Raise :class:`DataError` if the file is gone, or is another one than when it was found."""
        with reading(self.name):
            self.system.invalidate_cache(self.path)
            found = self.system.info(self.path)
        if (int(found["size"]), _stamp(found)) != (self.size, self.stamp):
            raise DataError(f"{self.name} has changed since it was first read: start again when nobody writes to it any more")


def is_sharded(given: str | os.PathLike[str]) -> bool:
    """Whether a path, pattern or URL names shards: by its ending, or because it is a folder that holds some, and no images.

    Example:
        >>> is_sharded("pool/*.parquet"), is_sharded("s3://bucket/{000..127}.tar"), is_sharded("labels.csv")
        (True, True, False)
    """
    text = os.fspath(given)
    if text.lower().endswith(ENDINGS) or _PACKED.search(text):
        return True
    if "://" in text:
        return not text.lower().endswith((".csv", ".tsv"))
    if not os.path.isdir(text):
        return False
    try:
        with os.scandir(text) as entries:
            there = [entry for entry in entries if not entry.name.startswith(".")]
        if any(entry.is_dir() or entry.name.lower().endswith(IMAGE_ENDINGS) for entry in there):
            return False  # a folder of images, in which a tar file was left
        return any(entry.name.lower().endswith(ENDINGS) for entry in there)
    except OSError:
        return False


def expand_braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as a shell would write it out.

    Raises:
        DataError: If it stands for more than a million names.

    Example:
        >>> expand_braces("{08..10}-{a,b}.tar")
        ['08-a.tar', '08-b.tar', '09-a.tar', '09-b.tar', '10-a.tar', '10-b.tar']
    """
    done = [pattern]
    while (found := _BRACES.search(done[0])) is not None:
        words = _words(found[1])
        if len(done) * len(words) > _MOST:
            raise DataError(f"{shown_path(pattern)} stands for more than {_MOST:,} names: write a narrower range")
        done = [
            f"{text[: at.start()]}{word}{text[at.end() :]}" for text in done if (at := _BRACES.search(text)) for word in words
        ]
    return done


def find_shards(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Place]:
    """The shards of folders, patterns and URLs, each once, in the order of their paths.

    Args:
        given: One place or several. A folder stands for the Parquet and tar files that lie in it.

    Raises:
        DataError: If a place cannot be read or no shard is there, or both Parquet and tar files are.

    Example:
        >>> [place.name for place in find_shards("shards/{000..127}.tar")]  # doctest: +SKIP
        ['shards/000.tar', 'shards/001.tar', ...]
    """
    texts = [given] if isinstance(given, str | os.PathLike) else list(given)
    found: dict[str, Place] = {}
    for text in texts:
        for place in _under(os.fspath(text)):
            found[place.name] = place
    if not found:
        raise DataError("there is no shard to read: name Parquet or tar files, or a folder that holds some")
    kinds = {place.is_tar: place for place in found.values()}
    if len(kinds) > 1:
        raise DataError(
            f"{kinds[False].name} is Parquet and {kinds[True].name} is tar: read one kind at a time, as *.parquet or *.tar"
        )
    return sorted(found.values(), key=lambda place: place.path)


def located(given: str | os.PathLike[str]) -> str:
    """A folder, pattern or URL as it is found from everywhere: local ones as absolute paths.

    Example:
        >>> located("s3://bucket/*.parquet")
        's3://bucket/*.parquet'
    """
    text = os.fspath(given)
    return text if "://" in text else str(Path(text).resolve())


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what file systems raise into one sentence about a place.

    Args:
        name: Path or URL for messages.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{shown_path(name)} does not exist") from error
    except PermissionError as error:
        why = "" if error.strerror else f" ({first_line(error)})"  # of this machine it says the same again
        raise DataError(f"{shown_path(name)} cannot be read: permission denied{why}") from error
    except ImportError as error:
        raise DataError(f"{shown_path(name)} cannot be read: {_missing(name, error)}") from error
    except MemoryError:
        raise
    except Exception as error:  # every file system has its own errors
        raise DataError(f"{shown_path(name)} cannot be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return why if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {why}"


def _check_bucket(system: Any, path: str) -> None:
    """Raise :class:`DataError` if the bucket of a pattern does not exist, where file systems find no file, and no fault."""
    bucket = path.lstrip("/").partition("/")[0]
    if isinstance(system, LocalFileSystem) or not bucket or "://" in path or glob.has_magic(bucket):
        return
    with reading(str(system.unstrip_protocol(bucket))), suppress(PermissionError):  # of buckets of which a folder may be read
        system.info(bucket)


def _missing(name: str, error: ImportError) -> str:
    """What to install for the file system of a URL."""
    known = known_implementations.get(name.partition("://")[0], {})
    package = str(known.get("class", "")).partition(".")[0]
    if package in ("", "fsspec"):  # which has several file systems itself, and says what they need
        return first_line(error)
    return f"it needs {package}: pip install {package}"


def _under(text: str) -> list[Place]:
    if _PACKED.search(text):
        raise DataError(f"{shown_path(text)} is compressed, so that no image of it can be reached alone: unpack it to .tar")
    patterns = expand_braces(text)
    places: list[Place] = []
    for pattern in patterns:
        with reading(pattern):
            system, path = fsspec.core.url_to_fs(pattern)
            if glob.has_magic(path):
                entries = system.glob(path, detail=True).values()
                if not entries:
                    _check_bucket(system, path)
            else:
                entries = [system.info(path)]
                if entries[0]["type"] == "directory":
                    entries = system.ls(path, detail=True)
            places += [place for entry in entries if (place := _place(system, pattern, entry, path)) is not None]
    if not places:
        raise DataError(
            f"no shard matches {shown_path(text)}: shards are files that end in {' or '.join(ENDINGS)}; "
            "a pattern needs quotation marks where the shell would not find it"
        )
    return places


def _place(system: Any, pattern: str, entry: dict[str, Any], asked: str) -> Place | None:
    """The shard of an entry of a folder; None if it is none."""
    path = str(entry["name"])
    base = path.rsplit("/", 1)[-1]
    if entry["type"] == "directory" or base.startswith("."):
        return None
    if not path.lower().endswith(ENDINGS):
        if path == asked:
            raise DataError(f"{shown_path(pattern)} is no shard: its name must end in {' or '.join(ENDINGS)}")
        return None
    name = path if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))
    if isinstance(system, LocalFileSystem) and (below := os.path.relpath(path)) and not below.startswith(".."):
        name = below
    return Place(
        path, Path(name).as_posix() if isinstance(system, LocalFileSystem) else name, int(entry["size"]), _stamp(entry), system
    )


def _stamp(entry: dict[str, Any]) -> str:
    return next((f"{entry[key]}" for key in _STAMPS if entry.get(key) is not None), "")


def _words(inside: str) -> list[str]:
    if (span := _RANGE.fullmatch(inside)) is None:
        return inside.split(",")
    first, last = span[1], span[2]
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    if abs(int(last) - int(first)) >= _MOST:
        raise DataError(f"{{{inside}}} stands for more than {_MOST:,} names: write a narrower range")
    step = 1 if int(last) >= int(first) else -1
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
