"""Counterfactuals side by side: ours, a DiME-style search, and gradient descent on the pixels, on one model.

    python benchmarks/counterfactuals.py                          # both data sets; rows that are there are not run again
    python benchmarks/counterfactuals.py --dataset digits
    python benchmarks/counterfactuals.py --table

For each data set a joint model is fitted (or taken from --run), and the first --images test images that it classifies
correctly get a counterfactual of their runner-up class by each method, in batches of 100 on one thread. Measures:
`counterfactual/metrics.py`; neighbours are among 5,000 training images. Features for these and for split-FD are those of the
labels-only classifier, which also is the first judge. Judges (`counterfactual_judges.py`): the fraction of valid
counterfactuals that they take for the target. At the boundary, where all searches end unless a probability is asked for, half
is as much as can be had. `reverting` says how changes were reverted: in "square patches" once, in "fading patches" now. Times
are those of the processor, on one thread, so that other programs count little. All is in fp32 but for the rows that say bf16,
which is what `ssld explain` takes where the processor has it.
"""

import argparse
import fcntl
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, find_row, markdown_table, provenance
from counterfactual_judges import agreement, make_judges
from counterfactual_rivals import dime, mean_blend, pixel_descent

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.attribution import attributed_regions
from ssl_diffusion.generation.boundary_distance import deepfool_distance
from ssl_diffusion.generation.counterfactual.metrics import counterfactual_metrics
from ssl_diffusion.generation.counterfactual.reflection import reference_of
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.generation.extractors import labels_only_extractor
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.training.fit import fit_run
from ssl_diffusion.training.recipe import load_recipe
from ssl_diffusion.training.run_folder import RunFolder

CSV = RESULTS / "counterfactuals.csv"
REVERTING = "fading patches"
SUITES = {"digits": ("digits", 100), "fashion-mnist": ("fashion-mnist-thorough", 4000)}
# "ours, p >= 0.9" are rows of a search that ended where the probability just sufficed.
METHODS = (
    *("ours", "ours, one by one", "ours, without reverting", "DiME-style", "pixel descent", "DeepFool"),
    *("reflection, p >= 0.9", "mean of ten, p >= 0.9", "pixel descent, p >= 0.9"),
    *("ours, bf16", "ours, bf16, one by one", "ours, p >= 0.9, with a margin"),
    "ours, p >= 0.9, with a margin, first in the attributed region",
)
PICTURED = {
    "ours": "ours",
    "ours, p >= 0.9, with a margin": "ours-sure",
    "reflection, p >= 0.9": "reflection",
    "DiME-style": "dime",
    "pixel descent": "pixels",
}


def search(method: str, run: Run, pool: Pool, images: np.ndarray) -> CounterfactualResult:
    """Counterfactuals of the runner-up class by a method."""
    model = run.model
    if method == "reflection, p >= 0.9":
        return explain(model, images, confidence=0.9, batch_size=100, reference=reference_of(run, pool))
    if method == "mean of ten, p >= 0.9":
        return mean_blend(model, images, reference_of(run, pool), 0.9)
    if method in ("ours", "ours, one by one", "ours, bf16", "ours, bf16, one by one"):
        precision = "bf16" if "bf16" in method else "fp32"
        return explain(model, images, batch_size=1 if method.endswith("one by one") else 100, precision=precision)
    if method == "ours, without reverting":
        return explain(model, images, revert=False, batch_size=100)
    if method == "DeepFool":
        return deepfool_distance(model, images, "runner-up", batch_size=100)
    if method == "ours, p >= 0.9, with a margin":
        return explain(model, images, confidence=0.9, batch_size=100)
    if method.endswith("first in the attributed region"):
        return region_first(model, images, predict_logits(model, images).argsort(axis=1)[:, -2], 0.9)
    if method == "DiME-style":
        return dime(model, images)
    return pixel_descent(model, images, confidence=0.9 if method.endswith("0.9") else 0.0)


def region_first(
    model: JointDiffusion, images: np.ndarray, target: np.ndarray, confidence: float, batch_size: int = 100
) -> CounterfactualResult:
    """First where the decision lies, and everywhere for those that fail there, as `ssld explain --region auto` does."""
    region = attributed_regions(model, images, target)
    result = explain(model, images, target, confidence=confidence, region=region, batch_size=batch_size)
    if len(failed := np.flatnonzero(~result.success)):
        again = explain(model, images[failed], target[failed], confidence=confidence, batch_size=batch_size)
        spent = again.network_evaluations + result.network_evaluations[failed]
        result = result.with_rows(failed, replace(again, network_evaluations=spent))
    return result


def measure(
    method: str, run: Run, pool: Pool, positions: np.ndarray, network: bool
) -> tuple[dict[str, Any], CounterfactualResult]:
    """The row of a method, and what it found; without the labels-only network neighbors are those in pixels."""
    began = time.process_time()
    result = search(method, run, pool, pool.images[positions])
    seconds = time.process_time() - began
    extractor = labels_only_extractor(run, pool) if network else None
    known = pool.train[:: -(-len(pool.train) // 5000)]
    reference = pool.images[known]
    metrics = counterfactual_metrics(
        run.model,
        result,
        labels=pool.labels[positions],
        reference=reference,
        features=extractor.features if extractor is not None else None,
    )
    judges = make_judges(run, extractor, reference, pool.labels[known])
    row = {
        **agreement(judges, result, pool, positions),
        **{name: round(value, 4) for name, value in metrics.items()},
        "evaluations": round(float(result.network_evaluations.mean()), 1),
        "ms_per_image": round(1e3 * seconds / len(positions), 1),
        "extractor": extractor.name if extractor is not None else "none",
        **provenance(),
    }
    return row, result


def run_suite(dataset: str, methods: list[str], folder: Path | None, images: int, network: bool) -> None:
    """Fill in the missing rows of a data set."""
    recipe, labeled = SUITES[dataset]
    path = folder or Path("runs") / f"counterfactuals-{dataset}"
    if not (path / "metrics.json").exists():
        fit_run(load_recipe(recipe).with_setting("labels.budget", labeled), path)
    made = RunFolder(path).recipe()  # a folder of the user's may have been made in another way
    key = {"dataset": dataset, "recipe": made.name, "labels": made.labels.budget, "reverting": REVERTING}
    todo = [m for m in methods if find_row(CSV, {**key, "method": m, "n": images}) is None]
    if not todo:
        return
    run, pool = load_run(path, "cpu", "fp32"), load_dataset(dataset)
    test = pool.test[: 10 * images]
    positions = test[run.predict_proba(pool.images[test]).argmax(axis=1) == pool.labels[test]][:images]
    search("ours", run, pool, pool.images[positions[:4]])  # kernels are chosen on first use
    for method in todo:
        row, result = measure(method, run, pool, positions, network)
        add_row({**key, "method": method, **row})
        print(f"{dataset} {method}: {row}", file=sys.stderr, flush=True)
        if method in PICTURED:
            picture(result, RESULTS / f"counterfactuals-{dataset}-{PICTURED[method]}.png")


def add_row(row: dict[str, Any]) -> None:
    """Add a row to the table, whose earlier rows may lack some of its columns; several processes may be adding to it."""
    with CSV.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rows = [pd.read_csv(CSV)] if CSV.stat().st_size else []
        pd.concat([*rows, pd.DataFrame([row])], ignore_index=True).to_csv(CSV, index=False)


def picture(result: CounterfactualResult, path: Path) -> None:
    """The first pairs: images above their counterfactuals above the differences."""
    from matplotlib.figure import Figure

    from ssl_diffusion.training.panels import show_image

    assert result.counterfactual is not None
    n = min(14, len(result))
    figure = Figure(figsize=(0.75 * n, 2.4), layout="constrained")
    axes = figure.subplots(3, n)
    for i in range(n):
        original, found = (values[i].astype(np.float32) / 127.5 - 1 for values in (result.original, result.counterfactual))
        show_image(axes[0, i], original)
        show_image(axes[1, i], found)
        axes[2, i].imshow((found - original).mean(axis=0) / 2, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
        axes[2, i].set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--run", type=Path, help="a finished run of the data set, instead of fitting one")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--no-network", action="store_true", help="leave out the labels-only network, which is fitted first")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        for dataset in arguments.dataset:
            run_suite(dataset, arguments.methods, arguments.run, arguments.images, not arguments.no_network)
    shown = ["dataset", "recipe", "reverting", "method", "n", "validity", "rms_median", "redundancy", "redundancy_values"]
    shown += ["cout", "ynn", "judge", "logistic", "neighbors", "random", "split_fd", "evaluations", "ms_per_image"]
    for _, rows in pd.read_csv(CSV)[shown].groupby("dataset", sort=False):  # not all rows have all columns
        print(markdown_table(rows.dropna(axis=1, how="all").to_dict("records")), end="\n\n")


if __name__ == "__main__":
    main()
