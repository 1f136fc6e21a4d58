"""`ssld backbones`: pretrained networks, whether they are installed, what they cost, and the licenses of their weights."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from .command import NOTHING, Context, command

__all__ = ["backbones"]


@command(NOTHING, threads=0)
def backbones(
    context: Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Backbones to describe, such as timm:resnet18.a1_in1k; all if none is named."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the milliseconds an image on this machine.")] = False,
) -> None:
    """List the backbones, or describe some: features, input size, parameters, time an image, license of the weights."""
    from ssl_diffusion.machine import load_plugins
    from ssl_diffusion.models import backbone_names, describe_backbone, load_backbone
    from ssl_diffusion.models.backbones.registry import PLUGINS

    if names:
        rows = [{"name": name, **asdict(describe_backbone(load_backbone(name), measure=measure))} for name in names]
        context.output.result({"backbones": rows}, "\n".join(line for row in rows for line in _lines(row)))
        return
    rows = [_row(name, measure) for name in backbone_names()]
    broken = dict(load_plugins(PLUGINS))
    lines = [line for row in rows for line in _lines(row)]
    lines += [f"\nnot loaded: {sentence}" for sentence in broken.values()]
    context.output.result({"backbones": rows, "broken": broken}, "\n".join(lines))


def _row(name: str, measure: bool) -> dict[str, Any]:
    """A registered backbone; one that needs an argument, or a package that is missing, cannot be looked into."""
    from ssl_diffusion.errors import SSLDError
    from ssl_diffusion.models import backbone_argument, backbone_fault, describe_backbone, load_backbone
    from ssl_diffusion.models.backbones.registry import BACKBONES

    argument, fault = backbone_argument(name), backbone_fault(name)
    about = (BACKBONES[name].__doc__ or "").strip().partition("\n")[0]
    row = {"name": name, "argument": argument, "about": about, "installed": fault is None, "fault": fault}
    if fault is None and argument is None:
        try:
            return row | asdict(describe_backbone(load_backbone(name), measure=measure))
        except SSLDError as error:
            return row | {"fault": str(error)}
        except Exception as error:  # a stranger's backbone may raise anything
            return row | {"fault": f"cannot be made ({type(error).__name__}: {' '.join(str(error).split())[:200]})"}
    return row


def _lines(row: dict[str, Any]) -> list[str]:
    """What is known of a backbone, for people."""
    argument = row.get("argument")
    facts = []
    if "n_features" in row:
        facts.append(f"{row['n_features']} features")
        if row["input_size"]:
            facts.append(f"{row['input_size']} px")
        if row["parameters"]:
            facts.append(f"{row['parameters'] / 1e6:.3g} million parameters, {row['megabytes']:.3g} MB")
        if row["ms"] is not None:
            facts.append(f"{row['ms']:.3g} ms an image on {row['threads']} thread{'s' if row['threads'] > 1 else ''}")
    head = row["name"] + (f":{argument}" if argument else "") + (f"  ({', '.join(facts)})" if facts else "")
    lines = [head]
    if row.get("about"):
        lines.append(f"    {row['about']}")
    if "n_features" in row and not row["by_id"]:
        lines.append(f"    license of the weights: {row['license'] or 'not known'}")
    if row.get("fault"):
        lines.append(f"    {row['fault']}")
    return lines
