"""Foreign images among others: how well `ssld check` finds them, beside the distance to the nearest neighbors in a network.

    python benchmarks/outliers.py --run RUN --cifar CIFAR --cache CACHE     # foreign to Fashion-MNIST; RUN: a fit of it
    python benchmarks/outliers.py --left-out digits --cache CACHE           # each class foreign to the others
    python benchmarks/outliers.py --left-out fashion-mnist --classes 1 5 8 --steps 250 --cache CACHE
    python benchmarks/outliers.py --kinds --cifar CIFAR --cache CACHE       # a few foreign images of one kind among photos
    python benchmarks/outliers.py --table

One image in a hundred is foreign. Cases:

photos     5,000 training images of Fashion-MNIST, and photos of CIFAR-10, gray and at 28 px
noise      5,000 training images of Fashion-MNIST, and images of noise, uniform from black to white
left out   a class is foreign to the others: images of these (of Fashion-MNIST 5,000), and a few of the class. A denoiser is
           fitted to all of them without labels, as a user would, who does not know which are foreign
of a kind  800 or 5,000 test photos of CIFAR-10, read by EfficientNet-Lite0, and 6, 12 or 24 images of one kind at 32 px:
           trousers or bags of Fashion-MNIST on white, digits of scikit-learn, or none at all

Distances are those to the nearest of all images, foreign ones too, as in a check. `Lite0` are the features of the last level of
EfficientNet-Lite0, of unit length (Sun et al. 2022).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table
from near_duplicates import base, features
from numpy.typing import NDArray
from photo_data import photo_set
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from ssl_diffusion.curation.outliers import find_outliers
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.inference.denoising import denoising_errors
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.machine import source_commit
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "outliers.csv"
_TYPICAL, _FRACTION = 5000, 0.01
_LEVELS = (0.4,)  # that of a check
_LAST = 1280  # features of the last level
_KINDS = {"trousers": ("fashion-mnist", 1), "bags": ("fashion-mnist", 8), "digits": ("digits", None)}
_PHOTOS, _ALIKE = (800, 5000), (6, 12, 24)

Found = tuple[NDArray[np.floating], NDArray[np.bool_] | None]  # scores, the larger the more foreign, and what is called foreign


def nearest(x: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """Distance to the k-th nearest other image."""
    square = np.square(x).sum(axis=1)
    found = np.empty(len(x))
    for start in range(0, len(x), 1024):
        part = x[start : start + 1024]
        distance = square[start : start + len(part), None] + square - 2 * part @ x.T
        distance[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        found[start : start + len(part)] = np.partition(distance, k - 1, axis=1)[:, k - 1]
    return np.sqrt(np.maximum(found, 0))


@dataclass(frozen=True)
class Seen:
    """Images as all methods see them.

    Attributes:
        images: uint8 (n, C, H, W).
        z: Representations by a model, float32 (n, F).
        errors: Errors of its denoiser, float32 (1, n).
        lite: Features of EfficientNet-Lite0, float32 (n, 2048).
    """

    images: NDArray[np.uint8]
    z: NDArray[np.float32]
    errors: NDArray[np.float32]
    lite: NDArray[np.float32]

    @classmethod
    def by(cls, model: JointDiffusion, images: NDArray[np.uint8], cache: Path) -> "Seen":
        z = np.asarray(embed(model, images, classify=False, projected=False).representation)
        return cls(images, z, denoising_errors(model, images, _LEVELS), features(images, cache))

    def beside(self, other: "Seen") -> "Seen":
        return Seen(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.z, other.z]),
            np.concatenate([self.errors, other.errors], axis=1),
            np.concatenate([self.lite, other.lite]),
        )


def methods(seen: Seen) -> Iterator[tuple[str, Found]]:
    """Scores of all images by each method."""
    found, by_distance = find_outliers(seen.z, errors=seen.errors, images=seen.images), find_outliers(seen.z)
    yield "ours", (found.score, found.flagged)
    yield "ours, distance alone", (by_distance.score, by_distance.flagged)
    yield "ours, denoiser alone", (found.denoising, None)
    yield "ours, error beside the detail", (found.detail, None)
    of_lite = find_outliers(seen.lite)
    yield "ours, Lite0 instead of a model", (of_lite.score, of_lite.flagged)
    last = seen.lite[:, -_LAST:] / np.linalg.norm(seen.lite[:, -_LAST:], axis=1, keepdims=True)
    yield "pixels, neighbor 1", (nearest(seen.images.reshape(len(seen.images), -1).astype(np.float32), 1), None)
    for k in (1, 5, 50):
        yield f"Lite0, neighbor {k}", (nearest(last, k), None)


def measure(key: dict[str, Any], typical: Seen, foreign: Seen) -> None:
    n, m = len(typical.images), len(foreign.images)
    is_foreign = np.arange(n + m) >= n
    for name, (score, flagged) in methods(typical.beside(foreign)):
        row: dict[str, Any] = {
            "typical": n,
            "foreign": m,
            "auroc": round(float(roc_auc_score(is_foreign, score)), 4),
            "average_precision": round(float(average_precision_score(is_foreign, score)), 4),
            "flagged": "" if flagged is None else int(flagged.sum()),
            "flagged_foreign": "" if flagged is None else int(flagged[is_foreign].sum()),
        }
        append_row(CSV, key | {"method": name} | row | {"commit": source_commit() or "unknown"})


def there(key: dict[str, Any]) -> bool:
    return find_row(CSV, key | {"method": "Lite0, neighbor 50"}) is not None


def photos(cifar: Path, n: int, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Test photos of CIFAR-10, gray, (n, 1, side, side)."""
    files = sorted((cifar / "test").rglob("*.jpg"))
    some = [files[i] for i in rng.permutation(len(files))[:n]]
    size = (side, side)
    return np.stack([np.asarray(Image.open(f).convert("L").resize(size, Image.Resampling.BICUBIC))[None] for f in some])


def foreign_to_fashion(run: Path, cifar: Path, seeds: list[int], cache: Path) -> None:
    """Photos, and noise, among the images of Fashion-MNIST that near_duplicates.py takes."""
    keys = [{"dataset": "fashion-mnist", "case": case, "seed": seed} for seed in seeds for case in ("photos", "noise")]
    wanted = [key for key in keys if not there(key)]
    if not wanted:
        return
    data, model = photo_set("fashion-mnist", cache, cifar), load_run(run, "cpu", "fp32").model
    typical = Seen.by(model, data.pool.images[base(data, development=False)[:_TYPICAL]], cache)
    n, side = round(_FRACTION * len(typical.images)), typical.images.shape[-1]
    for key in wanted:
        rng = np.random.default_rng([int(key["seed"]), 11])
        is_noise = key["case"] == "noise"
        foreign = rng.integers(0, 256, (n, 1, side, side), dtype=np.uint8) if is_noise else photos(cifar, n, rng, side)
        measure(key, typical, Seen.by(model, foreign, cache))


def left_out(name: str, k: int, seed: int, steps: int | None, cache: Path) -> None:
    """Class k among the others, by a denoiser of both."""
    key = {"dataset": name, "case": f"class {k} left out", "seed": seed}
    if there(key):
        return
    pool, rng = load_dataset(name), np.random.default_rng([seed, k, 13])
    typical = np.sort(rng.permutation(np.flatnonzero(pool.labels != k))[:_TYPICAL])
    foreign = rng.permutation(np.flatnonzero(pool.labels == k))[: round(_FRACTION * len(typical))]
    rows = np.concatenate([typical, foreign])
    both = Pool("mixed", pool.images[rows], pool.ids[rows], np.full(len(rows), -1), (), np.zeros(len(rows), dtype=bool))
    recipe = load_recipe(name).with_setting("training.objective", "denoise-only").with_setting("training.seed", seed)
    if steps is not None:
        recipe = recipe.with_setting("pretraining.steps", steps)
    fitted = fit_model(recipe, both, None, options=FitOptions(cache=DenoiserCache(cache / "denoisers")))
    measure(key, *(Seen.by(fitted.model(), pool.images[rows], cache) for rows in (typical, foreign)))


def of_one_kind(cifar: Path, seeds: list[int], cache: Path) -> None:
    """A few images of one kind among photos, and photos alone."""
    files = sorted((cifar / "test").rglob("*.jpg"))
    for seed, n in ((seed, n) for seed in seeds for n in _PHOTOS):
        rng = np.random.default_rng([seed, 17])
        some = [files[i] for i in rng.permutation(len(files))[:n]]
        seen = features(np.stack([np.asarray(Image.open(f).convert("RGB")).transpose(2, 0, 1) for f in some]), cache)
        for kind, alike in [("no image", 0), *((kind, alike) for kind in _KINDS for alike in _ALIKE)]:
            key = {"dataset": f"{n} photos", "case": f"{alike} {kind}", "seed": seed}
            if there(key):
                continue
            z = np.concatenate([seen, features(_drawn(kind, alike, rng), cache)]) if alike else seen
            is_foreign = np.arange(len(z)) >= n
            last = z[:, -_LAST:] / np.linalg.norm(z[:, -_LAST:], axis=1, keepdims=True)
            found = find_outliers(z)
            for name, score in (
                ("ours", found.score),
                ("Lite0, neighbor 5", nearest(last, 5)),
                ("Lite0, neighbor 50", nearest(last, 50)),
            ):
                row: dict[str, Any] = {"typical": n, "foreign": alike, "auroc": "", "average_precision": ""}
                if alike:
                    row["auroc"] = round(float(roc_auc_score(is_foreign, score)), 4)
                    row["average_precision"] = round(float(average_precision_score(is_foreign, score)), 4)
                ours = name == "ours"
                row["flagged"] = int(found.flagged.sum()) if ours else ""
                row["flagged_foreign"] = int(found.flagged[is_foreign].sum()) if ours else ""
                append_row(CSV, key | {"method": name} | row | {"commit": source_commit() or "unknown"})


def _drawn(kind: str, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images of a kind as color images of 32 px, uint8 (n, 3, 32, 32)."""
    name, k = _KINDS[kind]
    pool = load_dataset(name)
    some = rng.permutation(np.flatnonzero(pool.labels == k) if k is not None else len(pool))[:n]
    gray = [np.asarray(Image.fromarray(pool.images[i, 0]).resize((32, 32), Image.Resampling.BICUBIC)) for i in some]
    stacked = np.stack(gray)[:, None].repeat(3, axis=1)
    return 255 - stacked if name == "fashion-mnist" else stacked


def table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over seeds and classes: AUROC, average precision, and precision and recall of what is called foreign."""
    frame = frame.assign(case=frame["case"].where(~frame["case"].str.endswith("left out"), "a class left out"))
    kinds = frame["case"].str.endswith(tuple(_KINDS))
    frame = frame.assign(case=frame["case"].where(~kinds, frame["case"].str.split().str[0] + " of a kind"))
    rows = []
    for (dataset, case), part in frame.groupby(["dataset", "case"], sort=False):
        for method, of in part.groupby("method", sort=False):
            row: dict[str, Any] = {"data": f"{dataset}, {case}", "method": method, "collections": len(of)}
            row |= {
                name: f"{100 * of[name].mean():.1f}" if len(of[name].dropna()) else "–"
                for name in ("auroc", "average_precision")
            }
            called, right = (pd.to_numeric(of[name], errors="coerce").sum() for name in ("flagged", "flagged_foreign"))
            ours = of["flagged"].notna().any()
            row["called foreign: precision"] = f"{100 * right / called:.1f}" if called else "–"
            row["recall"] = f"{100 * right / of['foreign'].sum():.1f}" if ours and of["foreign"].sum() else "–"
            row["called wrongly"] = f"{(called - right) / len(of):.1f}" if ours else "–"
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder of a fit of Fashion-MNIST")
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 as image files")
    parser.add_argument("--kinds", action="store_true", help="measure images of one kind among photos, too")
    parser.add_argument("--left-out", choices=("digits", "fashion-mnist"))
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--steps", type=int, help="steps of the denoiser; default: those of the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of features, see photos.py")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    if arguments.run is not None and not arguments.table:
        if arguments.cifar is None:
            parser.error("--run needs --cifar: photos are foreign to Fashion-MNIST")
        foreign_to_fashion(arguments.run, arguments.cifar, arguments.seeds, arguments.cache)
    if arguments.kinds and not arguments.table:
        if arguments.cifar is None:
            parser.error("--kinds needs --cifar: the photos")
        of_one_kind(arguments.cifar, arguments.seeds, arguments.cache)
    if arguments.left_out is not None and not arguments.table:
        for seed in arguments.seeds:
            for k in arguments.classes:
                left_out(arguments.left_out, k, seed, arguments.steps, arguments.cache)
    print(markdown_table(table(pd.read_csv(CSV))))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
