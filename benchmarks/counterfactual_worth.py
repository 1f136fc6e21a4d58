"""What a counterfactual says of the worth of a label that the margin does not: three tries beside the distance to the boundary.

    python benchmarks/counterfactual_worth.py --seeds 5        # rows that are there are not run again
    python benchmarks/counterfactual_worth.py --table

For each seed a probe is fitted to random labels on the recipe's denoiser, and random unlabeled images get a counterfactual of
their runner-up class. Quantities, each turned so that more means sooner: `boundary`, minus the distance in pixels to the
boundary; `sure`, minus the distance to the counterfactual with a probability of at least 0.9; `representation`, minus its
distance in the representation; `judge`, the probability with which another judge, logistic regression on the pixels of the same
labels, does not take the sure counterfactual for its class. Failures count as the farthest.

Each is compared with two truths: whether the probe is wrong on the image, and `worth`, by how much the log loss of the test
split falls when the image is labeled and the probe refitted with the same penalty. `partial` is Spearman's correlation with a
truth once the ranks of the margin have been taken out of both: 0 says that the margin knows it all.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from scipy import stats
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.counterfactual.search import SURE, explain
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.storage import default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "counterfactual_worth.csv"
QUANTITIES = ("margin", "boundary", "sure", "representation", "judge")


def measure(dataset: str, labeled: int, seed: int, images: int, cache: Path) -> None:
    """Append the rows of a number of labels and a seed."""
    key = {"dataset": dataset, "labeled": labeled, "seed": seed}
    if find_row(CSV, {**key, "quantity": QUANTITIES[-1]}) is not None:
        return
    pool = load_dataset(dataset)
    recipe = load_recipe(dataset).with_overrides(
        ["training.objective=probe", f"labels.budget={labeled}", f"training.seed={seed}"]
    )
    chosen = choose_labeled(pool, labeled, seed=seed)
    model = fit_model(recipe, pool, chosen, options=FitOptions(cache=DenoiserCache(cache))).model()
    at = pool.positions(chosen.train)
    asked = np.sort(np.random.default_rng([seed, 7]).permutation(np.setdiff1d(pool.train, at))[:images])
    test = pool.test[:3000]
    z, z_asked, z_test, reference = (
        represent(model, pool.images[rows]) for rows in (at, asked, test, reference_sample(pool.train, seed))
    )
    y, truth, k = pool.labels[at], pool.labels[asked], len(pool.classes)
    probe = fit_probe(z, y, reference, k, seed=seed)
    before = classification_metrics(probe.logits(z_test), pool.labels[test])["nll"]
    worth = []
    for row, label in zip(z_asked, truth, strict=True):
        refitted = fit_probe(
            np.concatenate([z, row[None]]), np.append(y, label), reference, k, seed=seed, inverse_penalty=probe.inverse_penalty
        )
        worth.append(before - classification_metrics(refitted.logits(z_test), pool.labels[test])["nll"])
    p = softmax(probe.logits(z_asked).astype(np.float64), axis=1)
    two = np.sort(p, axis=1)[:, -2:]
    head = model.with_linear_head(probe.weight, probe.bias)
    boundary = explain(head, pool.images[asked], "runner-up", revert=False, seed=seed)
    sure = explain(head, pool.images[asked], "runner-up", confidence=SURE, revert=False, seed=seed)
    changed = sure.images()
    judge = LogisticRegression(max_iter=2000).fit(pool.images[at].reshape(len(at), -1) / 255, y)
    judged = judge.predict_proba(changed.reshape(len(changed), -1) / 255)
    column = np.searchsorted(judge.classes_, sure.target).clip(0, len(judge.classes_) - 1)
    agrees = np.where(judge.classes_[column] == sure.target, judged[np.arange(len(changed)), column], 0.0)
    moved = np.linalg.norm(represent(model, changed) - z_asked, axis=1)
    values = {
        "margin": two[:, 0] - two[:, 1],
        "boundary": -_censored(boundary.distance_pixel, boundary.success),
        "sure": -_censored(sure.distance_pixel, sure.success),
        "representation": -_censored(moved, sure.success),
        "judge": 1 - agrees,
    }
    wrong = (p.argmax(axis=1) != truth).astype(float)
    for quantity in QUANTITIES:
        v = values[quantity]
        row = {
            **key,
            "quantity": quantity,
            "images": len(asked),
            "found": round(float(sure.success.mean()), 4),
            "with_margin": round(float(stats.spearmanr(v, values["margin"]).statistic), 4),
            "with_error": round(float(stats.spearmanr(v, wrong).statistic), 4),
            "with_worth": round(float(stats.spearmanr(v, worth).statistic), 4),
        }
        if quantity != "margin":
            row |= {
                "partial_error": round(partial(v, wrong, values["margin"]), 4),
                "partial_worth": round(partial(v, np.array(worth), values["margin"]), 4),
            }
        append_row(CSV, {**dict.fromkeys(COLUMNS, ""), **row, **provenance()})
        print(row, file=sys.stderr, flush=True)


COLUMNS = (
    *("dataset", "labeled", "seed", "quantity", "images", "found", "with_margin"),
    *("with_error", "with_worth", "partial_error", "partial_worth"),
)


def partial(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    """Spearman's correlation of a and b after the ranks of a third have been taken out of the ranks of both."""
    ranks = [stats.rankdata(v) for v in (a, b, given)]
    x = np.column_stack([np.ones(len(a)), ranks[2]])
    rest = [v - x @ np.linalg.lstsq(x, v, rcond=None)[0] for v in ranks[:2]]
    return float(np.corrcoef(*rest)[0, 1])


def _censored(distance: np.ndarray, success: np.ndarray) -> np.ndarray:
    """Distances in which failures are not nearer than any success."""
    censored = np.array(distance, dtype=np.float64)
    if success.any():
        censored[~success] = np.maximum(censored[~success], censored[success].max())
    return censored


def table(frame: pd.DataFrame) -> str:
    """Means over seeds with 95 % intervals, a row a number of labels and a quantity."""
    rows = []
    for (dataset, labeled, quantity), part in frame.groupby(["dataset", "labeled", "quantity"], sort=False):
        row = {"data": dataset, "labels": labeled, "quantity": quantity, "seeds": len(part)}
        for column in ("with_margin", "with_error", "with_worth", "partial_error", "partial_worth"):
            v = part[column].dropna()
            half = stats.t.ppf(0.975, len(v) - 1) * v.std() / len(v) ** 0.5 if len(v) > 1 else float("nan")
            row[column.replace("_", " ")] = f"{v.mean():+.2f} ± {half:.2f}" if len(v) else ""
        rows.append(row)
    return markdown_table(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["digits"])
    parser.add_argument("--labeled", type=int, nargs="+", default=[40])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        for seed in range(args.seeds):
            for dataset in args.dataset:
                for labeled in args.labeled:
                    measure(dataset, labeled, seed, args.images, args.cache_dir or default_cache_dir())
    print(table(pd.read_csv(CSV)))


if __name__ == "__main__":
    main()
