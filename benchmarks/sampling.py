"""Quality of samples against the network evaluations they cost, for every sampler, and class hits of guided ones.

    python benchmarks/sampling.py                                 # both data sets; rows that are there are not run again
    python benchmarks/sampling.py --dataset digits --run runs/R
    python benchmarks/sampling.py --table

All rows of a data set are of one run (fitted here, or --run), n samples from the same noise, compared with at most 10,000
training images through the labels-only extractor, which also is the judge of the guided ones.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.extractors import Extractor, labels_only_extractor
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.quality import compare_features
from ssl_diffusion.generation.quality_report import real_features
from ssl_diffusion.generation.sampling import SAMPLERS, sample_run
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.training.fit import fit_run
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "sampling.csv"
SUITES = {"digits": ("digits", 100, 1000), "fashion-mnist": ("fashion-mnist-thorough", 4000, 500)}  # recipe, labels, n
STEPS = {"heun": (5, 9, 18, 30), "dpmpp": (6, 10, 18, 40), "ddim": (10, 25, 50, 100), "ddpm": (40, 100, 250, 1000)}
GUIDED = (("estimate", 0.75), ("estimate", 1.5), ("estimate", 3.0), ("representation", 1.0), ("representation", 3.0))


def cells() -> list[dict[str, Any]]:
    """Keys of all rows of a data set: unguided samplers, then guidance with its default sampler."""
    plain = [{"sampler": s, "steps": n, "guidance": "none", "scale": 0.0} for s, steps in STEPS.items() for n in steps]
    return plain + [{"sampler": "ddpm", "steps": 40, "guidance": form, "scale": scale} for form, scale in GUIDED]


def measure(cell: dict[str, Any], run: Run, extractor: Extractor, real: np.ndarray, n: int) -> dict[str, Any]:
    """One row."""
    y = np.arange(n) % len(run.classes) if cell["guidance"] != "none" else None
    guidance = Guidance(cell["guidance"], cell["scale"]) if y is not None else None
    began = time.perf_counter()
    images = sample_run(run, n, y, sampler=cell["sampler"], steps=cell["steps"], guidance=guidance)
    seconds = time.perf_counter() - began
    per_step = SAMPLERS[cell["sampler"]].evaluations
    hit = None
    if y is not None and extractor.classify is not None:
        hit = round(float((extractor.classify(images).argmax(axis=1) == y).mean()), 4)
    return {
        "n": n,
        "evaluations": cell["steps"] * per_step - (per_step > 1),  # Heun's last step takes one
        **{name: round(value, 5) for name, value in compare_features(real, extractor.features(images)).items()},
        "class_hit": hit,
        "ms_per_image": round(1e3 * seconds / n, 2),
        "extractor": extractor.name,
        **provenance(),
    }


def sampled_run(dataset: str, folder: Path | None) -> tuple[Run, Pool, Extractor]:
    """The run of a data set that samples are drawn from, fitted if there is none, its images and the extractor."""
    recipe, labeled, _ = SUITES[dataset]
    path = folder or Path("runs") / f"sampling-{dataset}"
    if not (path / "metrics.json").exists():
        fit_run(load_recipe(recipe).with_setting("labels.budget", labeled), path)
    run, pool = load_run(path, "cpu", "auto"), load_dataset(dataset)
    return run, pool, labels_only_extractor(run, pool)


def run_suite(dataset: str, folder: Path | None) -> None:
    """Fill in the missing rows of a data set."""
    todo = [cell for cell in cells() if find_row(CSV, {"dataset": dataset, **cell}) is None]
    if not todo:
        return
    recipe, labeled, n = SUITES[dataset]
    run, pool, extractor = sampled_run(dataset, folder)
    real = real_features(extractor, pool)
    for cell in todo:
        row = {"dataset": dataset, "recipe": recipe, "labels": labeled, **cell, **measure(cell, run, extractor, real, n)}
        append_row(CSV, row)
        print(row, file=sys.stderr, flush=True)


def picture(frame: pd.DataFrame, path: Path) -> None:
    """FD against network evaluations, a curve a sampler, a panel a data set."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(frame["dataset"]))
    figure = Figure(figsize=(5.2 * len(sets), 3.8), layout="constrained")
    for axes, dataset in zip(np.atleast_1d(figure.subplots(1, len(sets))), sets, strict=True):
        part = frame[(frame["dataset"] == dataset) & (frame["guidance"] == "none")]
        for name in STEPS:
            rows = part[part["sampler"] == name].sort_values("evaluations")
            axes.plot(rows["evaluations"], rows["fd"], marker="o", markersize=4, label=name)
        axes.set(
            xscale="log", yscale="log", title=dataset, xlabel="network evaluations a sample", ylabel="FD (lower is better)"
        )
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--run", type=Path, help="a finished run of the data set, instead of fitting one")
    parser.add_argument("--table", action="store_true", help="only make the table and the picture of the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        for dataset in arguments.dataset:
            run_suite(dataset, arguments.run)
    frame = pd.read_csv(CSV)
    picture(frame, RESULTS / "sampling.png")
    shown = ["dataset", "sampler", "steps", "guidance", "scale", "evaluations", "fd", "kid", "precision", "recall", "class_hit"]
    print(markdown_table(frame[[*shown, "ms_per_image"]].to_dict("records")))


if __name__ == "__main__":
    main()
