"""Figures of samples and counterfactuals; each function returns a matplotlib figure and leaves pyplot alone."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.training.figures import image_sheet, sheet_gap, show_image

__all__ = ["counterfactual_figure", "distance_figure", "grid_figure", "strip_figure"]

_SOURCE, _TARGET, _OTHER = "#2a6f97", "#d1603d", "#8a8f98"
_BARS = 4


def grid_figure(images: NDArray[np.uint8], rows: Sequence[str] = ()) -> Figure:
    """Images in a grid.

    Args:
        images: Images, uint8, (n, C, H, W).
        rows: Names of the rows, of n / len(rows) images each; empty makes the grid about square.
    """
    per_row = len(images) // len(rows) if rows else int(np.ceil(np.sqrt(len(images))))
    n_rows, h = -(-len(images) // per_row), images.shape[2]
    figure = Figure(figsize=(0.55 * per_row + (1.3 if rows else 0.2), 0.55 * n_rows + 0.2), layout="constrained")
    axes = figure.subplots()
    show_image(axes, image_sheet(images.astype(np.float32) / 127.5 - 1, per_row))
    if rows:
        axes.set_yticks([i * (h + sheet_gap(h)) + (h - 1) / 2 for i in range(n_rows)], rows, fontsize=9)
        axes.tick_params(length=0)
    return figure


def strip_figure(steps: Sequence[NDArray[np.float32]], levels: Sequence[float]) -> Figure:
    """Samples on their way from noise to image: one row per sample, one column per noise level.

    Args:
        steps: Images at each level, float32, (n, C, H, W), in [-1, 1] plus noise; shown divided by (1 + sigma^2)^(1/2).
        levels: Noise level of each step.
    """
    figure = Figure(figsize=(0.85 * len(steps) + 0.2, 0.85 * len(steps[0]) + 0.3), layout="constrained")
    axis = figure.subplots()
    columns = [images / np.float32(np.sqrt(1 + sigma**2)) for images, sigma in zip(steps, levels, strict=True)]
    by_sample = np.stack(columns, axis=1).reshape(-1, *steps[0].shape[1:])
    show_image(axis, image_sheet(by_sample, len(steps)))
    h, w = steps[0].shape[2:]
    names = [f"σ = {sigma:.2g}" if sigma else "image" for sigma in levels]
    axis.set_xticks([j * (w + sheet_gap(h)) + (w - 1) / 2 for j in range(len(steps))], names, fontsize=8)
    axis.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    return figure


def counterfactual_figure(
    result: CounterfactualResult,
    classes: Sequence[str],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    names: Sequence[str],
) -> Figure:
    """One row per pair: image, counterfactual, signed difference, and the largest probabilities before and after.

    Args:
        result: Counterfactuals of m pairs, with images.
        classes: Class names, (K,).
        before: Class probabilities of the originals, (m, K).
        after: Class probabilities of the counterfactuals, (m, K).
        names: Name of each image, (m,).
    """
    m, found = len(result), result.images()
    figure = Figure(figsize=(8.2, 1.55 * m + 0.45), layout="constrained")
    axes = figure.subplots(m, 4, squeeze=False, width_ratios=(1, 1, 1, 2.1))
    difference = (found.astype(np.float32) - result.original).mean(axis=1) / 255
    for i, row in enumerate(axes):
        source, target = classes[result.source[i]], classes[result.target[i]]
        show_image(row[0], result.original[i].astype(np.float32) / 127.5 - 1)
        show_image(row[1], found[i].astype(np.float32) / 127.5 - 1)
        reach = max(0.05, float(np.abs(difference[i]).max()))  # a scale for each image, so that faint changes are visible, too
        picture = row[2].imshow(difference[i], cmap="RdBu_r", vmin=-reach, vmax=reach)
        row[2].set(xticks=[], yticks=[])
        row[0].set_ylabel(names[i], fontsize=8)
        row[0].set_title(source, fontsize=9, color=_SOURCE)
        row[1].set_title(target if result.success[i] else f"not {target}", fontsize=9, color=_TARGET)
        row[2].set_title(f"change, RMS {result.distance_pixel[i]:.3f}", fontsize=9)
        figure.colorbar(picture, ax=row[2], fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
        _probability_bars(row[3], classes, before[i], after[i], int(result.source[i]), int(result.target[i]))
    return figure


def _probability_bars(
    axis: Axes, classes: Sequence[str], before: NDArray[np.float32], after: NDArray[np.float32], source: int, target: int
) -> None:
    shown = sorted({source, target, *np.argsort(-np.maximum(before, after))[:_BARS].tolist()}, key=lambda k: -before[k])
    y = np.arange(len(shown))[::-1]
    colors = [_SOURCE if k == source else _TARGET if k == target else _OTHER for k in shown]
    axis.barh(y + 0.19, before[shown], height=0.34, color=colors, alpha=0.4)
    axis.barh(y - 0.19, after[shown], height=0.34, color=colors)
    axis.set_yticks(y, [classes[k] for k in shown], fontsize=8)
    axis.set_xlim(0, 1)
    axis.set_title("probability: before (light), after", fontsize=9)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def distance_figure(result: CounterfactualResult) -> Figure:
    """Histogram of the pixel distances; failures, whose distances are lower bounds, hatched."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    found, bounds = result.distance_pixel[result.success], result.distance_pixel[~result.success]
    edges = np.histogram_bin_edges(result.distance_pixel, bins=min(40, max(8, len(result) // 8)))
    axis.hist([found, bounds], bins=edges.tolist(), stacked=True, color=[_SOURCE, "white"], edgecolor=_SOURCE, linewidth=0.6)
    if len(bounds):
        for patch in axis.containers[1]:
            patch.set_hatch("////")
        axis.legend(["class changed", "not changed: lower bound"], frameon=False, fontsize=9)
    axis.set_xlabel("counterfactual distance (root mean square change, 0 to 1)")
    axis.set_ylabel("pairs")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
