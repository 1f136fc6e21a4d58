"""What verdicts on counterfactuals are worth: accuracy with them, in labels that they save.

    python benchmarks/verdicts.py --seeds 10          # rows that are there are not run again
    python benchmarks/verdicts.py --table

A probe on the recipe's denoiser is fitted to random labels, and searches the sure counterfactual of the runner-up class of
each labeled image. A judge that has seen the true labels, of up to 12,000 images, a support vector machine on the pixels, says
of each whether it shows that class now (true), still the old one (false), or neither, or nothing clearly (none of these). The
probe is then fitted again to the labels and to the true pictures with their new class, to these and the false ones with their
old class, or to all three with one more class for the last. `all pictures` takes every picture for what it was changed to,
without a judge.

One verdict is given for each label, so that n labels and n verdicts are 2n clicks. `saved` is how many labels a verdict saves:
the mean gain in accuracy over the labels alone, divided by what one label more brings there (the slope of the mean accuracy
from n to 2n labels), divided by the verdicts; the interval is a bootstrap over the seeds.
"""

import argparse
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray
from scipy import stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import SVC

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.counterfactual.search import SURE, explain
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.storage import default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "verdicts.csv"
ARMS = ("labels alone", "all pictures", "true", "true and false", "all verdicts", "twice the labels")
CLEAR = 0.5  # probability of a class below which the judge says none of these
DRAWS = 4000
LARGEST = 12_000  # images that the judge has seen; of a larger data set it is fitted once


@lru_cache(maxsize=1)
def judge_of(dataset: str, seed: int) -> tuple[CalibratedClassifierCV, float]:
    """The judge, and its accuracy on images that it has not seen (five folds)."""
    pool = load_dataset(dataset)
    order = np.random.default_rng(seed).permutation(len(pool))
    some = order[:LARGEST] if len(pool) > LARGEST else np.arange(len(pool))
    flat, labels = pool.images[some].reshape(len(some), -1) / 255, pool.labels[some]
    machine = SVC(C=10, gamma=0.2 if dataset == "digits" else "scale")
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    right = cross_val_predict(machine, flat, labels, cv=folds) == labels
    judge = CalibratedClassifierCV(machine, ensemble=False, cv=folds)
    return judge.fit(flat, labels), float(right.mean())


def verdicts(
    judge: CalibratedClassifierCV, pictures: NDArray[np.uint8], source: NDArray[np.int64], target: NDArray[np.int64]
) -> NDArray[np.str_]:
    """What the judge says of each picture: true, false or none."""
    p = judge.predict_proba(pictures.reshape(len(pictures), -1) / 255) if len(pictures) else np.zeros((0, 1))
    seen = np.where(p.max(axis=1) >= CLEAR, p.argmax(axis=1), -1) if len(pictures) else np.zeros(0, np.int64)
    return np.where(seen == target, "true", np.where(seen == source, "false", "none"))


def measure(dataset: str, labeled: int, seed: int, csv: Path, cache: Path) -> None:
    """Append the rows of a number of labels and a seed."""
    key = {"dataset": dataset, "labeled": labeled, "seed": seed}
    if find_row(csv, {**key, "arm": ARMS[-1]}) is not None:
        return
    pool = load_dataset(dataset)
    judge, right = judge_of(dataset, seed if len(pool) <= LARGEST else 0)
    recipe = load_recipe(dataset).with_overrides(
        ["training.objective=probe", f"labels.budget={labeled}", f"training.seed={seed}"]
    )
    chosen = choose_labeled(pool, labeled, seed=seed)
    model = fit_model(recipe, pool, chosen, options=FitOptions(cache=DenoiserCache(cache))).model()
    at, more = pool.positions(chosen.train), pool.positions(choose_labeled(pool, 2 * labeled, seed=seed).train)
    y, test, k = pool.labels[at], pool.test, len(pool.classes)
    z, z_more, z_test, z_reference = (
        represent(model, pool.images[rows]) for rows in (at, more, test, reference_sample(pool.train, seed))
    )
    result = explain(model, pool.images[at], confidence=SURE)
    shown = result.success & (result.source == y)
    pictures, source, target = result.images()[shown], y[shown], result.target[shown]
    said = verdicts(judge, pictures, source, target)
    z_shown = represent(model, pictures) if len(pictures) else z[:0]
    true, false = said == "true", said == "false"
    everything = np.ones(len(said), dtype=np.bool_)
    learned = np.where(true, target, np.where(false, source, k))
    for arm in ARMS:
        used, classes = {
            "labels alone": (~everything, target),
            "all pictures": (everything, target),
            "true": (true, target),
            "true and false": (true | false, learned),
            "all verdicts": (everything, learned),
            "twice the labels": (~everything, target),
        }[arm]
        own, own_classes = (z_more, pool.labels[more]) if arm == "twice the labels" else (z, y)
        whole, labels = np.concatenate([own, z_shown[used]]), np.concatenate([own_classes, classes[used]])
        probe = fit_probe(whole, labels, z_reference, int(labels.max() >= k) + k, seed=seed)
        accuracy = float((probe.logits(z_test).argmax(axis=1) == pool.labels[test]).mean())
        counts = {"pictures": len(said), "true": int(true.sum()), "false": int(false.sum())}
        row = {**key, "arm": arm, **counts, "used": int(used.sum()), "accuracy": round(accuracy, 4)}
        row |= {"judge": round(right, 4), **provenance()}
        append_row(csv, row)
        print(row, file=sys.stderr, flush=True)


def table(frame: pd.DataFrame) -> str:
    """Accuracy, the paired gain and the labels that a verdict saves, a row a number of labels and an arm."""
    rows = []
    for (dataset, labeled), part in frame.groupby(["dataset", "labeled"]):
        accuracy = part.pivot(index="seed", columns="arm", values="accuracy").dropna()
        n, drawn = len(accuracy), np.random.default_rng(0).integers(0, len(accuracy), (DRAWS, len(accuracy)))
        slope = (accuracy["twice the labels"] - accuracy["labels alone"]).to_numpy() / labeled
        for arm in ARMS:
            gain, of = (accuracy[arm] - accuracy["labels alone"]).to_numpy(), part[part["arm"] == arm]
            half = stats.t.ppf(0.975, n - 1) * gain.std(ddof=1) / n**0.5 if n > 1 else float("nan")
            asked = of["pictures"].mean()
            values = gain[drawn].mean(axis=1) / slope[drawn].mean(axis=1) / asked
            low, high = np.quantile(values, (0.025, 0.975))
            judged = arm not in ("labels alone", "twice the labels")
            rows.append(
                {
                    "data": dataset,
                    "labels": labeled,
                    "learned": arm,
                    "seeds": n,
                    "pictures": round(of["used"].mean(), 1),
                    "accuracy": round(100 * accuracy[arm].mean(), 2),
                    "gain": "" if arm == "labels alone" else f"{100 * gain.mean():+.2f} ± {100 * half:.2f}",
                    "saved": f"{gain.mean() / slope.mean() / asked:+.2f} ({low:+.2f} to {high:+.2f})" if judged else "",
                }
            )
    return markdown_table(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["digits"])
    parser.add_argument("--labeled", type=int, nargs="+", default=[20, 40, 100])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for dataset in args.dataset:
                for labeled in args.labeled:
                    measure(dataset, labeled, seed, args.csv, args.cache_dir or default_cache_dir())
    print(table(pd.read_csv(args.csv)))


if __name__ == "__main__":
    main()
