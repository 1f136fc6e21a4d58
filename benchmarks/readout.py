"""How to read a denoiser: logistic regression on its frozen representation, for several ways to make one.

    python benchmarks/readout.py --dataset digits --labeled 40 200 --seeds 5
    python benchmarks/readout.py --dataset fashion-mnist --labeled 100 1000 --seeds 2
    python benchmarks/readout.py --dataset digits --labeled 40 200 --seeds 5 --joined

The denoiser is the recipe's pretraining, taken from the cache or trained. What varies is the nominal noise level at which
clean images are read, which encoder maps are pooled (the last of every level, or all), and into how many cells; with
`--joined`, how many noise levels are read beside each other. The
accuracy is on at most 3,000 test images; the head's standardisation and regularisation are the same for all.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, markdown_table, provenance, write_csv
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.machine import resolve_precision
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.storage import default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe
from ssl_diffusion.training.result import Fitted

VARIANTS: list[dict[str, Any]] = [
    *({"read_sigma": sigma, "pool_maps": "levels", "pool_grids": (4,)} for sigma in (0.0, 0.1, 0.3, 0.6, 1.0)),
    *({"read_sigma": sigma, "pool_maps": "blocks", "pool_grids": (4,)} for sigma in (0.0, 0.6)),
    *(
        {"read_sigma": s, "pool_maps": "levels", "pool_grids": grid}
        for s in (0.0, 0.6)
        for grid in ((1,), (1, 2), (2,), (3,), (7,))
    ),
]

JOINED = ((0.1,), (0.2,), (0.4,), (0.6,), (0.1, 0.4), (0.2, 0.8), (0.1, 0.4, 1.6))  # noise levels read beside each other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--labeled", type=int, nargs="+", default=[40, 200])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--joined", action="store_true", help="several noise levels together, the recipe's pooling")
    args = parser.parse_args()
    pool = load_dataset(args.dataset)
    recipe = load_recipe(args.dataset).with_setting("training.objective", "denoise-only")
    cache = DenoiserCache(args.cache_dir or default_cache_dir())
    fitted = fit_model(recipe, pool, None, options=FitOptions(cache=cache))
    budgets = {(n, s): pool.positions(choose_labeled(pool, n, seed=s).train) for n in args.labeled for s in range(args.seeds)}
    shown = np.unique(np.concatenate([*budgets.values(), pool.test[:3000]]))
    rows = []
    for variant in [{"read_sigma": levels} for levels in JOINED] if args.joined else VARIANTS:
        levels = variant["read_sigma"] if args.joined else (variant["read_sigma"],)
        z = np.concatenate([read(fitted, pool, shown, variant | {"read_sigma": level}) for level in levels], axis=1)
        row: dict[str, Any] = {"dataset": args.dataset, **{k: str(v) for k, v in variant.items()}, "features": z.shape[1]}
        for n in args.labeled:
            row[f"accuracy at {n}, %"] = 100 * float(
                np.mean([accuracy(z, shown, pool, budgets[n, s]) for s in range(args.seeds)])
            )
        rows.append(row)
    facts = provenance()
    name = f"readout-{args.dataset}{'-joined' if args.joined else ''}.csv"
    write_csv(RESULTS / name, [row | {"seeds": args.seeds} | facts for row in rows])
    print(markdown_table(rows))


def read(fitted: Fitted, pool: Pool, rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """The representation of some images by the denoiser with other settings of the read-out."""
    model = JointDiffusion(fitted.config.replace(model=fitted.config.model.replace(**settings)))
    model.load_state_dict(fitted.ema)
    return represent(model.eval(), pool.images[rows], precision=resolve_precision("auto", "cpu"))


def accuracy(z: np.ndarray, shown: np.ndarray, pool: Pool, labeled: np.ndarray) -> float:
    """Test accuracy of logistic regression on the representations of some labeled images."""
    rows = {position: row for row, position in enumerate(shown)}
    train, test = ([rows[i] for i in positions] for positions in (labeled, pool.test[:3000]))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01 if len(train) < 500 else 0.003, max_iter=300))
    model.fit(z[train], pool.labels[shown[train]])
    return float(model.score(z[test], pool.labels[shown[test]]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
