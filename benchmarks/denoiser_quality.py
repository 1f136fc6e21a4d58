"""From when on does a denoiser draw images? Its error beside that of a linear filter, and its samples, by number of steps.

    python benchmarks/denoiser_quality.py --data digits --steps 10 30 100 300 1100
    python benchmarks/denoiser_quality.py --data cifar10/ --images 2000 --size 24 --steps 30 100 300     # a folder of photos
    python benchmarks/denoiser_quality.py --table

One row a data set and number of pretraining steps (each with its own schedule) in `results/denoiser_quality.csv`, and a sheet
of 16 samples a row, side by side, in `results/denoiser_quality-NAME.png`. `ratio` is that of
:func:`ssl_diffusion.inference.denoiser_quality`. `fd` is the Fréchet distance of 500 samples (12 steps) to the training images
on pixels, in units of that of the test images; `distance` the median distance of a sample to the nearest training image, in
units of that of a test image. Rows that are there are not run again.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from ssl_diffusion.data import DATASETS, load_dataset, load_folder
from ssl_diffusion.generation import sample
from ssl_diffusion.generation.quality import frechet_distance
from ssl_diffusion.inference import denoiser_quality
from ssl_diffusion.models.pixels import to_bytes
from ssl_diffusion.training import FitOptions, fit_model, load_recipe

if TYPE_CHECKING:
    from ssl_diffusion.data.pool import Pool

CSV = RESULTS / "denoiser_quality.csv"
SAMPLES, SHOWN, WIDTH = 500, 16, 40  # images, images on a sheet, pixels of one of them


def main() -> None:
    """Run what is missing, or print the table."""
    args = _arguments()
    if args.table:
        print(markdown_table(pd.read_csv(args.out).drop(columns=["torch", "commit"]).to_dict(orient="records")))
        return
    torch.set_num_threads(1)
    pool, name = _pool(args), Path(args.data).name
    strips = []
    for steps in args.steps:
        key = {"data": name, "pool": len(pool.train), "px": pool.images.shape[-1], "steps": steps}
        if find_row(args.out, key) is None:
            row, images = _measure(pool, args.data, steps)
            strips.append(_sheet(images[:SHOWN]))
            append_row(args.out, key | row | provenance())
            print(key | row, flush=True)
    if strips:
        Image.fromarray(np.concatenate(strips, axis=1).squeeze()).save(args.out.parent / f"denoiser_quality-{name}.png")


def _pool(args: argparse.Namespace) -> "Pool":
    if args.data in DATASETS:
        return load_dataset(args.data)
    pool, rng = load_folder(args.data, size=args.size), np.random.default_rng(70)
    rows = np.sort(np.concatenate([rng.permutation(pool.train)[: args.images], rng.permutation(pool.test)[:1000]]))
    return pool.select(rows)


def _measure(pool: "Pool", data: str, steps: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    recipe = load_recipe(data if data in DATASETS else "images").with_overrides(
        [
            *("compute.precision=fp32", "compute.accelerator=cpu", "training.objective=denoise-only"),
            *(f"pretraining.steps={steps}", "pretraining.seed=100"),
        ]
    )
    began = time.process_time()
    model = fit_model(recipe, pool, None, options=FitOptions()).model()
    seconds = time.process_time() - began
    quality = denoiser_quality(model, pool.images, pool.train)
    assert quality is not None
    images = to_bytes(sample(model, SAMPLES, steps=12, generator=torch.Generator().manual_seed(0)))
    train, test, made = (
        x.reshape(len(x), -1) / 255 for x in (pool.images[pool.train[:5000]], pool.images[pool.test[:5000]], np.asarray(images))
    )
    near = NearestNeighbors(n_neighbors=1).fit(train)
    distance, unit = (float(np.median(near.kneighbors(x[:SAMPLES])[0])) for x in (made, test))
    return {
        "images_seen": steps * recipe.pretraining.batch_size,
        "ratio": round(quality.ratio, 3),
        "fd": round(frechet_distance(train, made) / frechet_distance(train, test), 2),
        "distance": round(distance / unit, 3),
        "processor_seconds": round(seconds),
    }, np.asarray(images)


def _sheet(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square sheet of enlarged images with white edges."""
    side, zoom = round(len(images) ** 0.5), max(1, WIDTH // images.shape[-1])
    tiles = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    _, c, h, w = tiles.shape
    sheet = tiles.reshape(side, side, c, h, w).transpose(0, 3, 1, 4, 2).reshape(side * h, side * w, c)
    return np.pad(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1), ((0, 0), (0, 3 * zoom), (0, 0)), constant_values=255)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="digits", help="name of a data set, or folder of photos")
    parser.add_argument("--images", type=int, default=2000, help="training images of a folder")
    parser.add_argument("--size", type=int, default=24, help="side of the images of a folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
