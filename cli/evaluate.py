"""`ssld evaluate`: how good a run is, class by class, on its test split or on other labeled images; or how good its samples."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ssl_diffusion.cli.output import AcceleratorOption, JsonOption, Output, PrecisionOption, QuietOption, ThreadsOption

if TYPE_CHECKING:
    from ssl_diffusion.inference.run import Run

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Labeled images to evaluate on instead of the test split: a folder or CSV file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and pictures.")] = None,
    generation: Annotated[
        bool, typer.Option("--generation", help="Evaluate samples of the run instead of its classifier.")
    ] = False,
    n: Annotated[int, typer.Option("--n", help="Samples to draw (--generation).", min=10)] = 2000,
    extractor: Annotated[
        Path | None,
        typer.Option(help="Run whose classifier gives the features. Default: a labels-only fit on the same labels, cached."),
    ] = None,
    inception: Annotated[Path | None, typer.Option(help="Weights of Inception V3 for FID (needs torch-fidelity).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.", min=0)] = 0,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluate a run: accuracy with its 95 % interval, NLL, calibration, precision and recall of every class."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.machine import bind_threads

        bind_threads(threads)
        from ssl_diffusion.errors import SSLDError
        from ssl_diffusion.inference.run import load_run
        from ssl_diffusion.training.evaluate import evaluate_run

        model = load_run(run, accelerator, precision)
        if generation:
            if data is not None:
                raise SSLDError("--generation compares samples with the run's own images: leave out --data")
            _generation(model, n, extractor, inception, seed, out, output)
            return
        if extractor is not None or inception is not None:
            raise SSLDError("--extractor and --inception are for --generation")
        report = evaluate_run(model, data, out, progress=output.bars)
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


def _generation(
    model: "Run", n: int, extractor: Path | None, inception: Path | None, seed: int, out: Path | None, output: Output
) -> None:
    """The report on the samples of a run."""
    from ssl_diffusion.errors import SSLDError
    from ssl_diffusion.generation.extractors import extractor_of_run, inception_extractor, labels_only_extractor
    from ssl_diffusion.generation.quality_report import evaluate_generation, write_generation
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.outputs import check_output_folder
    from ssl_diffusion.training.run_folder import run_inputs
    from ssl_diffusion.training.run_pool import load_run_pool

    if extractor is not None and inception is not None:
        raise SSLDError("--extractor and --inception are two kinds of features: choose one of them")
    if out is not None:
        check_output_folder(out, overwrite=True, inputs=run_inputs(model))
    pool = load_run_pool(model, progress=output.bars)
    if inception is not None:
        features = inception_extractor(inception)
    elif extractor is not None:
        features = extractor_of_run(load_run(extractor))
    else:
        features = labels_only_extractor(model, pool, progress=output.bars)
    report = evaluate_generation(model, pool, features, n=n, seed=seed, progress=output.bars)
    lines = [f"features    {report.extractor}, {report.n_generated} samples against {report.n_real} training images", ""]
    lines += [f"{name:11} {value:.4f}" for name, value in report.metrics.items()]
    if out is not None:
        write_generation(report, out, run_inputs(model))
        lines += ["", f"written to {out}"]
    values = {"run": str(model.path), "extractor": report.extractor, "n_real": report.n_real, "n": report.n_generated}
    output.result(values | report.metrics, "\n".join(lines))
