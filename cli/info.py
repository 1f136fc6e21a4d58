"""`ssld recipes`, `ssld datasets`, `ssld doctor`: what is available, and what this machine can do."""

import json
from typing import Annotated, Any

import typer

from .command import NOTHING, Context, command

__all__ = ["datasets", "doctor", "recipes"]


@command(NOTHING)
def recipes(
    context: Context,
    name: Annotated[str | None, typer.Argument(help="Recipe to print as TOML.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a recipe.")] = False,
) -> None:
    """List the recipes, print one, or print the schema of all."""
    from ssl_diffusion.errors import SSLDError
    from ssl_diffusion.training.recipe import Recipe, load_recipe, recipe_names

    if schema and name is not None:
        raise SSLDError(f"--schema describes all recipes: leave out --schema, or the name {name!r}")
    if schema:
        described = Recipe.model_json_schema()
        context.output.result(described, json.dumps(described, indent=2))
        return
    if name is not None:
        recipe = load_recipe(name)
        context.output.result(recipe.to_dict(), recipe.to_toml().rstrip())
        return
    found = [load_recipe(each) for each in recipe_names()]
    rows = [{"name": r.name, "dataset": r.data.dataset or "your images", "description": r.description} for r in found]
    context.output.result({"recipes": rows}, _table(rows))


@command(NOTHING)
def datasets(context: Context) -> None:
    """List the named data sets, and whether they are on this machine."""
    from ssl_diffusion.data.published.catalog import DATASETS
    from ssl_diffusion.data.published.datasets import find_dataset

    rows = [
        {
            "name": name,
            "images": f"{d.n_train + d.n_unlabeled:,} + {d.n_test:,} test",
            "size": f"{d.size}x{d.size}x{d.channels}",
            "classes": len(d.classes),
            "download": "here already" if find_dataset(name) else d.download,
            "source": d.source,
        }
        for name, d in DATASETS.items()
    ]
    context.output.result({"datasets": rows}, _table(rows))


@command(NOTHING)
def doctor(context: Context) -> None:
    """Show what this machine can do: cores, bf16, GPUs, data sets found, cache, versions."""
    from dataclasses import asdict

    from ssl_diffusion.data.published.catalog import DATASETS
    from ssl_diffusion.data.published.datasets import find_dataset
    from ssl_diffusion.machine import Device, describe_machine, source_commit
    from ssl_diffusion.storage import default_cache_dir

    machine = describe_machine()
    device = Device.resolve()
    found = [name for name in DATASETS if find_dataset(name)]
    values = {
        **asdict(machine),
        **asdict(device),
        "datasets_found": found,
        "cache": str(default_cache_dir()),
        "commit": source_commit(),
    }
    rows = [
        ("processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB"),
        ("bf16", _speed_of_bf16(machine.convolution_ms, machine.bf16)),
        ("GPUs", ", ".join(machine.gpus) or "none"),
        ("trains on", f"{device.accelerator} in {device.precision}"),
        ("data found", ", ".join(found)),
        ("cache", values["cache"]),
        ("versions", ", ".join(f"{k} {v}" for k, v in machine.versions.items())),
        ("commit", values["commit"] or "unknown (not installed from a git checkout)"),
    ]
    context.output.result(values, "\n".join(f"{key:<10} {value}" for key, value in rows))


def _speed_of_bf16(milliseconds: dict[str, float], used: bool) -> str:
    """What was measured, and what follows from it."""
    fp32, bf16 = milliseconds["fp32"], milliseconds["bf16"]
    rate = f"a convolution is {fp32 / bf16:.2g} times as fast as in fp32 ({bf16:.3g} against {fp32:.3g} ms)"
    return rate if used else f"{rate}; fp32 is used"


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as left-aligned columns."""
    header = list(rows[0])
    lines = [header, *([str(row[key]) for key in header] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
