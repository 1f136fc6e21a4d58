"""Does the unlabeled pool pay? Test accuracy by number of labels, for this package, its ablations and other people's tools.

    python benchmarks/label_efficiency.py                           # everything; rows that are there are not run again
    python benchmarks/label_efficiency.py --dataset digits
    python benchmarks/label_efficiency.py --dataset fashion-mnist --shard 1/2     # beside --shard 2/2, one core each
    python benchmarks/label_efficiency.py --table                   # only the table and the picture

All methods of a seed see the same labels and the same test split, which is read once, at the end. Methods that train for
long get the same wall-clock on one core (`SUITES`), chosen as a user would, with `--time`; the pretraining of the denoiser
is done once for each data set, is in the cache for all rows that use it, and is listed in a column of its own.

`labels-only` is trained for the best of a quarter, a half and all of that time, chosen for each budget by validation on a
quarter of the labels: of seeds 0 and 1, or of seed 0 where a quarter is 250 labels or more.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from baselines import BASELINES, components, known_labels
from common import RESULTS, append_row, find_row, markdown_table, ssld_json

CSV = RESULTS / "label_efficiency.csv"
LENGTHS = RESULTS / "label_efficiency_lengths.csv"
KEYS = ["dataset", "n_labeled", "method", "seed"]


@dataclass(frozen=True)
class Suite:
    """Budgets and seeds of a data set, the recipe, and the seconds that a fit may take on one core.

    `fresh` are settings for methods that start from fresh weights, which want a higher learning rate than fine-tuning, and
    strong views of the labeled images for labels-only (FixMatch has weak ones, as published).
    """

    budgets: tuple[int, ...]
    seeds: int
    recipe: str
    seconds: float
    methods: tuple[str, ...]
    fresh: tuple[str, ...] = ()


# name: arguments of `ssld fit`
OURS: dict[str, list[str]] = {
    "labels-only": ["--objective", "labels-only"],
    "joint": [],
    "joint + match": ["--consistency", "match"],
    "probe": ["--objective", "probe"],
    "FixMatch": [
        *("--objective", "labels-only", "--consistency", "match", "--set", "training.consistency_threshold=0.95"),
        *("--set", "training.consistency_alignment=false", "--set", "augmentation.labeled=weak"),
        *("--set", "training.labeled_batch_size=16", "--set", "training.unlabeled_batch_size=112"),  # 1 : 7, as published
    ],
}
STYLES: dict[str, dict[str, Any]] = {
    "labels-only": {"color": "black", "linewidth": 1.6, "linestyle": "--"},
    "joint": {"color": "tab:blue", "linewidth": 2},
    "joint + match": {"color": "tab:orange", "linewidth": 2},
    "probe": {"color": "tab:green", "linewidth": 1.6},
    "FixMatch": {"color": "tab:red", "linewidth": 1.2},
    "LabelSpreading, pixels": {"color": "tab:brown", "linewidth": 1, "linestyle": "--"},
    "LabelSpreading, PCA": {"color": "tab:brown", "linewidth": 1, "linestyle": ":"},
    "SelfTraining, pixels": {"color": "tab:gray", "linewidth": 1, "linestyle": "--"},
    "SelfTraining, PCA": {"color": "tab:gray", "linewidth": 1, "linestyle": ":"},
    "Laplace, representation": {"color": "tab:purple", "linewidth": 1, "linestyle": "-."},
    "Poisson, representation": {"color": "tab:pink", "linewidth": 1, "linestyle": "-."},
}
N_CLASSES = 10
ALL = (*OURS, *BASELINES)
FRESH = ("training.learning_rate=1e-3", "training.labeled_batch_size=128", "augmentation.labeled=strong")
SUITES = {
    "digits": Suite((10, 20, 40, 100), 10, "digits", 45, ALL),
    "fashion-mnist": Suite((100, 400, 1000, 4000), 3, "fashion-mnist-thorough", 240, ALL, FRESH),
    "cifar10": Suite((4000,), 2, "cifar10-thorough", 1200, ("labels-only", "joint", "joint + match", "probe"), FRESH),
}


def fit_ours(dataset: str, labeled: int, method: str, seed: int, suite: Suite, cache: Path, data: list[str]) -> dict[str, Any]:
    """One `ssld fit` in a process of its own, on one thread."""
    seconds = suite.seconds
    if method == "labels-only":
        seconds *= _best_length(dataset, labeled, suite, cache, data)
    arguments = ["--recipe", suite.recipe, "--labeled", str(labeled), "--seed", str(seed)]
    arguments += [*_fresh(suite, method), *OURS[method]]
    if method != "probe":
        arguments += ["--time", f"{seconds:g}s"]
    m, spent = _ssld_fit(arguments, cache, data)
    pretraining = m["pretraining"] or {"seconds": 0.0}
    return {
        "test_accuracy": m["test_accuracy"],
        "test_nll": m["test_nll"],
        "test_ece": m["test_ece"],
        "fit_seconds": round(spent, 1),
        "pretrain_seconds": pretraining["seconds"],
        "steps": m["steps"],
        "commit": m["commit"],
        "command": "ssld fit " + " ".join(arguments),
    }


def _fresh(suite: Suite, method: str) -> list[str]:
    return [word for setting in suite.fresh for word in ("--set", setting)] if method in ("labels-only", "FixMatch") else []


def _ssld_fit(arguments: list[str], cache: Path, data: list[str]) -> tuple[dict[str, Any], float]:
    """Metrics of a fit and how long the command took, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        own = ("--threads", "1", "--cache-dir", cache, "--out", f"{folder}/run")
        return ssld_json("fit", *arguments, *data, *own), time.perf_counter() - began


def _best_length(dataset: str, labeled: int, suite: Suite, cache: Path, data: list[str]) -> float:
    """The share of the time that serves labels-only best; measured once for each budget and kept in LENGTHS.

    Monte-Carlo cross-validation: a quarter of the labels validates, for the labeled sets of two seeds while they are small.
    Budgets with fewer than four labels a class cannot spare a quarter; the length of the next larger budget is theirs, too.
    """
    labeled = next((n for n in suite.budgets if n >= max(labeled, 4 * N_CLASSES)), labeled)
    rows = []
    for share in (0.25, 0.5, 1.0):
        for seed in (0, 1) if labeled < 1000 else (0,):
            key = {"dataset": dataset, "n_labeled": labeled, "share": share, "seed": seed}
            row = find_row(LENGTHS, key)
            if row is None:
                arguments = ["--recipe", suite.recipe, "--labeled", str(labeled), "--seed", str(seed)]
                arguments += [*_fresh(suite, "labels-only"), *OURS["labels-only"], "--val-fraction", "0.25"]
                arguments += ["--time", f"{suite.seconds * share:g}s"]
                m, spent = _ssld_fit(arguments, cache, data)
                row = key | {"val_accuracy": m["val_accuracy"], "fit_seconds": round(spent, 1), "commit": m["commit"]}
                append_row(LENGTHS, row)
            rows.append(row)
    return float(pd.DataFrame(rows).groupby("share")["val_accuracy"].mean().idxmax())


def fit_baseline(
    dataset: str, labeled: int, method: str, seed: int, suite: Suite, cache: Path, data: list[str]
) -> dict[str, Any]:
    """One method of another package."""
    from sklearn.metrics import log_loss

    from ssl_diffusion.inference.metrics import expected_calibration_error
    from ssl_diffusion.machine import source_commit

    function, reads = BASELINES[method]
    pool, x, pretraining = _inputs(dataset, reads, suite.recipe, cache, tuple(data))
    train, test = pool.train, pool.test[pool.has_label[pool.test]]
    y = known_labels(pool, labeled, seed)
    began = time.perf_counter()
    p = function(x[train], y, x[test], len(pool.classes), seed)
    seconds = time.perf_counter() - began
    truth = pool.labels[test]
    return {
        "test_accuracy": float((p.argmax(axis=1) == truth).mean()),
        "test_nll": float(log_loss(truth, np.clip(p, 1e-12, 1), labels=range(len(pool.classes)))),
        "test_ece": expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == truth),
        "fit_seconds": round(seconds, 1),
        "pretrain_seconds": pretraining,
        "steps": 0,
        "commit": source_commit(),
        "command": f"python benchmarks/label_efficiency.py --dataset {dataset} --methods '{method}'",
    }


@lru_cache(maxsize=4)
def _inputs(dataset: str, reads: str, recipe: str, cache: Path, data: tuple[str, ...]) -> tuple[Any, Any, float]:
    """The pool, what a method reads of all its images, and the seconds of pretraining behind that."""
    from ssl_diffusion.data.loading import load_pool
    from ssl_diffusion.inference.predict import represent
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions, fit_model
    from ssl_diffusion.training.recipe import load_recipe

    settings = load_recipe(recipe).with_setting("training.objective", "denoise-only")
    if data:
        settings = settings.with_setting("data.path", data[1]).with_setting("data.dataset", "")
    pool = load_pool(settings.data)
    if reads == "representation":
        fitted = fit_model(settings, pool, None, options=FitOptions(cache=DenoiserCache(cache)))
        z = represent(fitted.model(), pool.images, precision="fp32")
        return pool, components(z), float((fitted.pretraining or {})["seconds"])
    pixels = pool.images.reshape(len(pool), -1).astype(np.float32) / 255
    return pool, pixels if reads == "pixels" else components(pixels), 0.0


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Keys of the rows that were asked for, cheap methods first."""
    for dataset in arguments.dataset or SUITES:
        suite = SUITES[dataset]
        for method in sorted(arguments.methods or suite.methods, key=lambda m: (m in OURS, suite.methods.index(m))):
            for labeled in arguments.labeled or suite.budgets:
                for seed in range(suite.seeds):
                    yield dict(zip(KEYS, (dataset, labeled, method, seed), strict=True))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation over seeds (their number), one row a method and one column a budget, for each data set."""
    rows = []
    for dataset, suite in SUITES.items():
        for method in suite.methods:
            part = frame[(frame["dataset"] == dataset) & (frame["method"] == method)]
            if part.empty:
                continue
            row: dict[str, Any] = {"data": dataset, "method": method}
            for n in suite.budgets:
                a = 100 * part.loc[part["n_labeled"] == n, "test_accuracy"]
                deviation = f" ± {a.std(ddof=1):.2f}" if len(a) > 1 else ""
                row[f"{n}"] = f"{a.mean():.2f}{deviation} ({len(a)})" if len(a) else "–"
            row |= {"NLL": f"{part['test_nll'].mean():.3f}", "ECE": f"{part['test_ece'].mean():.3f}"}
            row["fit, s"] = f"{part['fit_seconds'].median():.0f}"
            rows.append(row)
    return pd.DataFrame(rows)


def _columns(dataset: str) -> list[str]:
    return ["method", *map(str, SUITES[dataset].budgets), "NLL", "ECE", "fit, s"]


def picture(frame: pd.DataFrame, path: Path) -> None:
    """Accuracy against labels with the deviation over seeds, one panel a data set with more than one budget."""
    from matplotlib.figure import Figure

    shown = [d for d in SUITES if frame.loc[frame["dataset"] == d, "n_labeled"].nunique() > 1]
    figure = Figure(figsize=(5.2 * len(shown), 5.2), layout="constrained")
    for axes, dataset in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        part = frame[frame["dataset"] == dataset]
        for method in SUITES[dataset].methods:
            groups = part[part["method"] == method].groupby("n_labeled")["test_accuracy"]
            if not len(groups):
                continue
            mean, deviation = 100 * groups.mean(), 100 * groups.std(ddof=1).fillna(0)
            axes.errorbar(mean.index, mean, yerr=deviation, capsize=2, marker="o", markersize=3, label=method, **STYLES[method])
        axes.set(xscale="log", title=dataset, xlabel="labels", ylabel="test accuracy, %")
        ticks = sorted(part["n_labeled"].unique())
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", choices=SUITES)
    parser.add_argument("--methods", nargs="+", choices=ALL)
    parser.add_argument("--labeled", type=int, nargs="+")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th of the missing rows, from the i-th on")
    parser.add_argument("--cache-dir", type=Path, help="of denoisers. Default: that of ssld")
    parser.add_argument("--cifar", help="folder with train/ and test/ of CIFAR-10 as image files")
    parser.add_argument("--table", action="store_true", help="only make the table and the picture of the rows that are there")
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments)
    frame = pd.read_csv(CSV)
    table = summary(frame)
    text = "\n\n".join(
        f"#### {dataset}\n\n{markdown_table(part[_columns(str(dataset))].to_dict('records'))}"
        for dataset, part in table.groupby("data", sort=False)
    )
    (RESULTS / "label_efficiency.md").write_text(text + "\n", encoding="utf-8")
    picture(frame, RESULTS / "label_efficiency.png")
    print(text)


def run(arguments: argparse.Namespace) -> None:
    """Fill in the rows that are missing."""
    from ssl_diffusion.storage import default_cache_dir

    index, count = map(int, arguments.shard.split("/"))
    cache = arguments.cache_dir or default_cache_dir()
    for number, key in enumerate(list(cells(arguments))):
        if number % count != index - 1 or find_row(CSV, key) is not None:
            continue
        data = ["--data", arguments.cifar] if key["dataset"] == "cifar10" and arguments.cifar else []
        fit = fit_ours if key["method"] in OURS else fit_baseline
        row = key | fit(*key.values(), SUITES[key["dataset"]], cache, data)
        append_row(CSV, row)
        print(f"{key} {row['test_accuracy']:.4f} {row['fit_seconds']:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
