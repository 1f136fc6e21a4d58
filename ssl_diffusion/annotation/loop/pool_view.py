"""The whole pool as the current model sees it: predictions, neighbors, and places in a plane. Computed once for a model."""

import threading

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.independent import two_sided
from ssl_diffusion.acquisition.pool_map import places_of
from ssl_diffusion.annotation.loop.class_sets import predicted_sets, summarized
from ssl_diffusion.annotation.loop.current_model import Classifier, Model
from ssl_diffusion.annotation.loop.job import Job

__all__ = ["PoolView"]

_BLOCK = 16_384  # samples whose distances are computed at a time


class PoolView:
    """What the current model says about all samples.

    Args:
        job: Job with the samples.
        method: Projection of the map, see :func:`ssl_diffusion.acquisition.pool_map.places_of`.
    """

    def __init__(self, job: Job, method: str = "pca") -> None:
        self.job = job
        self.method = method
        self._model: Model | None = None
        self._classifier: Classifier | None = None
        self._all: tuple[Classifier, NDArray[np.float32]] | None = None
        self._places: tuple[Model, NDArray[np.float32]] | None = None
        self._computing = threading.Lock()

    def use(self, model: Model | None, classifier: Classifier | None) -> None:
        """Look with this model and classifier from now on."""
        self._model, self._classifier = model, classifier

    @property
    def model(self) -> str:
        """Name of the current model; empty while it is being opened."""
        return self._model.name if self._model is not None else ""

    def probabilities(self) -> NDArray[np.float32] | None:
        """Class probabilities of all samples, float32 (N, K); None without a classifier."""
        classifier = self._classifier
        if classifier is None:
            return None
        with self._computing:
            if self._all is None or self._all[0] is not classifier:
                self._all = classifier, classifier.probabilities(np.arange(len(self.job.store.ids)))
            return self._all[1]

    def predictions(self) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Predicted classes and their probabilities, (N,) each; None without a classifier.

        In a multi-label job, what is predicted in one number each (:func:`~.class_sets.summarized`), and the probability of the
        answer about the class that the model is least sure of.
        """
        p = self.probabilities()
        if p is None:
            return None
        if self.job.store.multilabel:
            return summarized(predicted_sets(p)), two_sided(p)[:, 0]
        return p.argmax(axis=1), p.max(axis=1)

    def nearest(self, position: int, among: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        """The samples among these that are most similar to one, nearest first; at most n, none before there is a model."""
        if self._model is None:
            return among[:0]
        frozen = self._model.frozen
        center = np.asarray(frozen.measured(np.array([position])), dtype=np.float32)
        parts = [among[i : i + _BLOCK] for i in range(0, len(among), _BLOCK)]
        distances = [np.square(np.asarray(frozen.measured(part), dtype=np.float32) - center).sum(axis=1) for part in parts]
        together = np.concatenate(distances) if parts else np.zeros(0, dtype=np.float32)
        return among[np.argsort(together, kind="stable")[:n]]

    def places(self) -> NDArray[np.float32] | None:
        """Places of all samples in a plane, float32 (N, 2) in [0, 1]; None before there is a model."""
        model = self._model
        if model is None:
            return None
        with self._computing:
            if self._places is None or self._places[0] is not model:
                everything = np.arange(len(self.job.store.ids))
                found = places_of(np.asarray(model.frozen.measured(everything), dtype=np.float32), self.method)
                low, high = np.quantile(found, [0.001, 0.999], axis=0)  # a few that lie far out would push all others together
                scaled = (found - low) / max(1e-9, float((high - low).max()))
                self._places = model, np.clip(scaled, 0, 1).astype(np.float32)
            return self._places[1]
