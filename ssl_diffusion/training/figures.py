"""Figures of a run; each function returns a matplotlib figure and leaves pyplot alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from ssl_diffusion.inference.predict import evaluating
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.training.panels import sheet_figure

__all__ = ["confusion_figure", "history_figure", "reconstruction_figure"]

_BLUE, _ORANGE, _GRAY = "#2a6f97", "#d1603d", "#8a8f98"


def history_figure(history: pd.DataFrame) -> Figure:
    """Losses and labeled accuracy against images seen, one panel each, with the pretraining in gray.

    With a consistency term, a last panel shows the fraction of pseudo-labels that were kept and, if known, how many of these
    were right.

    Args:
        history: Table history.csv of a run.
    """
    panels = [
        ("denoising_loss", "denoising loss (all images)", True),
        ("classification_loss", "classification loss (labeled)", False),
        ("labeled_accuracy", "accuracy on labeled batches", False),
        ("mask_rate", "pseudo-labels", False),
    ]
    panels = [p for p in panels if p[0] in history and history[p[0]].notna().any()]
    figure = Figure(figsize=(4.2 * max(1, len(panels)), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, max(1, len(panels))))
    offset = 0
    for phase, rows in history.groupby("phase", sort=False):
        color = _GRAY if phase == "pretraining" else _BLUE
        seen = (rows["images_seen"] + offset) / 1000
        for axis, (column, _, _) in zip(axes, panels, strict=False):
            if rows[column].notna().any():
                label = "kept" if column == "mask_rate" else str(phase)
                axis.plot(seen, rows[column], color=color, linewidth=1.6, label=label)
            if column == "mask_rate" and "pseudo_label_accuracy" in rows and rows["pseudo_label_accuracy"].notna().any():
                axis.plot(seen, rows["pseudo_label_accuracy"], color=_ORANGE, linewidth=1.6, label="of these right")
        offset += rows["images_seen"].max()
    for axis, (_, title, logarithmic) in zip(axes, panels, strict=False):
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("images seen, thousands")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        if len(axis.lines) > 1:
            axis.legend(frameon=False, fontsize=9)
    return figure


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], accuracy: float) -> Figure:
    """Confusion matrix; numbers are counts, colours are fractions of the true class.

    Args:
        confusion: Counts, int64, (K, K), with the true classes in rows.
        classes: Class names, (K,).
        accuracy: Accuracy for the title, in [0, 1].
    """
    k = len(classes)
    side = min(12.0, max(3.6, 0.5 * k + 1.8))
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    fraction = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axis.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    if k <= 25:
        for i, j in np.argwhere(confusion > 0):
            axis.text(
                j,
                i,
                str(confusion[i, j]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if fraction[i, j] > 0.55 else "black",
            )
        axis.set_xticks(range(k), classes, rotation=45, ha="right", fontsize=9, parse_math=False)
        axis.set_yticks(range(k), classes, fontsize=9, parse_math=False)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(f"test accuracy {accuracy:.1%} of {int(confusion.sum())} images", fontsize=10, loc="left")
    return figure


def reconstruction_figure(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    *,
    precision: str = "fp32",
    levels: Sequence[float] = (0.1, 0.3, 0.6, 1.2, 2.5),
) -> Figure:
    """Clean images, and for each noise level the noised image above the model's one-step estimate of the clean one.

    Args:
        model: Joint model.
        images: Images, uint8, (n, C, H, W).
        precision: Precision of the network, "fp32" or "bf16".
        levels: Noise levels.
    """
    generator = torch.Generator().manual_seed(0)
    clean = torch.from_numpy(np.ascontiguousarray(images)).float() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=generator)
    rows: list[tuple[str, torch.Tensor]] = [("clean", clean)]
    with evaluating(model, precision) as device:
        for sigma in levels:
            noised = clean + sigma * noise
            rows.append((f"noised, σ = {sigma:g}", noised))
            rows.append(("denoised", model.denoise(noised.to(device), sigma).cpu()))
    sheet = torch.cat([values for _, values in rows]).numpy()
    return sheet_figure(sheet, len(images), 0.58, rows=[label for label, _ in rows])


def calibration_figure(p: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15) -> Figure:
    """Reliability diagram: accuracy against confidence in equally wide bins, with the number of predictions below.

    Args:
        p: Class probabilities, (n, K).
        labels: True classes, int64, (n,), or 0/1 for every class, (n, K), for multi-label data, where each is a decision.
        bins: Number of bins.
    """
    if labels.ndim == 2:
        confidence, right = np.maximum(p, 1 - p).ravel(), ((p > 0.5) == (labels > 0.5)).ravel()
    else:
        confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = counts > 0
    accuracy = np.bincount(index, weights=right, minlength=bins)[filled] / counts[filled]
    middle = np.bincount(index, weights=confidence, minlength=bins)[filled] / counts[filled]
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--", label="perfectly calibrated")
    top.plot(middle, accuracy, color=_BLUE, marker="o", markersize=4, label="this model")
    top.set_ylabel("accuracy")
    top.legend(frameon=False, fontsize=9)
    bottom.bar((edges[1:] + edges[:-1]) / 2, counts, width=0.9 / bins, color=_BLUE)
    bottom.set_yscale("log")
    bottom.set_ylabel("images" if labels.ndim == 1 else "decisions")
    bottom.set_xlabel("confidence")
    for axis in (top, bottom):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
