"""Is the better one kept? The trained model and the probe of its denoiser on a test split, and what a fit decides without it.

    python benchmarks/fit_guard.py                                               # digits
    python benchmarks/fit_guard.py --data photos/ --size 16 --name photos         # a folder of classes

One row a schedule, term, number of labels and seed in `results/fit_guard.csv`; rows that are there are not run again. The
schedules run from far too short to sufficient. `kept` and `reason` are the decision of
:mod:`ssl_diffusion.training.starting_point`, which sees no test image; `lost` is what the decision costs in accuracy against
the better of the two.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, append_row, find_row, provenance

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.models.build import build_model
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe
from ssl_diffusion.training.starting_point import compare_with_start

CSV = RESULTS / "fit_guard.csv"
SMALL = ("model.channels=16", "model.multipliers=1,2", "model.groups=8", "pretraining.batch_size=64", "compute.precision=fp32")
SCHEDULES = ((30, 20), (60, 60), (150, 250))  # steps of pretraining and of training
LARGEST = 1500  # images


def measure(
    pool: Pool, steps: tuple[int, int], consistency: str, n_labeled: int, seed: int, cache: DenoiserCache
) -> dict[str, Any]:
    """One fit, its probe, and the decision."""
    recipe = (
        load_recipe("images")
        .with_overrides(SMALL)
        .with_settings(
            {
                "pretraining.steps": steps[0],
                "training.steps": steps[1],
                "training.consistency": consistency,
                "training.seed": seed,
            }
        )
    )
    labeled = choose_labeled(pool, n_labeled, seed=seed)
    began = time.monotonic()
    fitted = fit_model(recipe, pool, labeled, options=FitOptions(cache=cache))
    seconds = time.monotonic() - began
    assert fitted.pretraining is not None
    denoiser = cache.load(fitted.pretraining["key"])
    assert denoiser is not None
    start = compare_with_start(recipe, pool, labeled, fitted.config, denoiser.weights, fitted.ema)
    compared = time.monotonic() - began - seconds
    probe = build_model(start.config, seed=0, initial=start.weights).eval()
    images, truth = pool.images[pool.test], pool.labels[pool.test]
    trained, probed = (float((predict_logits(m, images).argmax(axis=1) == truth).mean()) for m in (fitted.model(), probe))
    facts = start.comparison.to_dict()
    return {
        "trained": round(trained, 4),
        "probe": round(probed, 4),
        "kept": facts["kept"],
        "reason": facts["reason"],
        "lost": round(max(trained, probed) - (trained if facts["kept"] == "trained" else probed), 4),
        "own_labels": facts["trained"]["own_labels"],
        "folds": facts["probe"]["folds"],
        "neighbors_trained": facts["trained"]["neighbors"],
        "neighbors_probe": facts["probe"]["neighbors"],
        "class_change": facts["class_change"],
        "mask_rate": fitted.history[-1].get("mask_rate"),
        "seconds": round(seconds, 1),
        "compare_seconds": round(compared, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Folder with one folder per class; default: digits")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--name", default="digits")
    parser.add_argument("--labeled", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[51, 52])
    args = parser.parse_args()
    settings = DataSettings(dataset="digits")
    if args.data:
        settings = DataSettings(path=args.data, size=args.size, test_fraction=0.3)
    pool, facts = load_pool(settings), provenance()
    chosen = np.sort(np.random.default_rng(50).permutation(len(pool))[:LARGEST])
    pool = replace(
        pool, images=pool.images[chosen], ids=pool.ids[chosen], labels=pool.labels[chosen], is_test=pool.is_test[chosen]
    )
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for steps in SCHEDULES:
                for consistency in ("none", "match"):
                    for n in args.labeled:
                        schedule = f"{steps[0]}+{steps[1]}"
                        key = {"data": args.name, "steps": schedule, "consistency": consistency, "n_labeled": n, "seed": seed}
                        if find_row(CSV, key) is not None:
                            continue
                        row = measure(pool, steps, consistency, n, seed, DenoiserCache(Path(folder)))
                        append_row(CSV, key | row | facts)
                        print(key, row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
