"""Counterfactuals for the labeling page: searched by a thread of their own, what somebody looks at first.

A search takes seconds, and nothing else waits for it. Who looks at many samples quickly gets those of the last ones: older
requests are dropped.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.current_model import Classifier
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.inference.predict import predict_probabilities

__all__ = ["Counterfactual", "Explainer"]

_log = logging.getLogger(__name__)

_TARGETS = 2  # counterfactuals a sample
_REQUESTS = 8
_KEPT = 500


@dataclass(frozen=True)
class Counterfactual:
    """How a sample would have to look to be taken for another class: class number, uint8 (C, H, W), RMS distance in [0, 1]."""

    label: int
    image: NDArray[np.uint8]
    distance: float


class Explainer:
    """Searches counterfactuals in the background.

    Args:
        job: whose samples.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._classifier: Classifier | None = None
        self._found: dict[int, list[Counterfactual]] = {}
        self._asked: deque[int] = deque(maxlen=_REQUESTS)
        self._ahead: deque[int] = deque()
        self._wake = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._work, name="explainer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the search that is under way."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(timeout=60)

    def use(self, classifier: Classifier | None, *, afresh: bool) -> None:
        """Explain this classifier from now on; afresh forgets what was found."""
        with self._wake:
            self._classifier = classifier
            if afresh:
                self._found = {}

    def ahead(self, positions: Iterable[int]) -> None:
        """Search those of these samples next, when nobody looks at others."""
        with self._wake:
            self._ahead = deque(positions)
            self._wake.notify()

    def of(self, position: int) -> list[Counterfactual] | None:
        """Those of a sample, empty without a model; None while they are searched."""
        with self._wake:
            if self._classifier is None or self._classifier.model is None:
                return []
            found = self._found.get(position)
            if found is None and position not in self._asked:
                self._asked.append(position)
                self._wake.notify()
            return found

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._asked and not self._ahead and not self._stop:
                    self._wake.wait()
                if self._stop:
                    return
                position = self._asked[-1] if self._asked else self._ahead.popleft()
                classifier, before = self._classifier, self._found
                if classifier is None or classifier.model is None or position in before:
                    if position in self._asked:
                        self._asked.remove(position)
                    continue
            try:
                found = self._search(classifier, position)
            except Exception:  # the page goes on without it
                _log.exception("no counterfactuals of sample %d", position)
                found = []
            with self._wake:
                if self._found is not before:  # there is another model: search again, if it is still asked for
                    continue
                if position in self._asked:
                    self._asked.remove(position)
                if len(before) >= _KEPT:
                    before.clear()
                before[position] = found

    def _search(self, classifier: Classifier, position: int) -> list[Counterfactual]:
        """Counterfactuals of the two classes that come after the predicted one."""
        assert classifier.model is not None
        image = np.asarray(self.job.images[[position]])
        # In fp32, as the search has them: near the boundary rounding decides which class comes first.
        p = predict_probabilities(classifier.model, image)[0]
        others = np.argsort(-p, kind="stable")[1 : 1 + _TARGETS]
        images = np.repeat(image, len(others), axis=0)
        result = explain(classifier.model, images, others, precision=classifier.frozen.precision)
        return [
            Counterfactual(
                int(classifier.numbers[int(result.target[j])]), result.counterfactual[j], float(result.distance_pixel[j])
            )
            for j in range(len(others))
            if result.success[j] and result.counterfactual is not None
        ]
