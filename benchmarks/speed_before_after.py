"""Speed of the network, in channels_last, against that of earlier versions, in NCHW: interleaved in one process.

    python benchmarks/speed_before_after.py --threads 1
    python benchmarks/speed_before_after.py --threads 2

For each recipe: `classify` (256 images), a sampling step (100 images), a joint step and a pretraining step with the batches of
the recipe; both networks in turn, round by round, in the same precision and with the same weights, after a check that they
compute the same. A step is forward, backward, clipping, AdamW and the moving average on a fixed batch; drawing and
augmentation, which are the same in both, are left out. "share" is that of the rate that this machine reaches in a matrix
product of the same precision, with the operations that torch counts. Weights are random. Nothing else may run beside it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import RESULTS, append_row, markdown_table, paired_ratio, provenance

from ssl_diffusion.machine import bind_threads, resolve_precision

if TYPE_CHECKING:
    from ssl_diffusion.models.joint import JointDiffusion
    from ssl_diffusion.training.recipe import Recipe

_SHAPES = {"fashion-mnist": (1, 28, 28), "fashion-mnist-thorough": (1, 28, 28), "cifar10-thorough": (3, 32, 32)}
_KINDS = ("classify", "sampling step", "joint step", "pretraining step")
_Call = Callable[[], object]


def main() -> None:
    """Measure, print Markdown, add to the CSV file."""
    args = _arguments()
    bind_threads(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    precision = resolve_precision(args.precision, "cpu")
    facts = provenance()
    peak = _matmul_rate(precision)
    print(f"{args.threads} threads, {precision}, matrix product {peak / 1e9:,.0f} GFLOP/s, {facts['processor']}\n", flush=True)
    rows = []
    for recipe in args.recipes:
        for kind in args.kinds:
            row = {"recipe": recipe, "what": kind, "precision": precision} | _compare(
                recipe, kind, precision, args.rounds, peak
            )
            append_row(args.out, row | {"matmul_gflops": round(peak / 1e9, 1)} | facts)
            rows.append(row)
            print(row, flush=True)
    print(markdown_table(rows))


def _compare(name: str, kind: str, precision: str, rounds: int, peak: float) -> dict[str, Any]:
    """Images a second of both networks, and the median of the ratios of a round."""
    from former_unet import FormerJointDiffusion
    from torch.utils.flop_counter import FlopCounterMode

    from ssl_diffusion.models.joint import JointConfig, JointDiffusion
    from ssl_diffusion.training.recipe import load_recipe

    recipe = load_recipe(name)
    config = JointConfig(model=recipe.model, n_classes=10, image_shape=_SHAPES[name])
    calls, seconds = {}, {}
    before, now = _filled(FormerJointDiffusion(config)).eval(), JointDiffusion(config).eval()
    now.load_state_dict(before.state_dict())
    _check_equal(before, now)
    for which, network in (("before", before), ("now", now)):
        calls[which], images = _call(network, recipe, kind, precision)
        calls[which]()  # a warm-up, in which layouts are chosen
        seconds[which] = list[float]()
    for _ in range(rounds):
        for which, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[which].append(time.perf_counter() - began)
    with FlopCounterMode(display=False) as counter:
        calls["before"]()
    rates = {which: sorted(images / s for s in spent)[rounds // 2] for which, spent in seconds.items()}
    flops = counter.get_total_flops() / images
    return {
        "images": images,
        "rounds": rounds,
        **{which: round(rate, 1) for which, rate in rates.items()},
        "ratio": paired_ratio(seconds["before"], seconds["now"]),
        **{f"share_{which}": round(rate * flops / peak, 3) for which, rate in rates.items()},
    }


def _check_equal(before: "JointDiffusion", now: "JointDiffusion") -> None:
    """Stop unless both networks compute the same in fp32: only then do their times compare."""
    import torch

    x = torch.randn(4, *now.config.image_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for what in (lambda model: model.classify(x), lambda model: model.denoise(x, 0.7)):
            torch.testing.assert_close(what(now), what(before), rtol=1e-3, atol=1e-4)


def _filled(model: "JointDiffusion") -> "JointDiffusion":
    """The model with random numbers where a fresh one is zero, so that everything takes part."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.02, generator=generator)
    return model


def _call(model: "JointDiffusion", recipe: "Recipe", kind: str, precision: str) -> tuple[_Call, int]:
    """What is timed, and its number of images."""
    return _reading(model, kind, precision) if kind in ("classify", "sampling step") else _step(model, recipe, kind, precision)


def _reading(model: "JointDiffusion", kind: str, precision: str) -> tuple[_Call, int]:
    import torch
    from former_unet import FormerJointDiffusion

    from ssl_diffusion.inference.predict import evaluating
    from ssl_diffusion.models.packing import packed

    n = 256 if kind == "classify" else 100
    x = torch.randn(n, *model.config.image_shape, generator=torch.Generator().manual_seed(0))
    with evaluating(model, precision):
        reader = model if isinstance(model, FormerJointDiffusion) else packed(model, precision)

    def call() -> object:
        with evaluating(reader, precision):
            return reader.classify(x) if kind == "classify" else reader.denoise(x, 1.0)

    return call, n


def _step(model: "JointDiffusion", recipe: "Recipe", kind: str, precision: str) -> tuple[_Call, int]:
    import torch
    from former_unet import FormerJointDiffusion

    from ssl_diffusion.training.moving_average import MovingAverage
    from ssl_diffusion.training.objective import DenoisingBatch, LabeledBatch, Objective, TrainingBatch
    from ssl_diffusion.training.optimizer import make_optimizer

    joint, generator = kind == "joint step", torch.Generator().manual_seed(0)
    if not isinstance(model, FormerJointDiffusion):
        model = model.to(memory_format=torch.channels_last)  # as the training loop does

    def images(n: int) -> torch.Tensor:
        return torch.randn(n, *model.config.image_shape, generator=generator)

    settings = recipe.training if joint else recipe.pretraining
    n, k, labeled = settings.batch_size, recipe.training.labeled_batch_size if joint else 0, None
    denoising = DenoisingBatch(images(n), torch.rand(n, generator=generator) + 0.1, images(n))
    if joint:
        labeled = LabeledBatch(images(k), torch.randint(0, 10, (k,), generator=generator), torch.zeros(k))
    objective = Objective(model, "joint" if joint else "denoise-only")
    optimizer = make_optimizer(model, settings, torch.device("cpu"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = MovingAverage(model, 1000, torch.device("cpu"))
    model.train()

    def call() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(TrainingBatch(denoising, labeled))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(1000)
        return loss

    return call, n + k


def _matmul_rate(precision: str) -> float:
    """Operations a second of a matrix product of side 2048, the best of nine."""
    import torch

    a = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    a = a.to(torch.bfloat16) if precision == "bf16" else a
    times = []
    for _ in range(10):
        began = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(times[1:]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--recipes", nargs="+", choices=list(_SHAPES), default=list(_SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=list(_KINDS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_before_after.csv")
    return parser.parse_args()


if __name__ == "__main__":
    main()
