"""Wrong values of every option and every setting, made from what the program says of them; new ones are covered, too."""

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer
from ssl_diffusion.cli.main import app

from ssl_diffusion.settings import Settings

__all__ = ["Option", "leaves", "options", "wrong_texts", "wrong_toml", "wrong_words"]

MANY = "9" * 400
_NO_NUMBERS = ("", "zzz", "nan", "inf", "[1, 2]", f"-{MANY}", MANY)
_NO_PATHS = {
    "{nul}": "nul",
    "{bytes}": "utf-8",
    "{long}": "too long|no recipe",
    "fifo": "pipe",
    "socket": "socket",
    "/dev/null": "device",
    "x.png/y": "x.png is a file|x.png/y",
    "dangling": "does not exist|nowhere",
    "round": "leads back",
}


class Option(NamedTuple):
    """An option of a command, as the signature of its function describes it."""

    command: tuple[str, ...]
    flag: str
    kind: type
    low: float | None
    high: float | None


def options() -> Iterator[Option]:
    """Every option of every command."""
    for path, info, made in _commands(app, (), typer.main.get_command(app)):
        flags = {p.name: next((o for o in p.opts if o.startswith("--")), "") for p in made.params}
        assert info.callback is not None
        for name, parameter in inspect.signature(info.callback).parameters.items():
            annotated, about = typing.get_args(parameter.annotation)
            kinds = [k for k in typing.get_args(annotated) or (annotated,) if k is not type(None)]
            kind = next(iter(typing.get_args(kinds[0])), kinds[0])
            if flags.get(name):
                yield Option(path, flags[name], kind, about.min, about.max)


def _commands(group: typer.Typer, path: tuple[str, ...], made: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    for info in group.registered_commands:
        assert info.name is not None
        yield (*path, info.name), info, made.commands[info.name]
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        assert inner.name is not None
        yield from _commands(inner.typer_instance, (*path, inner.name), made.commands[inner.name])


def wrong_words(option: Option) -> dict[str, str]:
    """Words that an option must be refused with, and a pattern of the message for each."""
    if option.kind is bool:
        return {f"{option.flag}=yes": option.flag, f"{option.flag}=": option.flag}
    if option.kind is Path:
        return {f"{option.flag} {path}": said for path, said in _NO_PATHS.items()}
    if option.kind is str:
        return {f"{option.flag} {word}": "nul|utf-8" for word in ("{nul}", "{bytes}")}
    values = [*_NO_NUMBERS, *(["1.5"] if option.kind is int else [])]
    if option.low is not None:
        values += [_text(option.low - 1), _text((option.high or 0) + 1), _text((option.high or 0) * 10 + 1)]
    return {f"{option.flag}='{value}'": option.flag for value in values}


def _text(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def leaves(kind: type[Settings]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of settings and their part of the JSON schema."""
    schema = kind.model_json_schema()

    def walk(part: dict[str, Any], section: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, entry in part["properties"].items():
            if "$ref" in entry:
                inner = name if not kind.section else ""
                yield from walk(schema["$defs"][entry["$ref"].rpartition("/")[2]], inner) if inner else ()
            else:
                yield f"{section}.{name}" if section else name, entry

    return walk(schema, kind.section)


def wrong_texts(entry: dict[str, Any]) -> list[str]:
    """Texts of `--set` that a setting must be refused with."""
    kind = entry["type"]
    if kind in ("integer", "number"):
        return [*_NO_NUMBERS, "true", *(["1.5"] if kind == "integer" else []), *_outside(entry)]
    if kind == "boolean":
        return ["", "zzz", "2", "nan", "[true]", "yes", MANY]
    if "enum" in entry:
        return ["", "zzz", "nan", "true", entry["enum"][-1].upper() + "X", "{nul}", "{bytes}", MANY]
    if kind == "array" and entry["items"]["type"] != "string":
        low, high = entry.get("minItems", 0), entry.get("maxItems", 0)
        return [
            *(["", "[]"] if low else []),
            "zzz",
            "1,,x",
            "nan",
            "1.5",
            ",".join(["1"] * (high + 1)),
            *_outside(entry["items"]),
        ]
    return ["{bytes}"]


def wrong_toml(entry: dict[str, Any]) -> list[str]:
    """Values in TOML that a setting must be refused with."""
    kind = entry["type"]
    never = ["true", "[[]]", "{a = 1}", "1979-05-27"]
    if kind in ("integer", "number"):
        some = ['""', '"zzz"', "nan", "-inf", "[]", MANY]
        return [*never, *some, *(["1.5"] if kind == "integer" else []), *_outside(entry)]
    if kind == "boolean":
        return [*never[1:], '""', '"zzz"', "2", "1.5", "nan", "[]"]
    if "enum" in entry:
        return [*never, '""', '"zzz"', '"\\u0000"', "1", "nan", "[]"]
    if kind == "string":
        return [*never, "[]"]
    if entry["items"]["type"] == "string":
        return never
    low, high = entry.get("minItems", 0), entry.get("maxItems", 0)
    many = f"[{', '.join(['1'] * (high + 1))}]"
    return [*never, *(["[]", '""'] if low else []), "5", "nan", '["zzz"]', "[1.5]", "[nan]", many, *_in_lists(entry["items"])]


def _in_lists(entry: dict[str, Any]) -> list[str]:
    return [f"[{value}]" for value in _outside(entry)]


def _outside(entry: dict[str, Any]) -> list[str]:
    """Numbers below and above the range of a setting."""
    step = 1 if entry["type"] == "integer" else 0.5
    low = entry["minimum"] - step if "minimum" in entry else entry["exclusiveMinimum"]
    return [_text(low), _text(entry["maximum"] + step), _text(-10 * abs(low) - 7)]
