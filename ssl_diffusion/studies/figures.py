"""Pictures of a study: learning curves, and the images that a strategy chose. For light pages and for dark ones."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.studies import statistics
from ssl_diffusion.training.figures import show_image

__all__ = ["chosen_figure", "curves_figure", "strategy_colors"]

_COLORS = ("#2a6f97", "#d1603d", "#3a8f5b", "#8a5fb0", "#b8892b", "#c2447f", "#4aa5b5", "#7a6a55")
_BASELINE = "#8a8f98"
_INK = {False: "#1d2129", True: "#e6e8eb"}
_SHOWN = 16  # images of a round
_KEY, _LETTER, _ROW = 0.65, 0.085, 0.2  # inches of a legend in 9 points


def strategy_colors(strategies: list[str], baseline: str) -> dict[str, str]:
    """A color for each strategy, gray for the baseline."""
    others = [s for s in strategies if s != baseline]
    return {baseline: _BASELINE} | {s: _COLORS[i % len(_COLORS)] for i, s in enumerate(others)}


def curves_figure(
    rounds: pd.DataFrame, baseline: str, panels: tuple[str, ...] = ("accuracy", "difference"), *, dark: bool = False
) -> Figure:
    """Mean accuracy against labels with 95 % bootstrap bands, and paired differences from the baseline beside it.

    Args:
        rounds: of one way to refit.
        baseline: strategy to compare with.
        panels: which of the two; differences are left out where there is nothing to compare.
        dark: light ink on a transparent ground.
    """
    curves = statistics.curves(rounds)
    strategies = list(dict.fromkeys(curves["strategy"]))
    colors = strategy_colors(strategies, baseline)
    paired = baseline in strategies and len(strategies) > 1
    shown = [panel for panel in panels if panel == "accuracy" or paired]
    width = 4.8 * len(shown)
    columns = min(len(strategies), max(1, int(width / (_KEY + _LETTER * max(map(len, strategies))))))
    figure = Figure(figsize=(width, 3.5 + _ROW * -(-len(strategies) // columns)), layout="constrained")
    figure.patch.set_alpha(0)
    ink = _INK[dark]
    for axis, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        title = "test accuracy, %" if panel == "accuracy" else f"difference from {baseline}, points"
        axis.set_title(title, fontsize=10, loc="left", color=ink)
        for number, strategy in enumerate(strategies):
            part = curves[curves["strategy"] == strategy] if panel == "accuracy" else _differences(rounds, strategy, baseline)
            dashed = strategy == baseline or number > len(_COLORS)
            style = {"color": colors[strategy], "linewidth": 1.8, "linestyle": "--" if dashed else "-"}
            axis.plot(part["n_labeled"], 100 * part["mean"], marker="o", markersize=3, label=strategy, **style)
            axis.fill_between(part["n_labeled"], 100 * part["low"], 100 * part["high"], color=style["color"], alpha=0.15, lw=0)
        _dress(axis, sorted(set(curves["n_labeled"])), ink)
    handles, labels = axis.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(ink)
    return figure


def _differences(rounds: pd.DataFrame, strategy: str, baseline: str) -> pd.DataFrame:
    """Paired differences at every budget with their bootstrap band."""
    wide = rounds.pivot(index=["seed", "n_labeled"], columns="strategy", values="accuracy")
    difference = (wide[strategy] - wide[baseline]).dropna().rename("accuracy").reset_index()
    return statistics.curves(difference.assign(strategy=strategy))


def _dress(axis: Axes, budgets: list[int], ink: str) -> None:
    axis.set_xscale("log")
    axis.set_xticks(budgets, [f"{n:,}" for n in budgets])
    axis.minorticks_off()
    axis.set_xlabel("labels", color=ink)
    axis.grid(alpha=0.2, color=ink)
    axis.spines[["top", "right"]].set_visible(False)
    axis.patch.set_alpha(0)
    axis.tick_params(colors=ink)
    for spine in axis.spines.values():
        spine.set_color(ink)


def chosen_figure(picks: pd.DataFrame, pool: Pool, *, dark: bool = False) -> Figure:
    """What one trial chose: a row for every round, with the first images of it and their classes.

    Args:
        picks: of one trial.
        pool: where the images are.
        dark: light ink on a transparent ground.
    """
    parts = [part.sort_values("rank").head(_SHOWN) for _, part in picks.groupby("n_labeled")]
    columns = max(len(part) for part in parts)
    figure = Figure(figsize=(0.55 * columns + 0.6, 0.78 * len(parts) + 0.1), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(len(parts), columns, squeeze=False)
    for row, part in zip(axes, parts, strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, (_, pick) in zip(row, part.iterrows(), strict=False):
            image: NDArray[np.uint8] = pool.images[pool.positions([pick["id"]])[0]]
            show_image(axis, image.astype(np.float32) / 127.5 - 1)
            axis.set_axis_off()
            axis.set_title(str(pick["label"])[:9], fontsize=6.5, color=_INK[dark], pad=2)
        row[0].text(
            -0.35,
            0.5,
            f"{part['n_labeled'].iloc[0]:,}",
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=8,
            color=_INK[dark],
        )
    return figure
