"""Known grounds: does a counterfactual change what decides, in a clean model and in one that learned from spoiled labels?

    python benchmarks/confounders.py --seeds 3               # rows that are there are not run again
    python benchmarks/confounders.py --table

Images of 32 px, made here: a square of 9 to 13 px at a random place, whose color is between blue and red and decides the
class, on a gray background, dark or light, which does not, with some noise; after the squares of PEAL (arXiv 2506.14698). In
the pool of 2,000 images color and background are independent, so that a denoiser, which learns from all of them, knows every
combination. Of two models on the same denoiser the clean one has 200 random labels, and the spoiled one 200 labels of images
in which all red squares lie on light and all blue ones on dark ground. Test images are independent again.

Every one of the first `--images` test images gets a counterfactual of the other class, at the boundary and with a probability
of at least 0.9. Measures: the fraction of the squared change that is inside the square (`area`, the fraction of the image
that the square covers, is what a change without regard to the place would have); the root mean square change of the mean
color of the square and of the background on the scale [0, 1]; and what somebody who knows the rule sees afterwards: squares
that turned to the other color, backgrounds that turned from dark to light or back. `follows` is how often the class that the
model predicts is the one that goes with the color, or with the background, among 1,000 test images in which the two disagree:
what the model decides by.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import SURE, explain
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.storage import default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import Recipe, load_recipe

CSV = RESULTS / "confounders.csv"
PICTURE = RESULTS.parents[1] / "docs" / "images" / "confounders.png"
SIDE, TRAIN, TEST, LABELS = 32, 2000, 2500, 200
MODELS = ("clean", "spoiled")
PICTURED = 1  # seed
CONFIDENCES = {"boundary": 0.0, "sure": SURE}
_NOISE = 0.02  # standard deviation, on the scale [0, 1]


@dataclass(frozen=True)
class Squares:
    """Images and what was drawn.

    Attributes:
        pool: Images, uint8 (n, 3, 32, 32), in the classes "blue" and "red".
        inside: Pixels of the squares, bool (n, 32, 32).
        red: Whether the square is red, bool (n,).
        light: Whether the background is light, bool (n,).
    """

    pool: Pool
    inside: NDArray[np.bool_]
    red: NDArray[np.bool_]
    light: NDArray[np.bool_]


def make_squares(seed: int) -> Squares:
    """The pool of a seed."""
    rng = np.random.default_rng([seed, 20])
    n = TRAIN + TEST
    red, light = rng.random(n) < 0.5, rng.random(n) < 0.5
    redness = np.where(red, rng.uniform(0.6, 1, n), rng.uniform(0, 0.4, n))
    color = np.stack([0.15 + 0.7 * redness, np.full(n, 0.25), 0.85 - 0.7 * redness], axis=1)
    gray = np.where(light, rng.uniform(0.6, 0.9, n), rng.uniform(0.1, 0.4, n))
    side = rng.integers(9, 14, n)
    corner = 2 + np.floor(rng.random((2, n)) * (SIDE - 3 - side)).astype(np.int64)
    row, column = np.indices((SIDE, SIDE))
    inside = np.ones((n, SIDE, SIDE), dtype=bool)
    for axis, start in zip((row, column), corner, strict=True):
        inside &= (axis >= start[:, None, None]) & (axis < (start + side)[:, None, None])
    images = np.where(inside[:, None], color[:, :, None, None], gray[:, None, None, None])
    images = images + rng.normal(0, _NOISE, images.shape)
    pool = Pool(
        name="squares",
        images=np.round(255 * np.clip(images, 0, 1)).astype(np.uint8),
        ids=np.array([f"{i:04d}" for i in range(n)]),
        labels=red.astype(np.int64),
        classes=("blue", "red"),
        is_test=np.arange(n) >= TRAIN,
        augmentation="none",
    )
    return Squares(pool, inside, red, light)


def labels_of(kind: str, squares: Squares, seed: int) -> LabeledSet:
    """200 labels, half of them of either class."""
    rng = np.random.default_rng([seed, 21])
    train = squares.pool.train
    allowed = train if kind == "clean" else train[(squares.red == squares.light)[train]]
    chosen = [rng.permutation(allowed[squares.red[allowed] == red])[: LABELS // 2] for red in (False, True)]
    return LabeledSet(tuple(squares.pool.ids[np.sort(np.concatenate(chosen))].tolist()))


def recipe_of(seed: int) -> Recipe:
    """A small network and a short schedule, without augmentation, which would change colors."""
    return load_recipe("fashion-mnist-quick").with_settings(
        {
            "model.channels": 32,
            "model.pool_grids": [4],
            "augmentation.policy": "none",
            "pretraining.steps": 400,
            "pretraining.batch_size": 32,
            "training.steps": 100,
            "training.batch_size": 16,
            "training.labeled_batch_size": 32,
            "training.seed": seed,
        }
    )


def colors(images: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean colors, float64 (n, 3), of the pixels of a mask, on the scale [0, 1]."""
    weight = inside / inside.sum(axis=(1, 2), keepdims=True)
    return np.asarray(np.einsum("nchw,nhw->nc", images / 255, weight))


def turned(squares: Squares, rows: NDArray[np.int64], images: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether squares are of the other color, and backgrounds of the other brightness, than they were drawn, bool (n,) each."""
    square, ground = colors(images, squares.inside[rows]), colors(images, ~squares.inside[rows])
    return (square[:, 0] > square[:, 2]) != squares.red[rows], (ground.mean(axis=1) > 0.5) != squares.light[rows]


def measured(squares: Squares, rows: NDArray[np.int64], result: CounterfactualResult) -> dict[str, Any]:
    """Columns of the counterfactuals of some test images; means are over those that the model takes for the other class."""
    valid, rows = result.take(result.success), rows[result.success]
    before, after, inside = valid.original, valid.images(), squares.inside[rows]
    squared = ((after / 255 - before / 255) ** 2).sum(axis=1)
    within = (squared * inside).sum(axis=(1, 2)) / squared.sum(axis=(1, 2))
    moved = {
        name: np.sqrt(((colors(after, mask) - colors(before, mask)) ** 2).mean(axis=1))
        for name, mask in (("square", inside), ("background", ~inside))
    }
    new_color, new_ground = turned(squares, rows, after)
    return {
        "images": len(result),
        "validity": round(float(result.success.mean()), 4),
        "inside": round(float(within.mean()), 4),
        "area": round(float(inside.mean()), 4),
        "square_change": round(float(moved["square"].mean()), 4),
        "background_change": round(float(moved["background"].mean()), 4),
        "square_turned": round(float(new_color.mean()), 4),
        "background_turned": round(float(new_ground.mean()), 4),
        "evaluations": round(float(result.network_evaluations.mean()), 1),
    }


def followed(model: JointDiffusion, squares: Squares) -> dict[str, float]:
    """Accuracy on the test split, and what predictions go by where color and background disagree."""
    test = squares.pool.test
    says_red = predict_logits(model, squares.pool.images[test]).argmax(axis=1) == 1
    apart = np.flatnonzero(squares.red[test] != squares.light[test])[:1000]
    color = float((says_red == squares.red[test])[apart].mean())
    accuracy = float((says_red == squares.red[test]).mean())
    return {"accuracy": round(accuracy, 4), "follows_color": round(color, 4), "follows_background": round(1 - color, 4)}


def run_seed(seed: int, images: int, cache: Path) -> None:
    """Append the missing rows of a seed; seed 1 also makes the picture."""
    squares = make_squares(seed)
    shown: dict[tuple[str, str], CounterfactualResult] = {}
    rows = squares.pool.test[:images]
    for kind in MODELS:
        key = {"seed": seed, "model": kind}
        todo = [name for name in CONFIDENCES if find_row(CSV, {**key, "counterfactual": name}) is None]
        if not todo and not (seed == PICTURED and not PICTURE.exists()):
            continue
        chosen = labels_of(kind, squares, seed)
        model = fit_model(recipe_of(seed), squares.pool, chosen, options=FitOptions(cache=DenoiserCache(cache))).model()
        follows = followed(model, squares)
        for name in todo or CONFIDENCES:
            result = explain(model, squares.pool.images[rows], confidence=CONFIDENCES[name])
            shown[kind, name] = result
            if name in todo:
                row = {**key, "counterfactual": name, **follows, **measured(squares, rows, result), **provenance()}
                append_row(CSV, row)
                print(row, file=sys.stderr, flush=True)
    if seed == PICTURED and (("clean", "sure") in shown) and (("spoiled", "sure") in shown):
        picture([shown[kind, "sure"] for kind in MODELS])


def picture(results: list[CounterfactualResult], n: int = 9) -> None:
    """The first test images above the sure counterfactuals of the clean and of the spoiled model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.75 * n + 1.1, 2.5))
    axes = figure.subplots(3, n, gridspec_kw={"left": 1.1 / (0.75 * n + 1.1), "right": 1, "wspace": 0.06, "hspace": 0.06})
    names = ("image", "clean model", "spoiled model")
    for i in range(n):
        for r, images in enumerate([results[0].original, *(result.images() for result in results)]):
            axes[r, i].imshow(images[i].transpose(1, 2, 0))
            axes[r, i].set_xticks([])
            axes[r, i].set_yticks([])
            if r and not results[r - 1].success[i]:
                axes[r, i].text(16, 16, "not found", ha="center", va="center", fontsize=7)
    for r, name in enumerate(names):
        axes[r, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(PICTURE, dpi=90, bbox_inches="tight")


def table(frame: pd.DataFrame) -> str:
    """Means over the seeds, and the lowest and highest of them where they matter most."""
    rows = []
    for (kind, name), part in frame.groupby(["model", "counterfactual"], sort=False):
        low, high = 100 * part["inside"].min(), 100 * part["inside"].max()
        rows.append(
            {
                "model": kind,
                "counterfactual": name,
                "seeds": len(part),
                "accuracy, %": f"{100 * part['accuracy'].mean():.1f}",
                "follows color, %": f"{100 * part['follows_color'].mean():.1f}",
                "valid, %": f"{100 * part['validity'].mean():.1f}",
                "change inside, %": f"{100 * part['inside'].mean():.1f} ({low:.1f} to {high:.1f})",
                "RMS square": f"{part['square_change'].mean():.3f}",
                "RMS background": f"{part['background_change'].mean():.3f}",
                "squares turned, %": f"{100 * part['square_turned'].mean():.1f}",
                "backgrounds turned, %": f"{100 * part['background_turned'].mean():.1f}",
                "evaluations": round(part["evaluations"].mean()),
            }
        )
    return markdown_table(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--cache-dir", type=Path, default=None, help="where denoisers are kept")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        for seed in range(arguments.seeds):
            run_seed(seed, arguments.images, arguments.cache_dir or default_cache_dir())
    print(table(pd.read_csv(CSV)))


if __name__ == "__main__":
    main()
