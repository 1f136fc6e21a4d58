"""Pictures of a study: learning curves, and the images that a strategy chose. For light pages and for dark ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.studies import statistics
from ssl_diffusion.training.panels import fitted, inch_panel, place_image, text_width

__all__ = ["check_highlight", "chosen_figure", "curves_figure"]

# Okabe and Ito (2008), told apart with every kind of color blindness; the brighter ones on dark pages.
_COLORS = {
    False: ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    True: ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442"),
}
_INK = {False: "#1d2129", True: "#e6e8eb"}  # also the baseline's color
_GRAY = {False: "#a9aeb7", True: "#5f6672"}
_DEFAULT = "auto"
_HIGHLIGHTED = 5
_SHOWN = 16  # images of a round
_LETTERS = 16  # a longer label is broken after its colon
_SPACING = 1.1  # of its lines
_SIDE = 1.05  # from one strategy to the next, at a single budget

# Inches: a panel and the margins around its axes; the way from the axes to a label with the gap that the leader leaves, the
# height of a label's line, and how far its baseline is below its middle.
_PANEL, _LEFT, _RIGHT, _TOP, _HEIGHT, _BOTTOM, _NOTE = 4.8, 0.5, 0.1, 0.36, 2.7, 0.52, 0.24
_NARROWEST, _LEADER, _GAP, _LINE, _BASELINE = 2.8, 0.24, 0.04, 0.155, 0.04

# Inches of the images that were chosen: the margin for the number of labels, a column, an image, the class above it, a row.
_MARGIN, _COLUMN, _IMAGE, _TITLE, _ROW = 0.65, 0.55, 0.5, 0.17, 0.74


def check_highlight(highlight: Sequence[str], strategies: Sequence[str], baseline: str) -> None:
    """Refuse a choice of strategies that cannot be highlighted.

    Args:
        highlight: Strategies to highlight beside the baseline and "auto".
        strategies: Names of all strategies of the study.
        baseline: Strategy that the others are compared with.

    Raises:
        SSLDError: if a name is not among the strategies, or there are more names than colors.
    """
    for name in highlight:
        if name not in strategies:
            raise SSLDError(f"the study has no strategy {shown(name)} to highlight; {nearest_names(name, strategies)}")
    always = {name for name in (baseline, _DEFAULT) if name in strategies}
    room = _HIGHLIGHTED - len(always)
    more = list(dict.fromkeys(name for name in highlight if name not in always))
    if len(strategies) > _HIGHLIGHTED and len(more) > room:
        beside = " and ".join(sorted(always)) or "the others"
        raise SSLDError(f"{len(more)} strategies are too many to highlight: name at most {room} beside {beside}")


def curves_figure(
    rounds: pd.DataFrame,
    baseline: str,
    panels: tuple[str, ...] = ("accuracy", "difference"),
    *,
    highlight: Sequence[str] = (),
    dark: bool = False,
    metric: str = "accuracy",
) -> Figure:
    """Draw mean accuracy against labels, and beside it the paired differences from the baseline, with 95 % bootstrap bands.

    At most five strategies have a color, a band and a label at the end of their line: all of a study of five or fewer;
    otherwise the baseline, "auto", those of `highlight`, and, where there is room, the strategy other than "auto" and the
    baseline with the largest area under its curve. The rest are thin gray lines, among the accuracies only.

    Args:
        rounds: Table of rounds of one way to refit; columns `strategy`, `seed`, `n_labeled`, `accuracy`.
        baseline: Strategy that the others are compared with.
        panels: Panels to draw, of "accuracy" and "difference"; differences are left out where there is nothing to compare.
        highlight: Strategies to highlight.
        dark: Whether to draw for a dark page, with light ink; the ground is transparent on both.
        metric: Word for the figure in the column `accuracy`.

    Raises:
        SSLDError: if `highlight` names a strategy that the table does not have, or too many.
    """
    curves = statistics.curves(rounds)
    strategies = list(dict.fromkeys(curves["strategy"]))
    check_highlight(highlight, strategies, baseline)
    colors = _strategy_colors(curves, baseline, highlight, dark)
    paired = baseline in strategies and len(strategies) > 1
    shown = [panel for panel in panels if panel == "accuracy" or paired]
    others = [s for s in strategies if s not in colors] if "accuracy" in shown else []
    budgets = sorted(set(curves["n_labeled"]))
    ink = _INK[dark]

    notes = [f"Gray: {len(others)} other strateg{'y' if len(others) == 1 else 'ies'}."] if others else []
    if (curves["high"] > curves["low"]).any():
        notes.append("Bands: 95 % bootstrap intervals of the mean.")
    figure, axes = _panels(len(shown), list(colors), _BOTTOM + _NOTE * bool(notes))
    for axis, panel in zip(axes, shown, strict=True):
        title = f"test {metric}, %" if panel == "accuracy" else f"difference from {baseline}, points"
        axis.set_title(title, fontsize=10, loc="left", color=ink)
        for strategy in others if panel == "accuracy" else ():
            part = curves[curves["strategy"] == strategy]
            axis.plot(part["n_labeled"], 100 * part["mean"], color=_GRAY[dark], lw=0.8, marker=".", ms=2, label=strategy)
        ends = {}
        for order, (strategy, color) in enumerate(colors.items()):
            part = curves[curves["strategy"] == strategy] if panel == "accuracy" else _differences(rounds, strategy, baseline)
            if part.empty:
                continue
            if len(budgets) == 1:  # side by side, or their intervals would hide each other
                part = part.assign(n_labeled=part["n_labeled"] * _SIDE ** (order - (len(colors) - 1) / 2))
            _draw(axis, part, strategy, color, dashed=strategy == baseline, order=3 - order / 10)
            ends[strategy] = (float(part["n_labeled"].iloc[-1]), float(100 * part["mean"].iloc[-1]))
        _dress(figure, axis, budgets, ink)
        _label_ends(figure, axis, ends, colors)
    left, bottom = (inches / size for inches, size in zip((_LEFT, 0.06), figure.get_size_inches(), strict=True))
    figure.text(left, bottom, " ".join(notes), fontsize=8, color=ink, alpha=0.75, va="bottom")
    return figure


def _strategy_colors(curves: pd.DataFrame, baseline: str, highlight: Sequence[str], dark: bool) -> dict[str, str]:
    """A color for every strategy that is highlighted, the most important first."""
    heights = {str(name): _height(part) for name, part in curves.groupby("strategy", sort=False)}
    named = [name for name in dict.fromkeys((_DEFAULT, *highlight)) if name in heights and name != baseline]
    rest = [name for name in heights if name not in (_DEFAULT, baseline)]
    if len(heights) > _HIGHLIGHTED:
        room = _HIGHLIGHTED - len(named) - (baseline in heights)
        rest = sorted(rest, key=lambda name: -heights[name])[: min(room, 1)]
    colors = dict(zip(dict.fromkeys((*named, *rest)), _COLORS[dark], strict=False))
    return colors | ({baseline: _INK[dark]} if baseline in heights else {})


def _height(curve: pd.DataFrame) -> float:
    """Area under a mean curve, as mean height; a single budget's accuracy."""
    return statistics.area(curve["n_labeled"], curve["mean"]) if len(curve) > 1 else float(curve["mean"].iloc[0])


def _differences(rounds: pd.DataFrame, strategy: str, baseline: str) -> pd.DataFrame:
    """Paired differences at every budget with their bootstrap band."""
    wide = rounds.pivot(index=["seed", "n_labeled"], columns="strategy", values="accuracy")
    difference = (wide[strategy] - wide[baseline]).dropna().rename("accuracy").reset_index()
    return statistics.curves(difference.assign(strategy=strategy))


def _panels(count: int, labels: list[str], bottom: float) -> tuple[Figure, list[Axes]]:
    """Axes of equal size side by side, each with room at its right for the labels of its lines."""
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.patch.set_facecolor("none")  # not alpha, which savefig(facecolor=...) would keep
    gutter = _LEADER + max(text_width(figure, _broken(label), 9) for label in labels) + _RIGHT
    inner = max(_NARROWEST, _PANEL - _LEFT - gutter)
    width, height = count * (_LEFT + inner + gutter), _TOP + _HEIGHT + bottom
    figure.set_size_inches(width, height)
    boxes = [(k * (width / count) + _LEFT, bottom, inner, _HEIGHT) for k in range(count)]
    return figure, [figure.add_axes((x / width, y / height, w / width, h / height)) for x, y, w, h in boxes]


def _draw(axis: Axes, curve: pd.DataFrame, strategy: str, color: str, *, dashed: bool, order: float) -> None:
    """One highlighted line with its band; a single budget's band is a bar."""
    n, low, high = curve["n_labeled"], 100 * curve["low"], 100 * curve["high"]
    style = "--" if dashed else "-"
    axis.plot(n, 100 * curve["mean"], color=color, lw=1.8, ls=style, marker="o", ms=3.5, label=strategy, zorder=order)
    if len(curve) > 1:
        axis.fill_between(n, low, high, color=color, alpha=0.13, lw=0, zorder=1.5)
    else:
        axis.vlines(n, low, high, color=color, alpha=0.5, lw=1.2, zorder=1.5)


def _dress(figure: Figure, axis: Axes, budgets: list[int], ink: str) -> None:
    axis.set_xscale("log")
    margin = (budgets[-1] / budgets[0]) ** 0.03 if len(budgets) > 1 else 1.2
    axis.set_xlim(budgets[0] / margin, budgets[-1] * margin)
    axis.set_xticks(named := _readable(figure, axis, budgets), [f"{n:,}" for n in named])
    axis.xaxis.set_minor_locator(FixedLocator([n for n in budgets if n not in named]))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axis.set_xlabel("labels", color=ink)
    axis.grid(alpha=0.13, color=ink, lw=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.patch.set_alpha(0)
    axis.tick_params(which="both", colors=ink)
    for spine in axis.spines.values():
        spine.set_color(ink)


def _readable(figure: Figure, axis: Axes, budgets: list[int]) -> list[int]:
    """Budgets whose tick labels stand clear of each other, from the largest down."""
    places = axis.transData.transform([(n, 0) for n in budgets])[:, 0] / figure.dpi
    kept: list[int] = []
    free = np.inf
    for n, place in zip(budgets[::-1], places[::-1], strict=True):
        half = text_width(figure, f"{n:,}", 10) / 2
        if place + half < free:
            kept.append(n)
            free = place - half - 0.08
    return kept[::-1]


def _label_ends(figure: Figure, axis: Axes, ends: dict[str, tuple[float, float]], colors: dict[str, str]) -> None:
    """Name each line at its end, labels moved up or down as little as keeps them apart.

    Args:
        figure: Figure of its final size.
        axis: Panel with its final limits.
        ends: Last point of every line, in data coordinates.
        colors: Color of every strategy.
    """
    names = sorted(ends, key=lambda name: ends[name][1])
    axis.set_ylim(axis.get_ylim())  # labels do not move the lines that they were placed by
    box = axis.get_window_extent()
    inner, height = box.width / figure.dpi, box.height / figure.dpi
    wanted = (axis.transData.transform([ends[name] for name in names])[:, 1] - box.y0) / figure.dpi
    heights = np.array([_LINE * (1 + _broken(name).count("\n")) for name in names])
    for name, place, tall in zip(names, _apart(wanted, heights, height), heights, strict=True):
        bottom = place - (tall - _LINE) / 2 - _BASELINE
        axis.text(
            1 + _LEADER / inner,
            bottom / height,
            _broken(name),
            transform=axis.transAxes,
            color=colors[name],
            fontsize=9,
            va="baseline",
            linespacing=_SPACING,
        )
        axis.annotate(
            "",
            xy=ends[name],
            xytext=(1 + (_LEADER - _GAP) / inner, place / height),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.8, "color": colors[name], "shrinkA": 0, "shrinkB": 2.5},
        )


def _apart(wanted: NDArray[np.float64], heights: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """Centers of boxes between 0 and `top` that do not overlap, nearest to those wanted in the sum of squares.

    Args:
        wanted: Centers, increasing; (n,).
        heights: Heights of the boxes, (n,); their sum is at most `top`.
        top: Upper end.
    """
    # Counted from the box below, the centers only have to increase.
    below = np.cumsum(heights) - heights / 2
    centers: NDArray[np.float64] = below + np.clip(isotonic_regression(wanted - below), 0, top - heights.sum())
    return centers


def _broken(label: str) -> str:
    return label.replace(":", ":\n", 1) if len(label) > _LETTERS else label


def chosen_figure(picks: pd.DataFrame, pool: Pool, *, dark: bool = False) -> Figure:
    """Draw what one trial chose: a row for every round, with its first images and their classes.

    Args:
        picks: Table of picks of one trial; columns `n_labeled`, `rank`, `id`, `label`.
        pool: Pool of the images.
        dark: Whether to draw for a dark page, with light ink; the ground is transparent on both.
    """
    parts = [part.sort_values("rank").head(_SHOWN) for _, part in picks.groupby("n_labeled")]
    columns = max(len(part) for part in parts)
    counts = [f"{part['n_labeled'].iloc[0]:,}" for part in parts]
    figure, axis = inch_panel(1, _ROW * len(parts))
    figure.patch.set_alpha(0)
    margin = max(_MARGIN, 0.15 + max(text_width(figure, count, 8) for count in counts))
    width = _COLUMN * columns + margin
    figure.set_size_inches(width, _ROW * len(parts))
    axis.set_xlim(0, width)
    ink: dict[str, Any] = {"color": _INK[dark], "parse_math": False}
    for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
        top = _ROW * i + _TITLE
        axis.text(margin - 0.1, top + _IMAGE / 2, count, ha="right", va="center", fontsize=8, **ink)
        images = pool.images[pool.positions(part["id"].tolist())]
        for j, (image, label) in enumerate(zip(images, part["label"], strict=True)):
            left = margin + _COLUMN * j
            place_image(axis, image, left + (_COLUMN - _IMAGE) / 2, top, _IMAGE)
            name = fitted(figure, str(label), 6.5, _COLUMN - 0.03)
            axis.text(left + _COLUMN / 2, top - 0.03, name, ha="center", va="bottom", fontsize=6.5, **ink)
    return figure
