"""Every registered strategy keeps the contract; and the contract notices strategies that do not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssl_diffusion.acquisition import STRATEGIES, Candidates, Choice, Strategy, strategies_frame
from ssl_diffusion.acquisition.batch_selection import best
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.testing import StrategyContract, check
from ssl_diffusion.testing.strategies import known_distances, noise_candidates

VARIED = [
    "margin:top",
    "margin:sampled",
    "margin:diverse",
    "entropy:power",
    "counterfactual:top",
    "badge:diverse",
    "probcover:power",
]


class TestEveryStrategy(StrategyContract):
    @pytest.fixture(autouse=True, params=[*STRATEGIES, *VARIED])
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.strategy = request.param
        if request.param in ("dropquery", "dcom", "value"):
            self.prefers_the_boundary = False  # what hangs on one feature, covers or teaches much may be far from it


@pytest.mark.parametrize("name", [*STRATEGIES, *VARIED])
@settings(deadline=None, max_examples=6)
@given(n=st.integers(1, 12), m=st.integers(0, 5), seed=st.integers(0, 100), copies=st.sampled_from([0.0, 0.3, 1.0]))
def test_any_batch_is_what_was_asked_for(name: str, n: int, m: int, seed: int, copies: float) -> None:
    contract = StrategyContract()
    contract.strategy = name
    contract.check_batch(n, m, seed, copies)


def test_every_strategy_is_listed() -> None:
    assert set(strategies_frame()["name"]) == set(STRATEGIES)


def test_known_distances_are_those_to_the_boundary_of_the_model() -> None:
    c, distance = known_distances(20)
    assert c.model is not None
    at_boundary = c.x.copy()
    at_boundary[:, 0] = 0
    logits = at_boundary @ c.model.weight.detach().numpy().T
    np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(c.x - at_boundary, axis=1), distance, atol=1e-6)


# ---- a contract that cannot fail is no contract


def margin(c: Candidates) -> NDArray[np.float64]:
    two = np.sort(c.p.astype(np.float64), axis=1)[:, -2:]
    return 1 - (two[:, 1] - two[:, 0])


def far_first(c: Candidates) -> NDArray[np.float64]:
    return 1 - margin(c)


def far_first_of_the_shortlist(c: Candidates, n: int) -> Choice:
    """What passed the test of the direction that only asked for positive utilities."""
    choice = STRATEGIES["linear"].batch(c, n)  # type: ignore[misc]
    u = choice.utilities
    turned = np.where(u > 0, 1.5 - u, 0.0)
    return replace(best(turned, n, c.rng), utilities=turned)


def the_worst(c: Candidates, n: int) -> Choice:
    u = margin(c)
    return replace(best(-u, n, c.rng), utilities=u)


def by_global_chance(c: Candidates) -> NDArray[np.float64]:
    return margin(c) + 1e-3 * np.random.random(len(c))


def by_a_clock(c: Candidates, n: int) -> Choice:
    return best(margin(c) + 1e-3 * np.random.default_rng().random(len(c)), n, c.rng)


def writes_to_the_candidates(c: Candidates) -> NDArray[np.float64]:
    p = c.p
    p /= p.sum(axis=1, keepdims=True) * 1.01
    return margin(c)


def leaves_the_model_in_another_mode(c: Candidates) -> NDArray[np.float64]:
    if c.model is not None:
        c.model.train(not c.model.training)
    return margin(c)


def indexes_an_array(c: Candidates) -> NDArray[np.float64]:
    return margin(c) + 0 * c.representation.sum(axis=1)  # type: ignore[union-attr]


def the_same_twice(c: Candidates, n: int) -> Choice:
    return Choice(np.zeros(n, dtype=np.int64), margin(c), np.ones(n))


SCORES = [far_first, by_global_chance, writes_to_the_candidates, leaves_the_model_in_another_mode, indexes_an_array]
BATCHES = [far_first_of_the_shortlist, the_worst, by_a_clock, the_same_twice]


def contract_of(strategy: Strategy) -> StrategyContract:
    contract = StrategyContract()
    contract.strategy = strategy
    return contract


def described(name: str, needs: str = "labels", **function: object) -> Strategy:
    return Strategy(name, needs, "little", "never", "this test", **function)  # type: ignore[arg-type]


def test_the_contract_is_kept_by_a_strategy_of_ones_own() -> None:
    assert check(contract_of(described("mine", score=margin))) >= 8


@pytest.mark.parametrize("function", [*SCORES, *BATCHES], ids=lambda function: function.__name__)
def test_the_contract_notices(function: object) -> None:
    kind = "score" if function in SCORES else "batch"
    with pytest.raises((AssertionError, SSLDError, AttributeError)):
        check(contract_of(described("faulty", **{kind: function})))


def test_the_contract_notices_what_a_strategy_needs() -> None:
    with pytest.raises(SSLDError, match="needs a classifier"):
        check(contract_of(described("modest", "images", score=margin)))
    with pytest.raises(AssertionError, match="a description is empty"):
        check(contract_of(replace(described("terse", score=margin), cost=" ")))


def test_a_strategy_that_looks_for_something_else_says_so() -> None:
    contract = contract_of(described("confident", score=far_first))
    with pytest.raises(AssertionError, match="utilities do not fall with the distance"):
        check(contract)
    contract.prefers_the_boundary = False
    check(contract)


def test_copies_are_copies() -> None:
    x = noise_candidates(30, copies=0.3).x
    assert (x[:9] == x[0]).all()
    assert len(np.unique(x, axis=0)) == 22
