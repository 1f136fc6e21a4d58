"""Paths that users give: which can be read, which can be written, and how what was written is known again.

Whether a path can be read is judged by :func:`path_fault`, and whether one can be written by :func:`place_fault`, for all
commands.

Every folder that receives an output holds a manifest, `.ssld-outputs.json`: names, sizes and SHA-256 of what was written there.
An existing output is replaced only if the manifest lists it and it has not changed since; everything else in the place, the
user's own, is never removed. Folders of images that were read are refused as outputs: what is written there would be read as
images the next time.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import field_validator

from ssl_diffusion.errors import RunError, StateError
from ssl_diffusion.settings import State, read_state, shown
from ssl_diffusion.storage import HERE, TEMPORARY, atomic_file, atomic_folder, atomic_write_text, cannot_write

__all__ = [
    "MANIFEST",
    "check_output_file",
    "check_output_folder",
    "output_file",
    "output_folder",
    "path_fault",
    "place_fault",
    "process_lives",
    "refuse_inputs",
    "remove_left",
    "shown_path",
    "write_output",
]

MANIFEST = ".ssld-outputs.json"
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # made by file managers, wherever somebody looks
_SHOWN = 3
_SHOWN_CHARACTERS = 120  # of a path
_URL = re.compile(r"([a-z][a-z0-9+.-]+:)/+")  # of which Path leaves one slash
_SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def path_fault(path: Path, wanted: Literal["any", "file", "folder"] = "any") -> str | None:
    """Why a path cannot be read, as a sentence that begins with it; None if it can.

    Nothing is opened, so that a named pipe keeps nobody waiting.

    Args:
        path: Path to judge; links are followed.
        wanted: Kind that must be there, a regular file or a folder; "any" allows both, and a path at which nothing is.

    Example:
        >>> path_fault(Path("photo.png/cat.jpg"))
        'photo.png/cat.jpg cannot be reached: photo.png is a file, not a folder'
    """
    name, found = shown_path(path), _look(path)
    if isinstance(found, str):
        return found
    if found is None:
        return None if wanted == "any" else f"{name} does not exist"
    is_folder = stat.S_ISDIR(found)
    if is_folder and wanted == "file":
        return f"{name} is a folder, not a file"
    if not is_folder and wanted == "folder":
        return f"{name} is a file, not a folder"
    if not os.access(path, os.R_OK | os.X_OK if is_folder else os.R_OK):
        return f"{name} cannot be read: permission denied"
    return None


def place_fault(path: Path) -> str | None:
    """Why nothing can be written at a path, as a sentence; None if it can, as far as can be told without writing.

    Whether something is there already is not asked.

    Args:
        path: File or folder to write; missing folders above it count as made.
    """
    if isinstance(found := _look(path), str):
        return found
    above = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if above is None:
        return f"{shown_path(path)} cannot be written: there is no folder above it"
    if not above.is_dir():
        return f"{shown_path(path)} cannot be written: {shown_path(above)} is a file, not a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY
        why = "is on a disk that is read-only" if read_only else "may not be written to"
        return f"{shown_path(path)} cannot be written: the folder {shown_path(above)} {why}"
    return None


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path in a message: cut if it is long, quoted if it has characters that cannot be printed."""
    text = os.fspath(path)
    if not text.isprintable():
        text = ascii(text)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS // 2]}...{text[-_SHOWN_CHARACTERS // 2 :]}"


def _look(path: Path) -> str | int | None:
    """What is at a path: its mode, None if nothing is, or why it can neither be read nor written."""
    name, text = shown_path(path), os.fspath(path)
    if "\0" in text:
        return f"{name} holds a NUL character, which no file name can have"
    if not _is_utf8(text):
        return f"{name} is not valid UTF-8: rename it"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if (url := _URL.match(text)) is not None:
            return f"{url[1]}//{shown_path(text[url.end() :])} is a URL: of those only shards can be read"
        link = os.readlink(path) if path.is_symlink() else None
        return f"{name} is a link to {shown_path(link)}, which does not exist" if link is not None else None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"{name} is too long for the name of a file"
        if error.errno == errno.ELOOP:
            return f"{name} is a link that leads back to itself"
        if error.errno == errno.ENOTDIR:
            file = next(parent for parent in path.parents if parent.exists())
            return f"{name} cannot be reached: {shown_path(file)} is a file, not a folder"
        return f"{name} cannot be reached: {(error.strerror or str(error)).lower()}"
    if (special := _SPECIAL.get(stat.S_IFMT(mode))) is not None:
        return f"{name} is {special}: only regular files and folders are read and written"
    return mode


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Written(State):
    """A file that was written."""

    bytes: int
    sha256: str


class _Manifest(State):
    """Content of :data:`MANIFEST`; names of files by their path below the folder."""

    files: dict[str, _Written]

    @field_validator("files")
    @classmethod
    def _check_inside(cls, files: dict[str, _Written]) -> dict[str, _Written]:
        for name in files:
            if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{shown(name)} does not lie in the folder")
        return files


def check_output_file(out: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> None:
    """Check that a file may be written, before the work that fills it.

    Args:
        out: File to write.
        overwrite: Whether an earlier output of the same name may be replaced.
        inputs: Files and folders that are read. No input is replaced, and no picture is written into a folder of images.

    Raises:
        RunError: If the place is taken, cannot be written, or belongs to the inputs.
    """
    _check_place(out)
    try:
        place = out.resolve()
        for read in map(Path.resolve, inputs):
            if place == read or (out.suffix.lower() in _IMAGES and read in place.parents and read.is_dir()):
                raise RunError(f"{out} belongs to the images that are read ({read}); choose another --out")
        if out.is_dir():
            raise RunError(f"{out} is a folder; --out names a file")
        if not out.exists():
            return
        if not overwrite:
            raise RunError(f"{out} exists; --overwrite replaces it, --out chooses another file")
        if not _is_ours(out, _manifest(out.parent).get(out.name)):
            raise RunError(
                f"{out} was not written by ssld, or was changed since, so it is not replaced; move it, or choose another --out"
            )
    except OSError as error:
        raise cannot_write(out, error) from error


def check_output_folder(out: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> None:
    """Check that a folder may be written, before the work that fills it.

    Args:
        out: Folder to write. It may exist if it is empty, or holds nothing but an earlier output and `overwrite` is set.
        overwrite: Whether an earlier output may be replaced.
        inputs: Files and folders that are read. The output may not be one of them, lie in one, or hold one.

    Raises:
        RunError: If the place is taken, cannot be written, or belongs to the inputs.
    """
    _check_place(out)
    try:
        refuse_inputs(out, inputs)
        if not out.exists():
            return
        if not out.is_dir():
            raise RunError(f"{out} is a file; --out names a folder")
        if not any(out.iterdir()):
            return
        if not (out / MANIFEST).exists():
            raise RunError(f"{out} exists and was not written by this command; choose another --out")
        if not overwrite:
            raise RunError(f"{out} exists; --overwrite replaces it, --out chooses another folder")
        if foreign := _foreign(out):
            names = ", ".join(foreign[:_SHOWN]) + (" ..." if len(foreign) > _SHOWN else "")
            raise RunError(
                f"{out} holds files that ssld did not write, or that were changed since ({names}), so --overwrite keeps it; "
                "move them, or choose another --out"
            )
    except OSError as error:
        raise cannot_write(out, error) from error


def refuse_inputs(out: Path, inputs: Sequence[Path]) -> None:
    """Raise :class:`RunError` if a folder to write is one that is read, lies in one, or holds one."""
    place = out.resolve()
    for given in inputs:
        read = given.resolve()
        if place == read or read in place.parents:
            raise RunError(f"{out} lies in {given}, which holds the images that are read; choose another --out")
        if place in read.parents and out.exists():
            raise RunError(f"{out} holds {given}, which is read; choose another --out")


@contextmanager
def output_file(out: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary path that becomes `out` when the block ends well, and vanishes if it does not.

    Args:
        out: File to write; its folder is made if need be.
        overwrite: Whether an earlier output of the same name may be replaced.
        inputs: See :func:`check_output_file`.

    Raises:
        RunError: If the place is taken or cannot be written.
    """
    check_output_file(out, overwrite=overwrite, inputs=inputs)
    with atomic_file(out) as temporary:
        yield temporary
        facts = _facts(temporary)
    _save_manifest(out.parent, {**_manifest(out.parent), out.name: facts})


def write_output(out: Path, text: str, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> None:
    """Write a text file as an output; see :func:`output_file`."""
    with output_file(out, overwrite=overwrite, inputs=inputs) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def output_folder(out: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and vanishes if it does not.

    Args:
        out: Folder to write; see :func:`check_output_folder`.
        overwrite: Whether an earlier output may be replaced.
        inputs: See :func:`check_output_folder`.

    Raises:
        RunError: If the place is taken or cannot be written.
    """
    check_output_folder(out, overwrite=overwrite, inputs=inputs)
    with atomic_folder(out, discard=_remove) as made:
        yield made
        files = (path for path in sorted(made.rglob("*")) if path.is_file())
        _save_manifest(made, {path.relative_to(made).as_posix(): _facts(path) for path in files})
        check_output_folder(out, overwrite=overwrite, inputs=inputs)  # the work may have taken hours


def _check_place(out: Path) -> None:
    if (fault := place_fault(out)) is not None:
        raise RunError(f"{fault}; choose another --out")
    remove_left(out.parent)


@lru_cache(maxsize=1024)  # once a folder and process
def remove_left(folder: Path) -> None:
    """Remove what writers on this machine that were killed have left in a folder; those that live are let alone.

    Args:
        folder: Folder in which outputs, or jobs, are made.
    """
    if os.name == "nt":  # where a process cannot be asked for without harm
        return
    pattern = re.compile(rf"{re.escape(TEMPORARY)}-(\d+)-{HERE}-[0-9a-f]{{8}}(\.\w+)?")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            if found is None or process_lives(int(found[1])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)


def process_lives(process: int) -> bool:
    """Whether a process of this machine is running, whoever owns it; not for Windows, where asking would end it.

    Args:
        process: Number of the process.
    """
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What was written to a folder; empty where that is not known (any more)."""
    try:
        found = read_state(folder / MANIFEST, _Manifest, remedy="", largest=2**30)
    except StateError:
        return {}
    return {name: dict(facts) for name, facts in found.files.items()}


def _save_manifest(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    text = json.dumps({"written by": "ssld", "files": files}, indent=1) + "\n"
    atomic_write_text(folder / MANIFEST, text)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _is_ours(path: Path, facts: dict[str, Any] | None) -> bool:
    return isinstance(facts, dict) and path.stat().st_size == facts.get("bytes") and _facts(path) == facts


def _foreign(folder: Path) -> list[str]:
    """Files and links below a folder that the manifest does not list, or lists with another content."""
    files = _manifest(folder)
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST or path.name in _LITTER or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file() or not _is_ours(path, files.get(name)):
            found.append(name)
    return found


def _remove(folder: Path) -> None:
    """Remove the files of an earlier output and the folders that are empty then."""
    for name in _manifest(folder):
        with suppress(OSError):
            (folder / name).unlink()
    for name in (MANIFEST, *_LITTER):
        with suppress(OSError):
            (folder / name).unlink()
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        folder.rmdir()
