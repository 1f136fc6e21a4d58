"""The scikit-learn estimator: arrays in; class labels, probabilities and representations out.

    clf = JointDiffusionClassifier(recipe="digits", random_state=0).fit(images, y)      # y == -1: no label
    clf.predict(images)

Inside it is the same as `ssld fit`: the arrays become a :class:`~ssl_diffusion.data.Pool` in memory and
:func:`~ssl_diffusion.training.fit_model` does the rest. No file is written unless `cache_dir` is given.
"""

import copy
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load, save
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ssl_diffusion.data.arrays import encode_labels, find_image_shape, find_value_range, to_images
from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import dataset_info
from ssl_diffusion.errors import Interrupted
from ssl_diffusion.inference.predict import predict_logits, probabilities, represent
from ssl_diffusion.machine import resolve_accelerator
from ssl_diffusion.models.build import build_model, read_config
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate, log_to
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import Recipe, load_recipe

__all__ = ["JointDiffusionClassifier"]

_log = logging.getLogger(__name__)

# Training seeds torch's global generator, so fits in several threads (joblib's "threading") take turns to stay repeatable.
_seeding = threading.Lock()

# The recipe settings behind each parameter; a parameter that is None leaves them as the recipe has them.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "objective": ("training.objective",),
    "backbone": ("backbone.name",),
    "consistency": ("training.consistency",),
    "max_steps": ("training.steps",),
    "pretrain_steps": ("pretraining.steps",),
    "batch_size": ("training.batch_size", "pretraining.batch_size"),
    "labeled_batch_size": ("training.labeled_batch_size",),
    "learning_rate": ("training.learning_rate", "pretraining.learning_rate"),
    "classification_weight": ("training.classification_weight",),
    "accelerator": ("compute.accelerator",),
    "devices": ("compute.devices",),
    "precision": ("compute.precision",),
}


class JointDiffusionClassifier(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Semi-supervised classifier of images on a joint diffusion model.

    Learns to denoise all images and to classify the labeled ones with the same encoder. As in
    :mod:`sklearn.semi_supervised`, `y == -1` marks a sample without label; labels that are strings come in an array of
    dtype object, so that -1 can stand among them.

    **Images** are given as (n, h, w), (n, c, h, w) or (n, h, w, c), where the channel axis is the one with 1 to 4 entries,
    or as flat rows (n, values) together with `image_shape`. Those given to `predict` may stand in another of these layouts
    than those given to `fit`; a flat row is read in the order of `image_shape`, or, without it, of the images of `fit`.

    **Values** are mapped to 8 bits, see `value_range`. NaN and infinity are refused.

    Args:
        recipe: name of a packaged recipe, path of a TOML file, or a :class:`~ssl_diffusion.training.Recipe`. Its sections
            `data` and `labels` are not used.
        objective: "joint" (denoise all images, classify the labeled ones), "probe" (logistic regression on the
            representation of the pretrained denoiser: seconds, once that is in the cache) or "labels-only" (the same
            classifier without the images that have no label, as a baseline).
        backbone: pretrained network whose features join the denoiser's under objective "probe" or "joint", with weights that
            the labels choose: a name that :func:`~ssl_diffusion.models.load_backbone` takes, such as "efficientnet-lite0".
            None: none, unless the recipe names one.
        consistency: "match" adds pseudo-labels of images without label to "joint" (:mod:`ssl_diffusion.training.consistency`);
            "none". None: the recipe's.
        max_steps: optimiser steps after pretraining, 0 or more. None: the recipe's.
        pretrain_steps: steps of the pretraining on all images, without labels; 0 leaves it out. None: the recipe's.
        batch_size: images of the denoising loss in a step, 1 or more, in both phases. None: the recipe's.
        labeled_batch_size: labeled images in a step, 1 or more. None: the recipe's.
        learning_rate: largest learning rate, in [1e-9, 10], in both phases. None: the recipe's.
        classification_weight: weight of the classification loss, 0 or more. None: the recipe's.
        image_shape: shape of one image, (c, h, w), (h, w, c) or (h, w); needed for flat rows, and where both the first and
            the last axis could be the channels (then (c, h, w) is meant). "row" takes a flat row of p values as an image of
            1 x p pixels, for signals. None: from the shape of the arrays.
        value_range: (lo, hi), the values that become 0 and 255; values outside are clipped. "auto": (0, 255) for arrays of
            dtype uint8, which are then used as they are; else the least and the largest value in the X of `fit`, over all
            pixels. What was found in one fit is kept in `value_range_` and holds for every later array of any dtype.
        augmentation: policy for labeled images, a name in :data:`ssl_diffusion.training.augment.POLICIES` ("none", "digits",
            "fashion", "photo"; as strong as the recipe says). "auto": the recipe's, or that of the data set that the recipe
            is made for; else, of images nothing is known about, what can hardly change a label: shifts by up to 8 % of the
            side, without mirroring. Rows (`image_shape="row"`) are left as they are.
        flip: whether a mirrored image belongs to the same class. None: as the recipe and `augmentation` have it.
        settings: any other recipe settings, {"section.name": value}; they win over the parameters above.
        accelerator: "auto", "cpu", "cuda", "gpu" or "mps", for fitting and predicting.
        devices: number of devices to fit on, 1 or more; batch sizes must be multiples of it.
        precision: "auto", "fp32" or "bf16", for fitting. Predictions are made in fp32, so that, but for rounding, the
            prediction for an image does not depend on the images beside it.
        cache_dir: folder of pretrained denoisers, shared by fits with the same images and pretraining. None: no cache.
        random_state: seed of all draws; an int makes fits repeatable and is used as the seed of the recipe.
        verbose: 1 or more logs the state of the fit ten times in each phase: at level INFO of the logger `ssl_diffusion`, and
            on stderr if logging is not set up.

    Attributes:
        classes_: the labels that occur in y, sorted, without -1; (K,).
        n_features_in_: values in one image, c * h * w.
        feature_names_in_: column names of X, if it was a data frame with string names.
        image_shape_: (c, h, w) of an image.
        value_range_: (lo, hi), the values that become 0 and 255.
        model_: the joint model with its averaged weights, on the CPU, in evaluation mode.
        n_iter_: optimiser steps after pretraining.
        history_: losses over the steps, pretraining first; a data frame.
        backbone_: name, identity and weight of the backbone, and the cross-validated NLL by weight; None without one.
        start_: comparison with the probe of the pretrained denoiser, which is kept where it is better: "kept" is "trained",
            "probe", or "backbone" for a probe on the backbone alone; see `start` in
            :mod:`ssl_diffusion.training.starting_point`. None if nothing was pretrained or trained.
        n_labeled_: number of labeled samples.
    """

    def __init__(
        self,
        *,
        recipe: str | Path | Recipe = "images",
        objective: str = "joint",
        backbone: str | None = None,
        consistency: str | None = None,
        max_steps: int | None = None,
        pretrain_steps: int | None = None,
        batch_size: int | None = None,
        labeled_batch_size: int | None = None,
        learning_rate: float | None = None,
        classification_weight: float | None = None,
        image_shape: tuple[int, ...] | str | None = None,
        value_range: tuple[float, float] | str = "auto",
        augmentation: str = "auto",
        flip: bool | None = None,
        settings: Mapping[str, Any] | None = None,
        accelerator: str = "auto",
        devices: int = 1,
        precision: str = "auto",
        cache_dir: str | Path | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.recipe = recipe
        self.objective = objective
        self.backbone = backbone
        self.consistency = consistency
        self.max_steps = max_steps
        self.pretrain_steps = pretrain_steps
        self.batch_size = batch_size
        self.labeled_batch_size = labeled_batch_size
        self.learning_rate = learning_rate
        self.classification_weight = classification_weight
        self.image_shape = image_shape
        self.value_range = value_range
        self.augmentation = augmentation
        self.flip = flip
        self.settings = settings
        self.accelerator = accelerator
        self.devices = devices
        self.precision = precision
        self.cache_dir = cache_dir
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to images and their labels.

        Args:
            X: images, see the class.
            y: labels, (n,); -1 where there is none.

        Raises:
            ValueError: if a parameter is out of range or X or y cannot be used.
            KeyboardInterrupt: on Ctrl-C; the fit is lost, a cached pretraining is continued by the next fit.
        """
        recipe, kind = self._resolved_recipe()
        values, labels = validate_data(self, X, y, dtype="numeric", allow_nd=True)
        row_shape, image_shape = find_image_shape(values, self.image_shape)
        classes, codes = encode_labels(labels)
        value_range = find_value_range(values, self.value_range)
        ids = [f"train/{i:05d}" for i in range(len(codes))]
        pool = Pool(
            name="array",
            images=to_images(values, row_shape, image_shape, value_range),
            ids=np.array(ids),
            labels=codes,
            classes=tuple(map(str, classes)),
            is_test=np.zeros(len(codes), dtype=bool),
            augmentation=kind,
        )
        labeled = np.flatnonzero(codes >= 0)
        options = FitOptions(
            cache=DenoiserCache(Path(self.cache_dir)) if self.cache_dir is not None else None,
            progress=_log_tenths() if self.verbose else None,
        )
        try:
            with _seeding, _log_shown(self.verbose):
                fitted = fit_model(recipe, pool, LabeledSet(tuple(ids[i] for i in labeled)), options=options, keep_better=True)
                model = fitted.model()
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from None  # a grid search must not take this for one failed fit
        self.classes_ = classes
        self.n_labeled_ = len(labeled)
        self.n_features_in_ = math.prod(image_shape)
        self.image_shape_, self._row_shape = image_shape, row_shape
        self.value_range_ = value_range
        self.model_ = model
        self.n_iter_ = fitted.training.steps
        self.history_ = pd.DataFrame(fitted.history)
        self.backbone_ = fitted.backbone_facts
        self.start_ = fitted.start.to_dict() if fitted.start is not None else None
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label of each image, (n,)."""
        chosen = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Class probabilities, float32 (n, K), in the order of `classes_`."""
        images = self.read_images(X)
        return probabilities(predict_logits(self.inference_model(), images), multilabel=False)

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Representations of images, float32 (n, F)."""
        images = self.read_images(X)
        return represent(self.inference_model(), images)

    @property
    def _n_features_out(self) -> int:
        return self.model_.n_features

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = not isinstance(self.image_shape, str)
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if (model := state.get("model_")) is not None:
            state["model_"] = {"config": model.config.to_dict(), "weights": save(model.state_dict())}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if (saved := state.get("model_")) is not None:
            with _seeding:
                model = build_model(read_config(saved["config"]), seed=0)
            model.load_state_dict(load(saved["weights"]))
            state = state | {"model_": model.eval()}
        super().__setstate__(state)

    def _resolved_recipe(self) -> tuple[Recipe, str]:
        """The recipe with the parameters applied, and the augmentation policy where that leaves it open."""
        if not isinstance(self.recipe, str | Path | Recipe):
            raise TypeError(f"recipe must be a name, a path or a Recipe, not {self.recipe!r}")
        recipe = self.recipe if isinstance(self.recipe, Recipe) else load_recipe(self.recipe)
        for parameter, keys in _SETTINGS.items():
            if (value := getattr(self, parameter)) is not None:
                for key in keys:
                    recipe = recipe.with_setting(key, value, parameter)
        if self.flip is not None and not isinstance(self.flip, bool | np.bool_):
            raise TypeError(f"flip must be True, False or None, not {self.flip!r}")
        if self.flip is not None:
            recipe = recipe.with_setting("augmentation.flip", "on" if self.flip else "off", "flip")
        kind = dataset_info(recipe.data.dataset).augmentation if recipe.data.dataset else "digits"
        if self.augmentation != "auto":
            recipe = recipe.with_setting("augmentation.policy", self.augmentation, "augmentation")
        elif isinstance(self.image_shape, str):
            kind = "none"
        elif recipe.augmentation.policy == "auto" and not recipe.data.dataset:
            recipe = recipe.with_setting("augmentation.labeled", "weak")
        seed = _seed(self.random_state)
        recipe = recipe.with_setting("training.seed", seed, "random_state")
        if self.settings is not None and not isinstance(self.settings, Mapping):
            raise TypeError(f"settings must be a dict of section.name: value, not {self.settings!r}")
        changes = {str(key): value for key, value in (self.settings or {}).items()}
        for key in changes:
            if key.partition(".")[0] in ("data", "labels"):
                raise ValueError(f"settings: {key!r} cannot be set here, images and labels are the X and y of fit")
        recipe = recipe.with_settings(changes, "settings")
        if recipe.training.objective == "denoise-only":
            raise ValueError("objective must be 'joint', 'probe' or 'labels-only' for a classifier, not 'denoise-only'")
        if recipe.backbone.name.startswith("precomputed:"):
            raise ValueError("backbone: features are looked up by sample id, and images in X have none: name a network")
        return recipe, kind

    def read_images(self, X: ArrayLike) -> NDArray[np.uint8]:
        """The images as the fitted model sees them: 8 bits, uint8 (n, C, H, W)."""
        check_is_fitted(self, "model_")
        if (X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim) > 2:
            values = check_array(X, dtype="numeric", allow_nd=True, estimator=self)
        else:
            values = validate_data(self, X, dtype="numeric", reset=False)
        return to_images(values, self._row_shape, self.image_shape_, self.value_range_)

    def inference_model(self) -> JointDiffusion:
        """The fitted model on the device of predictions; not to be changed."""
        device = resolve_accelerator(self.accelerator)
        return self.model_ if device == "cpu" else copy.deepcopy(self.model_).to(device)


def _seed(random_state: int | np.random.RandomState | None) -> int:
    generator = check_random_state(random_state)
    return int(random_state) if isinstance(random_state, Integral) else int(generator.randint(2**31))


def _log_tenths() -> ProgressCallback:
    """Log when another tenth of a task is done."""
    reported: dict[str, int] = {}

    def report(update: ProgressUpdate) -> None:
        tenth = 10 * update.done // update.total
        if tenth > reported.get(update.task, 0):
            reported[update.task] = tenth
            _log.info("%s %d %%  %s", update.task, 10 * tenth, update.info)

    return report


@contextmanager
def _log_shown(verbose: int) -> Iterator[None]:
    """Show the library's log on stderr if `verbose`, unless the program has set up logging itself."""
    logger = logging.getLogger("ssl_diffusion")
    if not verbose or logger.hasHandlers():
        yield
        return
    with log_to(logging.StreamHandler()):
        yield
