"""Labels of one domain, unlabeled images of another: scikit-learn's digits and handwriting of MNIST, both at 8 px.

    python benchmarks/domain.py --mnist morpho-mnist/

The folder holds `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, gzipped or not (Morpho-MNIST has them as published by
LeCun et al. 1998). Digits of MNIST are cropped to their 20 x 20 pixels and resized to 8 x 8; 2,000 of them are the test split
of the target domain, 4,000 others are unlabeled. One row a seed and objective in `results/domain.csv`: the accuracy on both
test splits of a fit on the labeled digits alone and of one with `--unlabeled`.
"""

import argparse
import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, append_row, find_row, provenance
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import Recipe, load_recipe

CSV = RESULTS / "domain.csv"
TESTED, UNLABELED = 2000, 4000


def idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An array of the idx format, its header left out."""
    path = next(path for path in (folder / name, folder / f"{name}.gz") if path.exists())
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = [int.from_bytes(content[4 * i : 4 * i + 4]) for i in range(1, content[3] + 1)]
    return np.frombuffer(content, dtype=np.uint8, offset=4 * (content[3] + 1)).reshape(shape)


def write_target(mnist: Path, folder: Path) -> None:
    """The target domain as image files: a test split of class folders, and unlabeled images."""
    images, labels = idx(mnist, "t10k-images-idx3-ubyte"), idx(mnist, "t10k-labels-idx1-ubyte")
    order = np.random.default_rng(80).permutation(len(images))
    for n, i in enumerate(order[: TESTED + UNLABELED]):
        place = folder / "test" / str(labels[i]) if n < TESTED else folder
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(images[i, 4:24, 4:24]).resize((8, 8), Image.Resampling.BICUBIC)
        small.save(place / f"{i:05d}.png")


def accuracies(recipe: Recipe, n_labeled: int, pools: dict[str, Pool], cache: DenoiserCache) -> dict[str, float]:
    """Accuracy on the test splits of both domains, of a fit without and of one with the unlabeled images."""
    seed, found = recipe.training.seed, {}
    for name, pool in pools.items():
        model = fit_model(recipe, pool, choose_labeled(pool, n_labeled, seed=seed), options=FitOptions(cache=cache)).model()
        for domain, tested in (("source", pools["alone"]), ("target", pools["with"])):
            predicted = predict_logits(model, tested.images[tested.test]).argmax(axis=1)
            found[f"{name}_{domain}"] = round(float((predicted == tested.labels[tested.test]).mean()), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--labeled", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[81])
    parser.add_argument("--objectives", nargs="+", default=["probe", "joint"])
    parser.add_argument("--pretraining", type=int, default=1100, help="Steps")
    parser.add_argument("--training", type=int, default=300, help="Steps")
    args = parser.parse_args()
    facts = provenance()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "target"
        write_target(args.mnist, target)
        data = DataSettings(dataset="digits")
        pools = {"alone": load_pool(data), "with": load_pool(data.replace(unlabeled=str(target)))}
        for seed in args.seeds:
            for objective in args.objectives:
                steps = {"pretraining.steps": args.pretraining, "training.steps": args.training}
                recipe = load_recipe("digits").with_settings({**steps, "training.objective": objective, "training.seed": seed})
                key = {"labels": args.labeled, "seed": seed, "pretraining_steps": args.pretraining}
                key |= {"training_steps": 0 if objective == "probe" else args.training, "objective": objective}
                if find_row(CSV, key) is None:
                    row = accuracies(recipe, args.labeled, pools, DenoiserCache(Path(folder) / "cache"))
                    append_row(CSV, key | row | facts)
                    print(key, row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
