"""Names of files and folders for ids and classes that no file can be called: distinct, and the same for the same export."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

__all__ = ["flat_name", "folder_name", "unique_names"]

_LONGEST = 200  # bytes; file systems take 255


def flat_name(id_: str) -> str:
    """File name of a sample in a folder without folders: "cat/1.png" becomes "cat__1.png"."""
    return _shortened(id_.replace("/", "__").replace("\\", "__"))


def folder_name(label: str) -> str:
    """Folder name of a class: what some file system refuses becomes an underscore."""
    name = "".join(c if c.isalnum() or c in " -_.()" else "_" for c in label).strip(". ")
    return _shortened(name or "_")


def unique_names(names: Iterable[str]) -> list[str]:
    """Names of which no two are equal, not even in a file system that ignores case.

    Args:
        names: Names, possibly with folders; the first of several equal ones keeps its name.

    Returns:
        One name each, in order; a number stands before the suffix where one was taken: "a.png", "a-2.png".
    """
    names = list(names)
    wanted = {name.casefold() for name in names}
    used: set[str] = set()
    last: dict[str, int] = {}
    found = []
    for name in names:
        given = name
        while given.casefold() in used or (given != name and given.casefold() in wanted):
            last[name] = last.get(name, 1) + 1
            path = PurePosixPath(name)
            given = path.with_name(f"{path.stem}-{last[name]}{path.suffix}").as_posix()
        used.add(given.casefold())
        found.append(given)
    return found


def _shortened(name: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    path = PurePosixPath(name)
    suffix = path.suffix if len(path.suffix) < 10 else ""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[: _LONGEST - 30].decode(errors='ignore')}-{digest}{suffix}"
