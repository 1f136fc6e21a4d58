"""The gradients of a denoising batch as one CUDA graph: what was launched once is played again, without the processor.

Small networks keep an accelerator waiting for the processor, which launches a thousand kernels a step; on a machine that
several programs share it does little else. A graph has the same kernels in the same order, and the sums that they make.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.training.objective import DenoisingBatch

__all__ = ["Gradients", "drawn_ahead", "graphed"]

Gradients = Callable[[DenoisingBatch], None]
"""Function that leaves the gradients of the loss of a batch at the parameters of a model, in the place of earlier ones."""
_CLOSE = 0.05  # relative difference of two norms of gradients in bf16


def graphed(
    model: JointDiffusion,
    loss: Callable[[DenoisingBatch], Tensor],
    example: DenoisingBatch,
    precision: str,
    *,
    recorded: bool = True,
) -> Gradients:
    """Gradients by a graph; kernel by kernel where there is no CUDA, or the graph cannot be made or differs.

    Args:
        model: Model whose gradients are wanted, on its device.
        loss: Loss of a batch; if it is to be recorded, it must do the same for every batch and draw nothing at random.
        example: Batch on the device of the model, of the size of all.
        precision: "bf16" or "fp32".
        recorded: Whether a graph is to be made.
    """
    device, kind = example.clean.device, example.clean.device.type
    batch = DenoisingBatch(example.clean.clone(), example.sigma.clone(), example.eps.clone())

    def backward(some: DenoisingBatch, cached: bool = True) -> None:
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cached):
            found = loss(some)
        found.backward()  # type: ignore[no-untyped-call]

    def plain(some: DenoisingBatch) -> None:
        model.zero_grad()
        backward(some)

    if kind != "cuda" or not recorded:
        return plain
    try:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # kernels are chosen, and memory is taken, before anything is recorded
            for _ in range(3):
                model.zero_grad()
                backward(batch, cached=False)
        torch.cuda.current_stream(device).wait_stream(side)
        wanted = _norm(model)
        model.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            backward(batch, cached=False)
        graph.replay()
        if not abs(_norm(model) - wanted) <= _CLOSE * wanted:
            raise RuntimeError(f"gradients of {_norm(model)} instead of {wanted}")
    except RuntimeError as error:
        logging.getLogger(__name__).warning("no graph: %s", error)
        return plain

    def play(some: DenoisingBatch) -> None:
        for name in ("clean", "sigma", "eps"):
            getattr(batch, name).copy_(getattr(some, name), non_blocking=True)
        graph.replay()

    return play


def drawn_ahead(draw: Callable[[int], DenoisingBatch], steps: range, device: torch.device) -> Iterator[DenoisingBatch]:
    """The batches of steps on a device; those of the next step are drawn while this one computes.

    Args:
        draw: Function from a step to its batch on the CPU.
        steps: Steps.
        device: Device to bring them to.
    """

    def ready(step: int) -> DenoisingBatch:
        part = draw(step)
        if device.type != "cuda":
            return part
        return DenoisingBatch(part.clean.pin_memory(), part.sigma.pin_memory(), part.eps.pin_memory())

    with ThreadPoolExecutor(1) as drawer:
        waiting = drawer.submit(ready, steps[0]) if len(steps) else None
        for step in steps:
            assert waiting is not None
            part = waiting.result()
            waiting = drawer.submit(ready, step + 1) if step + 1 in steps else None
            yield DenoisingBatch(*(t.to(device, non_blocking=True) for t in (part.clean, part.sigma, part.eps)))


def _norm(model: JointDiffusion) -> float:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
