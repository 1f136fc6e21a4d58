"""How quickly commands start: what they do not need is not imported."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "lightning_fabric", "sklearn", "scipy", "pandas", "matplotlib", "alembic")

LIGHT = (
    "--help",
    "loop --help",
    "fit --nothing",
    "fit --dataset nothing",
    "fit --dataset digits --set model.channels=many",
    "fit --data nowhere",
    "fit --data nowhere.csv",
    "fit --data photos --id-column name",
    "predict nowhere x.png",
    "predict empty x.png",
    "evaluate photos",
    "sample x.png",
    "embed nowhere photos",
    "explain nowhere photos",
    "query job",
    "check nowhere",
    "study report nowhere",
    "study --out new --strategies nothing",
    "study nowhere",
    "recipes",
    "recipes digits",
    "strategies",
    "loop status nowhere",
    "loop next nowhere",
    "loop next job --strategy margn",
    "loop import job nowhere.csv",
    "loop status job",
    "loop status unlabeled-job",
)


@pytest.fixture(scope="module")
def imported(world: Path) -> dict[str, str]:
    """What of :data:`HEAVY` the commands have imported, one after another in one process, by command."""
    code = f"""
import sys
from ssl_diffusion.cli.main import app
for command in {LIGHT!r}:
    try:
        app(command.split())
    except SystemExit as end:
        assert end.code in (0, 2), (command, end.code)
    print("::", command, "::", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=world, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [line.split("::") for line in done.stdout.splitlines() if line.startswith("::")]
    return {command.strip(): names.strip() for _, command, names in lines}


@pytest.mark.parametrize("command", LIGHT)
def test_what_neither_computes_nor_draws_starts_without_torch(imported: dict[str, str], command: str) -> None:
    assert imported[command] == ""
