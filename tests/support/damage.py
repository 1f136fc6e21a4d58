"""Damage to files, by hypothesis strategies and by hand: what a disk, an editor or a stranger may leave in a file's place."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ssl_diffusion.models.weights import load_tensors, save_tensors

__all__ = ["DAMAGES", "Damage", "damages", "header_damages", "json_damages", "json_values", "likely_values"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
# What a careless check lets through: paths out of the folder, numbers at the edge of their range, truth for a number.
likely_values = json_values | st.sampled_from(
    ["", "..", "../../run", "/etc/passwd", "nan", 0, -1, 2**31, 2**64, 10**400, True, [], {}, [[]], [None], ["a"], ["a", "a"]]
)


@dataclass(frozen=True)
class Damage:
    """A change to a file.

    Attributes:
        name: Words for a failed test's message.
        apply: Function that does it to a path.
    """

    name: str
    apply: Callable[[Path], object]

    def __repr__(self) -> str:
        return self.name


def _replace(path: Path, content: bytes | None) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def _folder(path: Path) -> None:
    _replace(path, None)
    path.mkdir()


def _pipe(path: Path) -> None:
    _replace(path, None)
    os.mkfifo(path)


def _content(name: str, content: bytes | None) -> Damage:
    return Damage(name, lambda path: _replace(path, content))


# One of each kind, for files of any format.
DAMAGES = (
    _content("removed", None),
    _content("empty", b""),
    _content("garbage", bytes(range(256))),
    _content("zeros", bytes(4096)),
    _content("invalid UTF-8", b'{"a": "\xff"}'),
    _content("a number", b"5"),
    _content("a list", b"[]"),
    _content("an object", b"{}"),
    _content("null", b"null"),
    _content("nested", b"[" * 100_000),
    _content("nested in TOML", b"a = " + b"[" * 100_000),
    _content("NaN", b'{"a": NaN}'),
    _content("a huge number", b'{"a": ' + b"9" * 5000 + b"}"),
    Damage("half", lambda path: os.truncate(path, path.stat().st_size // 2)),
    Damage("twice", lambda path: path.write_bytes(path.read_bytes() * 2)),
    Damage("a folder", _folder),
    Damage("a pipe", _pipe),
    Damage("a dangling link", lambda path: (path.unlink(), path.symlink_to("nowhere"))),
    Damage("a link to itself", lambda path: (path.unlink(), path.symlink_to(path.name))),
    Damage("a device", lambda path: (path.unlink(), path.symlink_to("/dev/zero"))),
)


def damages() -> st.SearchStrategy[Damage]:
    """Any byte changed, the file cut anywhere or longer, or something else in its place."""
    places = st.floats(0, 1, exclude_max=True)  # as a part of the file's length, which differs from file to file

    def mutated(place: float, value: int) -> Damage:
        def change(path: Path) -> None:
            data = bytearray(path.read_bytes())
            if data:
                data[int(place * len(data))] = value
            path.write_bytes(data)

        return Damage(f"byte at {place} = {value}", change)

    def cut(place: float) -> Damage:
        return Damage(f"cut at {place}", lambda path: os.truncate(path, int(place * path.stat().st_size)))

    def longer(more: bytes) -> Damage:
        return Damage(f"longer by {more!r}", lambda path: path.write_bytes(path.read_bytes() + more))

    return st.one_of(
        # Headers stand at the front: half of the changed bytes lie there.
        st.builds(mutated, places | places.map(lambda x: x**8), st.integers(0, 255)),
        st.builds(cut, places),
        st.builds(longer, st.binary(min_size=1, max_size=20)),
        st.builds(lambda content: _content(f"content {content!r}", content), st.binary(max_size=200)),
        st.sampled_from(DAMAGES),
    )


def json_damages(values: st.SearchStrategy[Any] = likely_values) -> st.SearchStrategy[Damage]:
    """One place of a JSON document, at any depth, dropped or replaced by another value; the document itself included."""
    steps = st.lists(st.integers(0, 50), max_size=5)  # counted among the keys or items of a level, modulo their number

    def changed(at: list[int], value: Any, drop: bool) -> Damage:
        def change(path: Path) -> None:
            document = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(_with(document, at, value, drop)), encoding="utf-8")

        return Damage(f"{at} {'dropped' if drop else f'= {value!r}'}", change)

    return st.builds(changed, steps, values, st.booleans())


def _with(document: Any, at: list[int], value: Any, drop: bool) -> Any:
    """A JSON document with one place dropped or replaced."""
    if not at or not document or not isinstance(document, dict | list):
        return value
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = keys[at[0] % len(keys)]
    changed = document.copy()
    inner = changed[key]
    if drop and (len(at) == 1 or not isinstance(inner, dict | list) or not inner):
        del changed[key]
    else:
        changed[key] = _with(inner, at[1:], value, drop)
    return changed


def header_damages(values: st.SearchStrategy[Any] = likely_values) -> st.SearchStrategy[Damage]:
    """One place of the header of a model file dropped or replaced, with a checksum that is right again."""
    steps = st.lists(st.integers(0, 50), min_size=1, max_size=4)

    def changed(at: list[int], value: Any, drop: bool) -> Damage:
        def change(path: Path) -> None:
            tensors, metadata = load_tensors(path)
            found = _with(metadata, at, value, drop)
            save_tensors(path, tensors, found)

        return Damage(f"header at {at} {'dropped' if drop else f'= {value!r}'}", change)

    return st.builds(changed, steps, values, st.booleans())
