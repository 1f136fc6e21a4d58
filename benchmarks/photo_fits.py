"""Probes of :mod:`photos` in one process: what the denoiser sees in an image is computed once for all budgets and seeds.

The head is fitted by the function that `ssld fit` calls, :func:`ssl_diffusion.training.backbones.fit_fused_head`, on the
denoiser that `ssld fit` keeps in the same cache, and on the same labels.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from photo_data import BACKBONE, PhotoSet
from scipy.special import log_softmax
from sklearn.metrics import precision_recall_fscore_support

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.models.backbones.registry import load_backbone
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.training import backbones
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.recipe import load_recipe

__all__ = ["SharedFits"]


class SharedFits:
    """Fits of fused probes to one data set.

    Args:
        data: Data set.
        recipe: Name of the recipe.
        overrides: Settings that the recipe has otherwise.
    """

    def __init__(self, data: PhotoSet, recipe: str, overrides: Sequence[str]) -> None:
        self._data, self._seen = data, dict[bytes, NDArray[np.float32]]()
        told = {f"data.{name}": value for name, value in data.settings.model_dump(exclude_defaults=True).items()}
        settings = {"training.objective": "probe", "backbone.name": BACKBONE, "compute.threads": 1} | told
        self._recipe = load_recipe(recipe).with_settings(settings).with_overrides(overrides)
        alone = self._recipe.with_settings({"training.objective": "denoise-only", "backbone.name": "none"})
        self._denoiser = fit_model(alone, data.pool, None, options=FitOptions(cache=DenoiserCache(data.cache)))
        facts = self._denoiser.pretraining
        self.pretrain_seconds = facts["seconds"] if facts is not None else 0.0
        self._backbone = load_backbone(BACKBONE)
        backbones.represent = self._represent  # which computes again only what is new
        self._test = data.pool.test[data.pool.has_label[data.pool.test]]

    def scores(self, n_labeled: int, seed: int, pseudo_labels: bool, labeled: LabeledSet | None = None) -> dict[str, Any]:
        """Test scores of one fit, and the seconds of the head; without `labeled` as many labels of each class as possible."""
        pool, settings = self._data.pool, {"training.seed": seed, "backbone.pseudo_labels": pseudo_labels}
        recipe = self._recipe.with_settings(settings)
        labeled = choose_labeled(pool, n_labeled, seed=seed) if labeled is None else labeled
        config, weights = self._denoiser.config, self._denoiser.ema
        began = time.process_time()
        head = backbones.fit_fused_head(config, weights, self._backbone, pool, labeled, recipe, cache_dir=self._data.cache)
        seconds = time.process_time() - began
        z = np.concatenate([self._seen_by_denoiser(self._test), self._data.features(self._test)], 1)
        w = {name: t.numpy() for name, t in head.weights.items() if not name.startswith("unet.")}
        (weight,), (bias,) = (
            [t for name, t in w.items() if name.startswith("head.") and name.endswith(e)] for e in ("weight", "bias")
        )
        return self._scored(((z - w["mean"]) * w["factor"]) @ weight.T + bias, seconds) | {"facts": head.facts}

    def scores_alone(self, n_labeled: int, seed: int) -> dict[str, Any]:
        """Test scores of a probe on the denoiser alone, as `--objective probe --backbone none` fits it."""
        pool = self._data.pool
        positions = pool.positions(choose_labeled(pool, n_labeled, seed=seed).train)
        z, reference = self._seen_by_denoiser(positions), self._seen_by_denoiser(reference_sample(pool.train, seed))
        began = time.process_time()
        probe = fit_probe(z, pool.labels[positions], reference, len(pool.classes), seed=seed)
        return self._scored(probe.logits(self._seen_by_denoiser(self._test)), time.process_time() - began)

    def _scored(self, logits: NDArray[np.float32], seconds: float) -> dict[str, Any]:
        truth = self._data.pool.labels[self._test]
        metrics = classification_metrics(log_softmax(logits, axis=1).astype(np.float32), truth)
        _, recall, f1, _ = precision_recall_fscore_support(truth, logits.argmax(axis=1), zero_division=0.0)
        return {"metrics": metrics, "recall": recall, "f1": f1, "fit_seconds": round(seconds, 2)}

    def _seen_by_denoiser(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._represent(self._denoiser.model(), self._data.pool.images[positions])

    def _represent(self, model: Any, images: NDArray[np.uint8], *, precision: str = "fp32") -> NDArray[np.float32]:
        keys = [hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in images]
        new = [i for i, key in enumerate(keys) if key not in self._seen]
        if new:
            for i, z in zip(new, represent(model, images[new], precision=precision), strict=True):
                self._seen[keys[i]] = z
        return np.stack([self._seen[key] for key in keys])
