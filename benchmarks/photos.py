"""Photos and few labels: what a pretrained network gives, what the denoiser gives, and what both give together.

    python benchmarks/photos.py --cache CACHE --cifar CIFAR               # everything; rows that are there are not run again
    python benchmarks/photos.py --cache CACHE --dataset elpv --methods "Lite0, logistic regression"
    python benchmarks/photos.py --cache CACHE --cifar CIFAR --shared --dataset cifar10 --labeled 40 100 --picks STUDY
    python benchmarks/photos.py --table                                   # the table of the rows that are there

CIFAR is a folder with train/ and test/ of CIFAR-10 as image files, CACHE holds the features of EfficientNet-Lite0 and the
pretrained denoisers. All methods of a seed see the same labels, those of `ssld fit --labeled N --seed SEED`, as many of each
class as possible; the test split is read once, at the end. Seconds are those of a processor, of one core, children included:
`read_seconds` is what the backbone takes for all images of the data set, `pretrain_seconds` what the denoiser once took, and
`fit_seconds` the rest. The data sets are described in photo_data.py, the rivals in photo_rivals.py.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from baselines import known_labels
from common import RESULTS, append_row, find_row, markdown_table, ssld_json
from photo_data import BACKBONE, INPUTS, PhotoSet, photo_set
from photo_fits import SharedFits
from photo_rivals import RIVALS
from sklearn.metrics import precision_recall_fscore_support

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.machine import source_commit
from ssl_diffusion.studies import StudyFolder

CSV = RESULTS / "photos.csv"
KEYS = ["dataset", "n_labeled", "method", "seed"]

ALONE = "denoiser, probe"
# name: arguments of `ssld fit`.
PROBES: dict[str, list[str]] = {
    ALONE: ["--backbone", "none"],
    "denoiser and Lite0, probe": ["--backbone", BACKBONE],
    "denoiser and Lite0, probe without pseudo-labels": ["--backbone", BACKBONE, "--set", "backbone.pseudo_labels=false"],
}
# These take the recipe's own schedule, an hour of a core and more.
TRAINED: dict[str, list[str]] = {
    "denoiser, joint": ["--backbone", "none"],
    "denoiser, match": ["--backbone", "none", "--consistency", "match"],
    "denoiser and Lite0, joint": ["--backbone", BACKBONE],
}
OURS = PROBES | TRAINED
CHOSEN = "denoiser and Lite0, probe, labels chosen by auto"
METHODS = (*RIVALS, *OURS, CHOSEN)


@dataclass(frozen=True)
class Suite:
    """What is measured of a data set, and what is asked of it, in percent, by column of the table.

    A denoiser of 250 steps is a quick one: 20 minutes of a core instead of an hour.
    """

    budgets: tuple[int, ...]
    bars: dict[str, str] = field(default_factory=dict)
    recipe: str = "images"
    pretraining_steps: int = 250


SUITES = {
    "cifar10": Suite((40, 100, 400, 1000, 4000), {"40": "50", "100": "62", "400": "70", "1000": "74", "4000": "78"}),
    "cifar10-2000": Suite((100,)),
    "digits-on-photos": Suite((100,)),
    "garments-in-color": Suite((100,)),
    "fashion-mnist": Suite((100, 400, 1000, 4000), recipe="fashion-mnist", pretraining_steps=800),
    "elpv": Suite((100, 400), {"100": "51", "100, balanced": "48", "400": "60", "400, balanced": "52"}),
}
_TRAINED_ON = [(name, 100) for name in ("cifar10-2000", "digits-on-photos", "garments-in-color", "elpv")] + [("elpv", 400)]
# Methods that take minutes a fit run for fewer seeds, and not on every data set.
FEW_SEEDS = {
    "Lite0, fine-tuned": {("cifar10-2000", 100): 5, ("elpv", 100): 5, ("elpv", 400): 5},
    **{method: dict.fromkeys(_TRAINED_ON, 3) for method in TRAINED},
}


def n_seeds(dataset: str, n_labeled: int, method: str) -> int:
    """Number of seeds: 5 up to 1,000 labels, 2 beyond."""
    if method in FEW_SEEDS:
        return FEW_SEEDS[method].get((dataset, n_labeled), 0)
    return 5 if n_labeled <= 1000 else 2


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Keys of the rows that were asked for, cheap methods first."""
    for dataset in arguments.dataset or SUITES:
        for method in [CHOSEN] if arguments.picks else arguments.methods or [*RIVALS, *OURS]:
            for n_labeled in arguments.labeled or SUITES[dataset].budgets:
                for seed in arguments.seeds or range(n_seeds(dataset, n_labeled, method)):
                    yield dict(zip(KEYS, (dataset, n_labeled, method, seed), strict=True))


def fit_rival(data: PhotoSet, n_labeled: int, method: str, seed: int) -> dict[str, Any]:
    """One fit of another tool."""
    function, reads, unlabeled = RIVALS[method]
    pool, read = data.pool, INPUTS[reads]
    y, test = known_labels(pool, n_labeled, seed), pool.test[pool.has_label[pool.test]]
    seen = y >= (-1 if unlabeled else 0)
    train_x, test_x, y = read(data, pool.train[seen]), read(data, test), y[seen]
    began = time.process_time()
    p = function(train_x, y, test_x, len(pool.classes), seed)
    seconds = time.process_time() - began
    truth = pool.labels[test]
    metrics = classification_metrics(np.log(np.clip(p, 1e-12, 1)).astype(np.float32), truth)
    _, recall, f1, _ = precision_recall_fscore_support(truth, p.argmax(axis=1), zero_division=0.0)
    return {
        **_scores(metrics, recall, f1),
        "read_seconds": data.read_seconds if reads.startswith("feature") else 0.0,
        "pretrain_seconds": 0.0,
        "fit_seconds": round(seconds, 2),
        "commit": source_commit(),
        "command": f"python benchmarks/photos.py --dataset {data.name} --labeled {n_labeled} --methods '{method}'",
    }


def _scores(metrics: dict[str, float], recall: Sequence[float], f1: Sequence[float]) -> dict[str, float]:
    return {
        "test_accuracy": metrics["accuracy"],
        "test_balanced_accuracy": float(np.mean(recall)),
        "test_macro_f1": float(np.mean(f1)),
        "test_nll": metrics["nll"],
        "test_ece": metrics["ece"],
    }


def fit_ours(data: PhotoSet, n_labeled: int, method: str, seed: int) -> dict[str, Any]:
    """One `ssld fit` in a process of its own, on one thread."""
    suite = SUITES[data.name]
    quick = ["--objective", "probe", "--pretrain-steps", str(suite.pretraining_steps)]
    arguments = ["--recipe", suite.recipe, *(quick if method in PROBES else ["--objective", "joint"])]
    arguments += ["--labeled", str(n_labeled), "--seed", str(seed), *OURS[method]]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        own = ("--threads", "1", "--cache-dir", data.cache, "--out", run)
        before = _child_seconds()
        fitted = ssld_json("fit", *data.arguments, *arguments, *own)
        spent = _child_seconds() - before
        scores = _of_run(data, run, fitted)
    pretraining = fitted["pretraining"] or {"seconds": 0.0, "cached": True}
    return {
        **scores,
        "read_seconds": data.read_seconds if fitted.get("backbone") else 0.0,
        "pretrain_seconds": pretraining["seconds"],
        "fit_seconds": round(spent - (0.0 if pretraining["cached"] else pretraining["seconds"]), 2),
        "commit": fitted["commit"],
        "command": " ".join(["ssld fit --data", data.name, *arguments]),
    }


def picks_of(study: Path, n_labeled: int, seed: int) -> LabeledSet:
    """The first labels that "auto" chose in a study of probes, from none on."""
    _, picks, _ = StudyFolder(study).results()
    mine = picks[(picks["strategy"] == "auto") & (picks["seed"] == seed) & (picks["rank"] > 0)]
    chosen = mine.loc[mine["n_labeled"] <= n_labeled, "id"]
    if len(chosen) != n_labeled:
        raise SystemExit(f"{study} has {len(chosen)} labels of auto with seed {seed} up to {n_labeled}, not {n_labeled}")
    return LabeledSet(tuple(chosen))


def fit_shared(
    fits: SharedFits, data: PhotoSet, n_labeled: int, method: str, seed: int, picks: Path | None = None
) -> dict[str, Any]:
    """One fit of a probe, in this process."""
    if method == ALONE:
        got = fits.scores_alone(n_labeled, seed)
    else:
        labeled = picks_of(picks, n_labeled, seed) if picks is not None else None
        got = fits.scores(n_labeled, seed, pseudo_labels=method in ("denoiser and Lite0, probe", CHOSEN), labeled=labeled)
    return {
        **_scores(got["metrics"], got["recall"], got["f1"]),
        "read_seconds": 0.0 if method == ALONE else data.read_seconds,
        "pretrain_seconds": fits.pretrain_seconds,
        "fit_seconds": got["fit_seconds"],
        "commit": source_commit(),
        "command": f"python benchmarks/photos.py --shared --dataset {data.name} --labeled {n_labeled} --methods '{method}'",
    }


def _of_run(data: PhotoSet, run: Path, fitted: dict[str, Any]) -> dict[str, float]:
    """Scores of a finished run. With as many test images of each class the balanced accuracy is the accuracy, and F1, for which
    the test split would have to be read again, is left out."""
    counts = np.bincount(data.pool.labels[data.pool.test])
    if (counts == counts[0]).all():
        named = {name: fitted[f"test_{name}"] for name in ("accuracy", "nll", "ece")}
        return _scores(named, [named["accuracy"]], [float("nan")])
    report = ssld_json("evaluate", run)
    classes = pd.DataFrame(report["per_class"])
    return _scores(report, classes["recall"], classes["f1"])


def _child_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run(arguments: argparse.Namespace) -> None:
    """Fill in the rows that are missing."""
    sets: dict[str, PhotoSet] = {}
    fits: dict[str, SharedFits] = {}
    for key in cells(arguments):
        if find_row(CSV, key) is not None:
            continue
        name = key["dataset"]
        if name not in sets:
            sets = {name: photo_set(name, arguments.cache, arguments.cifar)}  # one at a time: they are large
        if arguments.shared and key["method"] in (*PROBES, CHOSEN):
            if name not in fits:
                suite = SUITES[name]
                fits = {name: SharedFits(sets[name], suite.recipe, [f"pretraining.steps={suite.pretraining_steps}"])}
            row = key | fit_shared(fits[name], sets[name], key["n_labeled"], key["method"], key["seed"], arguments.picks)
        else:
            fit = fit_ours if key["method"] in OURS else fit_rival
            row = key | fit(sets[name], key["n_labeled"], key["method"], key["seed"])
        append_row(CSV, row)
        print(f"{key} {row['test_accuracy']:.4f} {row['fit_seconds']:.0f} s", file=sys.stderr, flush=True)


def table(frame: pd.DataFrame, dataset: str) -> list[dict[str, Any]]:
    """Mean and deviation over seeds (their number), one row a method and one column a budget; the bars come first."""
    suite = SUITES[dataset]
    part = frame[frame["dataset"] == dataset]
    scores = {"": "test_accuracy"} | ({", balanced": "test_balanced_accuracy"} if dataset == "elpv" else {})
    rows: list[dict[str, Any]] = []
    if suite.bars:
        rows.append({"method": "*bar*"} | suite.bars | dict.fromkeys(("NLL", "ECE", "read, s", "pretrain, s", "fit, s"), ""))
    for method in METHODS:
        of_method = part[part["method"] == method]
        if of_method.empty:
            continue
        row: dict[str, Any] = {"method": method}
        for n in suite.budgets:
            for word, score in scores.items():
                row[f"{n}{word}"] = _spread(100 * of_method.loc[of_method["n_labeled"] == n, score])
        row |= {"NLL": f"{of_method['test_nll'].mean():.2f}", "ECE": f"{of_method['test_ece'].mean():.2f}"}
        for name in ("read", "pretrain", "fit"):
            row[f"{name}, s"] = f"{of_method[f'{name}_seconds'].median():.0f}"
        rows.append(row)
    return rows


def _spread(values: "pd.Series[float]") -> str:
    if values.empty:
        return "–"
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation} ({len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", choices=SUITES)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--labeled", type=int, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--cache", type=Path, help="folder of features and denoisers")
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 as image files")
    parser.add_argument("--shared", action="store_true", help="fit ours in this process, the denoiser's reading done once")
    parser.add_argument("--picks", type=Path, help="folder of a study whose strategy auto chose the labels, with --shared")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.cache is None:
            parser.error("say with --cache where features are kept")
        if arguments.picks and not (arguments.shared and arguments.labeled):
            parser.error("--picks goes with --shared and --labeled")
        run(arguments)
    frame = pd.read_csv(CSV)
    for dataset in SUITES:
        if (frame["dataset"] == dataset).any():
            print(f"#### {dataset}\n\n{markdown_table(table(frame, dataset))}\n")


if __name__ == "__main__":
    main()
