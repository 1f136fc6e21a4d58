"""`ssld evaluate`: how good a run is, class by class, on its test split or on other labeled images."""

from pathlib import Path
from typing import Annotated

import typer
from ssl_diffusion.cli.output import AcceleratorOption, JsonOption, Output, PrecisionOption, QuietOption, ThreadsOption

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Labeled images to evaluate on instead of the test split: a folder or CSV file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for per_class.csv, confusion.png and calibration.png.")] = None,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluate a run: accuracy with its 95 % interval, NLL, calibration, precision and recall of every class."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.devices import bind_threads

        bind_threads(threads)
        from ssl_diffusion.report import evaluate_run
        from ssl_diffusion.run import load_run

        report = evaluate_run(load_run(run, accelerator, precision), data, out, progress=output.bars)
        low, high = report.accuracy_interval
        lines = [
            f"accuracy   {report.metrics['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%}, {report.n} images)",
            f"NLL        {report.metrics['nll']:.4f}",
            f"ECE        {report.metrics['ece']:.4f}",
            "",
            report.per_class.to_string(index=False, float_format="{:.3f}".format),
        ]
        if out is not None:
            lines += ["", f"written to {out}"]
        values = {
            "run": str(run),
            "n": report.n,
            **report.metrics,
            "accuracy_interval": [low, high],
            "per_class": report.per_class.to_dict(orient="records"),
        }
        output.result(values, "\n".join(lines))
