"""Recipes: what a file or the command line may say, and what is answered when it says something else."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_diffusion.data.settings import DataSettings, LabelSettings
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.recipe import Recipe, load_recipe, recipe_names
from ssl_diffusion.training.settings import PhaseSettings, TrainingSettings

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
recipes = st.builds(
    Recipe,
    name=text,
    description=text,
    data=st.builds(DataSettings, path=text, label_columns=st.lists(text, max_size=3).map(tuple), skip_bad=st.booleans()),
    labels=st.builds(LabelSettings, budget=st.integers(-1, 10**6), val_fraction=st.floats(0, 0.9)),
    model=st.builds(ModelSettings, multipliers=st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple)),
    pretraining=st.builds(PhaseSettings, learning_rate=st.floats(1e-9, 10), seed=st.integers(0, 2**32 - 1)),
    training=st.builds(TrainingSettings, steps=st.integers(0, 10**9), objective=st.sampled_from(["joint", "labels-only"])),
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_loads_and_is_described(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_packaged_recipes_are_there() -> None:
    assert {"digits", "fashion-mnist", "images"} <= set(recipe_names())


@settings(max_examples=40, deadline=None)
@given(recipe=recipes)
def test_recipe_survives_toml(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.save(path)
    assert load_recipe(path) == recipe
    assert tomllib.loads(path.read_text(encoding="utf-8")) == recipe.to_dict()
    assert recipe.differences(load_recipe(path)) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"step": 5}}, "unknown setting 'training.step'; did you mean .*training.steps"),
        ({"trainning": {"steps": 5}}, "unknown setting 'trainning.steps'; did you mean .*training.steps"),
        ({"steps": 5}, "unknown setting 'steps'"),
        ({"data": "digits"}, "data is a section, not 'digits'"),
        ({"training": {"steps": "many"}}, "training.steps is a whole number, not 'many'"),
        ({"training": {"steps": 1.5}}, "training.steps is a whole number, not 1.5"),
        ({"training": {"steps": True}}, "training.steps is a whole number, not True"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate is a number, not 'fast'"),
        ({"training": {"steps": [5]}}, "training.steps is a whole number"),
        ({"data": {"skip_bad": 1}}, "data.skip_bad is true or false, not 1"),
        ({"model": {"multipliers": 3}}, "model.multipliers is a list, not 3"),
        ({"model": {"multipliers": [1, "x"]}}, "model.multipliers is a whole number, not 'x'"),
        ({"training": {"objective": "jiont"}}, "training.objective cannot be 'jiont'; did you mean joint"),
        ({"augmentation": {"policy": "digit"}}, "augmentation.policy cannot be 'digit'; did you mean digits"),
        ({"augmentation": {"flip": "yes"}}, "augmentation.flip cannot be 'yes'; known: auto, color, off, on"),
        ({"augmentation": {"flip": 1}}, "augmentation.flip cannot be 1; known: auto, color, off, on"),
        ({"compute": {"precision": "fp16"}}, "compute.precision cannot be 'fp16'; did you mean"),
        ({"model": {"parameterisation": "vp"}}, "model.parameterisation"),
        ({"model": {"pool_maps": "level"}}, "model.pool_maps cannot be 'level'; did you mean levels"),
        ({"model": {"read_sigma": -1}}, "model.read_sigma must be in"),
        ({"training": {"steps": -1}}, r"training.steps must be in \[0, 1000000000\], not -1"),
        ({"training": {"batch_size": 0}}, "training.batch_size must be in"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate must be in"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate must be in"),
        ({"training": {"clip": 10**400}}, "training.clip must be in"),
        ({"training": {"seed": -1}}, "training.seed must be in"),
        ({"pretraining": {"seed": 2**32}}, r"pretraining.seed must be in \[0, 4294967295\], not 4294967296"),
        ({"data": {"path": True}}, "data.path is text, not True"),
        ({"data": {"path": "a\udcff"}}, "data.path: .* cannot be written in UTF-8"),
        ({"training": 5}, "training is a section, not 5"),
        ({"trainning": {}}, "unknown setting 'trainning'"),
        ({"training": {"label_smoothing": 1.0}}, "training.label_smoothing must be in"),
        ({"training": {"warmup": 1.5}}, "training.warmup must be in"),
        ({"pretraining": {"ema": -0.1}}, "pretraining.ema must be in"),
        ({"pretraining": {"clip": 0}}, "pretraining.clip must be in"),
        ({"labels": {"budget": -5}}, "labels.budget must be in"),
        ({"labels": {"val_fraction": 0.95}}, "labels.val_fraction must be in"),
        ({"data": {"size": -8}}, "data.size must be in"),
        ({"compute": {"devices": 0}}, "compute.devices must be in"),
        ({"compute": {"threads": -1}}, "compute.threads must be in"),
        ({"model": {"dropout": 1.5}}, "model.dropout must be in"),
        ({"model": {"head_dropout": -0.1}}, "model.head_dropout must be in"),
        ({"model": {"blocks": 0}}, "model.blocks must be in"),
        ({"model": {"groups": 0}}, "model.groups must be in"),
        ({"model": {"heads": 0}}, "model.heads must be in"),
        ({"model": {"ddpm_steps": 20}}, "model.ddpm_steps must be in"),
        ({"model": {"multipliers": []}}, "model.multipliers"),
        ({"model": {"multipliers": [1, 0]}}, "model.multipliers"),
        ({"model": {"pool_grids": []}}, "model.pool_grids"),
        ({"model": {"pool_grids": [0]}}, "model.pool_grids"),
        ({"model": {"attention": [2]}}, "model.attention names a level that 2 multipliers do not have"),
        ({"model": {"attention": [-1]}}, "model.attention"),
        ({"model": {"decoder_blocks": 4}}, r"model.decoder_blocks must be in \[0, 3\], not 4"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(values, "my.toml")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("training.steps=500", 500),
        ("training.steps = 1e3", 1000),
        ("training.learning_rate=3e-4", 3e-4),
        ("data.skip_bad=true", True),
        ("data.skip_bad=False", False),
        ("model.multipliers=[1, 2, 4]", (1, 2, 4)),
        ("model.multipliers=1,2,4", (1, 2, 4)),
        ("model.attention=", ()),
        ("data.label_columns=red,green", ("red", "green")),
        ("data.separator==", "="),
        ("training.seed=4294967295", 4294967295),
        ("data.path=1.50", "1.50"),
    ],
)
def test_overrides_are_converted_to_the_type_of_the_setting(assignment: str, value: object) -> None:
    recipe = Recipe().with_overrides([assignment])
    section, _, name = assignment.partition("=")[0].strip().partition(".")
    found = getattr(getattr(recipe, section), name)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_the_original_stays() -> None:
    recipe = Recipe()
    assert recipe.with_overrides(["training.steps=5", "training.steps=6"]).training.steps == 6
    assert recipe == Recipe()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.steps", "given as section.name=value, not 'training.steps'"),
        ("training.stepps=3", "did you mean .*training.steps"),
        ("training.steps=x", "--set: training.steps is a whole number"),
        ("training.steps=inf", "training.steps is a whole number"),
        ("data.skip_bad=maybe", "data.skip_bad is true or false, not 'maybe'"),
        ("compute.devices=0", "compute.devices must be in"),
    ],
)
def test_wrong_overrides_are_named(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe().with_overrides([assignment])


def test_differences_name_both_values_and_leave_out_where_it_computes() -> None:
    mine = Recipe()
    changes = ["training.steps=7", "model.multipliers=1,2,4", "compute.precision=fp32", "compute.devices=2"]
    theirs = mine.with_overrides(changes).replace(name="other", description="another")
    assert mine.differences(theirs) == ["model.multipliers: [1, 2] -> [1, 2, 4]", "training.steps: 1000 -> 7"]
    assert mine.differences(mine) == []


def test_unknown_recipes_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe 'digit'; did you mean digits"):
        load_recipe("digit")
    with pytest.raises(RecipeError, match=r"no recipe file .*nowhere\.toml"):
        load_recipe(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[training\nsteps = 3", "is not valid TOML"),
        (b"[training]\nstep = 3", "mine.toml: unknown setting"),
        (b"\xff\xfe", "mine.toml"),
    ],
)
def test_damaged_recipe_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nsteps = 3\n", encoding="utf-8-sig")
    assert load_recipe(path).training.steps == 3
