import copy
import io
import logging
import pickle
import pickletools
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from ssl_diffusion import JointDiffusionClassifier, estimator
from ssl_diffusion.errors import Interrupted
from ssl_diffusion.training.recipe import load_recipe

NETWORK = {
    "model.channels": 8,
    "model.multipliers": [1],
    "model.blocks": 1,
    "model.stem": 1,
    "model.groups": 4,
    "model.head_dropout": 0.0,
}
EXPECTED_FAILED = {
    "check_classifiers_classes": "takes -1 for a class; run below as scikit-learn does for its own semi-supervised"
}


def tiny(**parameters):
    """An estimator that fits in a fraction of a second."""
    defaults = {
        "max_steps": 3,
        "pretrain_steps": 0,
        "batch_size": 4,
        "labeled_batch_size": 8,
        "settings": NETWORK,
        "accelerator": "cpu",
        "precision": "fp32",
        "random_state": 0,
    }
    return JointDiffusionClassifier(**(defaults | parameters))


CHECKED = tiny(image_shape="row", max_steps=8, labeled_batch_size=64, learning_rate=5e-2)


@pytest.fixture(scope="module")
def digits():
    """Images, labels with 40 known, true labels."""
    images, target = load_digits().images, load_digits().target
    labeled = next(StratifiedShuffleSplit(1, train_size=40, random_state=0).split(target, target))[0]
    y = np.full(len(target), -1)
    y[labeled] = target[labeled]
    return images, y, target


@pytest.fixture(scope="module")
def fitted(digits):
    images, y, _ = digits
    clf = JointDiffusionClassifier(
        recipe="digits",
        max_steps=100,
        pretrain_steps=0,
        batch_size=32,
        labeled_batch_size=32,
        learning_rate=5e-3,
        settings={"model.channels": 16, "model.blocks": 1},
        accelerator="cpu",
        precision="fp32",
        random_state=0,
    )
    return clf.fit(images, y)


@pytest.fixture(scope="module")
def colour():
    """Bytes, (24, 3, 6, 5), with the whole range of values, and labels of two classes with some unknown."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 3, 6, 5), dtype=np.uint8)
    images[0, 0, 0, :2] = 0, 255
    y = np.arange(24) % 3 - 1
    images[y == 1] //= 2
    return images, y


def weights(clf):
    return torch.cat([p.flatten() for p in clf.model_.state_dict().values()])


@parametrize_with_checks([CHECKED], expected_failed_checks=lambda _: EXPECTED_FAILED)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_scikit_learn_convention_for_classes_of_semi_supervised_classifiers():
    check_classifiers_classes("SelfTrainingClassifier", CHECKED)


def test_learns_digits_from_40_labels(fitted, digits):
    images, y, target = digits
    assert fitted.score(images[y == -1], target[y == -1]) > 0.8
    assert fitted.classes_.tolist() == list(range(10))
    assert fitted.n_labeled_ == 40
    assert fitted.n_iter_ == 100
    assert fitted.n_features_in_ == 64
    assert fitted.image_shape_ == (1, 8, 8)
    assert fitted.value_range_ == (0.0, 16.0)
    assert not fitted.model_.training
    assert fitted.history_["denoising_loss"].iloc[-1] < fitted.history_["denoising_loss"].iloc[0]


def test_transform_gives_named_representations(fitted, digits):
    features = fitted.transform(digits[0][:3])
    assert features.shape == (3, fitted.model_.n_features)
    assert features.dtype == np.float32
    assert fitted.get_feature_names_out()[:2].tolist() == ["jointdiffusionclassifier0", "jointdiffusionclassifier1"]
    assert len(fitted.get_feature_names_out()) == features.shape[1]


def test_predictions_do_not_depend_on_the_layout(fitted, digits):
    images = digits[0][:50]
    expected = fitted.predict_proba(images)
    for X in (images[:, None], images[..., None], images.reshape(50, -1), images.astype(np.uint8), images.tolist()):
        np.testing.assert_array_equal(fitted.predict_proba(X), expected)


def test_fit_does_not_depend_on_the_layout(colour):
    images, y = colour
    last = np.moveaxis(images, 1, 3)
    first = tiny().fit(images, y)
    for other, X in (
        (tiny(), last),
        (tiny(image_shape=(3, 6, 5)), images.reshape(24, -1)),
        (tiny(image_shape=(6, 5, 3)), last.reshape(24, -1)),
        (tiny(image_shape=(3, 6, 5)), last),
    ):
        assert other.fit(X, y).image_shape_ == (3, 6, 5)
        assert torch.equal(weights(other), weights(first))


def test_fit_does_not_depend_on_the_type_of_values(colour):
    images, y = colour
    expected = tiny().fit(images, y)
    assert expected.value_range_ == (0.0, 255.0)
    for values, value_range in (
        (images.astype(float), "auto"),
        (images.astype(np.float32), (0, 255)),
        (images / 255, "auto"),
        (images / 127.5 - 1, (-1, 1)),
        (images.astype(np.int64), (0, 255)),
    ):
        clf = tiny(value_range=value_range).fit(values, y)
        assert torch.equal(weights(clf), weights(expected))
        np.testing.assert_array_equal(clf.predict_proba(values), expected.predict_proba(images))


def test_values_outside_the_range_of_fit_are_clipped(fitted, digits):
    X = digits[0][:5]
    np.testing.assert_array_equal(fitted.predict_proba(np.where(X == 16, 1e6, X)), fitted.predict_proba(X))


def test_read_only_arrays_are_fitted_without_warning(colour, recwarn):
    images, y = colour[0].copy(), colour[1]
    images.flags.writeable = False
    tiny().fit(images, y).predict(images)
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_labels_that_are_strings(colour):
    images, y = colour
    names = np.array(["no", "yes", -1], dtype=object)[y]
    clf = tiny().fit(images, names)
    assert clf.classes_.tolist() == ["no", "yes"]
    assert set(clf.predict(images)) <= {"no", "yes"}
    assert torch.equal(weights(clf), weights(tiny().fit(images, y)))
    assert tiny().fit(images, pd.Series(names)).classes_.tolist() == ["no", "yes"]


def test_labels_only_ignores_unlabeled_images(colour):
    images, y = colour
    changed = np.where((y == -1)[:, None, None, None], images // 3, images)
    parameters = {"objective": "labels-only", "settings": NETWORK | {"model.parameterisation": "ddpm"}}
    assert torch.equal(weights(tiny(**parameters).fit(images, y)), weights(tiny(**parameters).fit(changed, y)))


def test_same_seed_same_weights(colour):
    pretrained = {"pretrain_steps": 2, "settings": NETWORK | {"training.keep": "trained"}}  # a probe has no seed
    first = weights(tiny(**pretrained).fit(*colour))
    torch.manual_seed(2)  # of no consequence
    assert torch.equal(weights(tiny(**pretrained).fit(*colour)), first)
    assert not torch.equal(weights(tiny(**pretrained, random_state=1).fit(*colour)), first)
    state = np.random.RandomState(3)
    drawn = weights(tiny(random_state=state).fit(*colour))
    assert torch.equal(weights(tiny(random_state=np.random.RandomState(3)).fit(*colour)), drawn)
    assert not torch.equal(weights(tiny(random_state=state).fit(*colour)), drawn)
    tiny(random_state=None).fit(*colour)


def test_fits_in_threads_are_repeatable(colour):
    clf = tiny(max_steps=5, settings=NETWORK | {"model.head_dropout": 0.5})
    expected = weights(clone(clf).fit(*colour))
    with ThreadPoolExecutor(3) as threads:
        for again in threads.map(lambda _: clone(clf).fit(*colour), range(3)):
            assert torch.equal(weights(again), expected)


def test_fit_leaves_global_random_states_alone(colour):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    tiny().fit(*colour).predict(colour[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_clone_and_parameters(colour):
    clf = tiny().fit(*colour)
    fresh = clone(clf)
    assert not hasattr(fresh, "model_")
    assert fresh.get_params() == clf.get_params()
    assert fresh.set_params(max_steps=1).fit(*colour).n_iter_ == 1
    assert clf.get_params()["max_steps"] == 3


def test_pickle_holds_no_code_of_torch(fitted, digits):
    images = digits[0][:20]
    data = pickle.dumps(fitted)
    names = {str(argument) for opcode, argument, _ in pickletools.genops(data) if opcode.name.endswith(("GLOBAL", "UNICODE"))}
    assert "ssl_diffusion.estimator" in names
    assert not [name for name in names if name.startswith("torch") or name.startswith("ssl_diffusion.models.joint")]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    copies = [pickle.loads(data), copy.deepcopy(fitted)]
    assert torch.equal(torch.get_rng_state(), state)
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    for other in (*copies, joblib.load(file)):
        assert not other.model_.training
        np.testing.assert_array_equal(other.predict_proba(images), fitted.predict_proba(images))
    assert isinstance(pickle.loads(pickle.dumps(tiny())), JointDiffusionClassifier)


def test_pipeline_and_cross_validation():
    X, y = load_digits(n_class=2, return_X_y=True)
    clf = tiny(image_shape=(1, 8, 8), max_steps=30, labeled_batch_size=32, learning_rate=1e-2)
    pipeline = make_pipeline(FunctionTransformer(np.sqrt), clf)
    assert cross_val_score(pipeline, X, y, cv=2).mean() > 0.9
    features = make_pipeline(clf, FunctionTransformer()).fit(X, y).transform(X)
    assert features.shape[0] == len(X)


@pytest.mark.slow  # starts processes that import torch
def test_grid_search_in_parallel(colour):
    images, y = colour[0][colour[1] >= 0], colour[1][colour[1] >= 0]
    search = GridSearchCV(tiny(), {"max_steps": [1, 2]}, cv=2, n_jobs=2).fit(images, y)
    assert search.best_estimator_.n_iter_ == search.best_params_["max_steps"]


def test_interrupt_stops_a_search(colour, monkeypatch):
    def interrupted(*_, **__):
        raise Interrupted("stopped at step 1 of 3")

    monkeypatch.setattr(estimator, "fit_model", interrupted)
    clf = tiny()
    with pytest.raises(KeyboardInterrupt, match="stopped at step 1"):
        clf.fit(*colour)
    with pytest.raises(NotFittedError):
        clf.predict(colour[0])


def test_nothing_is_written_without_a_cache(colour, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny(pretrain_steps=1).fit(*colour)
    assert not list(tmp_path.iterdir())


def test_cache_is_shared_by_fits(colour, tmp_path):
    first = tiny(pretrain_steps=2, cache_dir=tmp_path).fit(*colour)
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 1
    changed = files[0].stat().st_mtime_ns
    second = tiny(pretrain_steps=2, cache_dir=str(tmp_path)).fit(*colour)
    assert list(tmp_path.rglob("*.safetensors")) == files
    assert files[0].stat().st_mtime_ns == changed
    assert torch.equal(weights(first), weights(second))
    assert set(second.history_["phase"]) == {"pretraining", "training"}


@pytest.mark.parametrize(
    ("parameters", "kind", "labeled", "flip"),
    [
        ({}, "digits", "weak", "color"),
        ({"image_shape": "row"}, "none", "strong", "color"),
        ({"recipe": "fashion-mnist"}, "fashion", "weak", "auto"),
        ({"recipe": load_recipe("digits")}, "digits", "strong", "auto"),
        ({"augmentation": "photo", "flip": False}, "photo", "strong", "off"),
        ({"settings": {"augmentation.labeled": "none", "augmentation.policy": "fashion"}}, "fashion", "none", "color"),
    ],
)
def test_augmentation(parameters, kind, labeled, flip):
    recipe, of_pool = JointDiffusionClassifier(**parameters)._resolved_recipe()
    a = recipe.augmentation
    assert (a.policy if a.policy != "auto" else of_pool, a.labeled, a.flip) == (kind, labeled, flip)


def test_settings_win_over_parameters():
    settings = {"pretraining.learning_rate": 0.5, "training.seed": 7}
    recipe, _ = JointDiffusionClassifier(learning_rate=0.25, batch_size=2, random_state=3, settings=settings)._resolved_recipe()
    assert (recipe.training.learning_rate, recipe.pretraining.learning_rate) == (0.25, 0.5)
    assert (recipe.training.seed, recipe.pretraining.seed) == (7, 0)
    assert (recipe.training.batch_size, recipe.pretraining.batch_size) == (2, 2)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"recipe": "imagse"}, ValueError, "did you mean images"),
        ({"recipe": 3}, TypeError, "recipe must be"),
        ({"objective": "denoise-only"}, ValueError, "objective must be"),
        ({"objective": "jiont"}, ValueError, "objective: .* did you mean joint"),
        ({"max_steps": -1}, ValueError, "max_steps: .* must be in"),
        ({"max_steps": 1.5}, ValueError, "max_steps: .* whole number"),
        ({"pretrain_steps": "many"}, ValueError, "pretrain_steps: .* whole number"),
        ({"batch_size": 0}, ValueError, "batch_size: .* must be in"),
        ({"labeled_batch_size": 0}, ValueError, "labeled_batch_size: .* must be in"),
        ({"learning_rate": 0}, ValueError, "learning_rate: .* must be in"),
        ({"classification_weight": -1}, ValueError, "classification_weight: .* must be in"),
        ({"image_shape": (3, 6, 6)}, ValueError, "images of shape"),
        ({"value_range": (1, 0)}, ValueError, "value_range"),
        ({"value_range": "minmax"}, ValueError, "value_range"),
        ({"value_range": 255}, TypeError, "value_range"),
        ({"augmentation": "foto"}, ValueError, "augmentation: .* did you mean photo"),
        ({"flip": "on"}, TypeError, "flip must be"),
        ({"settings": {"model.chanels": 8}}, ValueError, "settings: .* did you mean model.channels"),
        ({"settings": {"data.path": "x"}}, ValueError, "X and y of fit"),
        ({"settings": ["model.channels=8"]}, TypeError, "settings must be a dict"),
        ({"accelerator": "tpu"}, ValueError, "accelerator"),
        ({"devices": 0}, ValueError, "devices: .* must be in"),
        ({"precision": "fp8"}, ValueError, "precision"),
        ({"random_state": "seed"}, ValueError, "seed"),
    ],
)
def test_bad_parameters(colour, parameters, error, message):
    clf = tiny(**parameters)
    with pytest.raises(error, match=message):
        clf.fit(*colour)


def test_bad_arrays(colour):
    images, y = colour
    values = images.astype(float)
    values[3, 0, 0, 0] = np.nan
    for X, labels, message in (
        (values, y, "contains NaN"),
        (images, y[:-1], "inconsistent numbers of samples"),
        (images, np.full(24, -1), "no labels, every entry is -1"),
        (images, np.zeros(24), "only one class"),
        (images.reshape(24, -1), y, "give image_shape"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny().fit(X, labels)


def test_bad_arrays_to_predict(fitted, digits):
    images = digits[0][:4]
    nan = np.where(images == 0, np.nan, images)
    for X, message in (
        (images[:, :7], r"images of shape \(7, 8\), but the estimator's have \(c, h, w\) = \(1, 8, 8\)"),
        (images.reshape(4, -1)[:, :60], "60 features, but JointDiffusionClassifier is expecting 64"),
        (nan, "contains NaN"),
        (images[:0], "0 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.predict(X)
    with pytest.raises(NotFittedError):
        tiny().predict(images)


def test_verbose_logs_or_shows(colour, caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, logger="ssl_diffusion")
    tiny().fit(*colour)
    assert not caplog.records
    tiny(verbose=1).fit(*colour)
    assert any("training 100 %" in record.message for record in caplog.records)
    monkeypatch.setattr(logging.getLogger("ssl_diffusion"), "propagate", False)
    logging.getLogger("ssl_diffusion").setLevel(logging.NOTSET)
    tiny(verbose=1).fit(*colour)
    assert "training 100 %" in capsys.readouterr().err
    tiny().fit(*colour)
    assert not capsys.readouterr().err
