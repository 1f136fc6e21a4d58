"""`ssld predict`: classes of new images."""

from pathlib import Path
from typing import Annotated

import typer
from ssl_diffusion.cli.output import AcceleratorOption, JsonOption, Output, PrecisionOption, QuietOption, ThreadsOption

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("predictions.csv"),
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images per batch.", min=1)] = 256,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict the classes of images; writes a CSV with id, label and probabilities."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.machine import bind_threads

        bind_threads(threads)
        from ssl_diffusion.inference.predict_files import predict_files
        from ssl_diffusion.inference.run import load_run

        model = load_run(run, accelerator, precision)
        n, skipped = predict_files(model, images, out, skip_bad=skip_bad, batch_size=batch_size, progress=output.bars)
        text = f"{n} predictions in {out}"
        if skipped:
            text += f"\n{len(skipped)} unreadable images left out: " + ", ".join(sample for sample, _ in skipped[:5])
        values = {"out": str(out), "predictions": n, "skipped": [{"id": i, "reason": reason} for i, reason in skipped]}
        output.result(values, text)
