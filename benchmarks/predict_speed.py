"""Speed of prediction: classifying against a whole denoising pass, and `ssld predict` on folders of PNG files.

    python benchmarks/predict_speed.py [RUN]

`classify` runs the encoder and the head, which is all that `ssld predict` computes; `denoise` is a forward pass through the
whole network. Both are timed in turn, in the same precision. The end-to-end part starts `ssld predict` as a process of
its own on folders of different numbers of images: its peak memory should not grow with them. It uses the run that was
given, or else the default recipe's network with fresh weights.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import RESULTS, markdown_table, paired_ratio, provenance, run_measured, spread, ssld, write_csv

from ssl_diffusion.machine import bind_threads, resolve_precision

if TYPE_CHECKING:
    from ssl_diffusion.inference.run import Run
    from ssl_diffusion.models.joint import JointDiffusion

_BATCH = 256  # the default of `ssld predict`
_RECIPE = "fashion-mnist"


def main() -> None:
    """Measure, print Markdown, write CSV."""
    args = _arguments()
    bind_threads(args.threads)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    facts = provenance()
    precision = resolve_precision(args.precision, "cpu")
    print(f"{facts['threads']} threads, {precision}, {facts['processor']}, torch {facts['torch']}, commit {facts['commit']}\n")
    with tempfile.TemporaryDirectory() as scratch:
        runs = {args.run.name: _load(args.run)} if args.run else _fresh_runs(Path(scratch))
        rows = []
        for name, run in runs.items():
            rows += _forward_passes(name, run.model, precision, args)
        _show(rows, ("network", "what", "images_per_second", "min", "max", "ratio", "parameters"))
        name, run = next(iter(runs.items()))
        whole = [_end_to_end(name, run, n, precision, Path(scratch), args.threads) for n in args.counts]
        _show(whole, ("network", "what", "images", "seconds", "images_per_second", "peak_mib", "peak_tree_mib"))
    write_csv(args.out, [row | facts for row in rows + whole])


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    if rows:
        print(markdown_table([{key: row[key] for key in columns} for row in rows]) + "\n", flush=True)


def _load(path: Path) -> "Run":
    from ssl_diffusion.inference.run import load_run

    return load_run(path, "cpu")


def _fresh_runs(scratch: Path) -> dict[str, "Run"]:
    """Run folders with fresh weights: the default recipe's network, and one as in the paper (no stem, symmetric decoder)."""
    import numpy as np

    from ssl_diffusion.data.pool import Pool
    from ssl_diffusion.models.build import build_model
    from ssl_diffusion.models.joint import JointConfig
    from ssl_diffusion.models.settings import ModelSettings
    from ssl_diffusion.training.phases import joint_config
    from ssl_diffusion.training.recipe import load_recipe
    from ssl_diffusion.training.run_folder import RunFolder, model_metadata

    images = np.random.default_rng(0).integers(0, 256, (10, 1, 28, 28), dtype=np.uint8)
    classes = tuple(f"class {k}" for k in range(10))
    pool = Pool("random", images, np.arange(10).astype(str), np.arange(10), classes, np.zeros(10, dtype=bool))
    paper = ModelSettings(channels=64, multipliers=(1, 2, 2), blocks=3, parameterisation="ddpm", ddpm_steps=500)
    configs = {
        f"recipe {_RECIPE}": joint_config(load_recipe(_RECIPE), pool),
        "like the paper's": JointConfig(model=paper, n_classes=10, image_shape=pool.image_shape),
    }
    runs = {}
    for i, (name, config) in enumerate(configs.items()):
        folder = RunFolder(scratch / f"run{i}")
        folder.path.mkdir()
        folder.save_model(model_metadata(config, pool, "joint"), ema=build_model(config, seed=0).state_dict(), raw={})
        runs[name] = _load(folder.path)
    return runs


def _forward_passes(name: str, model: "JointDiffusion", precision: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    from ssl_diffusion.inference.predict import evaluating
    from ssl_diffusion.models.build import count_parameters

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (_BATCH, *model.config.image_shape), dtype=torch.uint8, generator=generator)
    sigma = torch.full((_BATCH,), 0.5)
    passes = {
        "denoise (whole network)": lambda x: model.denoise(x, sigma),
        "classify (encoder and head)": lambda x: model.classify(x),
    }
    rates: dict[str, list[float]] = {what: [] for what in passes}
    with evaluating(model, precision):
        for r in range(args.rounds + 1):  # the first is a warm-up
            for what, function in passes.items():
                began = time.perf_counter()
                for _ in range(args.batches if r else 1):
                    function(images.float() / 127.5 - 1)
                if r:
                    rates[what].append(_BATCH * args.batches / (time.perf_counter() - began))
    base = next(iter(rates.values()))
    return [
        {
            "network": name,
            "what": what,
            **_rate_columns(rate),
            "ratio": paired_ratio(rate, base),
            "images": _BATCH * args.batches,
            "rounds": args.rounds,
            "parameters": count_parameters(model),
            "precision": precision,
        }
        for what, rate in rates.items()
    ]


def _end_to_end(name: str, run: "Run", n: int, precision: str, scratch: Path, threads: int) -> dict[str, Any]:
    """`ssld predict` on a folder of `n` PNG files."""
    from ssl_diffusion.models.build import count_parameters

    folder = scratch / f"images{n}"
    _write_images(folder, n, run.image_shape)
    out = scratch / f"predictions{n}.csv"
    command = [ssld(), "predict", str(run.path), str(folder), "--out", str(out), "--quiet"]
    cost = run_measured([*command, "--accelerator", "cpu", "--precision", precision, "--threads", str(threads)])
    with out.open(encoding="utf-8") as lines:
        predicted = sum(1 for _ in lines) - 1
    if predicted != n:
        raise SystemExit(f"ssld predict wrote {predicted} predictions for {n} images")
    rate = n / cost.seconds
    return {
        "network": name,
        "what": "ssld predict, PNG files to CSV, start included",
        **_rate_columns([rate]),
        "images": n,
        "rounds": 1,
        "parameters": count_parameters(run.model),
        "precision": precision,
        "seconds": cost.seconds,
        "peak_mib": cost.peak_mib,
        "peak_tree_mib": cost.peak_tree_mib,
    }


def _write_images(folder: Path, n: int, shape: tuple[int, int, int]) -> None:
    """Smooth random images, as large as real ones on disk."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    channels, height, width = shape
    for i in range(n):
        coarse = rng.integers(0, 256, (7, 7) if channels == 1 else (7, 7, channels), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.png")


def _rate_columns(rate: list[float]) -> dict[str, float]:
    columns = spread(rate)
    return {"images_per_second": columns["median"], "min": columns["min"], "max": columns["max"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="run folder; without one, networks with fresh weights")
    parser.add_argument("--counts", nargs="*", type=int, default=[10_000, 60_000], help="images of the end-to-end part")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=4, help=f"batches of {_BATCH} images of each pass in a round")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0 is all cores")
    parser.add_argument("--out", type=Path, default=RESULTS / "predict_speed.csv")
    return parser.parse_args()


if __name__ == "__main__":
    main()
