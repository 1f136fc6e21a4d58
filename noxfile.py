"""What hosted CI runs, for running it here: `nox --list`, `nox -s lint`, `nox -s tests-3.12`."""

import configparser
import re
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]

nox.options.sessions = ["lint", "types", "contract", "docs", "tests-3.12"]
nox.options.reuse_existing_virtualenvs = True


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The default tests against the installed package; arguments after -- go to pytest."""
    session.install(".[test]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(python="3.12")
def slow(session: nox.Session) -> None:
    """The tests that take minutes each: whole notebooks, more kills, made-up input, several ranks and workers."""
    session.install(".[dev]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The default tests, and that enough of the package is run by them (the floor is in pyproject.toml)."""
    session.install(".[test,timm]", "pytest-cov>=5")  # the one job that tests backbones of timm
    session.run("pytest", "-n", "2", "--cov", "--cov-report=term", "--cov-report=xml", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    session.install(".[dev]")
    session.run("mypy")


@nox.session
def contract(session: nox.Session) -> None:
    """A room imports only rooms below it."""
    session.install(".[dev]")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, without a warning; it is in site/ afterwards."""
    session.install(".[docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks of examples/ and keep their results in them."""
    session.install(".[test]")
    session.run("python", "tests/support/notebooks.py")


@nox.session
def oldest_web(session: nox.Session) -> None:
    """Access to the pages, with the oldest web framework that setup.cfg allows."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    bounds = re.findall(r"^(fastapi|starlette|uvicorn)>=(.+)$", setup["options.extras_require"]["annotate"], re.MULTILINE)
    session.install(".[test]")
    session.install("--no-deps", *(f"{name}=={version}" for name, version in bounds))
    session.run("pytest", "-q", "tests/annotation/test_access.py")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build, check and install the wheel, and try it in an empty folder."""
    session.install("build", "twine>=6")
    made = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--outdir", str(made), str(ROOT))
    session.run("twine", "check", "--strict", *map(str, made.iterdir()))
    session.install("--force-reinstall", str(next(made.glob("*.whl"))))
    empty = made.parent / "empty"
    empty.mkdir(exist_ok=True)
    with session.chdir(empty):
        session.run("ssld", "--version")
        session.run("ssld", "fit", "--dataset", "digits", "--labeled", "40", "--time", "30s", "--overwrite", "--out", "run")
        session.run("ssld", "evaluate", "run")
        session.run("ssld", "query", "run", "--n", "5", "--overwrite")
