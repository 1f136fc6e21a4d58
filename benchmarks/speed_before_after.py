"""Speed of the network, in channels_last, against that of earlier versions, in NCHW: interleaved in one process.

    python benchmarks/speed_before_after.py --threads 1
    python benchmarks/speed_before_after.py --threads 2
    python benchmarks/speed_before_after.py --device cuda --compile

For each recipe: `classify` (256 images), a sampling step (100 images), a joint step and a pretraining step with the batches of
the recipe; both networks in turn, round by round, in the same precision and with the same weights, after a check that they
compute the same. A step is forward, backward, clipping, AdamW and the moving average on a fixed batch; drawing and
augmentation, which are the same in both, are left out. "share" is that of the rate that this machine reaches in a matrix
product of the same precision, with the operations that torch counts. Weights are random. Nothing else may run beside it.

On a GPU, time is that between two CUDA events, of several calls in a row; with --compile, a third network is ours compiled by
torch, as the option `compute.compile` does it, and "ratio_compiled" is its speed against the former one.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
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
_Prepare = Callable[["JointDiffusion"], None]


def main() -> None:
    """Measure, print Markdown, add to the CSV file."""
    args = _arguments()
    bind_threads(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    precision = resolve_precision(args.precision, args.device)
    facts = provenance()
    if args.device == "cuda":
        facts["processor"] = torch.cuda.get_device_name()
    peak = _matmul_rate(precision, args.device)
    print(f"{args.threads} threads, {precision}, matrix product {peak / 1e9:,.0f} GFLOP/s, {facts['processor']}\n", flush=True)
    rows = []
    for recipe in args.recipes:
        for kind in args.kinds:
            case = Case(recipe, kind, precision, args.device)
            row = {"recipe": recipe, "what": kind, "precision": precision} | _compare(case, args.rounds, peak, args.compile)
            append_row(args.out, row | {"matmul_gflops": round(peak / 1e9, 1)} | facts)
            rows.append(row)
            print(row, flush=True)
    print(markdown_table(rows))


@dataclass(frozen=True)
class Case:
    """What is timed, and how."""

    recipe: str
    kind: str
    precision: str
    device: str

    @property
    def reads(self) -> bool:
        """Whether it only reads, and does not train."""
        return self.kind in ("classify", "sampling step")


def _compare(case: Case, rounds: int, peak: float, compiled: bool) -> dict[str, Any]:
    """Images a second of the networks, and the median of the ratios of a round."""
    from former_unet import FormerJointDiffusion
    from torch.utils.flop_counter import FlopCounterMode

    from ssl_diffusion.models.joint import JointConfig, JointDiffusion
    from ssl_diffusion.training.compiling import compile_network
    from ssl_diffusion.training.recipe import load_recipe

    recipe = load_recipe(case.recipe)
    config = JointConfig(model=recipe.model, n_classes=10, image_shape=_SHAPES[case.recipe])
    networks: dict[str, JointDiffusion] = {"before": _filled(FormerJointDiffusion(config)).eval()}
    for which in ("now", "compiled") if compiled else ("now",):
        networks[which] = JointDiffusion(config).eval()
        networks[which].load_state_dict(networks["before"].state_dict())
    _check_equal(networks["before"], networks["now"])
    calls, images = {}, 0
    for which, network in networks.items():
        network.to(case.device)
        calls[which], images = _call(network, recipe, case, compile_network if which == "compiled" else None)
        for _ in range(3 if case.device == "cuda" else 1):
            calls[which]()  # a warm-up, in which layouts are chosen and networks compiled
    seconds: dict[str, list[float]] = {which: [] for which in calls}
    for _ in range(rounds):
        for which, call in calls.items():
            seconds[which].append(_seconds(call, case.device))
    with FlopCounterMode(display=False) as counter:
        calls["before"]()
    rates = {which: sorted(images / s for s in spent)[rounds // 2] for which, spent in seconds.items()}
    flops = counter.get_total_flops() / images
    found = {
        "images": images,
        "rounds": rounds,
        **{which: round(rates[which], 1) for which in ("before", "now")},
        "ratio": paired_ratio(seconds["before"], seconds["now"]),
        **{f"share_{which}": round(rates[which] * flops / peak, 3) for which in ("before", "now")},
    }
    if case.device == "cuda":
        found["ratio_compiled"] = paired_ratio(seconds["before"], seconds["compiled"]) if compiled else ""
    return found


def _seconds(call: _Call, device: str, repetitions: int = 10) -> float:
    """Seconds of a call; on a GPU the mean of several, since a single one waits for the processor to launch it."""
    import torch

    if device == "cpu":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repetitions):
        call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000 / repetitions


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


def _call(model: "JointDiffusion", recipe: "Recipe", case: Case, prepare: _Prepare | None) -> tuple[_Call, int]:
    """What is timed, and its number of images."""
    return _reading(model, case, prepare) if case.reads else _step(model, recipe, case, prepare)


def _reading(model: "JointDiffusion", case: Case, prepare: _Prepare | None) -> tuple[_Call, int]:
    import torch
    from former_unet import FormerJointDiffusion

    from ssl_diffusion.inference.predict import evaluating
    from ssl_diffusion.models.packing import packed

    n = 256 if case.kind == "classify" else 100
    x = torch.randn(n, *model.config.image_shape, generator=torch.Generator().manual_seed(0)).to(case.device)
    with evaluating(model, case.precision):
        reader = model if isinstance(model, FormerJointDiffusion) else packed(model, case.precision)
    if prepare is not None:
        prepare(reader)

    def call() -> object:
        with evaluating(reader, case.precision):
            return reader.classify(x) if case.kind == "classify" else reader.denoise(x, 1.0)

    return call, n


def _step(model: "JointDiffusion", recipe: "Recipe", case: Case, prepare: _Prepare | None) -> tuple[_Call, int]:
    import torch
    from former_unet import FormerJointDiffusion

    from ssl_diffusion.training.moving_average import MovingAverage
    from ssl_diffusion.training.objective import DenoisingBatch, LabeledBatch, Objective, TrainingBatch
    from ssl_diffusion.training.optimizer import make_optimizer

    joint, generator, device = case.kind == "joint step", torch.Generator().manual_seed(0), torch.device(case.device)
    if not isinstance(model, FormerJointDiffusion):
        model = model.to(memory_format=torch.channels_last)  # as the training loop does

    def images(n: int) -> torch.Tensor:
        return torch.randn(n, *model.config.image_shape, generator=generator).to(device)

    settings = recipe.training if joint else recipe.pretraining
    n, k, labeled = settings.batch_size, recipe.training.labeled_batch_size if joint else 0, None
    denoising = DenoisingBatch(images(n), (torch.rand(n, generator=generator) + 0.1).to(device), images(n))
    if joint:
        classes = torch.randint(0, 10, (k,), generator=generator).to(device)
        labeled = LabeledBatch(images(k), classes, torch.zeros(k, device=device))
    objective = Objective(model, "joint" if joint else "denoise-only")
    optimizer = make_optimizer(model, settings, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = MovingAverage(model, 1000, device)
    model.train()
    if prepare is not None:
        prepare(model)

    def call() -> object:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = objective(TrainingBatch(denoising, labeled))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(1000)
        return loss

    return call, n + k


def _matmul_rate(precision: str, device: str) -> float:
    """Operations a second of a matrix product, the best of nine; its side is 2048 on a processor and 8192 on a GPU."""
    import torch

    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device)
    a = a.to(torch.bfloat16) if precision == "bf16" else a
    times = [_seconds(lambda: torch.mm(a, a), device, 1) for _ in range(10)]
    return float(2 * side**3 / min(times[1:]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="time the compiled network too")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--recipes", nargs="+", choices=list(_SHAPES), default=list(_SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=list(_KINDS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="default: results/speed_before_after.csv, with cuda results/speed_gpu.csv")
    args = parser.parse_args()
    args.out = args.out or RESULTS / ("speed_gpu.csv" if args.device == "cuda" else "speed_before_after.csv")
    return args


if __name__ == "__main__":
    main()
