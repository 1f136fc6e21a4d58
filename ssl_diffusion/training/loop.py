"""The one training loop.

:func:`train` runs one phase (denoiser pretraining, or training under an objective) from given weights to its last step.
Device, precision and ranks come from Lightning Fabric; the loop stays plain torch.

Reproducibility: every draw of step s comes from a generator seeded with (seed, phase, s), and the streams of images are
functions of the number of images seen. A checkpoint therefore needs weights, optimiser moments and the step, nothing
else, and a resumed run ends bit-identical to an uninterrupted one. All ranks draw the global batch and take their share
of it, so that two ranks follow the loss curve of one.
"""

import copy
import logging
import math
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from ssl_diffusion.errors import Interrupted, SSLDError
from ssl_diffusion.machine import Device, usable_cores
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.weights import load_tensors, prefixed, save_tensors, with_prefix
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.batches import BatchSampler, Phase
from ssl_diffusion.training.checkpoint import TrainingState
from ssl_diffusion.training.consistency import Match
from ssl_diffusion.training.objective import Objective
from ssl_diffusion.training.optimizer import encoder_scale, learning_rate, make_optimizer
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.settings import PhaseSettings, TrainingSettings

__all__ = ["check_divisible", "train"]

_log = logging.getLogger(__name__)

_MAX_CONSECUTIVE_NON_FINITE = 25
_HISTORY_ROWS = 200


def train(job: Phase, progress: ProgressCallback | None = None) -> TrainingResult:
    """Run a job to its end, continuing from its checkpoint if there is one.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, after the checkpoint was written.
        CheckpointError: if the checkpoint cannot be read or written, or belongs to another job.
        SSLDError: if the loss stays non-finite, or a batch cannot be divided among the ranks.
    """
    compute = job.compute
    check_divisible(job.settings, compute.devices)
    device = Device.resolve(compute.accelerator, compute.precision)
    fabric = Fabric(
        accelerator=device.accelerator,
        devices=compute.devices,
        strategy="ddp_spawn" if compute.devices > 1 else "auto",
        precision="bf16-mixed" if device.precision == "bf16" else "32-true",
    )
    run = _run if compute.devices == 1 else _launch
    result = run(fabric, job, device.precision, progress)
    if result.interrupted:
        raise Interrupted(f"stopped at step {result.steps} of {job.settings.steps} of {job.name}")
    return result


def check_divisible(settings: PhaseSettings, ranks: int) -> None:
    """Raise :class:`SSLDError` if the batches of a phase cannot be shared evenly among the ranks."""
    sizes = [settings.batch_size]
    if isinstance(settings, TrainingSettings):
        sizes += [settings.labeled_batch_size]
        sizes += [settings.unlabeled_batch_size] if settings.consistency != "none" else []
    if any(size % ranks for size in sizes):
        raise SSLDError(f"batch sizes {sizes} cannot be divided among {ranks} ranks")


def _launch(fabric: Fabric, job: Phase, precision: str, progress: ProgressCallback | None) -> TrainingResult:
    """Run a job on spawned ranks; their result comes back in a file, as the ranks are gone before a pipe could be read."""
    beside = None
    if job.checkpoint is not None:
        beside = job.checkpoint.parent
        beside.mkdir(parents=True, exist_ok=True)
    with _stop_requested(), tempfile.TemporaryDirectory(prefix=".ranks-", dir=beside) as folder:
        path = Path(folder) / "result.safetensors"
        # One object without arguments: Fabric takes arguments apart, which a frozen dataclass does not allow.
        work = partial(_run_rank, job=job, precision=precision, progress=progress, path=path)
        try:
            fabric.launch(work)
        except ProcessRaisedException as error:
            kind, _, message = str(error).strip().rpartition("\n")[2].partition(": ")
            if kind.startswith("ssl_diffusion.errors."):
                raise SSLDError(message) from None
            raise
        tensors, facts = load_tensors(path)
    return TrainingResult(raw=with_prefix("raw", tensors), ema=with_prefix("ema", tensors), **facts)


def _run_rank(fabric: Fabric, job: Phase, precision: str, progress: ProgressCallback | None, path: Path) -> None:
    result = _run(fabric, job, precision, progress)
    if fabric.is_global_zero:
        facts = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("raw", "ema")}
        save_tensors(path, {**prefixed("raw", result.raw), **prefixed("ema", result.ema)}, facts)


def _run(fabric: Fabric, job: Phase, precision: str, progress: ProgressCallback | None) -> TrainingResult:
    """The loop, in each rank."""
    s, ranks, device = job.settings, fabric.world_size, fabric.device
    if ranks > 1:
        torch.set_num_threads(max(1, (job.compute.threads or usable_cores()) // ranks))
    model = build_model(job.config, s.seed, job.initial)
    t = s if isinstance(s, TrainingSettings) else TrainingSettings()
    match = make_consistency(job)
    averaged = copy.deepcopy(model).requires_grad_(False).eval().to(device)
    objective = Objective(
        model,
        job.objective,
        classification_weight=t.classification_weight,
        label_smoothing=t.label_smoothing,
        consistency=match,
        teacher=averaged,
    )
    module, optimizer = fabric.setup(objective, make_optimizer(model, s, device, encoder_scale(job)))
    parameters: list[Tensor] = list(model.parameters())
    ema = [p.detach() for p in averaged.parameters()]
    state = TrainingState(model, ema, optimizer, match, job)
    result = TrainingResult(device=str(device), precision=precision)
    if job.checkpoint is not None and job.checkpoint.exists():
        state.load(result)
    draw = BatchSampler(job, model.noise)
    meter = _Meter(fabric)
    module.train()
    began, saved = time.monotonic() - result.seconds, time.monotonic()
    rows = min(_HISTORY_ROWS, s.steps)
    consecutive = 0

    with _stop_requested() as stop, torch.random.fork_rng(devices=[]):
        for step in range(result.steps, s.steps):
            batch = draw(step).share(fabric.global_rank, ranks, device)
            torch.manual_seed(derive_seed(s.seed, job.name, "dropout", step, fabric.global_rank))
            rate = learning_rate(step, s)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            losses = module(batch)
            fabric.backward(losses["loss"])
            norm = fabric.clip_gradients(module, optimizer, max_norm=s.clip, error_if_nonfinite=False)
            if bool(torch.isfinite(torch.as_tensor(norm))):
                optimizer.step()
                consecutive = 0
            else:
                result.non_finite_steps += 1
                consecutive += 1
                if consecutive == _MAX_CONSECUTIVE_NON_FINITE:
                    raise SSLDError(
                        f"the loss was not finite for {consecutive} steps in a row (step {step} of {job.name}): lower the "
                        f"learning rate (now {rate:.2g}) or use --precision fp32"
                    )
            optimizer.zero_grad()
            beta = min(1 - 1 / max(1.0, s.ema * s.steps), (1 + step) / (10 + step))
            torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - beta)

            result.steps = step + 1
            result.images_seen += draw.images_per_step
            result.seconds = time.monotonic() - began
            meter.add(losses)
            last = step + 1 == s.steps
            if (step + 1) * rows // s.steps > step * rows // s.steps:  # evenly spaced, the last step included
                result.history.append(
                    {
                        "phase": job.name,
                        "step": step + 1,
                        "images_seen": result.images_seen,
                        "seconds": round(result.seconds, 3),
                        "learning_rate": rate,
                        **meter.means(),
                        "non_finite_steps": result.non_finite_steps,
                    }
                )
            if progress is not None and fabric.is_global_zero:
                info = _progress_info(result.history)
                progress(ProgressUpdate(job.name, result.images_seen, s.steps * draw.images_per_step, "images", info))
            result.interrupted = _any_rank(stop(), fabric) and not last
            if result.interrupted or last or time.monotonic() - saved > job.checkpoint_every:
                if fabric.is_global_zero and job.checkpoint is not None:
                    state.save(result)
                saved = time.monotonic()
            if result.interrupted:
                break
    if result.non_finite_steps:
        _log.warning("%s: %d steps were left out because their gradient was not finite", job.name, result.non_finite_steps)
    result.raw = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    result.ema = {name: t.detach().cpu().clone() for (name, _), t in zip(model.named_parameters(), ema, strict=True)}
    return result


class _Meter:
    """Mean losses since the last row of the history, over all ranks."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.count += 1

    def means(self) -> dict[str, float]:
        means = {}
        for name, total in self.sums.items():
            mean = total / self.count
            if self.fabric.world_size > 1:
                mean = self.fabric.all_reduce(mean, reduce_op="mean")  # type: ignore[assignment]
            means[name] = float(mean)
        self.sums, self.count = {}, 0
        if "pseudo_known" in means:
            known, right = means.pop("pseudo_known"), means.pop("pseudo_right")
            means["pseudo_label_accuracy"] = right / known if known else math.nan
        return means


def make_consistency(job: Phase) -> Match | None:
    """The consistency term of a job, aligned to the class shares of its labels; None if it has none."""
    s = job.settings
    if not isinstance(s, TrainingSettings) or s.consistency == "none":
        return None
    k = job.config.n_classes
    shares = torch.bincount(job.data.labels, minlength=k) / len(job.data.labels) if s.consistency_alignment else None
    return Match(k, shares, s.consistency_threshold)


def _any_rank(flag: bool, fabric: Fabric) -> bool:
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum"))


def _progress_info(history: list[dict[str, Any]]) -> str:
    if not history:
        return ""
    row = history[-1]
    short = {"denoising_loss": "denoising", "classification_loss": "classification", "labeled_accuracy": "accuracy"}
    return "  ".join(f"{label} {row[key]:.3f}" for key, label in short.items() if key in row)


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag (a second SIGINT acts as usual); only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
