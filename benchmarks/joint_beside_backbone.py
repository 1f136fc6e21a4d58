"""Joint training beside EfficientNet-Lite0: where it begins, where it ends with which terms, and what a fit keeps.

    python benchmarks/joint_beside_backbone.py --cache CACHE --cifar CIFAR --dataset garments-on-photos --size 24 \\
        --pretraining-steps 200 --steps 300 --seeds 100 101                                     # for development
    python benchmarks/joint_beside_backbone.py --cache CACHE --cifar CIFAR --dataset cifar10-2000 --seeds 0 1
    python benchmarks/joint_beside_backbone.py --table

One row a data set, schedule, draw of labels and terms in `results/joint_beside_backbone.csv`; rows that are there are not run
again, and the denoisers and features in CACHE are those of :mod:`photos`. `anchor` is the setting `training.anchor`, 1 or 0,
`match` is `--consistency match`. `start` is the probe on both that training begins at, `own head` the trained model with the
head that was trained, `mean head` the mean of that and a probe on the trained encoder
(:mod:`ssl_diffusion.training.fused_finish`); test accuracies, with their negative log-likelihoods. `kept` is what a fit keeps,
which sees no test image.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from photo_data import BACKBONE, PhotoSet, photo_set
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.inference.run_rows import model_rows
from ssl_diffusion.models.backbones.registry import load_backbone
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.training.backbones import FusedHead, fit_fused_head, fused_phase
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.fused_finish import compare_with_fused_start, with_mean_head
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.phases import joint_config, training_job
from ssl_diffusion.training.recipe import Recipe, load_recipe

CSV = RESULTS / "joint_beside_backbone.csv"
KEYS = ["dataset", "size", "pretraining_steps", "steps", "n_labeled", "seed", "terms"]
TERMS: dict[str, dict[str, Any]] = {
    "none": {"training.anchor": 0.0},
    "anchor": {},
    "match": {"training.anchor": 0.0, "training.consistency": "match"},
    "anchor and match": {"training.consistency": "match"},
}


class Fits:
    """Fits to one data set, all from one denoiser."""

    def __init__(self, data: PhotoSet, size: int, pretraining_steps: int, steps: int) -> None:
        told = {f"data.{name}": value for name, value in data.settings.model_dump(exclude_defaults=True).items()}
        settings = {"data.size": size} if size else {}
        schedule = {"pretraining.steps": pretraining_steps, "training.steps": steps, "compute.threads": 1}
        self.recipe = load_recipe("images").with_settings({"backbone.name": BACKBONE, **told, **settings, **schedule})
        sized = PhotoSet(data.name, self.recipe.data, data.cache)
        self.pool, self.cache, self.backbone = sized.pool, data.cache, load_backbone(BACKBONE)
        alone = self.recipe.with_settings({"training.objective": "denoise-only", "backbone.name": "none"})
        denoiser = fit_model(alone, self.pool, None, options=FitOptions(cache=DenoiserCache(data.cache)))
        self.denoiser = {name: t for name, t in denoiser.ema.items() if name.startswith("unet.")}

    def start(self, recipe: Recipe, labeled: LabeledSet) -> FusedHead:
        """The probe on both that training begins at."""
        config = joint_config(recipe.with_setting("training.objective", "probe"), self.pool)
        return fit_fused_head(config, self.denoiser, self.backbone, self.pool, labeled, recipe, cache_dir=self.cache)

    def scores(self, name: str, config: JointConfig, weights: dict[str, Tensor]) -> dict[str, float]:
        """Accuracy and negative log-likelihood of the test split."""
        model, rows = build_model(config, seed=0, initial=weights, backbone=self.backbone), self.pool.test
        logits = predict_logits(model, model_rows(model, self.pool, rows, cache_dir=self.cache))
        metrics = classification_metrics(logits, self.pool.labels[rows])
        return {name: round(metrics["accuracy"], 4), f"{name}, NLL": round(metrics["nll"], 4)}

    def row(self, n_labeled: int, seed: int, terms: str) -> dict[str, Any]:
        """Where a training begins and ends, and what a fit keeps."""
        recipe = self.recipe.with_settings({"training.seed": seed, **TERMS[terms]})
        labeled = choose_labeled(self.pool, n_labeled, seed=seed)
        fused = self.start(recipe, labeled)
        phase = training_job(recipe, self.pool, labeled)
        phase = fused_phase(phase, fused, self.backbone, self.pool, cache_dir=self.cache)
        began = time.process_time()
        trained = train(phase).ema
        seconds = time.process_time() - began
        told = (self.pool, labeled, recipe)
        mean = with_mean_head(phase.config, trained, fused, self.backbone, *told, cache_dir=self.cache)
        ends = trained if phase.anchor else mean
        start = compare_with_fused_start(
            recipe, self.pool, labeled, phase.config, ends, fused, self.backbone, cache_dir=self.cache
        )
        return {
            **self.scores("start", fused.config, fused.weights),
            **self.scores("own head", phase.config, trained),
            **self.scores("mean head", phase.config, mean),
            "kept": start.comparison.kept,
            "reason": start.comparison.reason,
            "neighbors_start": start.comparison.probe["neighbors"],
            "neighbors_trained": start.comparison.trained["neighbors"],
            "cpu_seconds": round(seconds, 1),
        }


def table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a data set, schedule and terms: means over draws of labels."""
    rows = []
    frame = frame.assign(kept_trained=frame["kept"] == "trained")
    for key, part in frame.groupby([k for k in KEYS if k != "seed"], sort=False):
        row: dict[str, Any] = dict(zip([k for k in KEYS if k != "seed"], key, strict=True)) | {"draws": len(part)}
        for name in ("start", "own head", "mean head"):
            row[name] = f"{100 * part[name].mean():.1f} ({part[f'{name}, NLL'].mean():.3f})"
        rows.append(row | {"trained kept": int(part["kept_trained"].sum()), "CPU s": round(part["cpu_seconds"].median())})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset")
    parser.add_argument("--cache", type=Path, help="folder of features and denoisers")
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 as image files")
    parser.add_argument("--size", type=int, default=0, help="side of the images of the denoiser; 0 is what a fit takes")
    parser.add_argument("--pretraining-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--labeled", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--terms", nargs="+", choices=TERMS, default=list(TERMS))
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.cache is None or arguments.dataset is None:
            parser.error("say what is measured with --dataset, and where features are kept with --cache")
        torch.set_num_threads(1)
        shape = (arguments.dataset, arguments.size, arguments.pretraining_steps, arguments.steps, arguments.labeled)
        fits = None
        for seed in arguments.seeds:
            for terms in arguments.terms:
                key = dict(zip(KEYS, (*shape, seed, terms), strict=True))
                if find_row(CSV, key) is not None:
                    continue
                if fits is None:
                    data = photo_set(arguments.dataset, arguments.cache, arguments.cifar)
                    fits = Fits(data, arguments.size, arguments.pretraining_steps, arguments.steps)
                row = key | fits.row(arguments.labeled, seed, terms)
                append_row(CSV, row | provenance())
                print({name: row[name] for name in ("seed", "terms", "start", "own head", "kept")}, file=sys.stderr, flush=True)
    if CSV.exists():
        print(markdown_table(table(pd.read_csv(CSV))))


if __name__ == "__main__":
    main()
