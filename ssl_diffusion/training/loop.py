"""The one training loop.

:func:`train` runs one phase (denoiser pretraining, or training under an objective) from given weights to its last step.
Device, precision and ranks come from Lightning Fabric; the loop stays plain torch.

Reproducibility: every draw of step s comes from a generator seeded with (seed, phase, s), and the streams of images are
functions of the number of images seen. A checkpoint therefore needs weights, optimiser moments and the step, nothing
else, and a resumed run ends bit-identical to an uninterrupted one. All ranks draw the global batch and take their part of
it, so that two ranks follow the loss curve of one.
"""

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from ssl_diffusion.errors import Interrupted, SSLDError
from ssl_diffusion.machine import Device, keep_freed_memory, usable_cores
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.weights import load_tensors, prefixed, save_tensors, with_prefix
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.batches import BatchSampler, Phase
from ssl_diffusion.training.checkpoint import TrainingState
from ssl_diffusion.training.class_balance import balanced_weights
from ssl_diffusion.training.clocks import Clocks
from ssl_diffusion.training.compiling import compile_network, compiler_errors
from ssl_diffusion.training.consistency import Match
from ssl_diffusion.training.history import LossMeter, is_recorded, summary
from ssl_diffusion.training.interruption import stop_requested
from ssl_diffusion.training.moving_average import MovingAverage
from ssl_diffusion.training.objective import Objective
from ssl_diffusion.training.optimizer import encoder_scale, make_optimizer
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.schedule import Schedule

__all__ = ["check_divisible", "train"]

_log = logging.getLogger(__name__)

_MAX_CONSECUTIVE_NON_FINITE = 25


def train(phase: Phase, progress: ProgressCallback | None = None) -> TrainingResult:
    """Run a phase to its last step, continuing from its checkpoint if there is one.

    Args:
        phase: Data, settings and initial weights.
        progress: Callback for the number of images seen.

    Returns:
        Final weights, history and cost.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM, after the checkpoint was written.
        CheckpointError: If the checkpoint cannot be read or written, or belongs to another phase.
        SSLDError: If the loss stays non-finite, or a batch cannot be divided among the ranks.
    """
    compute = phase.compute
    check_divisible(phase.batch_sizes, compute.devices)
    device = Device.resolve(compute.accelerator, compute.precision)
    fabric = Fabric(
        accelerator=device.accelerator,
        devices=compute.devices,
        strategy="ddp_spawn" if compute.devices > 1 else "auto",
        precision="bf16-mixed" if device.precision == "bf16" else "32-true",
    )
    run = _run if compute.devices == 1 else _launch
    with compiler_errors():
        result = run(fabric, phase, device.precision, progress)
    if result.interrupted:
        steps = Schedule(phase.settings, result.replanned).steps
        raise Interrupted(f"stopped at step {result.steps} of {steps} of {phase.name}")
    return result


def check_divisible(sizes: Sequence[int], ranks: int) -> None:
    """Raise :class:`SSLDError` if batches of these sizes cannot be divided evenly among the ranks."""
    if any(size % ranks for size in sizes):
        raise SSLDError(f"batch sizes {list(sizes)} cannot be divided among {ranks} ranks")


def _launch(fabric: Fabric, phase: Phase, precision: str, progress: ProgressCallback | None) -> TrainingResult:
    """Run a phase on spawned ranks; their result comes back in a file, as the ranks are gone before a pipe could be read."""
    beside = None
    if phase.checkpoint is not None:
        beside = phase.checkpoint.parent
        beside.mkdir(parents=True, exist_ok=True)
    with stop_requested(), tempfile.TemporaryDirectory(prefix=".ranks-", dir=beside) as folder:
        path = Path(folder) / "result.safetensors"
        # One object without arguments: Fabric takes arguments apart, which a frozen dataclass does not allow.
        work = partial(_run_rank, phase=phase, precision=precision, progress=progress, path=path)
        try:
            fabric.launch(work)
        except ProcessRaisedException as error:
            kind, _, message = str(error).strip().rpartition("\n")[2].partition(": ")
            if kind.startswith("ssl_diffusion.errors."):
                raise SSLDError(message) from None
            raise
        tensors, facts = load_tensors(path)
    return TrainingResult(raw=with_prefix("raw", tensors), ema=with_prefix("ema", tensors), **facts)


def _run_rank(fabric: Fabric, phase: Phase, precision: str, progress: ProgressCallback | None, path: Path) -> None:
    result = _run(fabric, phase, precision, progress)
    if fabric.is_global_zero:
        facts = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("raw", "ema")}
        save_tensors(path, {**prefixed("raw", result.raw), **prefixed("ema", result.ema)}, facts)


def _run(fabric: Fabric, phase: Phase, precision: str, progress: ProgressCallback | None) -> TrainingResult:
    """The loop, in each rank."""
    s, ranks, device = phase.settings, fabric.world_size, fabric.device
    keep_freed_memory()
    if ranks > 1:
        torch.set_num_threads(max(1, (phase.compute.threads or usable_cores()) // ranks))
    model = build_model(phase.config, s.seed, phase.initial, without_backbone=True)
    model.to(memory_format=torch.channels_last)  # as its maps are, so that no convolution has to reorder its weights
    average = MovingAverage(model, s.ema * s.steps, device)
    if phase.compute.compile:
        compile_network(model)
    objective = make_objective(phase, model, average.model)
    module, optimizer = fabric.setup(objective, make_optimizer(model, s, device, encoder_scale(phase)))
    state = TrainingState(model, average.weights, optimizer, objective.consistency, phase)
    result = TrainingResult(device=str(device), precision=precision, replanned=s.replanned)
    if phase.checkpoint is not None and phase.checkpoint.exists():
        state.load(result)
    draw, meter, guard = BatchSampler(phase, model.noise), LossMeter(fabric), _NonFiniteGuard(phase.name)
    module.train()
    began, saved = time.monotonic() - result.seconds, time.monotonic()
    schedule = Schedule(s, result.replanned)
    alone, clocks = _alone_before(result), Clocks.now()

    with closing(draw), stop_requested() as stop, torch.random.fork_rng(devices=[]):
        while (step := result.steps) < schedule.steps:
            batch = draw(step).for_rank(fabric.global_rank, ranks, device)
            torch.manual_seed(derive_seed(s.seed, phase.name, "dropout", step, fabric.global_rank))
            rate = schedule.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            losses = module(batch)
            fabric.backward(losses["loss"])
            norm = fabric.clip_gradients(module, optimizer, max_norm=s.clip, error_if_nonfinite=False)
            if guard.accepts(norm, step, rate):
                optimizer.step()
            else:
                result.non_finite_steps += 1
            optimizer.zero_grad()
            average.update(step)

            result.steps = step + 1
            result.images_seen += phase.images_per_step
            result.seconds, before, clocks = time.monotonic() - began, clocks, Clocks.now()
            spent = Clocks(*(now - then for now, then in zip(clocks, before, strict=True)))
            alone += spent.alone() if device.type == "cpu" else spent.wall
            meter.add(losses)
            again = phase.pace is not None and phase.pace(step + 1, schedule)
            if again:
                schedule = schedule.again(step + 1, again)
                result.replanned = schedule.replanned
            if is_recorded(step, schedule.steps):
                result.history.append(_history_row(phase, result, alone, rate, meter.means()))
            if progress is not None and fabric.is_global_zero:
                total = schedule.steps * phase.images_per_step
                progress(ProgressUpdate(phase.name, result.images_seen, total, "images", summary(result.history)))
            last = step + 1 == schedule.steps
            result.interrupted = _any_rank(stop(), fabric) and not last
            if result.interrupted or last or again or time.monotonic() - saved > phase.checkpoint_every:
                if fabric.is_global_zero and phase.checkpoint is not None:
                    state.save(result)
                saved = time.monotonic()
            if result.interrupted:
                break
    if result.non_finite_steps:
        _log.warning(
            "%s: %d of %d steps were left out because their gradient was not finite: lower the learning rate (now %.2g at its "
            "peak) or use --precision fp32",
            phase.name,
            result.non_finite_steps,
            result.steps,
            s.learning_rate,
        )
    result.raw = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    names = (name for name, _ in model.named_parameters())
    result.ema = {name: t.detach().cpu().clone() for name, t in zip(names, average.weights, strict=True)}
    result.ema |= {name: t.detach().cpu().clone() for name, t in model.named_buffers()}  # which no step changes
    return result


class _NonFiniteGuard:
    """Leaves out steps whose gradient is not finite, and gives up after many in a row."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._consecutive = 0

    def accepts(self, norm: Tensor | float | None, step: int, rate: float) -> bool:
        """Whether the gradient norm of a step is finite.

        Raises:
            SSLDError: If it was not for 25 steps in a row.
        """
        if bool(torch.isfinite(torch.as_tensor(norm))):
            self._consecutive = 0
            return True
        self._consecutive += 1
        if self._consecutive == _MAX_CONSECUTIVE_NON_FINITE:
            raise SSLDError(
                f"the loss was not finite for {self._consecutive} steps in a row (step {step} of {self._phase}): lower the "
                f"learning rate (now {rate:.2g}) or use --precision fp32"
            )
        return False


def make_objective(phase: Phase, model: JointDiffusion, teacher: JointDiffusion) -> Objective:
    """The objective of a phase.

    Args:
        phase: Phase to train.
        model: Model to train.
        teacher: Moving average of the model, which makes the pseudo-labels.
    """
    s = phase.supervision
    if s is None:
        return Objective(model, phase.objective)
    return Objective(
        model,
        phase.objective,
        classification_weight=s.classification_weight,
        label_smoothing=s.label_smoothing,
        class_weights=balanced_weights(phase.data.labels, phase.config.n_classes) if s.class_weights == "balanced" else None,
        consistency=make_consistency(phase),
        teacher=teacher,
        anchor=phase.anchor,
    )


def make_consistency(phase: Phase) -> Match | None:
    """The consistency term of a phase, aligned to the class frequencies of its labels; None if it has none."""
    s = phase.supervision
    if s is None or s.consistency == "none":
        return None
    k, labels = phase.config.n_classes, phase.data.labels
    frequencies = torch.bincount(labels, minlength=k) / len(labels) if s.consistency_alignment else None
    return Match(k, frequencies, s.consistency_threshold)


def _alone_before(result: TrainingResult) -> float:
    """Seconds that a quiet machine would have taken up to the last row; by the clock on the wall if they were not counted."""
    return float(result.history[-1].get("seconds_alone", result.history[-1]["seconds"])) if result.history else 0.0


def _history_row(phase: Phase, result: TrainingResult, alone: float, rate: float, means: dict[str, float]) -> dict[str, Any]:
    return {
        "phase": phase.name,
        "step": result.steps,
        "images_seen": result.images_seen,
        "seconds": round(result.seconds, 3),
        "seconds_alone": round(alone, 3),
        "learning_rate": rate,
        **means,
        "non_finite_steps": result.non_finite_steps,
    }


def _any_rank(flag: bool, fabric: Fabric) -> bool:
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum"))
