"""Speed of joint training: the library against a plain implementation on diffusers, and what each lever gives.

    python benchmarks/train_speed.py

Both contestants train networks of equal width, depth and attention on equal batches, in turn within one process: a few
steps of one, a few of the other, for several rounds. Images per second are pool images (those of the denoising loss);
the same number of labeled images per step comes on top in both. The library's figure is `ssl_diffusion.training.loop.train`
itself: drawing, augmentation, forward, backward, clipping, optimiser, moving average. Where it computes in bf16, the
plain one is timed twice: in fp32, as it comes, and under torch's autocast. See :mod:`contestants`.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import RESULTS, markdown_table, paired_ratio, provenance, spread, write_csv

from ssl_diffusion.machine import bind_threads, resolve_precision

if TYPE_CHECKING:
    from contestants import Setting

_CONFIGS = ("default", "cifar")
_TOLERANCE = 0.05


def main() -> None:
    """Measure, print Markdown, write CSV."""
    args = _arguments()
    bind_threads(args.threads)
    import torch
    from contestants import ARCHITECTURES, Setting, synthetic_data

    if args.threads:
        torch.set_num_threads(args.threads)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    facts = provenance()
    print(
        f"{args.rounds} rounds of {args.steps} steps, {args.batch} pool + {args.labeled_batch} labeled images a step, "
        f"{facts['threads']} threads, {facts['processor']}, torch {facts['torch']}, commit {facts['commit']}\n"
    )
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*args.configs, *args.levers]):
        architecture = ARCHITECTURES[name]
        data = synthetic_data(architecture.image_shape, args.images, min(args.images, 4000))
        setting = Setting(architecture, data, args.batch, args.labeled_batch)
        if name in args.configs:
            rows += _pairs(setting, args)
        if name in args.levers:
            rows += _levers(setting, args)
    common = {"batch": args.batch, "labeled_batch": args.labeled_batch, "rounds": args.rounds, "steps_per_round": args.steps}
    write_csv(args.out, [row | common | facts for row in rows])


def _pairs(setting: "Setting", args: argparse.Namespace) -> list[dict[str, Any]]:
    from contestants import PlainTrainer, compare

    from ssl_diffusion.models.build import build_model, count_parameters

    name = setting.architecture.name
    ours = count_parameters(build_model(setting.architecture.joint_config(), seed=0))
    plain = PlainTrainer(setting)
    theirs = count_parameters(plain.model)
    print(f"## {name}: {_describe(setting)}\n\nparameters: ssld {ours:,}, diffusers {theirs:,} ({ours / theirs - 1:+.2%})\n")
    if abs(ours / theirs - 1) > _TOLERANCE:
        raise SystemExit(f"{name}: the networks differ by more than {_TOLERANCE:.0%} in parameters")
    images = setting.batch * args.steps
    rows = []
    precisions = [resolve_precision(p, "cpu") for p in args.precision]
    for precision, of_plain in dict.fromkeys((p, other) for p in precisions for other in ("fp32", p)):
        plain.precision = of_plain
        timer = compare(setting, plain.step, precision, args.warmup, args.steps, args.rounds)
        rates = {"diffusers": [images / s for s in timer.others], "ssld": [images / s for s in timer.ours]}
        for implementation, rate in rates.items():
            is_ours = implementation == "ssld"
            rows.append(
                {
                    "config": name,
                    "comparison": f"pair, ssld in {precision}" if of_plain != precision else f"pair, both in {precision}",
                    "implementation": implementation,
                    **_rate_columns(rate),
                    "ratio_to_first": paired_ratio(rate, rates["diffusers"]),
                    "ratio_to_previous": "",
                    "parameters": ours if is_ours else theirs,
                    "precision": precision if is_ours else of_plain,
                }
            )
    shown = ("comparison", "implementation", "precision", "images_per_second", "min", "max", "ratio_to_first")
    print(markdown_table([{key: row[key] for key in shown} for row in rows]) + "\n", flush=True)
    return rows


def _levers(setting: "Setting", args: argparse.Namespace) -> list[dict[str, Any]]:
    from contestants import LeverTrainer, interleave, ladder

    from ssl_diffusion.models.build import count_parameters

    levers = ladder()
    trainers = [LeverTrainer(setting, lever) for lever in levers]
    seconds = interleave([t.step for t in trainers], args.warmup, args.steps, args.rounds)
    rates = [[setting.batch * args.steps / s for s in times] for times in seconds]
    rows = [
        {
            "config": setting.architecture.name,
            "comparison": "levers",
            "implementation": lever.name,
            **_rate_columns(rate),
            "ratio_to_first": paired_ratio(rate, rates[0]),
            "ratio_to_previous": paired_ratio(rate, rates[max(0, i - 1)]),
            "parameters": count_parameters(trainers[i].model),
            "precision": "bf16" if lever.bf16 else "fp32",
        }
        for i, (lever, rate) in enumerate(zip(levers, rates, strict=True))
    ]
    print(f"## Levers on {setting.architecture.name}: {_describe(setting)}\n")
    shown = ("implementation", "images_per_second", "min", "max", "ratio_to_previous", "ratio_to_first", "parameters")
    print(markdown_table([{key: row[key] for key in shown} for row in rows]) + "\n", flush=True)
    return rows


def _rate_columns(rate: list[float]) -> dict[str, float]:
    columns = spread(rate)
    return {"images_per_second": columns["median"], "min": columns["min"], "max": columns["max"]}


def _describe(setting: "Setting") -> str:
    a = setting.architecture
    c, h, w = a.image_shape
    widths = ", ".join(str(a.channels * m) for m in a.multipliers)
    places = [*(f"at level {level}" for level in a.attention), "in the middle"]
    return f"{c} x {h} x {w}, widths {widths}, {a.blocks} blocks a level, attention {' and '.join(places)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configs", nargs="*", choices=_CONFIGS, default=list(_CONFIGS), help="networks of the comparison")
    parser.add_argument("--levers", nargs="*", choices=_CONFIGS, default=["default"], help="networks of the lever table")
    precisions = ("auto", "fp32", "bf16")
    parser.add_argument("--precision", nargs="+", choices=precisions, default=["auto", "fp32"], help="of ssld alone")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="steps of each contestant in a round")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each contestant before the first round")
    parser.add_argument("--batch", type=int, default=32, help="pool images in a step")
    parser.add_argument("--labeled-batch", type=int, default=32, help="labeled images in a step")
    parser.add_argument("--images", type=int, default=20_000, help="synthetic images in the pool")
    parser.add_argument("--threads", type=int, default=0, help="0 is all cores")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_speed.csv")
    return parser.parse_args()


if __name__ == "__main__":
    main()
