"""Does a change of the pretraining give better representations in the same time? Probes, error and samples of denoisers.

    python benchmarks/representations.py --time                                     # steps of each variant, by their time
    python benchmarks/representations.py --data digits --cache CACHE
    python benchmarks/representations.py --data fashion-mnist cifar10 --cifar CIFAR --cache CACHE   # several at once may run
    python benchmarks/representations.py --table

The variants are those of :mod:`denoising_variants`; the baseline is the package's own pretraining of the recipes `digits`,
`fashion-mnist` (and its quick and thorough forms) and `images`, and all have its batches. A variant whose step takes r times as
long gets 1 / r of the steps: `--time` measures r in processor time on one core, the variants in turn, in
`results/representations_time.csv`.

Rows in `results/representations.csv`, which are not run again. Rows of `development` (pretraining seed 100, labels and images
to judge from the training images) choose the setting of each kind and the noise level at which images are read. Those of
`report` have other pretraining seeds, labels and images: test images, or training photos of CIFAR-10 that no denoiser saw.

accuracy_N: logistic regression on the frozen representation with N labels, mean of several draws, images read at the noise
level of the recipe; read_N: at 0.5. loss: denoising loss on images not seen. fd: Fréchet distance of samples to these, in
features of one labels-only classifier a data set. Several processes with one CACHE share the work, and wait for one another.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from denoising_variants import TOLD, VARIANTS, Variant
from graphed import Gradients, drawn_ahead, graphed
from numpy.typing import NDArray
from representations_data import POOLS, Judged, judge, phase_of, pool_of, rows_of
from representations_queue import Queue
from torch import Tensor

from ssl_diffusion.generation import sample
from ssl_diffusion.generation.quality import frechet_distance
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.machine import resolve_precision
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_bytes, to_floats
from ssl_diffusion.models.probe import fit_probe, standardisation
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.batches import BatchSampler, Phase
from ssl_diffusion.training.moving_average import MovingAverage
from ssl_diffusion.training.objective import DenoisingBatch
from ssl_diffusion.training.optimizer import make_optimizer
from ssl_diffusion.training.schedule import Schedule

CSV, TIMES = RESULTS / "representations.csv", RESULTS / "representations_time.csv"
DEVELOPMENT, REPORT = 100, (0, 1, 2)  # seeds
DRAWS = {100: 8, 1000: 2}  # labels and how often they are drawn
BATCH = 64  # images of a step that is timed


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    if args.time:
        for data in args.data:
            time_steps(data, args, 15 if data in ("digits", "fashion-mnist, quick") else 5)
    elif args.judge:
        for data in args.data:
            judge(data, pool_of(data, args.cifar, args.cache), args.cache, args.device)
    elif not args.table:
        work(args)
    print(table(pd.read_csv(args.out)) if args.out.exists() else "no rows yet")


def work(args: argparse.Namespace) -> None:
    """Run what is missing and nobody else is running, until there is nothing left or no time for it."""
    began, longest = time.monotonic(), 0.0
    queue = Queue(args.cache / "claims", args.out)
    while True:
        every = [job for data in args.data for job in jobs(data, args)]
        found = queue.take([key for _, key in sorted(every, key=lambda job: job[0])])
        left = args.seconds - (time.monotonic() - began)
        if found is None and queue.waiting and left > longest:
            time.sleep(1)
            continue
        if found is None or left < longest:
            return
        started = time.monotonic()
        with found as key:
            row = run(key, args, deadline=time.monotonic() + left)
            if row is None:
                return
            append_row(args.out, row)
            print(f"{time.monotonic() - began:.0f} s", row, flush=True)
        longest = max(longest, time.monotonic() - started)


def jobs(data: str, args: argparse.Namespace) -> list[tuple[int, dict[str, Any] | None]]:
    """Keys of the rows of a data set, each with its rank among those of all; None where one has to wait for those before."""
    every = [(v.kind, v.setting) for v in VARIANTS if v.kind in ("baseline", *args.kinds)]
    tuned_on = data.split(",")[0]  # the settings of a longer schedule are those of the shorter one
    first: list[dict[str, Any] | None] = [_key(tuned_on, "development", *v, DEVELOPMENT, args) for v in every]
    found = [(0, key) for key in first if tuned_on == data]
    found += [(1, _key(data, "report", *every[0], seed, args)) for seed in REPORT]
    if any(find_row(args.out, key) is None for key in first if key is not None):
        return [*found, (2, None)]
    best = {kind: found for kind, found in chosen(pd.read_csv(args.out), tuned_on, args.scale).items() if kind in args.kinds}
    chosen_keys = [(2 + i, _key(data, "report", k, best[k][0], seed, args)) for i, seed in enumerate(REPORT) for k in best]
    return found + chosen_keys


def _key(data: str, stage: str, kind: str, setting: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    return {"data": data, "stage": stage, "kind": kind, "setting": setting, "seed": seed, "scale": args.scale}


def chosen(frame: pd.DataFrame, data: str, scale: float) -> dict[str, tuple[str, str]]:
    """For each kind of variant its setting and the column of the noise level, by accuracy with 100 labels in development."""
    rows = frame[(frame["data"] == data) & (frame["stage"] == "development") & (frame["scale"] == scale)]
    best = {}
    for kind, part in rows.groupby("kind", sort=False):
        columns = ["accuracy_100", "read_100"]
        row, column = np.unravel_index(np.argmax(part[columns].to_numpy()), (len(part), 2))
        best[str(kind)] = str(part["setting"].iloc[int(row)]), columns[int(column)]
    return best


def run(key: dict[str, Any], args: argparse.Namespace, deadline: float) -> dict[str, Any] | None:
    """One row; None if the time was over before the last step."""
    variant = copy.deepcopy(next(v for v in VARIANTS if (v.kind, v.setting) == (key["kind"], key["setting"])))
    pool = pool_of(key["data"], args.cifar, args.cache)
    ratio = ratio_of(key["data"], variant)
    phase = phase_of(key["data"], pool, key["seed"], args.scale / ratio)
    device = torch.device(args.device)
    began, spent = time.monotonic(), time.process_time()
    model = trained(phase, variant, device, deadline)
    if model is None:
        return None
    row = key | {
        "step_ratio": ratio,
        "steps": phase.settings.steps,
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(time.process_time() - spent, 1),
    }
    return row | measured(model, key, args) | {"device": _name(device)} | provenance()


def trained(phase: Phase, variant: Variant, device: torch.device, deadline: float) -> JointDiffusion | None:
    """The averaged denoiser after all steps; None if the deadline, of the monotonic clock, came first."""
    s, precision = phase.settings, resolve_precision("auto", device.type)
    model = variant.build(phase.config, s.seed).to(device, memory_format=torch.channels_last).train()
    some = phase.data.train[torch.randperm(len(phase.data.train), generator=torch.Generator().manual_seed(0))[:2000]]
    variant.prepare(phase.data.images[some].float() / 127.5 - 1)
    average, optimizer = MovingAverage(model, s.ema * s.steps, device), make_optimizer(model, s, device)
    draw = BatchSampler(phase, model.noise)

    def batch(step: int) -> DenoisingBatch:
        part = draw(step).denoising
        assert part is not None
        return part

    def loss(part: DenoisingBatch) -> Tensor:  # what a variant draws itself, it draws anew for every step
        generator = torch.Generator().manual_seed(derive_seed(s.seed, "variant", at))
        return variant.loss(model, part, generator)

    at = 0
    gradients: Gradients | None = None
    for step, part in enumerate(drawn_ahead(batch, range(s.steps), device)):
        if time.monotonic() > deadline:
            return None
        at = step
        if gradients is None:
            gradients = graphed(model, loss, part, precision, recorded=not variant.draws)
        gradients(part)
        for group in optimizer.param_groups:
            group["lr"] = Schedule(s).rate(step) * group["scale"]
        nn_clip(model, s.clip)
        optimizer.step()
        average.update(step)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return average.model.eval()


def nn_clip(model: JointDiffusion, largest: float) -> None:
    """Gradients of at most this norm."""
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], largest)


def measured(model: JointDiffusion, key: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Probes, loss and samples of a denoiser."""
    pool = pool_of(key["data"], args.cifar, args.cache)
    rows = rows_of(pool, key["data"], key["stage"], key["seed"], args.read)
    precision = resolve_precision("auto", args.device)
    found: dict[str, Any] = {}
    for name, reader in (("accuracy", model), ("read", read_at(model, TOLD))):
        found |= probes(name, reader, pool.images, pool.labels, rows, precision)
    unseen = pool.images[rows.unseen]
    made = to_bytes(sample(model, args.samples, generator=torch.Generator().manual_seed(key["seed"]), precision=precision))
    features, name = judge(key["data"], pool, args.cache, args.device)
    found["loss"] = round(loss_of(model, unseen, precision), 5)
    return found | {"fd": round(frechet_distance(features(unseen), features(made)), 4), "judge": name}


def read_at(model: JointDiffusion, level: float) -> JointDiffusion:
    """The same network, which reads images at another noise level."""
    reader = copy.copy(model)
    reader.config = model.config.replace(model=model.config.model.replace(read_sigma=level))
    return reader


def probes(
    name: str,
    model: JointDiffusion,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rows: Judged,
    precision: str,
) -> dict[str, float]:
    """Mean accuracy with each number of labels, and its standard error where there are several draws."""
    every = np.unique(np.concatenate([rows.labeled, rows.judged]))
    z, y, at = represent(model, images[every], precision=precision), labels[every], {int(r): i for i, r in enumerate(every)}
    labeled, judged = (np.array([at[int(r)] for r in part]) for part in (rows.labeled, rows.judged))
    mean, scale = standardisation(z[labeled[:2000]])
    for part in np.array_split(z, 16):  # in place, a part at a time
        part[:] = (part - mean) / scale
    shown, k, found = z[judged], int(y.max()) + 1, {}
    for n, draws in DRAWS.items():
        accuracies, penalty = [], None
        for draw in range(draws):
            rng = np.random.default_rng(derive_seed(rows.seed, "labels", n, draw))
            train = np.concatenate([rng.permutation(labeled[y[labeled] == c])[: n // k] for c in range(k)])
            test = ~np.isin(judged, train)
            probe = fit_probe(z[train], y[train], None, k, inverse_penalty=penalty, seed=draw)
            penalty = probe.inverse_penalty if n > 500 else None  # cross-validation takes long there, and changes little
            right = probe.logits(shown).argmax(axis=1) == y[judged]
            accuracies.append(float(right[test].mean()))
        found[f"{name}_{n}"] = round(float(np.mean(accuracies)), 4)
        if draws > 2:
            found[f"{name}_{n}_se"] = round(float(np.std(accuracies, ddof=1) / draws**0.5), 4)
    return found


@torch.inference_mode()
def loss_of(model: JointDiffusion, images: NDArray[np.uint8], precision: str) -> float:
    """The baseline's loss on images, with the same noise for every model."""
    device = next(model.parameters()).device
    generator, losses = torch.Generator().manual_seed(0), []
    for start in range(0, len(images), 256):
        clean = to_floats(images[start : start + 256], torch.device("cpu"))
        sigma = model.noise.draw(len(clean), generator)
        batch = DenoisingBatch(clean, sigma, torch.randn(clean.shape, generator=generator)).for_rank(0, 1, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses += [float(Variant().loss(model, batch, generator))] * len(clean)
    return float(np.mean(losses))


def time_steps(data: str, args: argparse.Namespace, rounds: int) -> None:
    """Processor time of a step of every variant on one core, in turn, and the median ratio to the baseline's."""
    pool = pool_of(data, args.cifar, args.cache)
    phase, device = phase_of(data, pool, DEVELOPMENT, 1.0), torch.device("cpu")
    precision, steppers = resolve_precision("auto", "cpu"), []
    for variant in map(copy.deepcopy, VARIANTS):
        model = variant.build(phase.config, 0).to(memory_format=torch.channels_last).train()
        variant.prepare(phase.data.images[phase.data.train[:2000]].float() / 127.5 - 1)
        steppers.append((variant, model, make_optimizer(model, phase.settings, device), MovingAverage(model, 40, device)))
    draw = BatchSampler(phase, steppers[0][1].noise)
    times: list[list[float]] = [[] for _ in steppers]
    for step in range(rounds + 1):
        part = draw(step).denoising
        assert part is not None
        part = DenoisingBatch(part.clean[:BATCH], part.sigma[:BATCH], part.eps[:BATCH])
        for i in np.roll(np.arange(len(steppers)), step):
            variant, model, optimizer, average = steppers[i]
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = variant.loss(model, part, torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss.backward()
            nn_clip(model, phase.settings.clip)
            optimizer.step()
            average.update(step)
            times[i].append(time.process_time() - began)
    for spent, (variant, *_) in zip(times, steppers, strict=True):
        key = {"data": data, "kind": variant.kind, "setting": variant.setting}
        # Another program on the core's other thread slows whole stretches down: the shortest of each are compared.
        found = {"ms": round(1e3 * min(spent[1:]), 1), "ratio": round(min(spent[1:]) / min(times[0][1:]), 3)}
        append_row(TIMES, key | found | {"precision": precision, "batch": BATCH, "rounds": rounds} | provenance())
        print(key | found, flush=True)


def ratio_of(data: str, variant: Variant) -> float:
    """Time of a step in units of that of the baseline, at least 1."""
    key = {"kind": variant.kind, "setting": variant.setting}
    # The networks for 28 and 32 px are the same but for their stem; that of the thorough recipe is taken to be alike.
    row = find_row(TIMES, {"data": data} | key)
    if row is None and data != "digits":
        row = find_row(TIMES, {"data": "fashion-mnist"} | key)
    if row is None:
        raise SystemExit(f"the time of {variant.kind}, {variant.setting} on {data} was not measured: --time")
    return max(1.0, float(row["ratio"]))


def table(frame: pd.DataFrame) -> str:
    """Of each data set the rows of development, and before them those reported of the chosen settings, if there are any."""
    text, frame = [], frame[frame["scale"] == 1.0]
    for data, rows in frame.groupby("data", sort=False):
        best = chosen(frame, str(data).split(",")[0], 1.0)
        reported = rows[rows["stage"] == "report"]
        wanted = [(k, reported[(reported["kind"] == k) & (reported["setting"] == setting)]) for k, (setting, _) in best.items()]
        lines = [_line(k, part, best[k][1]) for k, part in wanted if len(part)]
        stages = [("report", lines)] if len(lines) > 1 else []
        tried = rows[rows["stage"] == "development"]
        every = [(v.kind, tried[(tried["kind"] == v.kind) & (tried["setting"] == v.setting)]) for v in VARIANTS]
        if len(tried):
            stages.append(("development", [_line(kind, part) for kind, part in every if len(part)]))
        base = rows[rows["kind"] == "baseline"]["judge"]
        for stage, found in stages:
            for line in found:  # distances by another judge than the baseline's do not compare with it
                line["FD"] = line["FD"] if line.pop("judge") in set(base) else "–"
            text += [f"#### {data}, {stage}", "", markdown_table(found), ""]
    return "\n".join(text)


def _line(kind: str, rows: pd.DataFrame, column: str = "accuracy_100") -> dict[str, Any]:
    """Means over the seeds of a variant, images read at the noise level of a column."""
    means, name = rows.mean(numeric_only=True), column.removesuffix("_100")
    line = {"variant": kind, "setting": rows["setting"].iloc[0], "step": float(means["step_ratio"])}
    line |= {f"{n:,} labels, %": f"{100 * means[f'{name}_{n}']:.1f}" for n in DRAWS}
    if name == "accuracy":
        line |= {f"{n:,} at {TOLD:g}, %": f"{100 * means[f'read_{n}']:.1f}" for n in DRAWS}
    return line | {
        "loss": f"{means['loss']:.4f}",
        "FD": f"{means['fd']:.3f}",
        "seeds": len(rows),
        "judge": rows["judge"].iloc[0],
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=POOLS, default=list(POOLS))
    kinds = list(dict.fromkeys(v.kind for v in VARIANTS))
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="changes to run beside the baseline")
    parser.add_argument("--cache", type=Path, default=Path("runs/representations"))
    parser.add_argument("--cifar", type=Path, help="folder with train/ of CIFAR-10 as image files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="steps in units of those of the recipe")
    parser.add_argument("--samples", type=int, default=2500, help="images that are drawn for the Fréchet distance")
    parser.add_argument("--read", type=int, default=4000, help="images that labels are drawn from, or probes judged on")
    parser.add_argument("--seconds", type=float, default=1e9, help="time after which nothing is begun")
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--judge", action="store_true", help="only train the classifiers whose features samples are judged by")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
