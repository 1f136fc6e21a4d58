"""A damaged run is used as if it were whole, or refused in one sentence; its derived files are made again."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.commands import refused
from support.damage import DAMAGES, Damage, damages, header_damages, json_damages

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import CheckpointError, SSLDError, StateError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.checkpoint import TrainingState
from ssl_diffusion.training.conditions import Conditions
from ssl_diffusion.training.denoiser_cache import CachedDenoiser, DenoiserCache
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.run_folder import RunFolder, load_metrics, run_inputs

FILES = ("model.safetensors", "recipe.toml", "pool.json", "metrics.json", "labeled.csv")
FILE_DAMAGES = st.tuples(st.sampled_from(FILES), damages()) | st.tuples(
    st.sampled_from(("pool.json", "metrics.json")), json_damages()
)
HEADER_DAMAGES = header_damages()


@dataclass(frozen=True)
class Whole:
    """A run, two images, and what it says of them."""

    path: Path
    images: NDArray[np.uint8]
    expected: NDArray[np.float32]
    pool: Pool

    def copied_to(self, folder: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in FILES:
            shutil.copy(self.path / name, folder / name)
        return folder


@pytest.fixture(scope="module")
def whole(tiny_run: Path, digits_pool: Pool) -> Whole:
    images = digits_pool.images[digits_pool.test[:2]]
    return Whole(tiny_run, images, load_run(tiny_run, "cpu", "fp32").predict_proba(images), digits_pool)


def one_sentence(error: SSLDError, folder: Path) -> None:
    text = str(error)
    assert "\n" not in text
    assert str(folder) in text
    assert "pickle" not in text
    assert len(text) < 1000


def use(whole: Whole, folder: Path, name: str) -> None:
    """Do what reads a file of a run: right, or the house's error."""
    facts = RunFolder(folder)
    if name == "model.safetensors":
        try:
            found = load_run(folder, "cpu", "fp32").predict_proba(whole.images)
        except SSLDError as error:
            one_sentence(error, folder)
        else:
            np.testing.assert_array_equal(found, whole.expected)
        return
    for read in (
        lambda: facts.recipe().to_dict(),
        lambda: facts.labeled(whole.pool),
        lambda: facts.changes(whole.pool),
        lambda: facts.check_pool(whole.pool, "x"),
        lambda: load_metrics(folder).items(),
        lambda: run_inputs(cast(Any, SimpleNamespace(path=folder))),
    ):
        try:
            read()
        except SSLDError as error:
            one_sentence(error, folder)


@pytest.mark.parametrize("name", FILES)
def test_what_may_stand_in_the_place_of_a_file(whole: Whole, tmp_path: Path, name: str) -> None:
    for damage in DAMAGES:
        folder = whole.copied_to(tmp_path / "run")
        damage.apply(folder / name)
        use(whole, folder, name)
        if name == "model.safetensors":
            with pytest.raises(SSLDError):
                load_run(folder, "cpu", "fp32")


@profile(max_examples=50, deadline=None)
@given(change=FILE_DAMAGES)
def test_any_damage_to_a_file(whole: Whole, tmp_path_factory: pytest.TempPathFactory, change: tuple[str, Damage]) -> None:
    folder = whole.copied_to(tmp_path_factory.getbasetemp() / "any-damage")
    change[1].apply(folder / change[0])
    use(whole, folder, change[0])


@profile(max_examples=30, deadline=None)
@given(damage=HEADER_DAMAGES)
def test_any_change_of_the_header(whole: Whole, tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    """Where another model is described and its weights fit, another prediction is right."""
    folder = whole.copied_to(tmp_path_factory.getbasetemp() / "any-header")
    damage.apply(folder / "model.safetensors")
    try:
        p = load_run(folder, "cpu", "fp32").predict_proba(whole.images)
    except SSLDError as error:
        one_sentence(error, folder)
    else:
        assert p.shape == whole.expected.shape
        assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.slow
def test_any_damage_ten_times_as_often(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = test_any_damage_to_a_file.hypothesis.inner_test  # type: ignore[attr-defined]
    header = test_any_change_of_the_header.hypothesis.inner_test  # type: ignore[attr-defined]

    @profile(max_examples=500, deadline=None)
    @given(change=FILE_DAMAGES)
    def many_files(change: tuple[str, Damage]) -> None:
        files(whole, tmp_path_factory, change)

    @profile(max_examples=300, deadline=None)
    @given(damage=HEADER_DAMAGES)
    def many_headers(damage: Damage) -> None:
        header(whole, tmp_path_factory, damage)

    many_files()
    many_headers()


def rewritten(folder: Path, change: Any) -> Path:
    path = folder / "model.safetensors"
    tensors, metadata = load_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, m: m.pop("classes"), "classes: field required"),
        (lambda t, m: m.pop("multilabel"), "multilabel: field required"),
        (lambda t, m: m.update(classes=5), "classes: input should be a valid array"),
        (lambda t, m: m.update(classes=[5] * 10), "classes.0: input should be a valid string"),
        (lambda t, m: m.update(classes=["a"] * 10), "classes: a class is named twice"),
        (lambda t, m: m.update(classes=["a"]), "it names 1 classes for 10 outputs of its head"),
        (lambda t, m: m.update(classes=[]), "it names 0 classes for 10 outputs of its head"),
        (lambda t, m: m.update(classes=[*map(str, range(11))]), "it names 11 classes for 10 outputs of its head"),
        (lambda t, m: m.update(multilabel="yes"), "multilabel: input should be a valid boolean"),
        (lambda t, m: m.update(config=5), "config: input should be an object"),
        (lambda t, m: m["config"]["model"].update(channels=4096), "not torch.float32 of shape"),
        (lambda t, m: t.update({k: v[..., :1].clone() for k, v in t.items() if v.ndim}), "not torch.float32 of shape"),
        (lambda t, m: t.update({k: v.double() for k, v in t.items()}), "torch.float64"),
        (lambda t, m: t.update({k: v.long() for k, v in t.items()}), "torch.int64"),
        (lambda t, m: t.update({"ema.more": torch.zeros(1)}), "'more' are torch.float32 of shape (1,), not missing"),
        (lambda t, m: t.clear(), "are missing, not torch.float32"),
        (lambda t, m: t.update({k: v * torch.nan for k, v in t.items()}), "are not finite"),
        (lambda t, m: t.update({k: v * torch.inf for k, v in t.items()}), "are not finite"),
    ],
)
def test_what_a_model_file_may_not_say(whole: Whole, tmp_path: Path, change: Any, words: str) -> None:
    folder = whole.copied_to(tmp_path / "run")
    path = rewritten(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_run(folder, "cpu", "fp32")
    one_sentence(caught.value, folder)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert f"fit again with --overwrite --out {folder}" in str(caught.value)


def test_a_flipped_bit_of_a_weight_is_no_other_prediction(whole: Whole, tmp_path: Path) -> None:
    folder = whole.copied_to(tmp_path / "run")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="has another checksum than when it was written"):
        load_run(folder, "cpu", "fp32")


@pytest.mark.parametrize("command", ["predict", "sample"])
def test_commands_refuse_weights_that_are_not_finite(whole: Whole, tmp_path: Path, command: str) -> None:
    folder = whole.copied_to(tmp_path / "run")
    rewritten(folder, lambda t, m: t.update({k: v * torch.nan for k, v in t.items()}))
    rest = [folder] if command == "predict" else ["--n", 1]
    assert "are not finite" in refused(command, folder, *rest, "--out", tmp_path / "out", "--accelerator", "cpu")


# ---- derived files

CONFIG = JointConfig(model=ModelSettings(channels=8, blocks=1, decoder_blocks=1), image_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def denoiser() -> CachedDenoiser:
    return CachedDenoiser(build_model(CONFIG, 0).state_dict(), [{"step": 1, "loss": float("nan")}], 4, 64, 0.5)


@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_a_damaged_denoiser_is_made_again(
    denoiser: CachedDenoiser, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage
) -> None:
    cache = DenoiserCache(tmp_path)
    cache.store("abc", denoiser, "family")
    path = cache.folder / "abc.safetensors"
    damage.apply(path)
    with caplog.at_level(logging.WARNING):
        assert cache.load("abc", CONFIG) is None
    assert cache.steps_of("family") == []
    assert ("is made again" in caplog.text) == (damage.name != "removed")
    cache.store("abc", denoiser, "family")
    found = cache.load("abc", CONFIG)
    assert found is not None
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in denoiser.weights.items())
    assert cache.steps_of("family") == [4]


HERE = Conditions(accelerator="cpu", precision="fp32", threads=1)


@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_a_damaged_unfinished_pretraining_begins_again(tmp_path: Path, damage: Damage) -> None:
    cache = DenoiserCache(tmp_path)
    path = cache.partial("abc", HERE)
    save_tensors(path, {"x": torch.zeros(1)}, {"job": "pretraining", "identity": "abc"})
    assert cache.partial("abc", HERE).exists()
    damage.apply(path)
    assert not cache.partial("abc", HERE).is_symlink()
    assert not path.exists()


@pytest.mark.parametrize("config", [CONFIG.replace(image_shape=(3, 8, 8)), CONFIG.replace(model=ModelSettings(channels=16))])
def test_a_denoiser_of_another_model_is_made_again(denoiser: CachedDenoiser, tmp_path: Path, config: JointConfig) -> None:
    cache = DenoiserCache(tmp_path)
    cache.store("abc", denoiser)
    assert cache.load("abc", config) is None
    shutil.copy(cache.folder / "abc.safetensors", cache.folder / "def.safetensors")
    assert cache.load("def", CONFIG) is None


# ---- checkpoints


def state(path: Path | None, seed: int) -> TrainingState:
    model = build_model(CONFIG, seed)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    phase = SimpleNamespace(name="training", identity="i", checkpoint=path)
    return TrainingState(model, [p.detach().clone() for p in model.parameters()], optimizer, None, cast(Phase, phase))


ADVICE = "remove it, and training begins again when the run is resumed"


@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "checkpoint.safetensors"
    state(path, 0).save(TrainingResult(steps=3))
    result, other = TrainingResult(), state(path, 1)
    other.load(result)
    assert result.steps == 3
    damage.apply(path)
    with pytest.raises(CheckpointError, match=ADVICE) as caught:
        other.load(result)
    one_sentence(caught.value, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: m.pop("steps"),
        lambda t, m: m.update(steps="3"),
        lambda t, m: m.update(history=5),
        lambda t, m: t.pop(next(name for name in t if name.startswith("ema."))),
        lambda t, m: t.pop(next(name for name in t if name.startswith("raw."))),
        lambda t, m: t.update({name: v.flatten()[:1].clone() for name, v in t.items() if name.startswith("ema.")}),
        lambda t, m: t.update({"optimizer.x.exp_avg": torch.zeros(1)}),
        lambda t, m: t.update({"optimizer.9999.exp_avg": torch.zeros(1)}),
        lambda t, m: t.update({"optimizer.0.exp_avg": torch.zeros(7, 7)}),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_a_sentence(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "checkpoint.safetensors"
    state(path, 0).save(TrainingResult(steps=3))
    tensors, metadata = load_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=ADVICE) as caught:
        state(path, 1).load(TrainingResult())
    one_sentence(caught.value, path)


def test_a_phase_without_a_checkpoint_says_so() -> None:
    for act in (lambda s: s.save(TrainingResult()), lambda s: s.load(TrainingResult())):
        with pytest.raises(SSLDError, match="keeps no checkpoint"):
            act(state(None, 0))


def test_the_errors_of_files_are_errors_of_state() -> None:
    assert issubclass(CheckpointError, StateError)
