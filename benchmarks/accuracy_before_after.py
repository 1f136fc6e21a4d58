"""Accuracy and samples of the network in channels_last against those of the network before it, which had smaller groups.

    python benchmarks/accuracy_before_after.py --which now --dataset digits
    python benchmarks/accuracy_before_after.py --table

Rows "before" were made by the same file beside commit 79e7b39, the last one with the former network (`git worktree add`), with
`--which before`. Both see the same labels, steps and seeds, in fp32 on one thread. Rows that are there are not run again.

Digits: the recipe, two pretrainings, ten seeds of labels and training. Fashion-MNIST: `--steps 0.5` takes
half of the steps of the recipe; one pretraining, three seeds of labels. `fd` is the Fréchet distance of 2,000 samples to the
training images, on pixels (digits) or on 64 principal components of pixels.
"""

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from sklearn.decomposition import PCA

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
KEYS = ["which", "dataset", "objective", "n_labeled", "seed"]
# objective, budgets and seeds
SUITES = {
    "digits": (("probe", (20, 100), 10), ("joint", (20, 100), 10)),
    "fashion-mnist": (("probe", (100, 4000), 3), ("joint", (100, 4000), 1)),
}
PRETRAININGS = {"digits": 2, "fashion-mnist": 1}


def main() -> None:
    """Run what is missing, or print the table."""
    args = _arguments()
    if args.table:
        print(markdown_table(_table(pd.read_csv(args.out))))
        return
    torch.set_num_threads(args.threads)
    pool, cache = load_dataset(args.dataset), DenoiserCache(args.cache / args.which)
    for objective, budgets, seeds in SUITES[args.dataset]:
        for seed in range(seeds):
            for n in budgets:
                key = dict(zip(KEYS, (args.which, args.dataset, objective, n, seed), strict=True))
                if find_row(args.out, key) is None:
                    row = _fit(pool, key, args.steps, cache, args.cache / "checkpoints" / "-".join(map(str, key.values())))
                    append_row(args.out, key | row | provenance())
                    print(key | row, flush=True)


def _fit(pool: "Pool", key: dict[str, Any], fraction: float, cache: DenoiserCache, checkpoints: Path) -> dict[str, Any]:
    recipe = load_recipe(key["dataset"])
    pretraining, steps = (math.ceil(fraction * phase.steps) for phase in (recipe.pretraining, recipe.training))
    recipe = recipe.with_overrides(
        [
            *("compute.precision=fp32", "compute.accelerator=cpu", f"training.objective={key['objective']}"),
            *(f"training.seed={key['seed']}", f"pretraining.seed={key['seed'] % PRETRAININGS[key['dataset']]}"),
            *(f"pretraining.steps={pretraining}", f"training.steps={steps}"),
        ]
    )
    began = time.process_time()
    options = FitOptions(cache=cache)
    fitted = fit_model(
        recipe, pool, choose_labeled(pool, key["n_labeled"], seed=key["seed"]), checkpoints=checkpoints, options=options
    )
    model, seconds = fitted.model(), time.process_time() - began
    logits = predict_logits(model, pool.images[pool.test])
    return {
        "pretraining_steps": pretraining,
        "steps": steps if key["objective"] == "joint" else 0,
        "test_accuracy": round(float((logits.argmax(axis=1) == pool.labels[pool.test]).mean()), 4),
        "fd": round(_distance(model, pool), 5) if _is_sampled(key) else None,
        "processor_seconds": round(seconds, 1),
    }


def _is_sampled(key: dict[str, Any]) -> bool:
    """Samples of a denoiser need no labels, so one of the fits that share it is enough; those of joint training differ."""
    budget = max(n for objective, budgets, _ in SUITES[key["dataset"]] for n in budgets if objective == key["objective"])
    return key["n_labeled"] == budget and (key["objective"] == "joint" or key["seed"] < PRETRAININGS[key["dataset"]])


def _distance(model: "JointDiffusion", pool: "Pool") -> float:
    n = 2000
    images = to_bytes(sample(model, n, generator=torch.Generator().manual_seed(0)))
    real, made = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) / 255 for x in (pool.images[pool.train[:10_000]], images))
    if real.shape[1] > 64:
        components = PCA(64, random_state=0).fit(real)
        real, made = components.transform(real), components.transform(made)
    return frechet_distance(real, made)


def _table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Means, and the mean difference between fits of the same seed with its standard error."""
    found = []
    for (dataset, objective, n), part in rows.groupby(["dataset", "objective", "n_labeled"], sort=False):
        pairs = part.pivot(index="seed", columns="which", values=["test_accuracy", "fd"])
        if not {"before", "now"} <= set(part.which):
            continue
        accuracy, fd = 100 * pairs["test_accuracy"].dropna(), pairs["fd"].dropna()
        difference = accuracy["now"] - accuracy["before"]
        found.append(
            {
                "data": dataset,
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
    parser.add_argument("--dataset", choices=list(SUITES), default="digits")
    parser.add_argument("--steps", type=float, default=1.0, help="factor of the numbers of steps of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("runs/before-after"))
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
