"""Samples of small collections of photos: does another network see the class that was asked for, and how far are they?

    python benchmarks/photo_samples.py --cifar CIFAR --work FOLDER
    python benchmarks/photo_samples.py --table

CIFAR is a folder with train/ and test/ of CIFAR-10 as image files. Of 2,000 training photos, 200 of each of ten classes or 500
of each of four, a joint model without a backbone is fitted with 400 labels: 490 steps of pretraining and 600 of training, ten
quiet minutes of one core. It draws --samples images a guidance scale, every class as often.

own: share of these that the run's own classifier takes for the class asked for. judge: that of a network
(:mod:`counterfactual_photos`) that was fitted to all training photos of CIFAR, and shares nothing with the run; judge_clean:
its accuracy on the test photos of the collection. fd, density, coverage: of unguided samples to the photos of the collection,
in the features of a labels-only fit to the 400 labels; fd_test: of its test photos. ratio: error of the denoiser in units of
that of a linear filter.

Rows in `results/photo_samples.csv`, which are not run again; samples in the folder, as .npz, of which photo_pictures.py makes a
picture.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from common import RESULTS, append_row, figures_of, find_row, markdown_table, provenance
from numpy.typing import NDArray
from photo_data import first_photos
from photo_judge import Judge, cifar_judge, photo_arguments

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation import sample_run
from ssl_diffusion.generation.extractors import labels_only_extractor
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.quality import compare_features
from ssl_diffusion.generation.quality_report import real_features
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.training.fit import fit_run
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "photo_samples.csv"
COLLECTIONS = {"ten classes": (None, 200), "four classes": (("airplane", "automobile", "frog", "horse"), 500)}
SCALES = (1.5, 4.0)  # of the guidance; the first is the default
STEPS = (490, 600)  # of pretraining and of training


def measure(name: str, folder: Path, whole: Pool, judge: Judge, work: Path, args: argparse.Namespace) -> None:
    """Fit a collection, sample from it, and append a row a scale."""
    pretraining, training = (max(2, round(args.scale_steps * steps)) for steps in STEPS)
    settings = {
        "data.path": str(folder),
        "labels.budget": 400,
        "pretraining.steps": pretraining,
        "training.steps": training,
        "backbone.name": "none",
        "compute.threads": 1,
    }
    recipe = load_recipe("images").with_settings(settings)
    pool = load_pool(recipe.data)
    path = fit_run(recipe, work / f"run-{name}", pool=pool, overwrite=True)
    run, metrics = load_run(path), json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    extractor = labels_only_extractor(run, pool, work)
    real, tested = real_features(extractor, pool, work), pool.images[pool.test]
    wanted = np.arange(args.samples) % len(run.classes)
    as_judged = np.array([whole.classes.index(c) for c in pool.classes])
    plain = sample_run(run, args.samples)
    distances = compare_features(real, extractor.features(plain))
    facts = {key: round(distances[key], 4) for key in ("fd", "density", "coverage")}
    facts["fd_test"] = round(compare_features(real, extractor.features(tested))["fd"], 4)
    facts["judge_clean"] = share(judge(tested) == as_judged[pool.labels[pool.test]])
    for scale in SCALES:
        guided = sample_run(run, args.samples, wanted, guidance=Guidance("estimate", scale))
        np.savez_compressed(
            work / f"{name}-{scale}.npz",
            title=f"{len(pool.train):,} photos of {name}, {pretraining} + {training} steps, guidance {scale:g}",
            guided=guided,
            plain=plain,
            wanted=wanted,
            classes=np.array(run.classes),
        )
        row = {"collection": name, "guidance": scale, "photos": len(pool.train), "steps": f"{pretraining}+{training}"}
        row |= {"ratio": metrics["denoiser"]["ratio"], "samples": args.samples}
        row |= {
            "own": share(run.predict_proba(guided).argmax(axis=1) == wanted),
            "judge": share(judge(guided) == as_judged[wanted]),
        }
        append_row(args.out, row | facts | provenance())


def share(true: NDArray[np.bool_]) -> float:
    """Share of what is true, to four digits."""
    return round(float(true.mean()), 4)


def main() -> None:
    parser = photo_arguments(__doc__, "photo_samples", CSV)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--scale-steps", type=float, default=1.0, help="steps in units of those of the rows")
    args = parser.parse_args()
    if not args.table:
        if args.cifar is None:
            parser.error("say where CIFAR-10 is as image files: --cifar")
        missing = [n for n in COLLECTIONS if any(find_row(args.out, {"collection": n, "guidance": s}) is None for s in SCALES)]
        if missing:
            args.work.mkdir(parents=True, exist_ok=True)
            whole, judge = cifar_judge(args.cifar, args.epochs)
            for name in missing:
                classes, each = COLLECTIONS[name]
                folder = first_photos(args.cifar, args.work / name, classes, {"train": each})
                measure(name, folder, whole, judge, args.work, args)
    print(markdown_table(figures_of(args.out)))


if __name__ == "__main__":
    main()
