"""Wrong labels: how well they are found, beside cleanlab on the same probabilities.

    python benchmarks/label_issues.py --arrays label-errors                           # somebody else's probabilities
    python benchmarks/label_issues.py --dataset digits fashion-mnist                  # pixels
    python benchmarks/label_issues.py --dataset cifar10 --cifar CIFAR --cache CACHE   # features of EfficientNet-Lite0
    python benchmarks/label_issues.py --sheet RUN PNG                                 # what looks most wrong to its model

`label-errors` is a folder with noisy_labels.npy, true_labels.npy and pred_probs.npy: those of a ResNet-18 for the training
images of CIFAR-10 with 20 % of wrong labels, from the repository cleanlab/label-error-detection-benchmarks. For the other
sets the benchmark makes the noise: a class drawn from the others ("symmetric"), or the next one ("pair").

One row a data set, noise, rate, seed and method in results/label_issues.csv:

    ours                       `find_label_issues` on the probabilities
    ours, two passes           `judge_labels`: the classifier is fitted again without the labels that looked wrong
    cleanlab, SCORE            `get_label_quality_scores` on the probabilities, for each of its three scores
    cleanlab, prune            `find_label_issues` with its default filter

`average_precision`, and `precision_at_n`, the precision of as many as there are wrong labels (which is their recall there,
too); `flagged`, with `flagged_precision` and `flagged_recall`, of those that a method calls wrong; `accuracy_before` and
`accuracy_after` are those of logistic regression on 2,000 other images with right labels, fitted to all labels and without
the flagged ones. The probabilities are those of logistic regression on 256 components in five folds, for cleanlab as for us.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, append_row, find_row, markdown_table
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from ssl_diffusion.curation import find_label_issues, held_out_probabilities, judge_labels
from ssl_diffusion.curation.held_out import condensed
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.machine import source_commit
from ssl_diffusion.training.data_changes import load_run_pool

CSV = RESULTS / "label_issues.csv"
SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
NOISES = [("symmetric", 0.05), ("symmetric", 0.1), ("symmetric", 0.2), ("pair", 0.05), ("pair", 0.1), ("pair", 0.2)]
_TRAIN, _TEST = 10_000, 2000

Found = tuple[NDArray[np.floating], NDArray[np.bool_]]  # suspicion and whether a label is called wrong


def noisy(true: NDArray[np.int64], kind: str, rate: float, seed: int) -> NDArray[np.int64]:
    k = int(true.max()) + 1
    rng = np.random.default_rng(seed)
    given, bad = true.copy(), rng.permutation(len(true))[: round(rate * len(true))]
    given[bad] = (true[bad] + (1 if kind == "pair" else rng.integers(1, k, len(bad)))) % k
    return given


def by_cleanlab(given: NDArray[np.int64], p: NDArray[np.floating]) -> Iterator[tuple[str, Found]]:
    """cleanlab's ranks, and what it calls wrong; nothing if it is not installed."""
    try:
        from cleanlab.filter import find_label_issues as pruned
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        print("cleanlab is not installed: pip install cleanlab", file=sys.stderr)
        return
    called = pruned(given, p, n_jobs=1)
    for score in SCORES:
        yield f"cleanlab, {score}", (1 - get_label_quality_scores(given, p, method=score), called)


def scores(wrong: NDArray[np.bool_], found: Found) -> dict[str, Any]:
    suspicion, flagged = found
    n = int(wrong.sum())
    first = np.argsort(-suspicion, kind="stable")[:n]
    return {
        "n": len(wrong),
        "wrong": n,
        "average_precision": round(float(average_precision_score(wrong, suspicion)), 4),
        "precision_at_n": round(float(wrong[first].mean()), 4),
        "flagged": int(flagged.sum()),
        "flagged_precision": round(float(wrong[flagged].mean()), 4) if flagged.any() else float("nan"),
        "flagged_recall": round(float(wrong[flagged].sum() / n), 4),
    }


def of_arrays(folder: Path) -> None:
    given, true, p = (np.load(folder / f"{name}.npy") for name in ("noisy_labels", "true_labels", "pred_probs"))
    began = time.process_time()
    found = find_label_issues(given, p)
    seconds = time.process_time() - began
    for method, result in [("ours", (found.wrong, found.flagged)), *by_cleanlab(given, p)]:
        key = {"dataset": "label-errors", "noise": "class by class", "rate": 0.2, "seed": 0, "method": method}
        _append(key, scores(given != true, result) | ({"seconds": round(seconds, 2)} if method == "ours" else {}))


def of_representation(
    name: str, z: NDArray[np.float32], true: NDArray[np.int64], n: int, kind: str, rate: float, seed: int
) -> None:
    """Rows of one noise: the first n samples get it, the others test."""
    key = {"dataset": name, "noise": kind, "rate": rate, "seed": seed}
    if find_row(CSV, key | {"method": "ours, two passes"}) is not None:
        return
    given, k = noisy(true[:n], kind, rate, seed), int(true.max()) + 1
    x = condensed(z)
    p, penalty = held_out_probabilities(x[:n], given, k)
    found = find_label_issues(given, p)
    began = time.process_time()
    twice = judge_labels(z[:n], given, k)
    seconds = time.process_time() - began
    results = {"ours": (found.wrong, found.flagged), **dict(by_cleanlab(given, p))}
    results["ours, two passes"] = (twice.wrong, twice.flagged)

    def accuracy(kept: NDArray[np.bool_]) -> float:
        model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(x[:n][kept], given[kept])
        return round(float(model.score(x[n:], true[n:])), 4)

    before = accuracy(np.ones(n, dtype=bool))
    for method, result in results.items():
        after = {"accuracy_before": before, "accuracy_after": accuracy(~result[1])}
        took = {"seconds": round(seconds, 2) if method == "ours, two passes" else ""}
        _append(key | {"method": method}, scores(given != true[:n], result) | took | after)


def by_cut(name: str, z: NDArray[np.float32], true: NDArray[np.int64], n: int, seeds: list[int]) -> list[dict[str, Any]]:
    """What other limits than one half for what is called wrong would give, means over noises and seeds."""
    x, k, rows = condensed(z), int(true.max()) + 1, []
    for seed in seeds:
        for kind, rate in NOISES:
            given = noisy(true[:n], kind, rate, seed)
            wrong = given != true[:n]
            p, penalty = held_out_probabilities(x[:n], given, k)
            suspicion = judge_labels(z[:n], given, k).wrong
            removed = {f"{cut:.0%}": suspicion > cut for cut in (0.5, 0.4, 0.3, 0.2, 0.1)}
            removed["cleanlab"] = next(found[1] for _, found in by_cleanlab(given, p))
            surest = np.argsort(-suspicion)
            numbers = {"as many as expected": round(suspicion.sum()), "as many as cleanlab": removed["cleanlab"].sum()}
            removed |= {rule: np.isin(np.arange(n), surest[:number]) for rule, number in numbers.items()}
            for rule, of in removed.items():
                model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(x[:n][~of], given[~of])
                precision, recall = wrong[of].mean(), of[wrong].mean()
                facts = {"accuracy": model.score(x[n:], true[n:]), "precision": precision, "recall": recall}
                rows.append({"data": name, "called wrong": rule} | {key: 100 * value for key, value in facts.items()})
    frame = pd.DataFrame(rows).groupby(["data", "called wrong"], sort=False, as_index=False).mean()
    return list(frame.round(1).to_dict("records"))


def representation(name: str, arguments: argparse.Namespace) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Representation and labels of at most 10,000 training images and 2,000 others, and the number of the former."""
    if name == "cifar10":
        from photo_data import photo_set

        data = photo_set(name, arguments.cache, arguments.cifar)
        pool, features = data.pool, data.features
    else:
        pool = load_dataset(name)

        def features(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return pool.images[rows].reshape(len(rows), -1).astype(np.float32) / np.float32(255)

    rng = np.random.default_rng(0)
    train, test = rng.permutation(pool.train)[:_TRAIN], rng.permutation(pool.test)[:_TEST]
    rows = np.concatenate([train, test])
    return features(rows), pool.labels[rows], len(train)


def _append(key: dict[str, Any], row: dict[str, Any]) -> None:
    if find_row(CSV, key) is None:
        columns = {"seconds": "", "accuracy_before": "", "accuracy_after": ""}
        append_row(CSV, key | columns | row | {"commit": source_commit() or "unknown"})


def table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over seeds: average precision and precision at the true number, by method."""
    rows = []
    for (dataset, noise, rate), part in frame.groupby(["dataset", "noise", "rate"], sort=False):
        for method, of in part.groupby("method", sort=False):
            mean = of[["average_precision", "precision_at_n", "flagged_precision", "flagged_recall"]].mean()
            row = {"data": dataset, "noise": f"{noise}, {rate:.0%}", "method": method, "seeds": len(of)}
            rows.append(row | {name: f"{100 * value:.1f}" for name, value in mean.items()})
            for name in ("accuracy_before", "accuracy_after"):
                value = pd.to_numeric(of[name], errors="coerce").mean()
                rows[-1][name] = "–" if np.isnan(value) else f"{100 * value:.1f}"
    return rows


def sheet(path: Path, out: Path, n: int = 50) -> None:
    """A picture of the test samples whose labels look most wrong to the model of a run: given label, and the likelier one."""
    run = load_run(path, "cpu")
    pool = load_run_pool(run)
    pool = pool.select(pool.is_test)
    z = embed(run.model, pool_rows(run, pool), classify=False, projected=False, precision=run.precision).representation
    issues = judge_labels(z, pool.labels, len(pool.classes))
    print(f"{int(issues.flagged.sum())} of {len(pool)} labels are probably wrong")
    figure = Figure(figsize=(10, 1.36 * -(-n // 10)))
    for i, (cell, at) in enumerate(
        zip(figure.subplots(-(-n // 10), 10, squeeze=False).flat, issues.ranked[:n], strict=False), 1
    ):
        cell.imshow(to_pil(pool.images[at]), cmap="gray", vmin=0, vmax=255)
        text = f"{pool.classes[pool.labels[at]]}\n{pool.classes[issues.suggested[at]]} {issues.wrong[at]:.0%}"
        cell.text(0.5, -0.04, text, transform=cell.transAxes, ha="center", va="top", fontsize=7, linespacing=1.1)
        cell.text(0.02, 0.98, str(i), transform=cell.transAxes, ha="left", va="top", fontsize=7, color="white")
    for cell in figure.axes:
        cell.axis("off")
    figure.subplots_adjust(0.005, 0.05, 0.995, 0.995, 0.06, 0.34)
    figure.savefig(out, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=Path, help="folder with noisy_labels.npy, true_labels.npy and pred_probs.npy")
    parser.add_argument("--dataset", nargs="+", choices=("digits", "fashion-mnist", "cifar10"), default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, help="folder of features, see photos.py")
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 as image files")
    parser.add_argument("--cuts", action="store_true", help="only print what other limits for what is called wrong would give")
    parser.add_argument("--sheet", type=Path, nargs=2, metavar=("RUN", "PNG"), help="draw the 50 test samples ranked first")
    arguments = parser.parse_args()
    if arguments.sheet is not None:
        sheet(*arguments.sheet)
        return
    if arguments.arrays is not None:
        of_arrays(arguments.arrays)
    for name in arguments.dataset:
        z, true, n = representation(name, arguments)
        if arguments.cuts:
            print(markdown_table(by_cut(name, z, true, n, arguments.seeds)), end="\n\n")
            continue
        for seed in arguments.seeds:
            for kind, rate in NOISES:
                of_representation(name, z, true, n, kind, rate, seed)
    if not arguments.cuts:
        print(markdown_table(table(pd.read_csv(CSV))))


if __name__ == "__main__":
    main()
