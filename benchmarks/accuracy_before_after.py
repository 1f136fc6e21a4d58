"""Accuracy and samples of the network in channels_last against those of the network before it, which computes the same in NCHW.

    python benchmarks/accuracy_before_after.py --which now
    python benchmarks/accuracy_before_after.py --table

Rows "before" were made by the same file beside commit 79e7b39, the last one with the former network (`git worktree add`), with
`--which before`. Both see the same labels, steps and seeds, in fp32 on one thread: the recipe for digits, two pretrainings, ten
seeds of labels and training. Rows that are there are not run again. `fd` is the Fréchet distance of 2,000 samples to the
training images, on pixels.
"""

import argparse
import math
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance

from ssl_diffusion.data import choose_labeled, load_dataset
from ssl_diffusion.generation import sample
from ssl_diffusion.generation.quality import frechet_distance
from ssl_diffusion.inference import predict_logits
from ssl_diffusion.models.pixels import to_bytes
from ssl_diffusion.training import DenoiserCache, FitOptions, fit_model, load_recipe

if TYPE_CHECKING:
    from ssl_diffusion.data.pool import Pool
    from ssl_diffusion.models.joint import JointDiffusion

CSV = RESULTS / "accuracy_before_after.csv"
KEYS = ["which", "objective", "n_labeled", "seed"]
BUDGETS = (20, 100)
SEEDS, PRETRAININGS = 10, 2


def main() -> None:
    """Run what is missing, or print the table."""
    args = _arguments()
    if args.table:
        print(markdown_table(_table(pd.read_csv(args.out))))
        return
    torch.set_num_threads(1)
    pool, cache = load_dataset("digits"), DenoiserCache(args.cache / args.which)
    for objective, seed, n in product(("probe", "joint"), range(SEEDS), BUDGETS):
        key = dict(zip(KEYS, (args.which, objective, n, seed), strict=True))
        if find_row(args.out, key) is None:
            row = _fit(pool, key, cache, args.cache / "checkpoints" / "-".join(map(str, key.values())))
            append_row(args.out, key | row | provenance())
            print(key | row, flush=True)


def _fit(pool: "Pool", key: dict[str, Any], cache: DenoiserCache, checkpoints: Path) -> dict[str, Any]:
    recipe = load_recipe("digits").with_overrides(
        [
            *("compute.precision=fp32", "compute.accelerator=cpu", f"training.objective={key['objective']}"),
            *(f"training.seed={key['seed']}", f"pretraining.seed={key['seed'] % PRETRAININGS}"),
        ]
    )
    began = time.process_time()
    labeled = choose_labeled(pool, key["n_labeled"], seed=key["seed"])
    fitted = fit_model(recipe, pool, labeled, checkpoints=checkpoints, options=FitOptions(cache=cache))
    model, seconds = fitted.model(), time.process_time() - began
    logits = predict_logits(model, pool.images[pool.test])
    # Samples of a denoiser need no labels, so one of the fits that share it is enough; those of joint training differ.
    sampled = key["n_labeled"] == max(BUDGETS) and (key["objective"] == "joint" or key["seed"] < PRETRAININGS)
    return {
        "test_accuracy": round(float((logits.argmax(axis=1) == pool.labels[pool.test]).mean()), 4),
        "fd": round(_distance(model, pool), 5) if sampled else None,
        "processor_seconds": round(seconds, 1),
    }


def _distance(model: "JointDiffusion", pool: "Pool") -> float:
    images = to_bytes(sample(model, 2000, generator=torch.Generator().manual_seed(0)))
    real, made = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) / 255 for x in (pool.images[pool.train], images))
    return frechet_distance(real, made)


def _table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Means, and the mean difference between fits of the same seed with its standard error."""
    found = []
    for (objective, n), part in rows.groupby(["objective", "n_labeled"], sort=False):
        pairs = part.pivot(index="seed", columns="which", values=["test_accuracy", "fd"])
        if not {"before", "now"} <= set(part.which):
            continue
        accuracy, fd = 100 * pairs["test_accuracy"].dropna(), pairs["fd"].dropna()
        difference = accuracy["now"] - accuracy["before"]
        found.append(
            {
                "objective": objective,
                "labels": n,
                "pairs": len(accuracy),
                **{f"accuracy {which}, %": round(accuracy[which].mean(), 2) for which in ("before", "now")},
                "difference": round(difference.mean(), 2),
                "standard error": round(difference.std(ddof=1) / math.sqrt(len(difference)), 2) if len(difference) > 1 else "–",
                "FD now / before": round(fd["now"].mean() / fd["before"].mean(), 3) if len(fd) else "–",
            }
        )
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--which", choices=("before", "now"), default="now")
    parser.add_argument("--cache", type=Path, default=Path("runs/before-after"))
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
