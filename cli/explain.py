"""`ssld explain`: the smallest changes that make the classifier predict another class."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_diffusion.settings import Confidence, Explanations, Images

from .command import RUN, RunContext, command
from .options import OverwriteOption, SeedOption, number

__all__ = ["explain"]

_SHOWN = 10  # counterfactuals in the text for people
_METHODS = ("search", "reflect")


@command(RUN, threads=0)
def explain(
    context: RunContext,
    id_: Annotated[list[str] | None, typer.Option("--id", help="Sample to explain. May be repeated.")] = None,
    ids: Annotated[Path | None, typer.Option(help="CSV file with a column id: the samples to explain.")] = None,
    target: Annotated[
        str, typer.Option(help="Target class: a name, runner-up, or nearest (the closest of all classes).")
    ] = "runner-up",
    all_targets: Annotated[bool, typer.Option("--all-targets", help="Search a counterfactual for every other class.")] = False,
    between: Annotated[
        str | None,
        typer.Option(help="Two classes, as in shirt,coat: ten images of each in the other class, and the mean change."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("explained"),
    confidence: Annotated[
        float, number(Confidence, help="Least probability of the target class, below 1; 0 stops where it becomes the largest.")
    ] = 0.9,
    region: Annotated[
        str | None, typer.Option(help="Where pictures may change: x,y,w,h in pixels, an image that is white there, or auto.")
    ] = None,
    n: Annotated[int, number(Explanations, "--n", help="Counterfactuals of each pair; a second one changes other pixels.")] = 1,
    animation: Annotated[bool, typer.Option("--animation", help="Write a small film (WebP) of each change.")] = False,
    method: Annotated[
        str, typer.Option(help="search, or reflect: fewer evaluations, without gradients, by images of the pool.")
    ] = "search",
    revert: Annotated[bool, typer.Option("--revert/--no-revert", help="Undo changes that are not needed.")] = True,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    batch_size: Annotated[int, number(Images, help="Counterfactuals per batch.")] = 128,
) -> None:
    """Search the smallest change of each image that changes its predicted class; writes pictures and a CSV file."""
    from ssl_diffusion.data.tables import read_table
    from ssl_diffusion.errors import SSLDError, nearest_names, shown
    from ssl_diffusion.generation.class_pairs import PAGE, class_pair, write_class_pair
    from ssl_diffusion.generation.counterfactual.reflection import linear_head, reference_of
    from ssl_diffusion.generation.counterfactual.search import SearchOptions
    from ssl_diffusion.generation.explanations import write_explanations
    from ssl_diffusion.generation.readiness import caution_of, doubt_of
    from ssl_diffusion.training.data_changes import load_run_pool

    run, output = context.run, context.output
    if between is not None and (id_ or ids is not None or all_targets or target != "runner-up" or region is not None or n != 1):
        raise SSLDError(
            "--between chooses images and targets itself: leave out --id, --ids, --target, --all-targets, --region, --n"
        )
    chosen = list(id_ or []) + (read_table(ids).column("id") if ids is not None else [])
    if not chosen and between is None:
        raise SSLDError("no samples to explain: name them with --id or --ids")
    if all_targets and target != "runner-up":
        raise SSLDError("--target names one class and --all-targets means all: give only one of them")
    if method not in _METHODS:
        raise SSLDError(f"no method {shown(method)}; {nearest_names(method, _METHODS)}")
    if method == "reflect":
        run.check_single_label("to explain")
        linear_head(run.model)
    classes = None if between is None else class_pair(run, between)
    pool = load_run_pool(run, progress=output.bars)
    options: SearchOptions = {"confidence": confidence, "revert": revert, "seed": seed, "batch_size": batch_size}
    options["progress"] = output.bars
    options["reference"] = reference_of(run, pool) if method == "reflect" else None
    if classes is not None:
        frame, result = write_class_pair(run, pool, classes, out, animation=animation, overwrite=overwrite, **options)
    else:
        frame, result = write_explanations(
            run,
            pool,
            chosen,
            out,
            target="all" if all_targets else target,
            region=region,
            n=n,
            animation=animation,
            overwrite=overwrite,
            **options,
        )
    lines = [
        f"{row['id']}   {row['source']} -> {row['target']}   RMS {row['distance_pixel']:.4f}{_said(row)}"
        for row in frame.head(_SHOWN).to_dict(orient="records")
    ]
    lines += [f"... and {len(frame) - _SHOWN} more"] if len(frame) > _SHOWN else []
    changed = f"{int(frame['boundary_success'].sum())} of {len(frame)} changed class"
    changed += f", {int(result.success.sum())} with a probability of at least {confidence:g}" if confidence else ""
    lines.append(f"{changed}; pictures: {out / ('sheet.png' if between is None else PAGE)}")
    values = {
        "out": str(out),
        "counterfactuals": frame.to_dict(orient="records"),
        "doubt": doubt_of(run) or caution_of(run) or None,
    }
    output.result(values, "\n".join(lines))


def _said(row: dict[Any, Any]) -> str:
    """What is to be said of a pair: how far the boundary is, and what was not reached."""
    if not row["boundary_success"]:
        return "   (class not changed; a lower bound)"
    if not (row["success"] and row["file"]):
        return f"   (no sure counterfactual found; boundary {row['boundary_distance']:.4f})"
    return f", boundary {row['boundary_distance']:.4f}" if row["boundary_file"] != row["file"] else ""
