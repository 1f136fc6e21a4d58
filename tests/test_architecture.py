"""Rooms import only rooms below them: the contract in pyproject.toml, and what it cannot say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssl_diffusion"
ROOMS = {"data", "models", "inference", "training", "generation", "acquisition", "curation", "annotation", "studies"}
TESTING = "testing"  # for tests of others, see docs/explanation/decisions.md: no room, and no room imports it


def test_the_contract_holds() -> None:
    pytest.importorskip("importlinter", reason="the extra dev is not installed")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_room_that_reached_up_would_be_noticed(tmp_path: Path) -> None:
    pytest.importorskip("importlinter", reason="the extra dev is not installed")
    (tmp_path / "house").mkdir()
    for name, text in (("__init__", ""), ("low", "import house.high"), ("high", "")):
        (tmp_path / "house" / f"{name}.py").write_text(text, encoding="utf-8")
    contract = """
[tool.importlinter]
root_package = "house"
[[tool.importlinter.contracts]]
name = "arrows run one way"
type = "layers"
layers = ["house.high", "house.low"]
"""
    (tmp_path / "pyproject.toml").write_text(contract, encoding="utf-8")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "house.low" in done.stdout


def test_nine_rooms_and_eight_ground_files() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {TESTING} == ROOMS
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 8


@pytest.mark.parametrize("folder", ["ssl_diffusion", "cli", "tests", "benchmarks"])
def test_every_file_is_under_400_lines(folder: str) -> None:
    long = {str(p): n for p in (ROOT / folder).rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) >= 400}
    assert not long


@pytest.mark.parametrize("room", sorted(ROOMS | {TESTING}))
def test_a_room_is_entered_without_torch(room: str) -> None:
    code = f"import ssl_diffusion.{room}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_is_loaded_without_torch() -> None:
    code = "import sys; from ssl_diffusion.data import load_dataset; load_dataset('digits'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module_name", ["ssl_diffusion", *sorted(f"ssl_diffusion.{room}" for room in ROOMS | {TESTING})])
def test_every_public_name_exists(module_name: str) -> None:
    import importlib

    module = importlib.import_module(module_name)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_imports_inside_functions_hide_no_circle() -> None:
    """An import inside a function is there to start quickly or for an extra, never because two rooms need one another."""
    for room in ("data", "models", "inference"):
        for path in (PACKAGE / room).rglob("*.py"):
            hidden = re.findall(r"^ +from (ssl_diffusion\.[\w.]+) import", path.read_text(encoding="utf-8"), flags=re.M)
            assert path.name == "__init__.py" or not hidden, f"{path} imports {hidden} inside a function"
