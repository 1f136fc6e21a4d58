"""From how many steps on does joint training pay? Probe and joint training on photos, by pretraining and training steps.

    python benchmarks/schedule.py --data cifar10/ --name cifar10 --schedules 50+50 100+100
    python benchmarks/schedule.py --data elpv/ --name elpv --test-fraction 0.3 --schedules 50+50 100+100
    python benchmarks/schedule.py --data digits --name digits --size 8 --recipe digits --schedules 150+40 300+80 600+160
    python benchmarks/schedule.py --data elpv/ --name elpv --test-fraction 0.3 --seconds    # of a step of both phases, here
    python benchmarks/schedule.py --curve           # from the rows: accuracy against minutes of one core, schedule.png
    python benchmarks/schedule.py --doubled         # from the rows: what twice the steps of both phases bring

One row a schedule, objective and seed in `results/schedule.csv`; rows that are there are not run again. A schedule is the
number of pretraining steps and of training steps, both of one recipe; its probe is a row with no training step. Images
of the folder's training split are drawn until the pool is full, and the test split, or 1,000 images of it, measures. The
accuracy is that of the model itself: what :mod:`ssl_diffusion.training.starting_point` would keep instead is not asked.
Processor time does not count what other programs take, but caches that are shared with them make a step slower.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from sklearn.metrics import balanced_accuracy_score

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.measuring import time_steps
from ssl_diffusion.training.phases import pretraining_job, training_job
from ssl_diffusion.training.recipe import Recipe, load_recipe

CSV, SECONDS = RESULTS / "schedule.csv", RESULTS / "schedule_seconds.csv"
LARGEST_TEST = 1000  # images


def subset(pool: Pool, images: int) -> Pool:
    """At most so many training images, and at most 1,000 of the test split, in their order."""
    rng = np.random.default_rng(70)
    parts = [rng.permutation(part)[:n] for part, n in ((pool.train, images), (pool.test, LARGEST_TEST))]
    rows = np.sort(np.concatenate(parts))
    return pool.select(rows)


def measure(recipe: Recipe, pool: Pool, n_labeled: int, cache: DenoiserCache) -> dict[str, Any]:
    """One fit with the denoiser in the cache, on the test split; the processor time leaves the test split out."""
    labeled = choose_labeled(pool, n_labeled, seed=recipe.training.seed)
    began = time.process_time()
    fitted = fit_model(recipe, pool, labeled, options=FitOptions(cache=cache))
    spent = time.process_time() - began
    truth = pool.labels[pool.test]
    predicted = predict_logits(fitted.model(), pool.images[pool.test]).argmax(axis=1)
    return {
        "accuracy": round(float((predicted == truth).mean()), 4),
        "balanced_accuracy": round(float(balanced_accuracy_score(truth, predicted)), 4),
        "cpu_seconds": round(spent, 1),
    }


def step_seconds(recipe: Recipe, pool: Pool, n_labeled: int) -> dict[str, Any]:
    """Processor seconds of a pretraining step and of a step of joint training."""
    training = training_job(recipe, pool, choose_labeled(pool, n_labeled, seed=0))
    pretraining = pretraining_job(recipe, training, pool.fingerprint())
    assert pretraining is not None
    jobs = {"pretraining_step": pretraining, "training_step": training}
    return {name: round(float(np.median(time_steps(job).alone)), 3) for name, job in jobs.items()}


def recipes(name: str, schedules: list[tuple[int, int]], seed: int, overrides: list[str]) -> Iterator[Recipe]:
    """The probe of every pretraining and the joint training of every schedule, in the order in which they are run."""
    base = load_recipe(name).with_settings({"training.seed": seed, "backbone.name": "none"}).with_overrides(overrides)
    known = set()
    for pretraining, training in schedules:
        recipe = base.with_setting("pretraining.steps", pretraining)
        if pretraining not in known:
            known.add(pretraining)
            yield recipe.with_settings({"training.objective": "probe", "training.steps": 0})
        yield recipe.with_setting("training.steps", training)


def doubled(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairs of rows of which one has twice the steps of the other, and the ratio of their errors."""
    pairs = []
    for keys, group in rows.groupby(["data", "px", "pool", "labels", "objective", "seed"]):
        by_steps = group.set_index(["pretraining_steps", "training_steps"])["accuracy"]
        for (pretraining, training), accuracy in by_steps.items():
            twice = by_steps.get((2 * pretraining, 2 * training))
            if twice is not None:
                facts = dict(zip(["data", "px", "pool", "labels", "objective", "seed"], keys, strict=True))
                facts |= {"pretraining_steps": pretraining, "training_steps": training, "accuracy": 100 * accuracy}
                pairs.append(facts | {"twice": 100 * twice, "error_ratio": (1 - twice) / (1 - accuracy)})
    return pd.DataFrame(pairs)


def curve(rows: pd.DataFrame, seconds: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies of both objectives by the minutes that a core takes, of recipe `images` with 100 labels.

    The minutes are those of the steps (`schedule_seconds.csv`), whatever device the row was measured on.
    """
    keys = ["data", "px"]
    timed = rows[rows["labels"] == 100].merge(seconds.groupby(keys)[["pretraining_step", "training_step"]].median(), on=keys)
    spent = timed["pretraining_steps"] * timed["pretraining_step"] + timed["training_steps"] * timed["training_step"]
    timed["minutes"] = (spent / 60).round(1)
    by = [*keys, "pool", "objective", "pretraining_steps", "training_steps", "minutes"]
    return timed.groupby(by, as_index=False)[["accuracy", "balanced_accuracy"]].mean()


def plot(points: pd.DataFrame, path: Path) -> None:
    """One panel a data set, of the pool that was measured most: dashed the probe, solid joint training, a color a size."""
    from matplotlib.figure import Figure

    names = points["data"].unique()
    figure = Figure(figsize=(5.4 * len(names), 3.4), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        part = points[points["data"] == name]
        part = part[part["pool"] == part["pool"].mode()[0]]
        for color, (px, of_size) in enumerate(part.groupby("px")):
            for objective, style in (("probe", "o--"), ("joint", "o-")):
                line = of_size[of_size["objective"] == objective].sort_values("minutes")
                even = line[(line["training_steps"] == 0) | (line["training_steps"] == line["pretraining_steps"])]
                axis.plot(
                    even["minutes"], 100 * even["accuracy"], style, color=f"C{color}", ms=4, label=f"{px} px, {objective}"
                )
        axis.set(title=name, xlabel="minutes of one core", ylabel="test accuracy, %", xscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Folder with one folder per class, or the name of a data set")
    parser.add_argument("--name")
    parser.add_argument("--recipe", default="images")
    parser.add_argument("--curve", action="store_true", help="Only draw and print accuracy against minutes")
    parser.add_argument("--doubled", action="store_true", help="Only print what twice the steps bring")
    parser.add_argument("--image-root", default="", help="Folder that the paths of a table are relative to")
    parser.add_argument("--test-fraction", type=float, default=0.0)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--labeled", type=int, default=100)
    parser.add_argument("--schedules", nargs="+", default=["50+50", "50+100", "100+100", "100+200", "200+200"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[71, 72])
    parser.add_argument("--cache", type=Path, help="Folder that keeps the denoisers")
    parser.add_argument("--seconds", action="store_true", help="Only measure what a step of both phases takes")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="Settings of the recipe, for trying out")
    args = parser.parse_args()
    if args.curve:
        points = curve(pd.read_csv(CSV), pd.read_csv(SECONDS))
        plot(points, RESULTS / "schedule.png")
        print(points.to_string(index=False))
        return
    if args.doubled:
        print(markdown_table(doubled(pd.read_csv(CSV)).to_dict("records")))
        return
    if not args.data or not args.name:
        parser.error("--data and --name are needed to measure")
    schedules = [(int(a), int(b)) for a, _, b in (text.partition("+") for text in args.schedules)]
    if Path(args.data).exists():
        where = {"path": args.data, "image_root": args.image_root}
        settings = DataSettings(size=args.size, test_fraction=args.test_fraction, **where)
    else:
        settings = DataSettings(dataset=args.data)
    pool, facts = subset(load_pool(settings), args.images), provenance()
    if torch.cuda.is_available():  # which is what fits then take; the seconds are still those of the processor
        facts["processor"] = torch.cuda.get_device_name()
    data = {"data": args.name, "px": args.size, "pool": len(pool.train), "labels": args.labeled}
    if args.seconds:
        row = data | step_seconds(load_recipe(args.recipe).with_overrides(args.overrides), pool, args.labeled)
        append_row(SECONDS, row | facts)
        print(row, file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = DenoiserCache(args.cache or Path(folder))
        for seed in args.seeds:
            for recipe in recipes(args.recipe, schedules, seed, args.overrides):
                steps = {"pretraining_steps": recipe.pretraining.steps, "training_steps": recipe.training.steps}
                key = data | {"seed": seed, **steps, "objective": recipe.training.objective}
                if find_row(CSV, key) is not None:
                    continue
                began = time.process_time()
                alone = recipe.with_settings({"training.objective": "denoise-only"})
                denoiser = fit_model(alone, pool, None, options=FitOptions(cache=cache)).pretraining
                assert denoiser is not None
                pretraining = {} if denoiser["cached"] else {"pretraining_cpu_seconds": round(time.process_time() - began, 1)}
                row = measure(recipe, pool, args.labeled, cache)
                append_row(CSV, key | row | {"pretraining_cpu_seconds": "", **pretraining} | facts)
                print(key, row, pretraining, file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
