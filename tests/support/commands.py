"""Commands of `ssld`, run in the process of the test, and the files that they read and write."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import typer.testing
from PIL import Image
from ssl_diffusion.cli.main import app
from typer.testing import CliRunner, Result

from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.pack import pack

# Typer's runner would build all commands again every time, which takes longer than most wrong ones run.
typer.testing._get_command = cache(typer.testing._get_command)

CPU = ["--accelerator", "cpu", "--precision", "fp32"]


def ssld(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def ok(*arguments: object) -> Result:
    result = ssld(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(*arguments: object) -> str:
    """Run a command that must fail with exit code 2, nothing on stdout, and one sentence at the end of stderr; returns it.

    Below the sentence may stand a list: the files that it speaks of, indented.
    """
    result = ssld(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    _, *errors = result.stderr.split("ssld: error: ")
    assert len(errors) == 1, result.stderr
    assert all(line.startswith("  ") for line in errors[0].splitlines()[1:]), result.stderr
    assert "Traceback" not in result.stderr
    return errors[0].strip()


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: contents of files, None for folders."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def write_digits(folder: Path, pool: Pool, positions: Sequence[int]) -> Path:
    """PNG files, one folder a class."""
    for i in positions:
        path = folder / pool.classes[pool.labels[i]] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pool.images[i, 0]).save(path)
    return folder


def pack_digits(folder: Path, pool: Pool, n: int, per_shard: int) -> Path:
    """Shards of the first digits in folder/shards; the files that they were packed from are in folder/images."""
    pack(list_folder(write_digits(folder / "images", pool, range(n))), folder / "shards", (1, 8, 8), per_shard=per_shard)
    return folder / "shards"
