"""Names of strategies: one home each, plug-ins that are found when they are needed, and broken ones that break nothing."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.plugins import install

from ssl_diffusion.acquisition import STRATEGIES, Candidates, choose, get_strategy, register_batch, register_score
from ssl_diffusion.acquisition.batch_selection import best
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.machine import load_plugins
from ssl_diffusion.testing.strategies import noise_candidates

WORDS = {"needs": "labels", "cost": "little", "when": "never", "reference": "this test"}
STRATEGY = """
from ssl_diffusion.acquisition import register_score

@register_score("{name}", needs="labels", cost="little", when="never", reference="a test")
def {function}(c):
    return c.p.max(axis=1)
"""


@pytest.fixture(autouse=True)
def _names_of_a_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers and loads is forgotten after it."""
    names = dict(STRATEGIES)
    load_plugins.cache_clear()
    yield
    STRATEGIES.clear()
    STRATEGIES.update(names)
    load_plugins.cache_clear()


def test_a_registered_function_is_a_strategy_like_any_other() -> None:
    @register_score("mine", **WORDS)
    def mine(c: Candidates) -> np.ndarray:
        return c.p[:, 0]

    @register_batch("my-batch", **WORDS)
    def my_batch(c: Candidates, n: int) -> object:
        return best(c.p[:, 0], n, c.rng)

    picks = [choose(name, noise_candidates(20), 3).picks.tolist() for name in ("mine", "my-batch", "mine:diverse")]
    assert picks[0] == picks[1]
    assert picks[2][0] == picks[0][0]


def test_a_name_that_is_taken_is_refused_but_a_cell_may_run_again() -> None:
    with pytest.raises(SSLDError, match=r"'margin' is taken by ssl_diffusion\.acquisition\.strategies\.uncertainty\.margin"):

        @register_score("margin", **WORDS)
        def other(c: Candidates) -> np.ndarray:
            return c.p[:, 0]

    for sign in (1, -1):

        @register_score("cell", **WORDS)
        def cell(c: Candidates, sign: int = sign) -> np.ndarray:
            return sign * c.p[:, 0]

    assert get_strategy("cell").score(noise_candidates(5))[0] < 0  # type: ignore[misc]


@pytest.mark.parametrize("name", ["auto", "", "margin:mine", "two words", "a,b"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(SSLDError, match="cannot be called"):
        register_score(name, **WORDS)(lambda c: c.p[:, 0])


def test_what_a_strategy_needs_is_one_of_two() -> None:
    with pytest.raises(SSLDError, match="images or labels, not 'gradients'"):
        register_score("mine", **WORDS | {"needs": "gradients"})(lambda c: c.p[:, 0])


def test_plugins_are_loaded_when_a_name_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "bold-strategies",
        "ssld.strategies",
        {"bold": "bold_one", "brave": "bold_two:brave"},
        {"bold_one": STRATEGY.format(name="bold", function="f"), "bold_two": STRATEGY.format(name="brave", function="brave")},
    )
    monkeypatch.syspath_prepend(tmp_path)
    get_strategy("margin")
    assert "bold_one" not in sys.modules
    assert choose("bold", noise_candidates(20), 3).picks.shape == (3,)
    assert get_strategy("brave").reference == "a test"


BROKEN = {
    "lost": ("no_such_module", {}, "ModuleNotFoundError: No module named 'no_such_module'"),
    "faulty": ("faulty_one", {"faulty_one": "1 / 0"}, "ZeroDivisionError: division by zero"),
    "leaving": ("leaving_one", {"leaving_one": "raise SystemExit('bye')"}, "SystemExit: bye"),
    "empty": ("empty_one:nothing", {"empty_one": ""}, "AttributeError: module 'empty_one' has no attribute 'nothing'"),
    "margin": ("taken_one", {"taken_one": STRATEGY.format(name="margin", function="f")}, "the strategy name 'margin' is taken"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    value, modules, reason = BROKEN[name]
    install(tmp_path, "poor-work", "ssld.strategies", {name: value}, modules)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(SSLDError, match="no strategy 'other'; "),
    ):
        get_strategy("other")
    (record,) = caplog.records
    assert record.message.startswith(f"poor-work 1.0 offers '{name}' as {value}, which cannot be loaded ({reason}")
    assert record.exc_info is None
    if name == "margin":
        assert get_strategy("margin").score.__module__ == "ssl_diffusion.acquisition.strategies.uncertainty"
    else:
        with pytest.raises(SSLDError, match=f"no strategy '{name}'; poor-work 1.0 offers"):
            get_strategy(name)


def test_the_command_lists_plugins_and_names_broken_ones(tmp_path: Path) -> None:
    text = STRATEGY.format(name="bold", function="f")
    install(tmp_path, "bold-strategies", "ssld.strategies", {"bold": "bold_three"}, {"bold_three": text})
    install(tmp_path, "poor-work", "ssld.strategies", {"faulty": "faulty_two"}, {"faulty_two": "1 / 0"})
    code = "from ssl_diffusion.cli.main import run; run()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(
        [sys.executable, "-c", code, "strategies", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    listed = json.loads(done.stdout)
    assert "bold" in [row["name"] for row in listed["strategies"]]
    assert list(listed["broken"]) == ["faulty"]
    assert "poor-work 1.0" in listed["broken"]["faulty"]
    assert "Traceback" not in done.stderr
