"""What every test relies on: one thread, a cache of its own, small pools and recipes."""

import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses
# The installed package is tested, here and in subprocesses: the checkout, which `python -m pytest` puts first, has no
# ssl_diffusion.cli.
if (checkout := str(Path(__file__).resolve().parents[1])) in sys.path:
    sys.path.remove(checkout)
os.environ["PYTHONSAFEPATH"] = "1"

# Torch and figures are imported where they are used: the process that hands out tests to others needs neither.
import numpy as np
from hypothesis import HealthCheck, settings
from support.commands import ok, write_digits
from support.tried import summary
from typer.testing import Result

from ssl_diffusion import machine
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.training.recipe import Recipe, load_recipe

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TINY = (
    "model.channels=8",
    "model.blocks=1",
    "model.decoder_blocks=1",
    "pretraining.steps=4",
    "pretraining.batch_size=16",
    "training.steps=6",
    "training.batch_size=16",
    "training.labeled_batch_size=16",
    "training.keep=trained",  # after so few steps the probe would be better
    "compute.accelerator=cpu",
    "compute.precision=fp32",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests have half an hour: some of them train as long as readers of the documentation do."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many wrong inputs were tried."""
    if lines := summary():
        terminalreporter.section("wrong inputs")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _fp32_where_nothing_is_said() -> Iterator[None]:
    """What `precision = auto` means depends on the processor; in the process of the tests it is fp32 on all of them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(machine, "convolution_times", lambda: {"fp32": 1e-4, "bf16": 1e-3})
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Downloads and denoisers go to a temporary folder, in this process and in its children."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLD_CACHE", str(folder / "ssld"))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _models_of_a_few_steps_draw() -> Iterator[None]:
    """The models of most tests have learned nothing, and what they draw is looked at all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_diffusion.generation.readiness.LARGEST_RATIO", math.inf)
        yield


@pytest.fixture(autouse=True)
def _fresh_logger() -> Iterator[None]:
    """Commands configure the package's logger, also in fixtures of a module; every test starts and ends without that."""
    logger = logging.getLogger("ssl_diffusion")

    def reset() -> None:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True

    reset()
    yield
    reset()


@pytest.fixture(scope="session")
def digits_pool() -> Pool:
    """The digits data set, 1437 training and 360 test images; not to be changed."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """Overrides that make a run on digits take a fraction of a second."""
    return TINY


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Digits with 8 channels and a handful of steps."""
    return load_recipe("digits").with_overrides(TINY)


@pytest.fixture
def small_pool() -> Pool:
    """60 images of noise, 3 channels, 6 x 5, three classes; 12 of them a test split, 6 without label."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    labels[:6] = -1
    return Pool(
        name="small",
        images=rng.integers(0, 256, (60, 3, 6, 5), dtype=np.uint8),
        ids=np.array([f"s{i:02d}" for i in range(60)]),
        labels=labels.astype(np.int64),
        classes=("ant", "bee", "cat"),
        is_test=np.arange(60) >= 48,
        augmentation="none",
    )


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank pictures of a run, for tests about other things: drawing takes longer than a tiny training."""
    from matplotlib.figure import Figure

    for name in ("confusion_figure", "history_figure", "reconstruction_figure"):
        monkeypatch.setattr(f"ssl_diffusion.training.figures.{name}", lambda *_, **__: Figure(figsize=(1, 1)))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe on digits with 40 labels; not to be changed."""
    from ssl_diffusion.training.fit import fit_run

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return fit_run(load_recipe("digits").with_overrides([*TINY, "labels.budget=40"]), folder)


@pytest.fixture(scope="session")
def unlabeled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe on digits without labels; not to be changed."""
    from ssl_diffusion.training.fit import fit_run

    folder = tmp_path_factory.mktemp("runs") / "unlabeled"
    return fit_run(load_recipe("digits").with_overrides([*TINY, "training.objective=denoise-only"]), folder)


# ---- a run through the command line


@pytest.fixture(scope="session")
def tiny(tiny_settings: tuple[str, ...]) -> list[str]:
    """Options of `ssld fit` for a run of a fraction of a second."""
    return [word for setting in tiny_settings for word in ("--set", setting)]


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> tuple[Path, Result]:
    """A run on digits, fitted through the command line, and what was printed."""
    run = tmp_path_factory.mktemp("flow") / "run"
    result = ok("fit", "--dataset", "digits", "--labeled", 20, "--val-fraction", 0.5, "--out", run, *tiny, "--json")
    return run, result


@pytest.fixture(scope="session")
def run(flow: tuple[Path, Result]) -> Path:
    """The finished run; not to be changed."""
    return flow[0]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def unfinished(copy: Path) -> Path:
    """A run that was killed before its first checkpoint."""
    for name in ("metrics.json", "model.safetensors", "history.csv"):
        (copy / name).unlink()
    return copy


@pytest.fixture
def photos(tmp_path: Path, digits_pool: Pool) -> Path:
    """Images of three classes of digits in class folders."""
    chosen = np.concatenate([digits_pool.test[digits_pool.labels[digits_pool.test] == k][:8] for k in range(3)])
    return write_digits(tmp_path / "photos", digits_pool, chosen.tolist())
