"""Statistics of studies against closed forms, brute force, and scipy."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssl_diffusion.errors import DataError
from ssl_diffusion.studies import statistics as s

BUDGETS = (10, 20, 40, 80)


def rounds(**curves: list[list[float]]) -> pd.DataFrame:
    """A table of rounds: for each strategy, accuracies of seeds (rows) at BUDGETS."""
    return pd.DataFrame(
        [
            {"strategy": name, "seed": seed, "n_labeled": n, "accuracy": a}
            for name, table in curves.items()
            for seed, row in enumerate(table)
            for n, a in zip(BUDGETS, row, strict=False)
        ]
    )


def noisy(mean: list[float], seeds: int = 8, scale: float = 0.01, seed: int = 0) -> list[list[float]]:
    return (np.array(mean) + scale * np.random.default_rng(seed).standard_normal((seeds, len(mean)))).tolist()


class TestArea:
    def test_of_a_line_is_its_middle(self) -> None:
        assert s.area([1, 3], [0.2, 0.6], "linear") == pytest.approx(0.4)
        assert s.area([10, 20, 40], [0.5, 0.6, 0.7], "log") == pytest.approx(0.6)  # a line in log n
        assert s.area([10, 20, 40], [0.5, 0.6, 0.7], "linear") == pytest.approx((0.55 * 10 + 0.65 * 20) / 30)

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
    def test_lies_between_least_and_largest_accuracy(self, accuracy: list[float]) -> None:
        n = 10 * 2 ** np.arange(len(accuracy))
        for axis in ("log", "linear"):
            assert min(accuracy) - 1e-9 <= s.area(n, accuracy, axis) <= max(accuracy) + 1e-9

    @pytest.mark.parametrize("n", [[10], [20, 10], [10, 10]])
    def test_refuses_what_is_no_interval(self, n: list[int]) -> None:
        with pytest.raises(DataError, match="at least two budgets"):
            s.area(n, [0.5] * len(n))

    def test_areas_pair_seeds(self) -> None:
        table = s.areas(rounds(a=[[0.5] * 4, [0.7] * 4], b=[[0.6] * 4, [0.6] * 4]))
        assert list(table.columns) == ["a", "b"]
        np.testing.assert_allclose(table["a"], [0.5, 0.7])
        np.testing.assert_allclose(table["b"], [0.6, 0.6])


class TestCurves:
    def test_mean_and_deviation(self) -> None:
        table = s.curves(rounds(a=[[0.5, 0.6, 0.7, 0.8], [0.7, 0.6, 0.9, 0.8]]))
        np.testing.assert_allclose(table["mean"], [0.6, 0.6, 0.8, 0.8])
        np.testing.assert_allclose(table["deviation"], [np.sqrt(0.02), 0, np.sqrt(0.02), 0], atol=1e-9)
        assert (table["low"] <= table["mean"]).all()
        assert (table["mean"] <= table["high"]).all()

    def test_band_has_the_width_of_the_standard_error(self) -> None:
        values = noisy([0.5] * 4, seeds=400, scale=0.1)
        table = s.curves(rounds(a=values))
        expected = 2 * 1.96 * np.std(values, axis=0, ddof=1) / np.sqrt(400)
        np.testing.assert_allclose(table["high"] - table["low"], expected, rtol=0.1)

    def test_a_seed_without_all_budgets_is_left_out(self) -> None:
        frame = rounds(a=[[0.5] * 4, [0.7] * 4, [0.1]])
        assert set(s.curves(frame)["n"]) == {2}


class TestLabels:
    def test_needed_between_budgets(self) -> None:
        assert s.labels_needed([10, 40], [0.5, 0.7], 0.6) == pytest.approx(20)  # halfway in log n
        assert s.labels_needed([10, 40], [0.5, 0.7], 0.4) == 10
        assert s.labels_needed([10, 40], [0.5, 0.7], 0.71) == np.inf
        assert s.labels_needed([10, 20, 40], [0.5, 0.8, 0.6], 0.7) == pytest.approx(10 * 2 ** (2 / 3))  # the first time

    @given(st.floats(0.5, 0.95))
    def test_needed_inverts_the_curve(self, target: float) -> None:
        y = [0.5, 0.65, 0.9, 0.95]
        at = s.labels_needed(BUDGETS, y, target)
        assert np.interp(np.log(at), np.log(BUDGETS), y) == pytest.approx(target)

    def test_saving_of_a_curve_that_is_twice_as_fast(self) -> None:
        random = [0.5, 0.6, 0.7, 0.8]
        fast = [0.6, 0.7, 0.8, 0.9]
        table = s.label_saving(rounds(random=noisy(random, scale=1e-4), fast=noisy(fast, scale=1e-4, seed=1)))
        row = table.iloc[0]
        assert (row["strategy"], row["at"]) == ("fast", 80)
        assert row["labels"] == pytest.approx(40, rel=0.01)
        assert row["saving"] == pytest.approx(0.5, abs=0.01)
        assert row["saving_low"] <= row["saving"] <= row["saving_high"]
        assert s.label_saving(rounds(random=[random], fast=[fast]), at=40).iloc[0]["labels"] == pytest.approx(20)

    def test_a_strategy_that_never_gets_there_is_not_dropped(self) -> None:
        table = s.label_saving(rounds(random=[[0.5, 0.6, 0.7, 0.8]], slow=[[0.4, 0.5, 0.6, 0.7]]))
        assert table.iloc[0]["labels"] == np.inf
        assert table.iloc[0]["saving"] == -np.inf

    def test_unknown_baseline_or_budget(self) -> None:
        frame = rounds(a=[[0.5] * 4], random=[[0.5] * 4])
        with pytest.raises(DataError, match="no 'margin'"):
            s.label_saving(frame, "margin")
        with pytest.raises(DataError, match="no round with 30 labels"):
            s.label_saving(frame, at=30)
        with pytest.raises(DataError, match="no 'margin'"):
            s.compare(s.areas(frame), "margin")


class TestTests:
    def test_paired_test_is_scipys(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((2, 12))
        test, expected = s.paired_test(a, b), stats.ttest_rel(a, b)
        assert test.p == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval(0.95)
        assert (test.low, test.high) == pytest.approx((interval.low, interval.high))
        assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)

    def test_no_p_from_too_few_seeds(self) -> None:
        test = s.paired_test([0.9, 0.8, 0.7, 0.9], [0.1, 0.2, 0.1, 0.3])
        assert np.isnan(test.p)
        assert test.difference == pytest.approx(0.65)
        assert np.isnan(s.paired_test([0.9], [0.1]).low)

    def test_no_spread(self) -> None:
        assert s.paired_test([0.5] * 6, [0.5] * 6).p == 1
        assert s.paired_test([0.6] * 6, [0.5] * 6).p == 0

    def test_holm_by_hand(self) -> None:
        np.testing.assert_allclose(s.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
        np.testing.assert_allclose(s.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
        assert not len(s.holm([]))

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0.001, 0.999))
    def test_holm_rejects_what_the_closed_procedure_rejects(self, p: list[float], alpha: float) -> None:
        """Closed testing with Bonferroni tests of all intersections is Holm's procedure."""
        m = len(p)
        for i in range(m):
            families = [[j for j in range(m) if mask >> j & 1] for mask in range(2**m) if mask >> i & 1]
            closed = max(min(1.0, len(f) * min(p[j] for j in f)) for f in families)
            assert s.holm(p)[i] == pytest.approx(closed)
        assert (s.holm(p) < alpha).sum() <= (np.array(p) < alpha).sum()

    def test_compare_adjusts_over_the_strategies(self) -> None:
        base = [0.5, 0.6, 0.7, 0.8]
        frame = rounds(
            random=noisy(base), better=noisy([0.6, 0.7, 0.8, 0.9], seed=1), same=noisy(base, seed=2), few=noisy(base, 3, seed=3)
        )
        table = s.compare(s.areas(frame)).set_index("strategy")
        assert table.loc["better", "p_holm"] < 1e-4
        assert table.loc["better", "difference"] == pytest.approx(0.1, abs=0.01)
        assert table.loc["same", "p_holm"] > 0.05
        assert table.loc["few", "n"] == 3
        assert np.isnan(table.loc["few", "p_holm"])
        np.testing.assert_allclose(
            table.loc[["better", "same"], "p_holm"], s.holm(table.loc[["better", "same"], "p"]), rtol=1e-12
        )

    def test_compare_at_budgets_adjusts_over_strategies_and_budgets(self) -> None:
        frame = rounds(
            random=noisy([0.5, 0.6, 0.7, 0.8]),
            late=noisy([0.4, 0.6, 0.8, 0.9], seed=1),
            same=noisy([0.5, 0.6, 0.7, 0.8], seed=2),
        )
        table = s.compare_at_budgets(frame)
        np.testing.assert_allclose(table["p_holm"], s.holm(table["p"]))
        late = table[table["strategy"] == "late"].sort_values("n_labeled")
        assert (late["p_holm"] < 0.01).tolist() == [True, False, True, True]
        assert np.sign(late["difference"].to_numpy()[[0, 2, 3]]).tolist() == [-1, 1, 1]
        first = frame[frame["n_labeled"] == late["n_labeled"].min()]
        alone = s.compare(first.pivot(index="seed", columns="strategy", values="accuracy"))
        assert late["p"].iloc[0] == pytest.approx(alone.set_index("strategy").loc["late", "p"])
        with pytest.raises(DataError, match="no 'x' to compare with"):
            s.compare_at_budgets(frame, "x")


class TestMatrix:
    frame = rounds(
        good=noisy([0.7, 0.8, 0.9, 0.95]), bad=noisy([0.5, 0.6, 0.9, 0.95], seed=1), worst=noisy([0.1, 0.1, 0.1, 0.1], seed=2)
    )

    def test_orientation(self) -> None:
        matrix = s.penalty_matrix(self.frame)
        assert matrix.loc["good", "bad"] == pytest.approx(0.5)  # better at two budgets of four
        assert matrix.loc["bad", "good"] == 0
        assert matrix.loc["good", "worst"] == matrix.loc["bad", "worst"] == pytest.approx(1)
        assert (np.diag(matrix) == 0).all()
        assert matrix.loc["worst"].sum() == 0

    def test_order_of_strategies_does_not_matter(self) -> None:
        parts = dict(list(self.frame.groupby("strategy")))
        reference = s.penalty_matrix(self.frame)
        for names in permutations(parts):
            matrix = s.penalty_matrix(pd.concat([parts[name] for name in names]))
            pd.testing.assert_frame_equal(matrix.loc[reference.index, reference.columns], reference)

    def test_win_tie_loss(self) -> None:
        table = s.win_tie_loss(pd.DataFrame({"random": [0.5, 0.5, 0.5, 0.5], "a": [0.6, 0.5, 0.4, np.nan]}))
        assert table.iloc[0].tolist() == ["a", 1, 1, 1]


class TestPower:
    def test_agrees_with_the_normal_approximation_for_many_seeds(self) -> None:
        assert s.seeds_needed(0.02, 0.002) == pytest.approx(7.849 * 100, rel=0.01)

    @pytest.mark.parametrize(("deviation", "effect"), [(0.02, 0.01), (0.02, -0.015)])
    def test_simulated_power(self, deviation: float, effect: float) -> None:
        n = s.seeds_needed(deviation, effect)
        d = effect + deviation * np.random.default_rng(0).standard_normal((20_000, n))
        assert (stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)

    def test_never_fewer_than_a_test_needs(self) -> None:
        assert s.seeds_needed(0.0, 0.01) == s.seeds_needed(0.001, 0.5) == s.MIN_SEEDS

    def test_no_effect_no_answer(self) -> None:
        with pytest.raises(DataError, match="effect other than 0"):
            s.seeds_needed(0.01, 0)
        with pytest.raises(DataError, match="too small"):
            s.seeds_needed(1.0, 1e-9)

    def test_line_from_a_pilot(self) -> None:
        values = pd.DataFrame({"random": [0.5, 0.52, 0.48], "a": [0.52, 0.53, 0.52]})
        line = s.power_line(values, effects=(0.01,)).iloc[0]
        assert line["seeds for 1 points"] == s.seeds_needed(float(np.std([0.02, 0.01, 0.04], ddof=1)), 0.01)


class TestTable:
    def test_missing_columns_and_double_rows(self) -> None:
        frame = rounds(a=[[0.5] * 4])
        with pytest.raises(DataError, match="no column accuracy"):
            s.curves(frame.drop(columns="accuracy"))
        with pytest.raises(DataError, match="two rows for a, seed 0, 10 labels"):
            s.areas(pd.concat([frame, frame]))
