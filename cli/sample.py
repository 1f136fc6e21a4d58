"""`ssld sample`: draw images from a run."""

from pathlib import Path
from typing import Annotated

import typer
from ssl_diffusion.cli.output import AcceleratorOption, JsonOption, Output, PrecisionOption, QuietOption, ThreadsOption

__all__ = ["sample"]


def sample(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    n: Annotated[int, typer.Option("--n", help="Number of images.", min=1)] = 64,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("samples"),
    class_: Annotated[str | None, typer.Option("--class", help="Guide towards this class.")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Guide towards every class in turn, equally many of each.")] = False,
    sampler: Annotated[
        str | None, typer.Option(help="heun, dpmpp, ddim or ddpm. Default: dpmpp; ddpm if guided.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the sampler. Default: its own (dpmpp 18, guided ddpm 40).", show_default=False)
    ] = None,
    guidance: Annotated[str, typer.Option(help="estimate or representation.")] = "estimate",
    scale: Annotated[float, typer.Option(help="Strength of the guidance.", min=0)] = 1.5,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace samples that are there.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images per batch.", min=1)] = 256,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images: PNG files, samples.csv, and a picture of all; with --class or --grid guided by the classifier."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.machine import bind_threads

        bind_threads(threads)
        import numpy as np

        from ssl_diffusion.errors import SSLDError
        from ssl_diffusion.generation.gallery import class_index, write_samples
        from ssl_diffusion.generation.guidance import Guidance
        from ssl_diffusion.inference.run import load_run

        model = load_run(run, accelerator, precision)
        if class_ is not None and grid:
            raise SSLDError("--class is for one class and --grid for all: choose one of them")
        y = None
        if class_ is not None:
            y = np.full(n, class_index(model, class_))
        elif grid:
            if n < len(model.classes) or not model.classes:
                raise SSLDError(f"--grid draws every class: {model.path} has {len(model.classes)}, --n is {n}")
            y = np.repeat(np.arange(len(model.classes)), n // len(model.classes))
        frame = write_samples(
            model,
            out,
            n if y is None else len(y),
            y=y,
            sampler=sampler,
            steps=steps,
            guidance=Guidance(guidance, scale),
            seed=seed,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=output.bars,
        )
        values: dict[str, object] = {"out": str(out), "images": len(frame)}
        text = f"{len(frame)} images in {out}"
        if y is not None:
            hit = float((frame["probability"] > 0.5).mean())
            values["probability"] = float(frame["probability"].mean())
            text += f"; the run's classifier agrees (probability over 0.5) with {hit:.0%}"
        output.result(values, f"{text}\npictures: {out / 'samples.png'}")
