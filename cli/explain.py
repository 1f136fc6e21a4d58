"""`ssld explain`: what would have to change for another class."""

from pathlib import Path
from typing import Annotated

import typer
from ssl_diffusion.cli.output import AcceleratorOption, JsonOption, Output, PrecisionOption, QuietOption, ThreadsOption

__all__ = ["explain"]


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    id_: Annotated[list[str] | None, typer.Option("--id", help="Sample to explain; may be given several times.")] = None,
    ids: Annotated[Path | None, typer.Option(help="CSV file with a column id: samples to explain.")] = None,
    target: Annotated[str, typer.Option(help="A class, runner-up, or nearest (of all classes).")] = "runner-up",
    all_targets: Annotated[bool, typer.Option("--all-targets", help="A counterfactual for every other class.")] = False,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("explained"),
    confidence: Annotated[
        float, typer.Option(help="Least probability of the target class; 0 is where it just becomes the largest.", min=0)
    ] = 0.0,
    revert: Annotated[bool, typer.Option("--revert/--no-revert", help="Take back changes that are not needed.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace explanations that are there.")] = False,
    batch_size: Annotated[int, typer.Option(help="Counterfactuals per batch.", min=1)] = 128,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search the smallest change of each image that makes the classifier say something else; writes pictures and a CSV."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.machine import bind_threads

        bind_threads(threads)
        from ssl_diffusion.data.tables import read_table
        from ssl_diffusion.errors import SSLDError
        from ssl_diffusion.generation.gallery import write_explanations
        from ssl_diffusion.inference.run import load_run
        from ssl_diffusion.training.run_pool import load_run_pool

        model = load_run(run, accelerator, precision)
        chosen = list(id_ or []) + (read_table(ids).column("id") if ids is not None else [])
        if not chosen:
            raise SSLDError("name samples to explain, with --id or --ids")
        if all_targets and target != "runner-up":
            raise SSLDError("--target is for one class and --all-targets for all: choose one of them")
        pool = load_run_pool(model, progress=output.bars)
        frame, result = write_explanations(
            model,
            pool,
            chosen,
            out,
            target="all" if all_targets else target,
            confidence=confidence,
            revert=revert,
            seed=seed,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=output.bars,
        )
        lines = [
            f"{row['id']}   {row['source']} -> {row['target']}   RMS {row['distance_pixel']:.4f}"
            + ("" if row["success"] else "   (class not changed; a lower bound)")
            for row in frame.head(10).to_dict(orient="records")
        ]
        lines += [f"... and {len(frame) - 10} more"] if len(frame) > 10 else []
        lines.append(f"{int(result.success.sum())} of {len(frame)} changed class; pictures: {out / 'sheet.png'}")
        values = {"out": str(out), "counterfactuals": frame.to_dict(orient="records")}
        output.result(values, "\n".join(lines))
