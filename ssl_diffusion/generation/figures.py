"""Figures of samples and counterfactuals; each function returns a matplotlib figure and leaves pyplot alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.strips import CHANGE_COLORS, GAIN, SOURCE, TARGET, Panel, change_colors
from ssl_diffusion.training.panels import fitted, inch_panel, place_image, sheet_figure

__all__ = ["ClassChange", "class_pair_figure", "counterfactual_figure", "distance_figure", "grid_figure", "strip_figure"]

_OTHER = "#8a8f98"
_BARS = 4

# Inches of a pair: its row with the room above its images, an image's side, the left end of the first image, the room between
# images, and that of the color scale and the names of the classes beside the bars.
_ROW, _TITLE, _SIDE = 1.6, 0.2, 1.15
_LEFT, _BETWEEN = 0.36, 0.16
_BESIDE, _BARS_WIDTH = 1.3, 2.3


def grid_figure(images: NDArray[np.uint8], rows: Sequence[str] = ()) -> Figure:
    """Images in a grid.

    Args:
        images: Images, uint8, (n, C, H, W).
        rows: Names of the rows, of n / len(rows) images each; empty makes the grid about square.
    """
    per_row = len(images) // len(rows) if rows else int(np.ceil(np.sqrt(len(images))))
    return sheet_figure(images.astype(np.float32) / 127.5 - 1, per_row, 0.5, rows=rows, points=9)


def strip_figure(steps: Sequence[NDArray[np.float32]], levels: Sequence[float]) -> Figure:
    """Samples on their way from noise to image: one row per sample, one column per noise level.

    Args:
        steps: Images at each level, float32, (n, C, H, W), in [-1, 1] plus noise; shown divided by (1 + sigma^2)^(1/2).
        levels: Noise level of each step.
    """
    columns = [images / np.float32(np.sqrt(1 + sigma**2)) for images, sigma in zip(steps, levels, strict=True)]
    by_sample = np.stack(columns, axis=1).reshape(-1, *steps[0].shape[1:])
    names = [f"σ = {sigma:.2g}" if sigma else "image" for sigma in levels]
    return sheet_figure(by_sample, len(steps), 0.8, columns=names)


def counterfactual_figure(
    result: CounterfactualResult,
    classes: Sequence[str],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    names: Sequence[str],
    panels: Sequence[Sequence[Panel]],
) -> Figure:
    """One row per pair: its panels, the last of which is the difference, and the largest probabilities before and after.

    Args:
        result: Counterfactuals of m pairs.
        classes: Class names, (K,).
        before: Class probabilities of the originals, (m, K).
        after: Class probabilities of the counterfactuals, (m, K).
        names: Name of each image, (m,).
        panels: Panels of each pair, equally many, (m,).
    """
    m, columns = len(result), len(panels[0]) if panels else 3
    bars = _LEFT + columns * (_SIDE + _BETWEEN) + _BESIDE
    figure, axis = inch_panel(bars + _BARS_WIDTH + 0.15, _ROW * m + 0.05)

    def write(x: float, y: float, text: str, points: float, room: float, ha: str = "center", **style: Any) -> None:
        shown = fitted(figure, text, points, room, end=style.get("rotation") == 90)  # an id
        axis.text(x, y, shown, fontsize=points, ha=ha, parse_math=False, **{"va": "bottom", **style})

    for i in range(m):
        title = _ROW * i + _TITLE
        top, middle = title + 0.04, title + 0.04 + _SIDE / 2
        write(0.18, middle, names[i], 8, _ROW - 0.1, va="center", rotation=90)
        for j, panel in enumerate(panels[i]):
            left = _LEFT + j * (_SIDE + _BETWEEN)
            place_image(axis, panel.image, left, top, _SIDE)
            write(left + _SIDE / 2, title, panel.caption, 9, _SIDE + 0.12, color=panel.color)
        _color_scale(axis, _LEFT + (columns - 1) * (_SIDE + _BETWEEN) + _SIDE + 0.06, top, 1 / GAIN)
        write(bars + _BARS_WIDTH / 2, title, "probability: before (light), after", 9, 3)
        shown = _largest(before[i], after[i], int(result.source[i]), int(result.target[i]))
        step = _SIDE / len(shown)
        for j, k in enumerate(shown):
            y = top + (j + 0.5) * step
            color = SOURCE if k == result.source[i] else TARGET if k == result.target[i] else _OTHER
            write(bars - 0.06, y, classes[k], 8, 0.95, ha="right", va="center")
            for p, at, alpha in ((before[i, k], -0.19, 0.4), (after[i, k], 0.19, 1.0)):
                size = _BARS_WIDTH * float(p)
                bar = Rectangle((bars, y + (at - 0.17) * step), size, 0.34 * step, color=color, alpha=alpha, lw=0)
                axis.add_patch(bar)
        bottom = top + _SIDE
        axis.add_line(Line2D([bars, bars, bars + _BARS_WIDTH], [top, bottom, bottom], color="black", lw=0.8))
        for p in (0, 0.5, 1):
            x = bars + _BARS_WIDTH * p
            axis.add_line(Line2D([x, x], [bottom, bottom + 0.03], color="black", lw=0.8))
            write(x, bottom + 0.04, f"{p:g}", 7, 1, va="top")
    return figure


def _color_scale(axis: Axes, left: float, top: float, reach: float, side: float = _SIDE) -> None:
    """Colors of changes from -reach to reach, beside the picture of the change, which has this side."""
    limits = axis.get_xlim(), axis.get_ylim()
    scale = np.linspace(reach, -reach, 64)[:, None]
    extent = (left, left + 0.07, top + side, top)
    axis.imshow(scale, cmap=CHANGE_COLORS, vmin=-reach, vmax=reach, extent=extent, aspect="auto")
    axis.set(xlim=limits[0], ylim=limits[1])
    for part, text in ((0, f"{reach:.2f}"), (0.5, "0"), (1, f"−{reach:.2f}")):
        va = ("top", "center", "bottom")[int(2 * part)]
        axis.text(left + 0.1, top + part * side, text, fontsize=7, ha="left", va=va)


def _largest(before: NDArray[np.float32], after: NDArray[np.float32], source: int, target: int) -> list[int]:
    """The two classes and those of the largest probabilities, in their order before."""
    some = {source, target, *np.argsort(-np.maximum(before, after))[:_BARS].tolist()}
    return sorted(some, key=lambda k: -before[k])


class ClassChange(NamedTuple):
    """Counterfactuals of images of one class in another: the panels of each, and the mean change, float32 (C, H, W), if any."""

    source: str
    target: str
    panels: Sequence[Sequence[Panel]]
    mean: NDArray[np.float32] | None


def class_pair_figure(changes: Sequence[ClassChange]) -> Figure:
    """What images of one class need to become another: originals, counterfactuals and differences in columns, and their mean.

    Args:
        changes: Changes from one class to another, a block of the page each, with equally many images.
    """
    columns, small, large, block = len(changes[0].panels), 0.8, 1.9, 3.35
    right = _LEFT + columns * (small + 0.06) + 0.3
    figure, axis = inch_panel(right + large + 0.6, block * len(changes))

    def write(x: float, y: float, text: str, points: float, room: float, **style: Any) -> None:
        said = fitted(figure, text, points, room)
        axis.text(x, y, said, fontsize=points, parse_math=False, **{"ha": "center", "va": "bottom", **style})

    for i, change in enumerate(changes):
        top = block * i + 0.4
        write(_LEFT, top - 0.12, f"{change.source} → {change.target}", 12, right - _LEFT, ha="left")
        for row, (name, color) in enumerate(((change.source, SOURCE), (change.target, TARGET), (f"change × {GAIN}", "black"))):
            y = top + row * (small + 0.18)
            write(0.18, y + small / 2, name, 8, small + 0.1, color=color, rotation=90, va="center")
            for j, panels in enumerate(change.panels):
                panel = panels[(0, -2, -1)[row]]
                place_image(axis, panel.image, _LEFT + j * (small + 0.06), y, small)
                if row == 1:
                    write(_LEFT + j * (small + 0.06) + small / 2, y + small + 0.14, panel.caption, 7, small, color=panel.color)
        y = top + (3 * small + 0.36 - large) / 2
        write(right + large / 2, y - 0.04, "mean change" if change.mean is not None else "none reached it", 10, large)
        if change.mean is not None:
            reach = max(float(np.abs(change.mean).max()), 1 / 255)
            place_image(axis, change_colors(change.mean, 1 / reach), right, y, large)
            _color_scale(axis, right + large + 0.06, y, reach, large)
    return figure


def distance_figure(result: CounterfactualResult) -> Figure:
    """Histogram of the pixel distances; failures, whose distances are lower bounds, hatched."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    found, bounds = result.distance_pixel[result.success], result.distance_pixel[~result.success]
    edges = np.histogram_bin_edges(result.distance_pixel, bins=min(40, max(8, len(result) // 8)))
    axis.hist([found, bounds], bins=edges.tolist(), stacked=True, color=[SOURCE, "white"], edgecolor=SOURCE, linewidth=0.6)
    if len(bounds):
        for patch in axis.containers[1]:
            patch.set_hatch("////")
        axis.legend(["class changed", "not changed: lower bound"], frameon=False, fontsize=9)
    axis.set_xlabel("distance to the boundary (root mean square change, 0 to 1)")
    axis.set_ylabel("pairs")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
