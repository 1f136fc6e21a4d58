"""Every option of `ssld fit` reaches the recipe, or what else it is for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from ssl_diffusion.cli.main import app
from support.commands import refused

from ssl_diffusion.errors import RunError
from ssl_diffusion.training.fit import FitOptions
from ssl_diffusion.training.recipe import Recipe

# Option, words given for it, and the one setting of the recipe that it changes.
SETTINGS: list[tuple[str, list[str], str, Any]] = [
    ("--dataset", ["mnist"], "data.dataset", "mnist"),
    ("--data", ["photos"], "data.path", str(Path("photos").resolve())),
    ("--image-root", ["photos"], "data.image_root", str(Path("photos").resolve())),
    ("--labels", ["labels.csv"], "data.labels", str(Path("labels.csv").resolve())),
    ("--id-column", ["nr"], "data.id_column", "nr"),
    ("--image-column", ["file"], "data.image_column", "file"),
    ("--label-column", ["species"], "data.label_column", "species"),
    ("--label-columns", ["cat,dog"], "data.label_columns", ["cat", "dog"]),
    ("--multilabel", [], "data.multilabel", True),
    ("--separator", [";"], "data.separator", ";"),
    ("--size", ["48"], "data.size", 48),
    ("--test-fraction", ["0.25"], "data.test_fraction", 0.25),
    ("--aspect", ["pad"], "data.aspect", "pad"),
    ("--unlabeled", ["more"], "data.unlabeled", str(Path("more").resolve())),
    ("--skip-bad", [], "data.skip_bad", True),
    ("--stream", ["65536"], "data.stream", 65536),
    ("--data-dir", ["files"], "data.data_dir", "files"),
    ("--labeled", ["30"], "labels.budget", 30),
    ("--choice", ["uniform"], "labels.choice", "uniform"),
    ("--val-fraction", ["0.5"], "labels.val_fraction", 0.5),
    ("--allow-missing-classes", [], "labels.allow_missing_classes", True),
    ("--objective", ["labels-only"], "training.objective", "labels-only"),
    ("--metric", ["macro-f1"], "training.metric", "macro-f1"),
    ("--consistency", ["match"], "training.consistency", "match"),
    ("--steps", ["7"], "training.steps", 7),
    ("--pretrain-steps", ["5"], "pretraining.steps", 5),
    ("--seed", ["3"], "training.seed", 3),
    ("--flip", ["on"], "augmentation.flip", "on"),
    ("--set", ["model.dropout=0.4"], "model.dropout", 0.4),
    ("--backbone", ["efficientnet-lite0"], "backbone.name", "efficientnet-lite0"),
    ("--backbone", ["net.pt2"], "backbone.name", str(Path("net.pt2").resolve())),
    ("--features", ["vectors.npz"], "backbone.name", f"precomputed:{Path('vectors.npz').resolve()}"),
    ("--accelerator", ["cpu"], "compute.accelerator", "cpu"),
    ("--devices", ["2"], "compute.devices", 2),
    ("--precision", ["bf16"], "compute.precision", "bf16"),
    ("--threads", ["3"], "compute.threads", 3),
]
OTHERS = {
    *("--recipe", "--preset", "--time", "--max-memory", "--cache-dir", "--no-cache", "--checkpoint-every"),
    *("--out", "--resume", "--overwrite", "--json", "--quiet", "--debug"),
}


@dataclass
class Call:
    """One call of `fit_run` or `resume_run`."""

    recipe: Recipe
    folder: Path | None
    options: FitOptions
    more: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What would have been fitted: the fit itself is left out."""
    found: list[Call] = []

    def fit_run(recipe: Recipe, folder: Path | None, *, options: FitOptions, **more: Any) -> Path:
        found.append(Call(recipe, folder, options, more))
        raise RunError("not fitted")

    def resume_run(folder: Path, recipe: Recipe, *, options: FitOptions) -> Path:
        found.append(Call(recipe, folder, options))
        raise RunError("not fitted")

    monkeypatch.setattr("ssl_diffusion.training.fit.fit_run", fit_run)
    monkeypatch.setattr("ssl_diffusion.training.fit.resume_run", resume_run)
    monkeypatch.setattr("ssl_diffusion.data.loading.check_there", lambda data: None)  # nor are there any images
    monkeypatch.setattr("ssl_diffusion.machine.bind_threads", lambda threads: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    return found


def call_of(calls: list[Call], *arguments: object) -> Call:
    assert refused("fit", *arguments) == "not fitted"
    return calls.pop()


def flat(recipe: Recipe) -> dict[str, Any]:
    values = recipe.to_dict()
    return {f"{part}.{name}": v for part, table in values.items() if isinstance(table, dict) for name, v in table.items()}


def test_every_option_is_tried_here() -> None:
    group: Any = typer.main.get_command(app)
    options = {next(o for o in p.opts if o.startswith("--")) for p in group.commands["fit"].params} - {"--help"}
    assert options == {option for option, *_ in SETTINGS} | OTHERS


@pytest.mark.parametrize(("option", "words", "key", "value"), SETTINGS, ids=[option for option, *_ in SETTINGS])
def test_an_option_changes_its_setting_and_no_other(
    calls: list[Call], option: str, words: list[str], key: str, value: Any
) -> None:
    before = flat(call_of(calls, "--recipe", "images").recipe)
    after = flat(call_of(calls, "--recipe", "images", option, *words).recipe)
    assert after[key] == value != before.get(key)  # a setting at its former meaning is left out
    assert {name for name in after if after[name] != before.get(name)} == {key}


def test_set_comes_last(calls: list[Call]) -> None:
    assert call_of(calls, "--steps", 7, "--set", "training.steps=9").recipe.training.steps == 9


def test_which_recipe_is_the_base(calls: list[Call]) -> None:
    assert call_of(calls).recipe.name == "fashion-mnist"
    assert call_of(calls, "--dataset", "digits").recipe.name == "digits"
    assert call_of(calls, "--data", "photos").recipe.name == "images"
    assert call_of(calls, "--preset", "quick").recipe.name == "fashion-mnist-quick"
    own = call_of(calls, "--recipe", "digits", "--data", "photos").recipe
    assert (own.name, own.data.dataset, own.data.path) == ("digits", "", str(Path("photos").resolve()))


def test_options_that_are_not_in_the_recipe(calls: list[Call], tmp_path: Path) -> None:
    plain = call_of(calls)
    assert (plain.folder, plain.more) == (None, {"overwrite": False, "seconds": None, "may_probe": True})
    assert (plain.options.checkpoint_every, plain.options.max_memory) == (60.0, 4 * 2**30)
    assert plain.options.cache is not None
    other = call_of(
        calls,
        *("--out", "place", "--overwrite", "--time", "10m", "--max-memory", 0.5, "--checkpoint-every", 7),
        *("--cache-dir", tmp_path, "--no-cache"),
    )
    assert (other.folder, other.more) == (Path("place"), {"overwrite": True, "seconds": 600.0, "may_probe": True})
    assert (other.options.checkpoint_every, other.options.max_memory) == (7.0, 2**29)
    assert (other.options.cache, other.options.cache_dir) == (None, tmp_path)
    assert other.recipe == plain.recipe


def test_a_run_is_resumed_with_its_own_recipe_and_what_is_asked_for(calls: list[Call], tiny_run: Path) -> None:
    resumed = call_of(calls, "--resume", tiny_run)
    assert resumed.folder == tiny_run
    assert (resumed.recipe.data.dataset, resumed.recipe.model.channels) == ("digits", 8)
    changed = call_of(calls, "--resume", tiny_run, "--steps", 9).recipe
    assert resumed.recipe.differences(changed) == [f"training.steps: {resumed.recipe.training.steps} -> 9"]


@pytest.mark.parametrize(
    ("asked", "may_probe"),
    [
        ((), True),
        (("--backbone", "efficientnet-lite0"), True),
        (("--steps", 10), False),
        (("--objective", "joint"), False),
        (("--consistency", "match"), False),
        (("--recipe", "digits"), False),
        (("--set", "training.objective=joint"), False),
    ],
)
def test_whether_the_objective_is_left_open(asked: tuple[object, ...], may_probe: bool, calls: list[Call]) -> None:
    assert call_of(calls, *asked).more["may_probe"] is may_probe
