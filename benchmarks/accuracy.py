"""Test accuracy of fits through the command line, with scikit-learn's semi-supervised methods on the same splits.

    python benchmarks/accuracy.py --dataset digits --labeled 40 --seeds 5
    python benchmarks/accuracy.py --dataset fashion-mnist --labeled 4000 --seeds 3 --methods joint labels-only

Rows are appended to `results/accuracy-DATASET.csv` as they are done, and rows that are there already are not run again. The
first joint fit of a call starts with an empty cache, so that its row holds the whole price of the pretraining; the
others take the denoiser from the cache, which changes their time and nothing else.

The scikit-learn methods see the raw pixels in [0, 1] of the same labeled and unlabeled images, with the settings of
their documentation: LabelSpreading with a kNN kernel of 7 neighbours, SelfTraining around an SVC with probabilities.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, markdown_table

OURS = ("joint", "labels-only")
SCIKIT = ("LabelSpreading", "SelfTraining(SVC)")
KEYS = ["dataset", "n_labeled", "method", "seed"]


def fit_ours(dataset: str, labeled: int, method: str, seed: int, cache: Path, extra: list[str]) -> dict[str, Any]:
    """One `ssld fit` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["fit", "--dataset", dataset, "--labeled", str(labeled), "--objective", method, "--seed", str(seed), *extra]
        began = time.perf_counter()
        done = subprocess.run(
            [Path(sys.executable).with_name("ssld"), *command, "--json", "--cache-dir", cache, "--out", f"{folder}/run"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
    m = json.loads(done.stdout)
    pretraining = m["pretraining"] or {"cached": None, "seconds": 0.0}
    return {
        "test_accuracy": m["test_accuracy"],
        "test_nll": m["test_nll"],
        "test_ece": m["test_ece"],
        "command_seconds": round(seconds, 1),
        "pretrain_seconds": pretraining["seconds"],
        "pretrain_cached": pretraining["cached"],
        "steps": m["steps"],
        "parameters": m["parameters"],
        "threads": m["threads"],
        "precision": m["precision"],
        "commit": m["commit"],
        "command": "ssld " + " ".join(command),
    }


def fit_scikit(dataset: str, labeled: int, method: str, seed: int) -> dict[str, Any]:
    """One scikit-learn method on the labels that `ssld fit` would use."""
    from sklearn.metrics import log_loss
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
    from sklearn.svm import SVC

    from ssl_diffusion.datasets import load_dataset
    from ssl_diffusion.evaluation import expected_calibration_error
    from ssl_diffusion.pool import choose_labeled
    from ssl_diffusion.provenance import source_commit

    pool = load_dataset(dataset)
    x = pool.images.reshape(len(pool), -1) / 255.0
    train = pool.train
    y = np.full(len(train), -1)
    chosen = np.searchsorted(train, pool.positions(choose_labeled(pool, labeled, seed=seed).train))
    y[chosen] = pool.labels[train[chosen]]
    model = (
        LabelSpreading(kernel="knn", n_neighbors=7)
        if method == "LabelSpreading"
        else SelfTrainingClassifier(SVC(gamma="scale", probability=True, random_state=seed))
    )
    began = time.perf_counter()
    model.fit(x[train], y)
    # Label spreading knows nothing of an image that its graph does not connect to a label, and says NaN.
    p = np.nan_to_num(model.predict_proba(x[pool.test]), nan=1 / len(pool.classes))
    seconds = time.perf_counter() - began
    truth = pool.labels[pool.test]
    right = model.predict(x[pool.test]) == truth  # an SVC predicts by its margins, which few labels serve better than p
    return {
        "test_accuracy": float(right.mean()),
        "test_nll": float(log_loss(truth, np.clip(p, 1e-12, 1))),
        "test_ece": expected_calibration_error(p.max(axis=1), right),
        "command_seconds": round(seconds, 1),
        "pretrain_seconds": 0.0,
        "commit": source_commit(),
        "command": f"python benchmarks/accuracy.py --dataset {dataset} --labeled {labeled}",
    }


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each method."""
    rows = []
    for (dataset, labeled, method), group in frame.groupby(["dataset", "n_labeled", "method"], sort=False):
        accuracy = group["test_accuracy"] * 100
        deviation = f" ± {accuracy.std(ddof=1):.2f}" if len(group) > 1 else ""
        rows.append(
            {
                "data": dataset,
                "labels": labeled,
                "method": method,
                "accuracy, %": f"{accuracy.mean():.2f}{deviation}",
                "lowest": f"{accuracy.min():.2f}",
                "seeds": len(group),
                "NLL": f"{group['test_nll'].mean():.3f}",
                "ECE": f"{group['test_ece'].mean():.3f}",
                "longest command, s": f"{group['command_seconds'].max():.0f}",
                "median command, s": f"{group['command_seconds'].median():.0f}",
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--labeled", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to SEEDS - 1")
    parser.add_argument("--methods", nargs="+", default=[*OURS, *SCIKIT], choices=[*OURS, *SCIKIT])
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    parser.add_argument("--results", type=Path, help="CSV file. Default: results/accuracy-DATASET.csv")
    arguments, extra = parser.parse_known_args()
    results = arguments.results or RESULTS / f"accuracy-{arguments.dataset}.csv"
    if not arguments.table:
        with tempfile.TemporaryDirectory() as cache:
            for method in arguments.methods:
                for seed in range(arguments.seeds):
                    key = dict(zip(KEYS, (arguments.dataset, arguments.labeled, method, seed), strict=True))
                    if _done(results, key):
                        continue
                    fit = fit_ours if method in OURS else fit_scikit
                    more = (Path(cache), extra) if method in OURS else ()
                    row = key | fit(arguments.dataset, arguments.labeled, method, seed, *more)  # type: ignore[operator]
                    _append(results, row)
                    print(f"{key} {row['test_accuracy']:.4f} {row['command_seconds']:.0f} s", file=sys.stderr, flush=True)
    print(markdown_table(summary(pd.read_csv(results)).to_dict("records")))


def _done(path: Path, key: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    frame = pd.read_csv(path)
    return bool((frame[KEYS] == pd.Series(key)).all(axis=1).any())


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a row; methods have different columns, so the file is written anew."""
    frame = pd.DataFrame([row])
    if path.exists():
        frame = pd.concat([pd.read_csv(path), frame], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


if __name__ == "__main__":
    main()
