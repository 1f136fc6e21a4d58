"""What a study says: areas under learning curves, labels saved, paired tests, and how many seeds the next claim would need.

Pure functions on the table of a study's rounds with the columns `strategy`, `seed`, `n_labeled` and `accuracy` (in [0, 1]);
one row for each strategy, seed and budget, of one mode of refitting. Strategies of a seed start from the same labels, so that
everything is compared within seeds (Lüth et al. 2023, arXiv 2301.10625; Werner et al. 2024, arXiv 2403.16209).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, stats

from ssl_diffusion.errors import DataError

__all__ = [
    "MIN_SEEDS",
    "PairedTest",
    "area",
    "areas",
    "compare",
    "compare_at_budgets",
    "curves",
    "holm",
    "label_saving",
    "labels_needed",
    "paired_test",
    "penalty_matrix",
    "power_line",
    "seeds_needed",
    "win_tie_loss",
]

MIN_SEEDS = 5  # with fewer, a paired t-test says little and is fragile: none is made
_RESAMPLES = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTest:
    """A comparison of paired values a and b; `p` is NaN with fewer than :data:`MIN_SEEDS` pairs.

    Attributes:
        n: pairs.
        difference: mean of a - b.
        low, high: 95 % interval of it, by Student's t (NaN for a single pair).
        deviation: standard deviation of the differences.
        p: two-sided p of the paired t-test.
        p_wilcoxon: P value of Wilcoxon's signed-rank test, which assumes less about the differences.
    """

    n: int
    difference: float
    low: float
    high: float
    deviation: float
    p: float
    p_wilcoxon: float


def paired_test(a: ArrayLike, b: ArrayLike) -> PairedTest:
    """Is a larger than b? Both (n,), paired by position."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n, mean = len(d), float(d.mean())
    if n < 2:
        return PairedTest(n, mean, np.nan, np.nan, np.nan, np.nan, np.nan)
    deviation = float(d.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / np.sqrt(n)
    p = p_wilcoxon = np.nan
    if n >= MIN_SEEDS:
        if np.allclose(d, d[0], rtol=0, atol=1e-12):  # no spread: certain, or equal
            p = p_wilcoxon = 1.0 if abs(mean) < 1e-12 else 0.0
        else:
            p, p_wilcoxon = float(stats.ttest_1samp(d, 0.0).pvalue), float(stats.wilcoxon(d).pvalue)
    return PairedTest(n, mean, mean - half, mean + half, deviation, p, p_wilcoxon)


def holm(p: ArrayLike) -> Floats:
    """Holm's (1979) step-down adjustment: p values that may be compared with one alpha for the whole family.

    NaN, a test that was not made, stays NaN and does not count.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full_like(values, np.nan)
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return adjusted


def area(n_labeled: ArrayLike, accuracy: ArrayLike, axis: str = "log") -> float:
    """Area under a learning curve, by trapezoids, as the mean height over the interval of budgets: in the range of accuracy.

    Args:
        n_labeled: budgets, increasing, at least two.
        accuracy: at each of them.
        axis: "log" counts every doubling of the labels alike, "linear" every label.

    Raises:
        DataError: for fewer than two budgets, or budgets that do not increase.
    """
    x, y = np.asarray(n_labeled, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if len(x) < 2 or (np.diff(x) <= 0).any():
        raise DataError("the area under a learning curve needs at least two budgets, in increasing order")
    x = np.log(x) if axis == "log" else x
    return float(integrate.trapezoid(y, x) / (x[-1] - x[0]))


def areas(rounds: pd.DataFrame, axis: str = "log") -> pd.DataFrame:
    """Area under the curve of every seed: one row a seed, one column a strategy."""
    return pd.DataFrame(
        {
            strategy: {seed: area(table.columns, row, axis) for seed, row in table.iterrows()}
            for strategy, table in _each(rounds)
        }
    )


def curves(rounds: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Learning curves: mean accuracy with the 95 % percentile bootstrap band over seeds (Efron 1979).

    Returns:
        rows `strategy`, `n_labeled`, `mean`, `low`, `high`, `deviation`, `n`; the resampled seeds are the same at all budgets
        and for all strategies.
    """
    rows = []
    for strategy, table in _each(rounds):
        values = table.to_numpy()
        picks = _resamples(len(values), seed)
        low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5], axis=0)
        for k, n in enumerate(table.columns):
            v = values[:, k]
            deviation = float(v.std(ddof=1)) if len(v) > 1 else np.nan
            rows.append((strategy, int(n), v.mean(), low[k], high[k], deviation, len(v)))
    return pd.DataFrame(rows, columns=["strategy", "n_labeled", "mean", "low", "high", "deviation", "n"])


def labels_needed(n_labeled: ArrayLike, accuracy: ArrayLike, target: float) -> float:
    """How many labels a curve needs to reach an accuracy: where it first does, between budgets linear in log n.

    Infinity if it never does; the smallest budget if it starts above.
    """
    n, y = np.asarray(n_labeled, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    reached = np.flatnonzero(y >= target)
    if not len(reached):
        return float("inf")
    k = int(reached[0])
    if k == 0:
        return float(n[0])
    part = (target - y[k - 1]) / (y[k] - y[k - 1])
    return float(n[k - 1] * (n[k] / n[k - 1]) ** part)


def label_saving(rounds: pd.DataFrame, baseline: str = "random", at: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Labels that each strategy needs for the accuracy that the baseline has with `at` labels, and the fraction that it saves.

    On mean curves, since single seeds cross the target at random. The interval is the 95 % percentile bootstrap over seeds,
    drawn for both together. A curve that starts above the target counts with its first budget, one that never reaches it as
    infinite: the saving is then -inf, and the interval says how often that may be.

    Args:
        rounds: the table of rounds.
        baseline: whose accuracy is the target.
        at: labels of the baseline; default: its largest budget.
        seed: Random seed of the bootstrap.

    Returns:
        rows `strategy`, `at`, `target`, `labels`, `labels_low`, `labels_high`, `saving` (1 - labels / at), `saving_low`,
        `saving_high`.
    """
    tables = dict(_each(rounds))
    if baseline not in tables:
        raise DataError(f"the study has no {baseline!r} to compare with, only {', '.join(map(repr, tables))}")
    base = tables[baseline]
    at = int(base.columns[-1]) if at is None else at
    if at not in base.columns:
        raise DataError(f"{baseline} has no round with {at} labels, only with {', '.join(map(str, base.columns))}")
    rows = []
    for strategy, table in tables.items():
        if strategy == baseline:
            continue
        seeds = base.index.intersection(table.index)
        of_base, of_other = base.loc[seeds, at].to_numpy(), table.loc[seeds].to_numpy()
        if not len(seeds):
            raise DataError(f"{strategy} and {baseline} have no seed in common")
        target = float(of_base.mean())
        labels = labels_needed(table.columns, of_other.mean(axis=0), target)
        drawn = [
            labels_needed(table.columns, of_other[p].mean(axis=0), of_base[p].mean()) for p in _resamples(len(seeds), seed)
        ]
        low, high = np.percentile(drawn, [2.5, 97.5], method="nearest")  # no mean of a number and infinity
        rows.append((strategy, at, target, labels, low, high, 1 - labels / at, 1 - high / at, 1 - low / at))
    names = ["strategy", "at", "target", "labels", "labels_low", "labels_high", "saving", "saving_low", "saving_high"]
    return pd.DataFrame(rows, columns=names)


def compare(values: pd.DataFrame, baseline: str = "random") -> pd.DataFrame:
    """Every strategy against the baseline: paired differences with interval, p and Holm's p over the strategies.

    Args:
        values: one row a seed, one column a strategy, as :func:`areas` gives them, or accuracies at one budget.

    Returns:
        rows `strategy`, and the fields of :class:`PairedTest`, and `p_holm`.
    """
    if baseline not in values:
        raise DataError(f"the study has no {baseline!r} to compare with, only {', '.join(map(repr, values.columns))}")
    rows = []
    for strategy in values.columns.drop(baseline):
        pair = values[[strategy, baseline]].dropna()
        rows.append({"strategy": strategy, **vars(paired_test(pair[strategy], pair[baseline]))})
    table = pd.DataFrame(rows, columns=["strategy", *PairedTest.__dataclass_fields__])
    return table.assign(p_holm=holm(table["p"]))


def gap_closed(values: pd.DataFrame, baseline: str, ceiling: str, seed: int = 0) -> pd.DataFrame:
    """Part of the way from the baseline to a ceiling that each strategy goes: (mean - baseline) / (ceiling - baseline).

    Args:
        values: One row a seed, one column a strategy, as of :func:`areas`.
        baseline: Strategy at 0.
        ceiling: Strategy at 1, as "oracle".
        seed: Random seed of the bootstrap.

    Returns:
        rows `strategy`, `gap`, and its 95 % percentile bootstrap interval over paired seeds, `gap_low` and `gap_high`; NaN
        where the ceiling is not above the baseline.
    """
    rows = []
    for strategy in values.columns.drop([baseline, ceiling]):
        v = values[[strategy, baseline, ceiling]].dropna().to_numpy()
        means = (
            np.concatenate([v.mean(axis=0)[None], v[_resamples(len(v), seed)].mean(axis=1)])
            if len(v)
            else np.full((1, 3), np.nan)
        )
        whole = means[:, 2] - means[:, 1]
        gap = np.where(whole > 0, (means[:, 0] - means[:, 1]) / np.where(whole > 0, whole, 1.0), np.nan)
        low, high = np.nanpercentile(gap[1:], [2.5, 97.5]) if np.isfinite(gap[1:]).any() else (np.nan, np.nan)
        rows.append((strategy, gap[0], low, high))
    return pd.DataFrame(rows, columns=["strategy", "gap", "gap_low", "gap_high"])


def compare_at_budgets(rounds: pd.DataFrame, baseline: str = "random") -> pd.DataFrame:
    """Accuracy of every strategy against the baseline at every budget, as :func:`compare` does for areas.

    Args:
        rounds: Results with the columns `strategy`, `seed`, `n_labeled` and `accuracy`.
        baseline: strategy to compare with.

    Returns:
        rows `strategy`, `n_labeled`, the fields of :class:`PairedTest`, and `p_holm` over all strategies and budgets.
    """
    tables = []
    for n, part in rounds.groupby("n_labeled"):
        accuracies = part.pivot(index="seed", columns="strategy", values="accuracy")
        if baseline in accuracies:
            tables.append(compare(accuracies, baseline).assign(n_labeled=n))
    if not tables:
        raise DataError(f"the study has no {baseline!r} to compare with")
    table = pd.concat(tables, ignore_index=True)
    return table.assign(p_holm=holm(table["p"]))


def penalty_matrix(rounds: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Pairwise penalties (Ash et al. 2020, arXiv 1906.03671): how often the row is significantly better than the column.

    Each entry is the fraction of budgets at which the row's strategy beats the column's by a paired t-test over seeds, adjusted
    by Holm over all pairs of a budget. So a good strategy has a full row and an empty column.
    """
    tables = dict(_each(rounds))
    names = list(tables)
    matrix = np.zeros((len(names), len(names)))
    budgets = sorted(set(rounds["n_labeled"]))
    for n in budgets:
        pairs, tests = [], []
        for a, b in combinations(names, 2):
            if n in tables[a] and n in tables[b]:
                seeds = tables[a].index.intersection(tables[b].index)
                pairs.append((a, b))
                tests.append(paired_test(tables[a].loc[seeds, n], tables[b].loc[seeds, n]))
        for (a, b), test, p in zip(pairs, tests, holm([t.p for t in tests]), strict=True):
            if p < alpha:
                better, worse = (a, b) if test.difference > 0 else (b, a)
                matrix[names.index(better), names.index(worse)] += 1 / len(budgets)
    return pd.DataFrame(matrix, index=names, columns=names)


def win_tie_loss(values: pd.DataFrame, baseline: str = "random", tie: float = 0.0) -> pd.DataFrame:
    """On how many seeds a strategy is above, equal to (within `tie`) and below the baseline; values as in :func:`compare`."""
    rows = []
    for strategy in values.columns.drop(baseline):
        d = (values[strategy] - values[baseline]).dropna()
        rows.append((strategy, int((d > tie).sum()), int((d.abs() <= tie).sum()), int((d < -tie).sum())))
    return pd.DataFrame(rows, columns=["strategy", "win", "tie", "loss"])


def seeds_needed(deviation: float, effect: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs with which a two-sided paired t-test finds a true difference, with the noncentral t distribution.

    Args:
        deviation: standard deviation of the paired differences, from a pilot.
        effect: the difference to be found, in the same unit; its sign does not matter.
        power: Probability of detecting the difference, in (0, 1).
        alpha: level of the test.
    """
    if not deviation >= 0 or not abs(effect) > 0:
        raise DataError(f"needed are a deviation from 0 and an effect other than 0, not {deviation} and {effect}")
    ratio = abs(effect) / max(deviation, 1e-12)

    def reached(n: int) -> bool:
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        shift = ratio * np.sqrt(n)
        return bool(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) >= power)

    low = MIN_SEEDS
    if ratio > 10 or reached(low):
        return low
    high = low
    while not reached(high):
        low, high = high, 2 * high
        if high > 10_000_000:
            raise DataError(f"an effect of {effect} is too small beside a deviation of {deviation}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def power_line(values: pd.DataFrame, baseline: str = "random", effects: Sequence[float] = (0.005, 0.01, 0.02)) -> pd.DataFrame:
    """Seeds that claims of different size would need, from the variance of this study; values as in :func:`compare`."""
    table = compare(values, baseline)
    needed = {
        f"seeds for {100 * effect:g} points": [
            seeds_needed(sd, effect) if np.isfinite(sd) else None for sd in table["deviation"]
        ]
        for effect in effects
    }
    return pd.DataFrame({"strategy": table["strategy"], "deviation": table["deviation"], **needed})


def _each(rounds: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Accuracies by seed (rows) and budget (columns), increasing, of each strategy in order of appearance.

    Seeds that lack a budget which others of the strategy have are left out, so that means are over the same seeds.

    Raises:
        DataError: if columns are missing, or a strategy, seed and budget occur twice.
    """
    missing = {"strategy", "seed", "n_labeled", "accuracy"} - set(rounds)
    if missing:
        raise DataError(f"the table of rounds has no column {', '.join(sorted(missing))}")
    double = rounds.duplicated(["strategy", "seed", "n_labeled"])
    if double.any():
        row = rounds[double].iloc[0]
        raise DataError(f"two rows for {row['strategy']}, seed {row['seed']}, {row['n_labeled']} labels")
    tables = []
    for strategy in dict.fromkeys(rounds["strategy"]):
        part = rounds[rounds["strategy"] == strategy]
        table = part.pivot(index="seed", columns="n_labeled", values="accuracy").sort_index(axis=1).dropna()
        if not table.empty:
            tables.append((str(strategy), table))
    return tables


def _resamples(n: int, seed: int) -> NDArray[np.int64]:
    """Seeds drawn with replacement; (resamples, n)."""
    return np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
