"""`ssld evaluate`: how good a run's classifier is, class by class, or how good its generated images are."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_diffusion.settings import Generated

from .command import RUN, RunContext, command
from .options import METRIC, SeedOption, number

__all__ = ["evaluate"]


@command(RUN, threads=0)
def evaluate(
    context: RunContext,
    data: Annotated[
        Path | None, typer.Option(help="Labeled images to evaluate on instead of the test split: a folder or CSV file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and pictures.")] = None,
    generation: Annotated[
        bool, typer.Option("--generation", help="Evaluate images that the run generates instead of its classifier.")
    ] = False,
    n: Annotated[int, number(Generated, "--n", help="Images to generate (with --generation).")] = 2000,
    extractor: Annotated[
        Path | None,
        typer.Option(help="Run whose classifier gives the features. Default: a labels-only fit on the same labels, cached."),
    ] = None,
    inception: Annotated[Path | None, typer.Option(help="Weights of Inception V3 for FID (needs torch-fidelity).")] = None,
    ordinal: Annotated[
        bool, typer.Option("--ordinal", help="Show errors of classes in an order: that of their names.")
    ] = False,
    metric: Annotated[str | None, METRIC] = None,
    seed: SeedOption = 0,
) -> None:
    """Evaluate a run: accuracy, figures in which every class counts the same, 95 % intervals, NLL, calibration, each class."""
    from ssl_diffusion.errors import SSLDError

    if generation and data is not None:
        raise SSLDError("--generation compares with the run's own images: leave out --data")
    if generation and metric is not None:
        raise SSLDError("--metric is a figure of the classifier, which --generation leaves alone: leave it out")
    if generation:
        _generation(context, n, extractor, inception, seed, out)
    elif extractor is not None or inception is not None:
        raise SSLDError("--extractor and --inception are used only with --generation")
    else:
        _classification(context, data, out, ordinal, metric)


def _classification(context: RunContext, data: Path | None, out: Path | None, ordinal: bool, metric: str | None) -> None:
    """Report on the classifier of a run; first the figure that it goes by."""
    from ssl_diffusion.inference.class_metrics import METRICS, check_metric
    from ssl_diffusion.training.evaluate import evaluate_run
    from ssl_diffusion.training.run_folder import RunFolder

    metric = RunFolder(context.run.path).recipe().training.metric if metric is None else metric
    check_metric(metric)
    report = evaluate_run(context.run, data, out, progress=context.output.bars)
    low, high = report.accuracy_interval
    value, bottom, top = report.figure(metric)
    first = [f"{METRICS[metric]}  {value:.4f}  (95 % interval {bottom:.4f} to {top:.4f})", ""] if metric != "accuracy" else []
    majority = report.balanced["majority_accuracy"]
    words = (
        ("balanced_accuracy", "balanced accuracy"),
        ("macro_f1", "macro F1"),
        ("auroc", "AUROC"),
        ("average_precision", "average precision"),
    )
    balanced = []
    for name, word in words:
        least, most = report.intervals[name]
        balanced.append(f"{word:17}  {report.balanced[name]:.4f}  (95 % interval {least:.4f} to {most:.4f})")
    lines = [
        *first,
        f"accuracy   {report.metrics['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%}, {report.n} images)",
        f"           {majority:.2%}  by always saying the most frequent class",
        *balanced,
        *(f"{name.replace('_', ' '):19}  {value:.4f}" for name, value in report.ordinal.items() if ordinal),
        f"NLL        {report.metrics['nll']:.4f}",
        f"ECE        {report.metrics['ece']:.4f}",
        "",
        report.per_class.to_string(index=False, float_format="{:.3f}".format),
    ]
    if out is not None:
        lines += ["", f"written to {out}"]
    values = {
        "run": str(context.run.path),
        "n": report.n,
        **report.metrics,
        "accuracy_interval": [low, high],
        "metric": {"name": metric, "value": _known(value), "interval": [_known(bottom), _known(top)]},
        **{name: _known(value) for name, value in report.balanced.items()},
        "intervals": {name: [_known(bound) for bound in bounds] for name, bounds in report.intervals.items()},
        **({name: _known(value) for name, value in report.ordinal.items()} if ordinal else {}),
        "per_class": [{name: _known(v) for name, v in row.items()} for row in report.per_class.to_dict(orient="records")],
    }
    context.output.result(values, "\n".join(lines))


def _known(value: Any) -> Any:
    """The value; None for NaN, which JSON does not have."""
    return None if value != value else value


def _generation(
    context: RunContext, n: int, extractor: Path | None, inception: Path | None, seed: int, out: Path | None
) -> None:
    """Report on the images that a run generates."""
    from ssl_diffusion.errors import SSLDError
    from ssl_diffusion.generation.extractors import extractor_of_run, inception_extractor, labels_only_extractor
    from ssl_diffusion.generation.quality_report import evaluate_generation, write_generation
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.outputs import check_output_folder
    from ssl_diffusion.training.data_changes import load_run_pool
    from ssl_diffusion.training.run_folder import run_inputs

    run, output = context.run, context.output
    if extractor is not None and inception is not None:
        raise SSLDError("--extractor and --inception choose the features: give only one of them")
    if out is not None:
        check_output_folder(out, overwrite=True, inputs=run_inputs(run))
    pool = load_run_pool(run, progress=output.bars)
    if inception is not None:
        features = inception_extractor(inception)
    elif extractor is not None:
        features = extractor_of_run(load_run(extractor, context.accelerator, context.precision))
    else:
        features = labels_only_extractor(run, pool, progress=output.bars)
    report = evaluate_generation(run, pool, features, n=n, seed=seed, progress=output.bars)
    lines = [
        f"features    {report.extractor}, {report.n_generated} generated images against {report.n_real} training images",
        "",
        *(f"{name:11} {value:.4f}" for name, value in report.metrics.items()),
    ]
    if out is not None:
        write_generation(report, out, run_inputs(run))
        lines += ["", f"written to {out}"]
    values = {"run": str(run.path), "extractor": report.extractor, "n_real": report.n_real, "n": report.n_generated}
    output.result(values | report.metrics, "\n".join(lines))
