"""Counterfactuals of photos by a denoiser that has learned them: how many arrive, and does another network see their class?

    python benchmarks/photo_denoisers.py --cifar CIFAR --steps 2069 --work FOLDER
    python benchmarks/photo_denoisers.py --cifar CIFAR --classes automobile truck horse deer --steps 2151 --joint 600
    python benchmarks/photo_denoisers.py --table

CIFAR is a folder with train/ and test/ of CIFAR-10 as image files. A denoiser of 15.6 million parameters is trained on all
training photos of the classes, 512 a step; on it are fitted, with 4,000 labels, a probe fused with EfficientNet-Lite0 and, with
--joint, a joint model without a backbone. Test photos that a fit classifies correctly get their sure counterfactual (p >= 0.9)
of the runner-up class.

search `explain` is that of `ssld explain`. `low noise unguided, tested` has no guidance below a noise level of 0.4, and accepts
only what is still the target after the denoiser has noised and denoised it (at 0.25, mean probability of four draws at least
0.5).

valid: share that arrives. Of those that arrived: rms, the median change; judge, share in which the network of
:mod:`counterfactual_photos`, fitted to all training photos of CIFAR, sees the target; noise, the same of white noise as large
as the changes; random, of a network of random weights; judge_clean, accuracy of the judge on the originals. `report` are the
first photos, `development` others that follow.

Rows in `results/photo_denoisers.csv`, which are not run again; photos, counterfactuals and samples in the folder, as .npz, of
which photo_pictures.py makes pictures.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from common import RESULTS, append_row, figures_of, find_row, markdown_table, provenance
from counterfactual_photos import explained, noise_like
from numpy.typing import NDArray
from photo_judge import Judge, cifar_judge, judged_by, network, photo_arguments
from torch import Tensor

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation import explain_run, sample_run
from ssl_diffusion.generation.counterfactual import search
from ssl_diffusion.generation.guidance import EstimateGuidance
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.inference.run_rows import original_images
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import rounded
from ssl_diffusion.training.fit import fit_run
from ssl_diffusion.training.recipe import load_recipe

CSV = RESULTS / "photo_denoisers.csv"
SEARCHES = ("explain", "low noise unguided, tested")
LEAST_LEVEL = 0.4  # of guidance
TEST_LEVEL, TEST_DRAWS = 0.25, 4
DENOISER = {
    "model.multipliers": [1, 2, 2],
    "model.blocks": 2,
    "model.attention": [1],
    "compute.threads": 1,
}
FITS = {
    "fused": {"training.objective": "probe", "backbone.name": "efficientnet-lite0"},
    "joint": {"training.objective": "joint", "training.head_noise": 1.0, "backbone.name": "none"},
}


@contextmanager
def tested_search() -> Iterator[None]:
    """No guidance at low noise, and only what withstands noise is accepted."""
    estimate, judged = EstimateGuidance.estimate, search._Search._judged

    def unguided_below(
        self: EstimateGuidance,
        model: JointDiffusion,
        x: Tensor,
        sigma: float,
        target: Tensor,
        scale: float,
        draw: Callable[[], Tensor],
    ) -> Tensor:
        if sigma < LEAST_LEVEL:
            return model.denoise(x, sigma).detach()
        return estimate(self, model, x, sigma, target, scale, draw)

    def withstands(
        self: search._Search, x: Tensor, target: Tensor, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        flipped, p = judged(self, x, target, rows)
        every, classifier = torch.zeros(()), self._classifier(rows, x.device)
        for draw in range(TEST_DRAWS):
            noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(draw)).to(x)
            clean = self.model.denoise(rounded(x) + TEST_LEVEL * noise, TEST_LEVEL).clamp(-1, 1)
            every = every.to(x.device) + classifier.classify(clean).softmax(dim=1) / TEST_DRAWS
        self.evaluations[rows] += 2 * TEST_DRAWS
        mine = every.gather(1, target[:, None])[:, 0]
        ok = ((every.argmax(dim=1) == target) & (mine >= 0.5)).cpu().numpy()
        return flipped & ok, np.minimum(p, mine.cpu().numpy())

    with patch.object(EstimateGuidance, "estimate", unguided_below), patch.object(search._Search, "_judged", withstands):
        yield


def measure(pool: Pool, key: dict[str, str], judges: dict[str, Judge], names: list[str], args: argparse.Namespace) -> None:
    """Counterfactuals of a fit by a search: pictures, and rows of those reported and of the others."""
    folder = args.work / f"run {key['photos']} {key['fit']}"
    run, metrics = load_run(folder), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    positions = explained(run, pool, args.report + args.development)
    originals, photos = original_images(run, pool, positions), pool.images[positions]
    if key["search"] == "explain":
        result = explain_run(run, photos, "runner-up", originals, confidence=0.9)
    else:
        with tested_search():
            result = explain_run(run, photos, "runner-up", originals, confidence=0.9)
    changed, success = result.images(), result.success
    as_judged = np.array([names.index(c) for c in pool.classes])
    wanted, truth = as_judged[result.target], as_judged[pool.labels[positions]]
    said = judges["judge"](changed)
    seen = {"judge": said == wanted, "random": judges["random"](changed) == wanted}
    seen["noise"] = judges["judge"](noise_like(photos, changed)) == wanted
    seen["judge_clean"] = judges["judge"](photos) == truth
    rms = np.sqrt(((changed.astype(np.float64) - photos) ** 2).mean(axis=(1, 2, 3))) / 255
    np.savez_compressed(
        args.work / f"{key['photos']} {key['fit']} {key['search']}.npz",
        ids=pool.ids[positions].astype(str),
        original=photos,
        changed=changed,
        success=success,
        source=result.source,
        target=result.target,
        judge=np.array(names)[said],
        classes=np.array(pool.classes),
    )
    parts = {"report": slice(0, args.report), "development": slice(args.report, None)}
    for part, rows in list(parts.items())[: 1 + (args.development > 0)]:
        arrived = success[rows]
        row = key | {"part": part, "n": len(arrived), "valid": round(float(arrived.mean()), 4)}
        of_arrived = {"rms": float(np.median(rms[rows][arrived]))} if arrived.any() else {}
        of_arrived |= {kind: float(found[rows][arrived].mean()) for kind, found in seen.items() if arrived.any()}
        row |= {kind: round(of_arrived[kind], 4) if kind in of_arrived else "" for kind in ("rms", *seen)}
        row |= {"evaluations": round(float(result.network_evaluations[rows].mean()), 1)}
        row |= {"accuracy": metrics["test_accuracy"], "ratio": metrics["denoiser"]["ratio"], "steps": args.steps}
        append_row(args.out, row | provenance())


def main() -> None:
    parser = photo_arguments(__doc__, "photo_denoisers", CSV)
    parser.add_argument("--classes", nargs="+", help="folders of CIFAR to take; all, if it is not given")
    parser.add_argument("--steps", type=int, default=2000, help="of the denoiser")
    parser.add_argument("--joint", type=int, default=0, help="steps of joint training; none if 0")
    parser.add_argument("--labels", type=int, default=4000)
    parser.add_argument("--channels", type=int, default=96, help="of the denoiser; fewer try the script out")
    parser.add_argument("--batch", type=int, default=512, help="photos of a step of the denoiser")
    parser.add_argument("--report", type=int, default=200, help="photos")
    parser.add_argument("--development", type=int, default=100, help="further photos")
    args = parser.parse_args()
    if not args.table:
        if args.cifar is None:
            parser.error("say where CIFAR-10 is as image files: --cifar")
        work(args)
    print(markdown_table([row for row in figures_of(args.out) if row["part"] == "report"]))


def work(args: argparse.Namespace) -> None:
    """All rows of a set of photos that are missing."""
    name = ", ".join(args.classes) if args.classes else "all"
    keys = [{"photos": name, "fit": fit, "search": s} for fit in FITS if fit != "joint" or args.joint for s in SEARCHES]
    missing = [key for key in keys if find_row(args.out, key) is None]
    if not missing:
        return
    args.work.mkdir(parents=True, exist_ok=True)
    whole, judge = cifar_judge(args.cifar, args.epochs)
    folder = args.work / name
    for split in ("train", "test") if args.classes else ():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for one in args.classes:
            if not (folder / split / one).exists():
                (folder / split / one).symlink_to((args.cifar / split / one).resolve(), target_is_directory=True)
    told = {"data.path": str(folder if args.classes else args.cifar)}
    told |= {"model.channels": args.channels, "pretraining.batch_size": args.batch}
    recipe = load_recipe("images").with_settings(DENOISER | told)
    pool = load_pool(recipe.data)
    judges = {"judge": judge, "random": judged_by(network(len(whole.classes), 1))}
    for fit in dict.fromkeys(key["fit"] for key in missing):
        settings = FITS[fit] | {"pretraining.steps": args.steps, "labels.budget": args.labels, "training.seed": 0}
        settings |= {"training.steps": args.joint} if fit == "joint" else {}
        run = load_run(fit_run(recipe.with_settings(settings), args.work / f"run {name} {fit}", pool=pool, overwrite=True))
        drawn = np.arange(100) % len(run.classes)
        what = f"{len(pool.train):,} photos of {len(run.classes)} classes"
        trained = f"{args.steps:,} steps of {args.batch}" + (f" + {args.joint} joint" if fit == "joint" else "")
        np.savez_compressed(
            args.work / f"samples {name} {fit}.npz",
            title=f"{what}, {trained}" + (", fused probe" if fit == "fused" else ""),
            plain=sample_run(run, 100),
            guided=sample_run(run, 100, drawn),
            wanted=drawn,
            classes=np.array(run.classes),
        )
        for key in missing:
            if key["fit"] == fit:
                measure(pool, key, judges, list(whole.classes), args)


if __name__ == "__main__":
    main()
