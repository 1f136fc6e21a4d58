"""What other programs write about labels, as pydantic models: JSON lines, Prodigy's answers, Label Studio's tasks.

Every level is checked before anything is imported; an error names the place in the file and the field.
"""

import json
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["LabelLine", "ProdigyLine", "SetLine", "Task", "check", "parse_json"]

_M = TypeVar("_M", bound=BaseModel)
_LONGEST = 10_000  # characters of an id, a label or a name


def _as_text(value: Any) -> Any:
    """A whole number as its text: ids and classes such as 7 are often written without quotes."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # thousands of digits
            return value
    return value


def _check_text(text: str) -> str:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{shown(text)} has characters that cannot be stored")
    if len(text) > _LONGEST:
        raise ValueError(f"{shown(text)} is longer than {_LONGEST} characters")
    return text


_Text = Annotated[str, AfterValidator(_check_text)]
_Name = Annotated[_Text, BeforeValidator(_as_text)]


class _Foreign(BaseModel):
    """Base: strict, and other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)


class LabelLine(_Foreign):
    """One label in JSON lines."""

    id: _Name
    label: _Name | None
    annotator: _Name | None = None


class SetLine(_Foreign):
    """The classes of one image in JSON lines; an empty list says that it has none of them."""

    id: _Name
    label: list[_Name] | None
    annotator: _Name | None = None


class _Meta(_Foreign):
    id: _Name


class ProdigyLine(_Foreign):
    """One answer of Prodigy's choice or classification interface."""

    answer: Literal["accept", "reject", "ignore"]
    meta: _Meta | None = None
    accept: list[_Name] | None = None
    label: _Name | None = None
    annotator: _Name | None = None
    annotator_id: _Name | None = Field(None, alias="_annotator_id")

    @property
    def labels(self) -> list[str]:
        """Accepted classes."""
        return self.accept or ([self.label] if self.label else [])


class _Value(_Foreign):
    choices: list[_Name] | None = None


class _Result(_Foreign):
    value: _Value | None = None


class _Person(_Foreign):
    email: _Text | None = None
    id: _Name | None = None


class Annotation(_Foreign):
    """What one annotator said about a task."""

    completed_by: _Person | _Name | None = None
    was_cancelled: bool | None = None
    updated_at: _Text | None = None
    result: list[_Result] | None = None

    @property
    def annotator(self) -> str:
        """Name of the annotator in a job."""
        who = self.completed_by
        if isinstance(who, _Person):
            who = who.email or who.id
        return f"label-studio:{who}" if who is not None else "label-studio"

    @property
    def labels(self) -> list[str]:
        """Chosen classes."""
        return [name for item in self.result or [] if item.value is not None for name in item.value.choices or []]


class _TaskData(_Foreign):
    ssld_id: _Name | None = None


class Task(_Foreign):
    """A task of Label Studio with its annotations."""

    id: _Name | None = None
    data: _TaskData | None = None
    annotations: list[Annotation] | None = None

    @property
    def sample(self) -> str:
        """Id of the sample; "" for a task that ssld did not make."""
        return (self.data.ssld_id if self.data is not None else None) or ""


def parse_json(text: str, where: str) -> Any:
    """The content of a JSON text.

    Raises:
        DataError: If it is not JSON, is nested too deeply, or has NaN or a number of thousands of digits; names `where`.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise DataError(f"{where} is nested too deeply for a file of labels") from None
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON: {error}") from None


def check(kind: type[_M], value: Any, where: str) -> _M:
    """Check a value against a model.

    Raises:
        DataError: If it does not fit; names `where` and the field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = ""
    for step in first["loc"]:
        if isinstance(step, int):
            field += f"[{step}]"
        elif step not in ("_Person", "function-before[_as_text(), function-after[_check_text(), str]]"):
            field += f".{step}" if field else step
    what = str(first.get("ctx", {}).get("error") or first["msg"])
    raise DataError(f"{where}: {field or 'it'}: {what[:1].lower()}{what[1:]}, not {shown(first['input'])}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
