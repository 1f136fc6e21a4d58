"""Counterfactuals for the labeling page, searched by their own thread: first those of the sample on the screen.

A search takes seconds, and nothing else waits for it. The latest request comes first, and old ones are dropped.
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
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.inference.predict import predict_probabilities

__all__ = ["Counterfactual", "Explainer"]

_log = logging.getLogger(__name__)

_TARGETS = 2  # counterfactuals per sample
_REQUESTS = 8  # latest ones that are answered
_KEPT = 500  # samples whose counterfactuals stay in memory


@dataclass(frozen=True)
class Counterfactual:
    """A sample changed to be classified otherwise: class number, image (uint8, (C, H, W)), RMS distance in [0, 1]."""

    label: int
    image: NDArray[np.uint8]
    distance: float


class Explainer:
    """Searches counterfactuals in the background.

    Args:
        job: Job with the samples.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._classifier: Classifier | None = None
        self._found: dict[int, list[Counterfactual]] = {}
        self._failed: dict[int, str] = {}
        self._requests: deque[int] = deque(maxlen=_REQUESTS)
        self._ahead: deque[int] = deque()
        self._wake = threading.Condition()
        self._searching = False
        self._stop = False
        self._doubt = ""
        self._thread = threading.Thread(target=self._work, name="explainer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after the current search."""
        with self._wake:
            self._stop = True
            self._wake.notify_all()
        self._thread.join(timeout=60)

    def use(self, classifier: Classifier | None, *, afresh: bool, doubt: str = "") -> None:
        """Explain this classifier from now on; `afresh` forgets what was found.

        Args:
            classifier: Classifier of the pool; None explains nothing.
            afresh: Whether to forget what was found.
            doubt: Why counterfactuals of this model would be noise; none are searched then, and the page says why.
        """
        with self._wake:
            self._classifier = None if doubt else classifier
            self._doubt = doubt
            if afresh:
                self._found, self._failed = {}, {}

    def ahead(self, positions: Iterable[int]) -> None:
        """Search the counterfactuals of these samples when there are no requests."""
        with self._wake:
            self._ahead = deque(positions)
            self._wake.notify_all()

    def of(self, position: int) -> list[Counterfactual] | None:
        """Counterfactuals of a sample, empty without a model; None while they are being searched."""
        with self._wake:
            if self._classifier is None or self._classifier.model is None:
                return []
            found = self._found.get(position)
            if found is None and position not in self._requests:
                self._requests.append(position)
                self._wake.notify_all()
            return found

    def problem(self, position: int) -> str:
        """Why there are no counterfactuals of a sample, which they are not searched for or which failed; empty otherwise."""
        with self._wake:
            return self._doubt or self._failed.get(position, "")

    def idle(self, timeout: float | None = None) -> bool:
        """Wait until there is nothing to search; returns whether that came before the timeout (seconds)."""
        with self._wake:
            return self._wake.wait_for(lambda: not (self._requests or self._ahead or self._searching), timeout)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._searching = False
                self._wake.notify_all()
                while not self._requests and not self._ahead and not self._stop:
                    self._wake.wait()
                if self._stop:
                    return
                self._searching = True
                position = self._requests[-1] if self._requests else self._ahead.popleft()
                classifier, before = self._classifier, self._found
                if classifier is None or classifier.model is None or position in before:
                    if position in self._requests:
                        self._requests.remove(position)
                    continue
            problem = ""
            try:
                found = self._search(classifier, position)
            except Exception as error:  # the page says so, and labeling goes on
                _log.exception("no counterfactuals of sample %d", position)
                found = []
                reason = str(error) if isinstance(error, SSLDError) else "see the log of the server"
                problem = f"the search for counterfactuals failed: {reason}"
            with self._wake:
                if self._found is not before:  # there is another model: search again if it is still requested
                    continue
                if position in self._requests:
                    self._requests.remove(position)
                if len(before) >= _KEPT:
                    before.clear()
                    self._failed.clear()
                before[position] = found
                if problem:
                    self._failed[position] = problem

    def _search(self, classifier: Classifier, position: int) -> list[Counterfactual]:
        """Counterfactuals towards the two most probable classes after the predicted one."""
        assert classifier.model is not None
        image = np.asarray(self.job.images[[position]])
        # In fp32, as in the search: near the boundary rounding decides which class comes first.
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
