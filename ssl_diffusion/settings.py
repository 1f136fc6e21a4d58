"""Settings: what a file or the command line may say, with types and ranges beside the fields, and errors as one sentence.

A class of settings is a frozen pydantic model without coercion. Values that come from TOML or from text are read by
:func:`_read` where their meaning is plain ("1e3" and 1000.0 are a whole number, "1,2" is a list of two); what is still of the
wrong type, out of range or unknown raises :class:`~ssl_diffusion.errors.RecipeError`.

What the program writes for itself and reads again is a class of :class:`State`, or one of settings; :func:`read_state` is the
one reader of such files.
"""

import contextlib
import math
import numbers
import os
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import from_json

from ssl_diffusion.errors import RecipeError, StateError, nearest_names, shown, unknown_setting
from ssl_diffusion.storage import LARGEST_STATE, damaged, read_regular

__all__ = [
    "LARGEST_SEED",
    "PlainName",
    "Settings",
    "State",
    "bounds",
    "parse_state",
    "parse_toml",
    "read_state",
    "read_toml",
    "shown",
]
__all__ += ["AtLeastOne", "Budget", "Confidence", "Count", "Devices", "Explanations", "Fraction", "Generated", "GiB"]
__all__ += ["HeldOut", "ImageSide"]
__all__ += ["Images", "Port", "SamplerSteps", "Seconds", "Seed", "Steps", "Strength", "Threads", "Trials"]

# Largest seed of a recipe, study or job: NumPy's legacy generators, and so scikit-learn's splitters, take no larger one.
LARGEST_SEED = 2**32 - 1

_M = TypeVar("_M", bound=BaseModel)

# Ranges that settings and options of the command line have in common; options take theirs from here, see :func:`bounds`.
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
AtLeastOne = Annotated[int, Field(ge=1, le=1_000_000_000)]
Budget = Annotated[int, Field(ge=-1, le=1_000_000_000)]
Images = Annotated[int, Field(ge=1, le=1_000_000)]  # to be made, or in a batch
Explanations = Annotated[int, Field(ge=1, le=9)]  # of one image for one class
Generated = Annotated[int, Field(ge=10, le=1_000_000)]  # to be compared with real ones
SamplerSteps = Annotated[int, Field(ge=1, le=10_000)]
Trials = Annotated[int, Field(ge=1, le=100_000)]
ImageSide = Annotated[int, Field(ge=-1, le=65_536)]
Devices = Annotated[int, Field(ge=1, le=1024)]
Threads = Annotated[int, Field(ge=0, le=65_536)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Fraction = Annotated[float, Field(ge=0, le=1)]
HeldOut = Annotated[float, Field(ge=0, le=0.9)]
Confidence = Annotated[float, Field(ge=0, le=0.999999)]
Strength = Annotated[float, Field(ge=0, le=1000)]  # of guidance; exponents
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]  # a year
GiB = Annotated[float, Field(ge=0, le=1_048_576)]

_TYPES = {
    "int_type": "is a whole number",
    "float_type": "is a number",
    "bool_type": "is true or false",
    "string_type": "is text",
    "string_unicode": "is text in UTF-8",
    "tuple_type": "is a list",
    "model_type": "is a section",
    "model_attributes_type": "is a section",
}
_LENGTHS = ("min_length", "max_length")
_RANGES = {"greater_than_equal", "less_than_equal", "greater_than", "less_than", "finite_number"}


class Settings(BaseModel):
    """Base of all settings: immutable, without unknown keys, NaN or infinity; errors are :class:`RecipeError`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    # Section of a file that holds these settings; the parts of a field that is settings itself stand beside that section.
    section: ClassVar[str] = ""

    def __init__(self, /, **values: Any) -> None:
        with _sentences(type(self), ""):
            super().__init__(**values)

    # As pydantic's own: nested settings are validated in place, so that an error knows the whole way to its field.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """Settings from nested mappings, as TOML and JSON have them.

        Args:
            values: Values by field; fields that are left out keep their defaults.
            source: Origin of the values that errors name: a file, an option.

        Raises:
            RecipeError: if a setting is unknown, of the wrong type or out of range.
        """
        with _sentences(cls, source):
            return cls.model_validate(dict(values) if isinstance(values, Mapping) else values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for TOML and JSON; :meth:`from_dict` reverses it."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; raises :class:`RecipeError` as the constructor does."""
        return type(self)(**{**dict(self), **changes})

    @classmethod
    def setting_names(cls) -> list[str]:
        """Names of all settings, as "section.name"."""
        found = []
        for name, info in cls.model_fields.items():
            inner = _settings_in(info.annotation)
            if inner is None:
                found.append(_joined(cls.section, name))
            else:
                found += [key if cls.section else _joined(name, key) for key in inner.setting_names()]
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _read_field(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return _read(value, cls.model_fields[info.field_name].annotation)


def bounds(kind: Any) -> tuple[float, float]:
    """Smallest and largest value of a type with a range, such as :data:`Seed`."""
    field: Any = typing.get_args(kind)[1]
    low, high = (next(n for m in field.metadata if (n := getattr(m, name, None)) is not None) for name in ("ge", "le"))
    return low, high


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        RecipeError: if the file cannot be read, or is not TOML in UTF-8.
    """
    try:
        text = read_regular(path).decode()
    except StateError as error:
        raise RecipeError(str(error)) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} cannot be read as text in UTF-8: {error}") from None
    return parse_toml(text, str(path))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The content of a TOML text; errors name `source`. A byte order mark, which some editors write, is passed over."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: also whole numbers of thousands of digits
        raise RecipeError(f"{source} is not valid TOML: {error}") from None


class State(BaseModel):
    """Base of what the program writes for itself and reads again: immutable and strict, without NaN or infinity.

    Unknown keys are ignored, since a newer version may have written them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _check_plain(name: str) -> str:
    if name in ("", ".", "..") or any(c in "/\\:" or ord(c) < ord(" ") for c in name):
        raise ValueError(f"{shown(name)} is no plain file name")
    return name


# Name of a file or folder in a folder that is known: no path, so that no state file points outside of its own folder.
PlainName = Annotated[str, AfterValidator(_check_plain)]


def read_state(path: Path, kind: type[_M], *, remedy: str, nan: bool = False, largest: int = LARGEST_STATE) -> _M:
    """Read and check a file that the program keeps for itself; the one reader of all of them.

    Args:
        path: File to read, JSON or (with the suffix .toml) TOML.
        kind: Class that describes the content: a :class:`State`, a class of :class:`Settings`, or another pydantic model.
        remedy: Advice that ends the sentence of an error, such as "fit again".
        nan: Whether JSON may hold NaN and infinity, in fields that allow them.
        largest: Largest size in bytes that is read.

    Returns:
        The content, checked.

    Raises:
        StateError: If the file is missing, a folder, a pipe or a device, too large, damaged, or holds something else than
            `kind` describes. The sentence names the file, the fault and the remedy.

    Example:
        >>> class Facts(State):
        ...     n_train: int
        >>> read_state(Path("run/pool.json"), Facts, remedy="fit again").n_train
    """
    data = read_regular(path, remedy=remedy, largest=largest)
    if path.suffix != ".toml":
        return parse_state(data, kind, path, remedy=remedy, nan=nan)
    try:
        values = parse_toml(data.decode(), str(path))
        return kind.from_dict(values, str(path)) if issubclass(kind, Settings) else kind.model_validate(values)
    except UnicodeDecodeError as error:
        raise damaged(path, f"is damaged: it is not UTF-8 at byte {error.start}", remedy) from None
    except RecipeError as error:
        raise StateError(f"{error}; {remedy}") from None
    except ValidationError as error:
        raise damaged(path, f"is damaged: {_fault(error)}", remedy) from None


def parse_state(data: str | bytes, kind: type[_M], path: Path, *, remedy: str, nan: bool = False) -> _M:
    """Check JSON that stands in a file of another format, such as the header of a model file; see :func:`read_state`.

    Args:
        data: JSON in UTF-8.
        kind: Class that describes the content.
        path: File that an error names.
        remedy: Advice that ends the sentence of an error.
        nan: Whether NaN and infinity may occur, in fields that allow them.

    Raises:
        StateError: If the JSON is damaged, or holds something else than `kind` describes.
    """
    try:
        from_json(data, allow_inf_nan=nan)  # also where a field takes anything
        if issubclass(kind, Settings):
            return kind.from_dict(from_json(data), "")
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise damaged(path, f"is damaged: {_fault(error)}", remedy) from None
    except RecipeError as error:
        raise damaged(path, f"is damaged: {error}", remedy) from None
    except ValueError as error:
        raise damaged(path, f"is damaged: it is not valid JSON ({error})" if data else "is empty", remedy) from None


def _fault(error: ValidationError) -> str:
    """The first fault that pydantic found, as part of a sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(shown(step)[1:-1] if isinstance(step, str) else str(step) for step in first["loc"])
    what = str(first.get("ctx", {}).get("error") or first["msg"])
    return f"{where}: {what[:1].lower()}{what[1:]}" if where else f"{what[:1].lower()}{what[1:]}"


def _read(value: Any, kind: Any) -> Any:
    """`value` as the type `kind` where its meaning is plain; else as it is, for pydantic to refuse."""
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.replace("[", "").replace("]", "").split(",") if part.strip()]
        return tuple(_read(part, _item(kind, i)) for i, part in enumerate(value)) if isinstance(value, list | tuple) else value
    if kind is bool:
        return {"true": True, "false": False}.get(str(value).lower(), value)
    if kind is str:
        return _text(value)
    if kind in (int, float) and isinstance(value, str | numbers.Real) and not isinstance(value, bool):
        return _number(value, kind)
    if _settings_in(kind) is not None and isinstance(value, Mapping):
        return dict(value)
    return value


def _item(kind: Any, index: int) -> Any:
    """The type of an item of a tuple type; of one that is too short for it, that of the first."""
    items = typing.get_args(kind)
    return items[index] if Ellipsis not in items and index < len(items) else items[0]


def _text(value: Any) -> Any:
    if isinstance(value, os.PathLike) or (isinstance(value, int | float) and not isinstance(value, bool)):
        value = str(value)
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{shown(value)} cannot be written in UTF-8; choose another name")
    return value


def _number(value: Any, kind: type) -> Any:
    number: int | float
    try:
        number = int(value) if isinstance(value, str | numbers.Integral) else float(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            return value
    if kind is int:  # not by way of float, which would round large numbers
        return int(number) if isinstance(number, int) or number.is_integer() else value
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


@contextlib.contextmanager
def _sentences(kind: type[Settings], source: str) -> Iterator[None]:
    """Turns a :class:`ValidationError` into a :class:`RecipeError` that names `source` and the first wrong setting."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = _sentence(kind, first["loc"], first["type"], first["input"], first.get("ctx", {}).get("error") or first["msg"])
        raise RecipeError(f"{source}: {said}" if source else said) from None


def _sentence(kind: type[Settings], loc: tuple[int | str, ...], error: str, value: Any, message: object) -> str:
    key, field, metadata = _place(kind, loc)
    if error == "extra_forbidden":
        if isinstance(value, Mapping) and value:
            key = f"{key}.{next(iter(value))}"
        return unknown_setting(key, kind.setting_names())
    if error == "value_error" and (inner := _settings_in(field)) is not None:  # a check of several fields names the first
        return _joined(inner.section or key, str(message))
    key = key or str(loc[-1] if loc else "what is given")
    if error in _TYPES:
        return f"{key} {_TYPES[error]}, not {shown(value)}"
    if error == "literal_error":
        return f"{key} cannot be {shown(value)}; {_nearest(value, typing.get_args(field))}"
    if error in _RANGES:
        return f"{key} must be in {_range(metadata)}, not {shown(value)}"
    if error in ("too_short", "too_long"):
        low, high = (next((n for m in metadata if (n := getattr(m, name, None)) is not None), None) for name in _LENGTHS)
        return f"{key} needs {low or 0} to {high} entries, not {len(value)}"
    return f"{key}: {message}"


def _place(kind: type[Settings], loc: tuple[int | str, ...]) -> tuple[str, Any, list[Any]]:
    """The place of an error: its key as a user writes it, the type of the field there, and the field's constraints."""
    key, field, metadata = "", kind, []  # type: str, Any, list[Any]
    for step in loc:
        settings = _settings_in(field)
        if settings is not None:
            info = settings.model_fields.get(str(step))
            field, metadata = (info.annotation, info.metadata) if info is not None else (None, [])
            if not settings.section:
                key = _joined(key, str(step))
            elif _settings_in(field) is None:
                key = _joined(settings.section, str(step))
        elif typing.get_origin(field) is tuple:
            field, metadata = _item(field, int(step)), []
            if typing.get_origin(field) is Annotated:
                field, *found = typing.get_args(field)
                metadata = [each for info in found for each in info.metadata]
    return key, field, metadata


def _range(metadata: list[Any]) -> str:
    """Constraints as an interval: "[0, 1]", "(0, inf)"."""
    low, high = "(-inf", "inf)"
    for each in metadata:
        for name, bracket in (("ge", "["), ("gt", "(")):
            if (bound := getattr(each, name, None)) is not None:
                low = f"{bracket}{bound:.10g}"
        for name, bracket in (("le", "]"), ("lt", ")")):
            if (bound := getattr(each, name, None)) is not None:
                high = f"{bound:.10g}{bracket}"
    return f"{low}, {high}"


def _settings_in(kind: Any) -> type[Settings] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def _joined(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _nearest(value: Any, known: Iterable[str]) -> str:
    return nearest_names(value[:80] if isinstance(value, str) else "", known)
