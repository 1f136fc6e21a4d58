"""The table of a study, one row per strategy, and its conclusions: sentences that state significance honestly."""

import numpy as np
import pandas as pd

from ssl_diffusion.acquisition.forecast import FEWEST_ROUNDS, Forecast, forecast
from ssl_diffusion.studies import statistics
from ssl_diffusion.studies.oracle import ORACLE

__all__ = ["forecasts", "sentences", "summary"]

_ALPHA = 0.05


def summary(rounds: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """One row a strategy of one way to refit.

    Args:
        rounds: Results of one way to refit.
        baseline: strategy to compare with.

    Returns:
        `strategy`, `n` (seeds), mean accuracy at every budget (columns named by it), `area` (under the curve over log labels),
        `difference` of it from the baseline's with `low` and `high` (95 %), `p_holm`, and `labels` that it needs for the
        baseline's accuracy at its largest budget with `saving`, `saving_low`, `saving_high`. With an oracle also `gap`, the
        part of the way from the baseline's area to the oracle's, with `gap_low` and `gap_high`. With three budgets or more
        `forecast`, the mean accuracy that is expected with twice the largest, and its 80 % interval `forecast_low` and
        `forecast_high`. NaN where there is nothing to compare.

    Example:
        >>> summary(folder.rounds(), "random")  # doctest: +SKIP
    """
    curves = statistics.curves(rounds)
    means = curves.pivot(index="strategy", columns="n_labeled", values="mean")
    areas = statistics.areas(rounds)
    table = pd.DataFrame({"n": curves.groupby("strategy")["n"].max(), "area": areas.mean()}).join(means)
    table.columns = table.columns.map(str)
    if baseline in areas and len(areas.columns) > 1:
        tests = statistics.compare(areas, baseline).set_index("strategy")
        saved = statistics.label_saving(rounds, baseline).set_index("strategy")
        table = table.join(tests[["difference", "low", "high", "p_holm"]])
        table = table.join(saved[["labels", "saving", "saving_low", "saving_high"]])
    if baseline in areas and ORACLE in areas and len(areas.columns) > 2:
        table = table.join(statistics.gap_closed(areas, baseline, ORACLE).set_index("strategy"))
    if found := forecasts(rounds):
        columns = {"forecast": "accuracy", "forecast_low": "low", "forecast_high": "high"}
        for column, field in columns.items():
            table[column] = pd.Series({name: getattr(f, field) for name, f in found.items()})
    budgets = [str(n) for n in means.columns]
    order = [str(s) for s in dict.fromkeys(rounds["strategy"]) if s in table.index]
    rest = [c for c in table.columns if c not in (*budgets, "n")]
    return table.loc[order, ["n", *budgets, *rest]].rename_axis("strategy").reset_index()


def forecasts(rounds: pd.DataFrame) -> dict[str, Forecast]:
    """Mean accuracy of every strategy with twice the largest budget; none with fewer than three budgets.

    Args:
        rounds: Results of one way to refit.

    Example:
        >>> print(forecasts(folder.rounds())["margin"])  # doctest: +SKIP
        with 160 more labels 99 % (98 to 99)
    """
    found = {}
    for strategy, part in statistics.curves(rounds).groupby("strategy", sort=False):
        if strategy != ORACLE and len(part) >= FEWEST_ROUNDS:
            part = part.sort_values("n_labeled")
            found[str(strategy)] = forecast(part["n_labeled"], part["mean"], trials=int(part["n"].min()))
    return found


def sentences(rounds: pd.DataFrame, baseline: str, metric: str = "accuracy") -> list[str]:
    """One sentence per strategy on its difference from the baseline, with effect size and sample size.

    Args:
        rounds: Rounds of one way to refit.
        baseline: Strategy that the others are compared with.
        metric: Word for the figure in the column `accuracy`.

    Example:
        >>> for sentence in sentences(folder.rounds(), "random"):  # doctest: +SKIP
        ...     print(sentence)
    """
    table = summary(rounds, baseline)
    promised = forecasts(rounds)
    if "difference" not in table:
        return [f"There is nothing to compare with {baseline} yet."]
    largest = rounds["n_labeled"].max()
    budgets = statistics.compare_at_budgets(rounds, baseline)
    below = budgets[(budgets["p_holm"] < _ALPHA) & (budgets["difference"] < 0)].groupby("strategy")["n_labeled"].apply(list)
    lines = []
    for row in table.to_dict("records"):
        if row["strategy"] == baseline or np.isnan(row["difference"]):
            continue
        points, n = 100 * row["difference"], int(row["n"])
        size = f"{points:+.1f} points of mean {metric} over the curve"
        if np.isfinite(row["low"]):
            size += f" (95 % interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
        p = f"Holm-adjusted p = {row['p_holm']:.2g}"
        if np.isnan(row["p_holm"]):
            text = f"{row['strategy']}: {size} compared with {baseline}; {n} seeds are too few for a test"
        elif row["p_holm"] < _ALPHA:
            word = "above" if points > 0 else "below"
            text = f"{row['strategy']} is {word} {baseline}: {size}, {p}, n = {n}"
        else:
            text = f"{row['strategy']}: no significant difference from {baseline} at n = {n}: {size}, {p}"
        if np.isfinite(row["labels"]):
            text += f". It needs {row['labels']:.0f} labels for the {metric} that {baseline} has with {largest}"
        else:
            text += f". It does not reach the {metric} that {baseline} has with {largest} labels"
        if np.isfinite(row.get("gap", np.nan)):
            interval = f"{100 * row['gap_low']:.0f} to {100 * row['gap_high']:.0f}"
            text += f". It closes {100 * row['gap']:.0f} % of the gap between {baseline} and the oracle ({interval})"
        if row["strategy"] == ORACLE:
            text += ". It knows the test labels: a ceiling, no strategy"
        if row["strategy"] in promised:
            text += f". Forecast: {promised[row['strategy']]}"
        if row["strategy"] in below:
            where = ", ".join(map(str, below[row["strategy"]]))
            text += f". At {where} labels it is below {baseline} (Holm over strategies and budgets)"
        lines.append(text + ".")
    return lines
