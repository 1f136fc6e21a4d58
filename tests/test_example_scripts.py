"""The examples of a strategy and of a backbone of one's own do what the pages say of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # seconds of work, but of a process of its own
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def printed(name: str, folder: Path) -> str:
    """What an example prints, run as a script in an empty folder."""
    done = subprocess.run([sys.executable, EXAMPLES / name], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "the example leaves files behind"
    return done.stdout


def percent(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)}: ([\d.]+)%", text, flags=re.MULTILINE)
    assert found, text
    return float(found[1])


def test_the_strategy_asks_for_what_is_rare(tmp_path: Path) -> None:
    text = printed("own_strategy.py", tmp_path)
    assert "the contract is kept: 8 tests" in text
    assert percent(text, "rare-margin") > percent(text, "margin")
    assert percent(text, "rare-margin:diverse") > percent(text, "margin")


def test_the_backbone_knows_more_than_pixels(tmp_path: Path) -> None:
    text = printed("own_backbone.py", tmp_path)
    assert "the contract is kept: 10 tests" in text
    assert percent(text, "patches") > percent(text, "pixels") + 1
    assert "features.npz has the same features: True" in text


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("own_*.py")), ids=lambda path: path.name)
def test_an_example_of_ones_own_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 90
