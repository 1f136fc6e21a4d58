"""Settings of recipes, studies and jobs: every field is bounded, every value is taken or refused in one sentence."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from support.wrong_values import leaves

from ssl_diffusion.annotation import JobSettings
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.settings import LARGEST_SEED, Settings
from ssl_diffusion.studies import REFITS, StudySettings
from ssl_diffusion.studies.settings import RefitName, load_study
from ssl_diffusion.training.augment import POLICIES
from ssl_diffusion.training.objective import OBJECTIVES
from ssl_diffusion.training.recipe import Recipe, SettingsWithRecipe, load_recipe
from ssl_diffusion.training.settings import ObjectiveName, PolicyName, TrainingSettings

KINDS: list[type[Settings]] = [Recipe, StudySettings, JobSettings]
FREE_TEXT = {
    *(
        "name",
        "description",
        "data.dataset",
        "data.path",
        "data.image_root",
        "data.id_column",
        "study.foreign",
        "data.image_column",
        "data.labels",
        "data.label_column",
    ),
    *("data.label_columns", "data.separator", "data.data_dir", "data.unlabeled"),
    *("backbone.name", "backbone.weights"),  # names of backbones are checked by their registry
    *("study.strategies", "study.baseline", "job.store", "job.strategy"),  # names of strategies are checked by their registry
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
awkward_values = ["1e3", "true", "1, 2", "[1]", "nan", "-0", "9" * 5000, 10**5000, -(10**400), 1e300]
likely_values = json_values | st.sampled_from(awkward_values)


@pytest.mark.parametrize(("key", "entry"), [pair for kind in KINDS for pair in leaves(kind)])
def test_every_setting_is_described_and_has_a_range_or_names_or_is_free_text(key: str, entry: dict[str, Any]) -> None:
    assert entry["description"].endswith(".")
    assert ":`" not in entry["description"]  # it is also read in the schema and in the docs, where no role becomes a link
    item = entry.get("items", entry)
    if item["type"] in ("integer", "number"):
        assert {"minimum", "exclusiveMinimum"} & set(item)
        assert "maximum" in item
    elif item["type"] == "string":
        assert ("enum" in item) != (key in FREE_TEXT)
    else:
        assert item["type"] == "boolean"


@pytest.mark.parametrize("kind", KINDS)
def test_the_walk_sees_every_setting(kind: type[Settings]) -> None:
    own = [name for name in kind.setting_names() if not kind.section or name.startswith(f"{kind.section}.")]
    assert [key for key, _ in leaves(kind)] == own
    assert len(own) > 5


def test_names_written_out_are_those_of_the_registries() -> None:
    assert set(get_args(PolicyName)) == set(POLICIES)
    assert set(get_args(ObjectiveName)) == {*OBJECTIVES, "probe"}
    assert set(get_args(RefitName)) == set(REFITS)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_in_range(kind: type[Settings]) -> None:
    assert kind.from_dict(kind().to_dict()) == kind()


def made_or_refused(kind: type[Settings], values: Any) -> Settings | str:
    """The settings, or the sentence that refuses them; any other exception is an error of the test."""
    try:
        return kind.from_dict(values, "my.toml")
    except RecipeError as error:
        return str(error)


def nested(key: str, value: Any) -> dict[str, Any]:
    section, dot, name = key.partition(".")
    return {section: {name: value}} if dot else {section: value}


@pytest.mark.parametrize("kind", KINDS)
@profile(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_value_is_taken_or_refused_in_one_sentence(kind: type[Settings], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([*kind.setting_names(), "training", "study", "job", "recipe"]) | st.text(max_size=8))
    value = data.draw(likely_values)
    made = made_or_refused(kind, nested(key, value))
    if isinstance(made, str):
        assert made.startswith("my.toml: ") or key == "study.recipe"
        assert "\n" not in made
        assert len(made) < 1500
    else:
        assert kind.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@profile(max_examples=100, deadline=None)
@given(values=json_values)
@example(values=[])
@example(values={"study": 3})
def test_any_document_is_taken_or_refused(values: Any) -> None:
    for kind in KINDS:
        made = made_or_refused(kind, values)
        assert isinstance(made, kind) or (isinstance(made, str) and made.startswith("my.toml: "))


bounded = st.builds(
    StudySettings,
    recipe=st.builds(Recipe, description=st.text(st.characters(exclude_categories=["Cs"]))),
    budgets=st.lists(st.integers(1, 10**9), min_size=2, max_size=5, unique=True).map(lambda b: tuple(sorted(b))),
    warm_steps=st.floats(0, 1, exclude_min=True),
    first_seed=st.integers(0, 2**31),
) | st.builds(JobSettings, batch=st.integers(1, 10**9), store=st.text(st.characters(exclude_categories=["Cs"])))


@profile(max_examples=40, deadline=None)
@given(made=bounded)
def test_studies_and_jobs_survive_toml(tmp_path_factory: pytest.TempPathFactory, made: SettingsWithRecipe) -> None:
    path = tmp_path_factory.mktemp("settings") / "mine.toml"
    path.write_text(made.to_toml(), encoding="utf-8")
    assert (load_study(path) if isinstance(made, StudySettings) else JobSettings.load(path)) == made


def test_a_constructor_and_a_replacement_refuse_as_a_file_does() -> None:
    with pytest.raises(RecipeError, match=r"^steps must be in \[0, 1000000000\], not -1$"):
        TrainingSettings(steps=-1)
    with pytest.raises(RecipeError, match=r"^job\.batch must be in \[1, 1000000000\], not 0$"):
        JobSettings().replace(batch=0)
    with pytest.raises(RecipeError, match=r"^unknown setting 'study\.strategy'; did you mean study\.strategies"):
        StudySettings(strategy="random")  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match=r"^training\.steps must be in"):
        Recipe(training={"steps": -1})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"^training\.steps must be in"):
        JobSettings(recipe={"training": {"steps": -1}})  # type: ignore[arg-type]


def test_settings_do_not_change() -> None:
    recipe = Recipe()
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]
    assert recipe.replace(name="other").name == "other"
    assert recipe == Recipe()
    assert hash(recipe) == hash(Recipe())


def test_numbers_of_numpy_are_numbers() -> None:
    numbers = {"training.steps": np.int64(7), "training.clip": np.float32(0.5), "data.skip_bad": np.True_}
    recipe = Recipe().with_settings(numbers)
    assert (recipe.training.steps, recipe.training.clip, recipe.data.skip_bad) == (7, 0.5, True)
    assert type(recipe.training.steps) is int


def test_settings_that_only_fit_together_are_changed_together() -> None:
    assert Recipe().with_overrides(["model.attention=2", "model.multipliers=1,2,3"]).model.attention == (2,)


@pytest.mark.parametrize("kind", [StudySettings, JobSettings])
def test_seeds_that_folds_cannot_take_are_refused(kind: type[Settings]) -> None:
    key = "first_seed" if kind is StudySettings else "seed"
    with pytest.raises(RecipeError, match=rf"{kind.section}\.{key} must be in \[0, {LARGEST_SEED}\], not {LARGEST_SEED + 1}"):
        kind.from_dict({kind.section: {key: LARGEST_SEED + 1}})
    with pytest.raises(RecipeError, match="first_seed is too large for 2 seeds"):
        StudySettings(first_seed=LARGEST_SEED, seeds=2)
    assert StudySettings(first_seed=LARGEST_SEED, seeds=1).first_seed == LARGEST_SEED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[job]\nbatchsize = 3", "unknown setting 'job.batchsize'; did you mean job.batch"),
        ('[job]\nrecipe = "digits"', "unknown setting 'job.recipe'"),
        ('[job]\nstrategy = "magrin"', "job.strategy: no strategy 'magrin'; did you mean margin"),
        ("[job]\nagreement = 0", r"job.agreement must be in \[1, 1000000000\], not 0"),
        ("job = 3", "job is a section, not 3"),
        ("[training]\nsteps = -1", "training.steps must be in"),
        ("[model]\nattention = [7]", "model.attention names a level"),
        ("[trainning]\nsteps = 1", "unknown setting 'trainning.steps'; did you mean training.steps"),
        ("x = " + "[" * 5000, "is not valid TOML"),
        ("x = " + "9" * 5000, "is not valid TOML"),
    ],
)
def test_wrong_job_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=f"{path}.*{message}"):
        JobSettings.load(path)


def test_a_recipe_is_identified_by_what_results_depend_on() -> None:
    recipe = load_recipe("digits")
    same = recipe.replace(name="other", description="another").with_setting("compute.devices", 2)
    assert same.identity() == recipe.identity()
    assert recipe.with_setting("training.seed", 1).identity() != recipe.identity()
