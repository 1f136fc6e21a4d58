"""Does a denoiser learn faster when its middle block is aligned with the features of a pretrained network?

    python benchmarks/alignment.py --cache CACHE --cifar CIFAR --weights 0 0.5 --steps 300 --batch 32
    python benchmarks/alignment.py --table

Pretraining of the recipe `images` on the training photos of CIFAR-10 (`--cifar`: a folder with train/ and test/), with a term
that draws the mean of the middle map, through a small network, towards the standardised features that EfficientNet-Lite0 has of
the image without noise: weight times one minus the cosine, as in REPA (Yu et al. 2024, arXiv 2410.06940), at the middle of the
U-Net as in U-REPA. One row a weight in `results/alignment.csv`: the accuracy of logistic regression on the denoiser alone with
100 labels, on 4,000 of the training photos and seeds that no table uses; the denoiser's error beside that of a linear filter
(:func:`ssl_diffusion.inference.denoiser_quality`); CPU seconds of the steps, without the reading by the backbone. CACHE holds
features and weights; rows that are there are not run again.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray
from photo_data import PhotoSet, photo_set
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference import denoiser_quality
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.noise import target
from ssl_diffusion.models.probe import fit_probe
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.batches import BatchSampler, Phase
from ssl_diffusion.training.moving_average import MovingAverage
from ssl_diffusion.training.optimizer import make_optimizer
from ssl_diffusion.training.phases import pretraining_job, training_job
from ssl_diffusion.training.recipe import load_recipe
from ssl_diffusion.training.schedule import Schedule

CSV = RESULTS / "alignment.csv"
LAST, HIDDEN = 1280, 512  # features of the backbone's last level; width of the small network
LABELS, SEEDS, POOL = 100, range(100, 108), 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        if args.cache is None or args.cifar is None:
            parser.error("say where features are kept and where CIFAR-10 is: --cache, --cifar")
        torch.set_num_threads(1)
        data = photo_set("cifar10", args.cache, args.cifar)
        phase = phase_of(data, args.steps, args.batch)
        for weight in args.weights:
            key = {"weight": weight, "steps": args.steps, "batch": args.batch}
            if find_row(CSV, key) is None:
                model, seconds = trained(data, phase, weight, args.cache)
                append_row(CSV, key | measured(model, data.pool) | {"cpu_seconds": round(seconds, 1)} | provenance())
    print(markdown_table(pd.read_csv(CSV).drop(columns=["torch", "commit", "threads"]).to_dict(orient="records")))


def phase_of(data: PhotoSet, steps: int, batch: int) -> Phase:
    """The pretraining of the recipe `images`."""
    told = {f"data.{name}": value for name, value in data.settings.model_dump(exclude_defaults=True).items()}
    told |= {"training.objective": "denoise-only", "backbone.name": "none", "compute.threads": 1}
    recipe = load_recipe("images").with_settings({**told, "pretraining.steps": steps, "pretraining.batch_size": batch})
    phase = pretraining_job(recipe, training_job(recipe, data.pool, None), data.pool.fingerprint())
    assert phase is not None
    return phase


def trained(data: PhotoSet, phase: Phase, weight: float, cache: Path) -> tuple[JointDiffusion, float]:
    """The averaged denoiser after all steps, and their CPU seconds."""
    kept = cache / f"alignment-{weight:g}-{phase.settings.steps}-{phase.settings.batch_size}.pt"
    if not kept.exists():
        features = torch.from_numpy(standardised(data.features(data.pool.train)[:, -LAST:]))
        torch.save(_trained(phase, weight, features), kept)
    found = torch.load(kept, weights_only=True)
    return build_model(phase.config, seed=0, initial=found["weights"]).eval(), float(found["seconds"])


def _trained(phase: Phase, weight: float, features: Tensor) -> dict[str, Any]:
    s, cpu = phase.settings, torch.device("cpu")
    model = build_model(phase.config, s.seed).to(memory_format=torch.channels_last)
    average, optimizer = MovingAverage(model, s.ema * s.steps, cpu), make_optimizer(model, s, cpu)
    width = model.unet.last_channels[-1]
    torch.manual_seed(1)
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, features.shape[1]))
    if weight:
        optimizer.add_param_group({"params": list(head.parameters()), "weight_decay": s.weight_decay, "scale": 1.0})
    draw, parameters = BatchSampler(phase, model.noise), [p for group in optimizer.param_groups for p in group["params"]]
    model.train()
    began = time.process_time()
    for step in range(s.steps):
        part = draw(step).denoising
        assert part is not None
        assert draw._denoising is not None
        torch.manual_seed(derive_seed(s.seed, phase.name, "dropout", step, 0))
        for group in optimizer.param_groups:
            group["lr"] = Schedule(s).rate(step) * group["scale"]
        noised = part.noised()
        seen = model.encode(noised, part.sigma)
        raw = model.raw_output(seen, part.clean.shape)
        loss = functional.mse_loss(raw, target(part.clean, noised, model.noise.coefficients(part.sigma)))
        if weight:
            middle = head(seen.middle.float().mean(dim=(2, 3)))
            loss = loss + weight * (1 - functional.cosine_similarity(middle, features[draw._denoising.rows(step)]).mean())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, s.clip)
        optimizer.step()
        average.update(step)
    weights = {name: t.detach().clone() for name, t in average.model.state_dict().items()}
    return {"weights": weights, "seconds": time.process_time() - began}


def standardised(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features with mean 0 and deviation 1."""
    found: NDArray[np.float32] = (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-6)
    return found


def measured(model: JointDiffusion, pool: Pool) -> dict[str, float]:
    """Accuracy of probes with few labels, and the error of the denoiser."""
    rng, k = np.random.default_rng(1000), len(pool.classes)
    of_class = [rng.permutation(pool.train[pool.labels[pool.train] == c])[: POOL // k] for c in range(k)]
    rows = np.concatenate(of_class)
    z, y = represent(model, pool.images[rows]), pool.labels[rows]
    found = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        train = np.concatenate([rng.permutation(np.flatnonzero(y == c))[: LABELS // k] for c in range(k)])
        test = np.setdiff1d(np.arange(len(y)), train)
        probe = fit_probe(z[train], y[train], z[rng.permutation(test)[:2000]], k, seed=seed)
        found.append(float((probe.logits(z[test]).argmax(axis=1) == y[test]).mean()))
    quality = denoiser_quality(model, pool.images, pool.train, seed=0)
    return {
        f"accuracy_{LABELS}": round(float(np.mean(found)), 4),
        "standard_error": round(float(np.std(found, ddof=1) / len(found) ** 0.5), 4),
        "ratio": round(quality.ratio, 4) if quality is not None else float("nan"),
    }


if __name__ == "__main__":
    main()
