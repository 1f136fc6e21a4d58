"""Counterfactuals as teachers: a probe on labels alone, and on these and sure counterfactuals of the labeled images.

    python benchmarks/counterfactual_labels.py --seeds 10          # rows that are there are not run again
    python benchmarks/counterfactual_labels.py --table

For each number of labels and seed a probe is fitted on the recipe's denoiser, and every labeled image gets a counterfactual of
its runner-up class: at the boundary, or with a probability of at least 0.9. It is added to the labels with the class that it
was changed to, all of them or those that another judge, logistic regression on the pixels of the same labels, takes for that
class; then the probe is fitted again. `gain` in the table is the difference to the labels alone in points, paired by seed,
with its 95 % interval.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from scipy import stats
from sklearn.linear_model import LogisticRegression

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.counterfactual.search import SURE, explain
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.storage import default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "counterfactual_labels.csv"
TEACHERS = ("labels alone", "boundary", "sure", "sure and confirmed")


def measure(dataset: str, labeled: int, seed: int, cache: Path) -> None:
    """Append the rows of a number of labels and a seed."""
    key = {"dataset": dataset, "labeled": labeled, "seed": seed}
    if find_row(CSV, {**key, "teacher": TEACHERS[-1]}) is not None:
        return
    pool = load_dataset(dataset)
    recipe = load_recipe(dataset).with_overrides(
        ["training.objective=probe", f"labels.budget={labeled}", f"training.seed={seed}"]
    )
    chosen = choose_labeled(pool, labeled, seed=seed)
    model = fit_model(recipe, pool, chosen, options=FitOptions(cache=DenoiserCache(cache))).model()
    at = pool.positions(chosen.train)
    images, y, test = pool.images[at], pool.labels[at], pool.test[:3000]
    z_test, z_reference = (represent(model, pool.images[rows]) for rows in (test, reference_sample(pool.train, seed)))
    z = represent(model, images)
    flat = images.reshape(len(images), -1) / 255
    judge = LogisticRegression(max_iter=2000).fit(flat, y)
    added: dict[str, tuple[np.ndarray, np.ndarray]] = {"labels alone": (images[:0], y[:0])}
    for name, confidence in (("boundary", 0.0), ("sure", SURE)):
        result = explain(model, images, confidence=confidence)
        good = result.success & (result.source == y)  # a change of a class that was wrong proves nothing
        changed, target = result.images()[good], result.target[good]
        added[name] = changed, target
        if confidence:
            agrees = judge.predict(changed.reshape(len(changed), -1) / 255) == target if len(changed) else good[:0]
            added["sure and confirmed"] = changed[agrees], target[agrees]
    for teacher in TEACHERS:
        more, classes = added[teacher]
        whole = np.concatenate([z, represent(model, more)]) if len(more) else z
        probe = fit_probe(whole, np.concatenate([y, classes]), z_reference, len(pool.classes), seed=seed)
        accuracy = float((probe.logits(z_test).argmax(axis=1) == pool.labels[test]).mean())
        row = {**key, "teacher": teacher, "added": len(more), "accuracy": round(accuracy, 4), **provenance()}
        append_row(CSV, row)
        print(row, file=sys.stderr, flush=True)


def table(frame: pd.DataFrame) -> str:
    """Mean accuracy and the paired gain over the labels alone, a row a number of labels and a teacher."""
    rows = []
    for (dataset, labeled), part in frame.groupby(["dataset", "labeled"]):
        accuracy = part.pivot(index="seed", columns="teacher", values="accuracy").dropna()
        for teacher in TEACHERS:
            gain = 100 * (accuracy[teacher] - accuracy["labels alone"])
            half = stats.t.ppf(0.975, len(gain) - 1) * gain.std() / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
            rows.append(
                {
                    "data": dataset,
                    "labels": labeled,
                    "teacher": teacher,
                    "seeds": len(gain),
                    "added": round(part.loc[part["teacher"] == teacher, "added"].mean(), 1),
                    "accuracy": round(100 * accuracy[teacher].mean(), 2),
                    "gain": f"{gain.mean():+.2f} ± {half:.2f}" if teacher != "labels alone" else "",
                }
            )
    return markdown_table(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["digits"])
    parser.add_argument("--labeled", type=int, nargs="+", default=[20, 40, 100])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        for seed in range(args.seeds):
            for dataset in args.dataset:
                for labeled in args.labeled:
                    measure(dataset, labeled, seed, args.cache_dir or default_cache_dir())
    print(table(pd.read_csv(CSV)))


if __name__ == "__main__":
    main()
