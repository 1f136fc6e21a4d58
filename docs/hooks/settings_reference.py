"""The reference of settings, from the JSON schemas that `ssld recipes --schema` prints one of."""

from typing import Any

from ssl_diffusion.annotation import JobSettings
from ssl_diffusion.settings import Settings
from ssl_diffusion.studies import StudySettings
from ssl_diffusion.training import Recipe

__all__ = ["reference"]

_INTRODUCTION = """# Settings

A recipe is a TOML file with the sections below. `--set section.name=value` changes one setting on the command line; a list is
written `--set model.multipliers=1,2,4`. The file of a study or an annotation job has one section more. `ssld recipes --schema`
prints all this as a JSON schema, with which an editor checks a recipe while it is written.
"""


def reference() -> str:
    """Every section of a recipe, of a study and of a job, as one Markdown page."""
    schema = Recipe.model_json_schema()
    lines = [_INTRODUCTION, *_table(schema)]
    for name, entry in schema["properties"].items():
        if "$ref" in entry:
            lines += _section(name, schema["$defs"][entry["$ref"].rpartition("/")[2]])
    kinds: list[type[Settings]] = [StudySettings, JobSettings]
    for kind in kinds:
        lines += _section(kind.section, kind.model_json_schema())
    return "\n".join(lines)


def _section(name: str, schema: dict[str, Any]) -> list[str]:
    return [f"## [{name}]", "", " ".join(schema["description"].split()), "", *_table(schema)]


def _table(schema: dict[str, Any]) -> list[str]:
    rows = ["| Setting | Values | Default | |", "| --- | --- | --- | --- |"]
    for name, entry in schema["properties"].items():
        if "$ref" not in entry:
            default = str(entry["default"]).lower() if isinstance(entry["default"], bool) else repr(entry["default"])
            cells = [f"`{name}`", _values(entry), f"`{default}`".replace("'", '"'), " ".join(entry["description"].split())]
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*rows, ""]


def _values(entry: dict[str, Any]) -> str:
    """The type of a setting in words, with its range or its names."""
    kind = entry["type"]
    if kind == "array":
        return f"list: {_values(entry['items'])}"
    if "enum" in entry:
        return ", ".join(f"`{name}`" for name in entry["enum"])
    if kind in ("integer", "number"):
        low = f"[{entry['minimum']:.10g}" if "minimum" in entry else f"({entry['exclusiveMinimum']:.10g}"
        return f"{'whole number' if kind == 'integer' else 'number'} in {low}, {entry['maximum']:.10g}]"
    return {"boolean": "true, false", "string": "text"}[kind]
