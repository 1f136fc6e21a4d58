"""What happens when the data is not as it should be: wrong labels, classes nobody labeled, unbalanced pools.

    python benchmarks/robustness.py                       # digits, 100 labels, 5 seeds
    python benchmarks/robustness.py --table

Cases, each with the same seeds and recipe:

clean       the data as it is
noise       every tenth label is wrong (another class, drawn at random)
held-out    nobody labeled two of the classes, which stay in the unlabeled pool; the accuracy is that on test images of the
            labeled classes
without     the same labels, but a pool without images of the two classes, to compare `held-out` with
unbalanced  the pool keeps from 100 % of the first class down to 10 % of the last, in equal ratios; labels are drawn at random,
            so that they are unbalanced, too; the accuracy is the mean over classes
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from label_efficiency import OURS

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "robustness.csv"
CASES = ("clean", "noise", "held-out", "without", "unbalanced")
METHODS = ("labels-only", "joint", "joint + match", "probe")


def damaged(pool: Pool, case: str, n_labeled: int, seed: int) -> tuple[Pool, LabeledSet]:
    """The pool of a case and the labels of a seed in it."""
    rng = np.random.default_rng([seed, 1])
    if case == "unbalanced":
        k = len(pool.classes)
        kept = np.ones(len(pool), dtype=bool)
        for c in range(k):
            members = pool.train[pool.labels[pool.train] == c]
            kept[rng.permutation(members)[round(len(members) * 0.1 ** (c / (k - 1))) :]] = False
        pool = pool.select(kept)
        return pool, choose_labeled(pool, n_labeled, seed=seed, choice="uniform", allow_missing_classes=True)
    labeled = choose_labeled(pool, n_labeled, seed=seed)
    positions = pool.positions(labeled.train)
    if case == "noise":
        labels = pool.labels.copy()
        wrong = rng.permutation(positions)[: round(0.1 * len(positions))]
        labels[wrong] = (labels[wrong] + rng.integers(1, len(pool.classes), len(wrong))) % len(pool.classes)
        return replace(pool, labels=labels), labeled
    if case in ("held-out", "without"):
        hidden = rng.permutation(len(pool.classes))[:2]
        absent = np.isin(pool.labels, hidden)
        labeled = LabeledSet(tuple(map(str, pool.ids[positions[~absent[positions]]])))
        kept = ~absent if case == "without" else ~(absent & pool.is_test)
        return pool.select(kept), labeled
    return pool, labeled


def fit(pool: Pool, labeled: LabeledSet, recipe_name: str, method: str, seed: int, cache: DenoiserCache) -> dict[str, Any]:
    """Accuracy of one fit."""
    options = dict(zip(OURS[method][::2], OURS[method][1::2], strict=True))
    recipe = load_recipe(recipe_name).with_setting("training.seed", seed)
    for option, key in (("--objective", "training.objective"), ("--consistency", "training.consistency")):
        if option in options:
            recipe = recipe.with_setting(key, options[option])
    began = time.monotonic()
    fitted = fit_model(recipe, pool, labeled, options=FitOptions(cache=cache))
    seconds = time.monotonic() - began
    test = pool.test
    right = predict_logits(fitted.model(), pool.images[test]).argmax(axis=1) == pool.labels[test]
    by_class = pd.Series(right).groupby(pool.labels[test]).mean()
    last = fitted.history[-1] if fitted.training.steps else {}
    return {
        "accuracy": float(right.mean()),
        "mean_over_classes": float(by_class.mean()),
        "mask_rate": last.get("mask_rate"),
        "pseudo_label_accuracy": last.get("pseudo_label_accuracy"),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--recipe", help="Default: that of the data set")
    parser.add_argument("--labeled", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    args = parser.parse_args()
    if not args.table:
        pool, facts = load_dataset(args.dataset), provenance()
        with tempfile.TemporaryDirectory() as folder:
            cache = DenoiserCache(Path(folder))  # pools of `without` and `unbalanced` are used once, so nothing worth keeping
            for seed in range(args.seeds):
                for case in CASES:
                    for method in args.methods:
                        key = {"dataset": args.dataset, "n_labeled": args.labeled, "case": case, "method": method, "seed": seed}
                        if find_row(CSV, key) is not None:
                            continue
                        row = fit(*damaged(pool, case, args.labeled, seed), args.recipe or args.dataset, method, seed, cache)
                        append_row(CSV, key | row | facts)
                        print(key, f"{row['accuracy']:.4f} {row['seconds']:.0f} s", file=sys.stderr, flush=True)
    print(markdown_table(table(pd.read_csv(CSV)).to_dict("records")))


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation over seeds, one row a method and one column a case."""
    frame = frame.assign(value=100 * frame["accuracy"].where(frame["case"] != "unbalanced", frame["mean_over_classes"]))
    rows = []
    for (dataset, n, method), part in frame.groupby(["dataset", "n_labeled", "method"], sort=False):
        row: dict[str, Any] = {"data": dataset, "labels": n, "method": method}
        for case in CASES:
            values = part.loc[part["case"] == case, "value"]
            row[case] = f"{values.mean():.2f} ± {values.std(ddof=1):.2f} ({len(values)})"
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
