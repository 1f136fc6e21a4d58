"""Counterfactuals for the labeling page, searched by their own thread: first those of the sample on the screen.

A search takes seconds, and nothing else waits for it. The latest request comes first, and old ones are dropped.
"""

import logging
import math
import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.annotation.loop.current_model import Classifier
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.generation.original_size import write_changed
from ssl_diffusion.generation.readiness import ENOUGH_IMAGES, doubt_of
from ssl_diffusion.inference.backbone_features import file_source
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.rows import FusedRows, Rows
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import FusedDiffusion, gradient_fault

__all__ = ["Counterfactual", "Explainer"]

_log = logging.getLogger(__name__)

_TARGETS = 2  # counterfactuals per sample
_REQUESTS = 8  # latest ones that are answered
_SHOWN = 384  # pixels of a changed file on the page
_KEPT = 200  # samples whose counterfactuals stay in memory


@dataclass(frozen=True)
class Counterfactual:
    """A sample changed to be classified otherwise: class number, image (uint8, (C, H, W)), RMS distance in [0, 1].

    Where the model's backbone reads the image files, the image is the file with the enlarged change, at most 384 pixels large.
    """

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
        self._run: Run | None = None
        self._found: dict[int, list[Counterfactual]] = {}
        self._failed: dict[int, str] = {}
        self._requests: deque[int] = deque(maxlen=_REQUESTS)
        self._ahead: deque[int] = deque()
        self._wake = threading.Condition()
        self._searching = False
        self._stop = False
        self._doubt = ""
        self._judged: Run | None = None
        self._judgement = ""
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

    def use(self, classifier: Classifier | None, run: Run | None, *, afresh: bool) -> None:
        """Explain this classifier from now on.

        Args:
            classifier: Classifier of the pool; None explains nothing.
            run: Run of the current model; None if there is none. Where its counterfactuals would be noise, or no gradient runs
                from its classes to the images, none are searched, and the page says why.
            afresh: Whether to forget what was found.
        """
        if run is not self._judged:  # its metrics are read once, not at every label
            self._judged, self._judgement = run, _doubt(self.job, run) if run is not None else ""
        doubt = self._judgement
        with self._wake:
            self._classifier, self._run = (None, None) if doubt else (classifier, run)
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
                classifier, run, before = self._classifier, self._run, self._found
                if classifier is None or classifier.model is None or run is None or position in before:
                    if position in self._requests:
                        self._requests.remove(position)
                    continue
            problem = ""
            try:
                found = self._search(replace(run, model=classifier.model), classifier, position)
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

    def _search(self, run: Run, classifier: Classifier, position: int) -> list[Counterfactual]:
        """Counterfactuals towards the two most probable classes after the predicted one.

        Args:
            run: Run of the current model, with the head of the classifier.
            classifier: Classifier of the pool.
            position: Position of the sample.
        """
        image = np.asarray(self.job.images[[position]])
        rows: Rows = image
        file = originals = None
        if isinstance(run.model, FusedDiffusion) and run.model.config.backbone.reads == "files":
            file, backbone = self.job.image_file(position), run.model.backbone
            originals = file_source(backbone, [file], ["0"], run.image_shape, run.aspect).take(["0"])
            rows = FusedRows(image, backbone.embed(["0"], originals))
        # In fp32, as in the search: near the boundary rounding decides which class comes first.
        p = predict_probabilities(run.model, rows)[0]
        others = np.argsort(-p, kind="stable")[1 : 1 + _TARGETS]

        images = np.repeat(image, len(others), axis=0)
        originals = None if originals is None else np.repeat(originals, len(others), axis=0)
        result = explain(run.model, images, others, originals=originals, precision=run.precision)
        if file is None:
            shown, found, distance = list(result.images()), result.success, result.distance_pixel
        else:
            named = replace(run, classes=tuple(map(str, classifier.numbers)))
            shown, found, strength = _changed_file(named, result, file)
            distance = result.distance_pixel * strength
        return [
            Counterfactual(int(classifier.numbers[int(result.target[j])]), shown[j], float(distance[j]))
            for j in np.flatnonzero(found)
        ]


def _changed_file(
    run: Run, result: CounterfactualResult, file: Path
) -> tuple[list[NDArray[np.uint8]], NDArray[np.bool_], NDArray[np.float64]]:
    """A file with the changes of counterfactuals, for the page; which of them are predicted as their target at full size; and
    the factors of the changes.

    Args:
        run: Fitted model.
        result: Counterfactuals of the small image of the file.
        file: Image file.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"{j}.png" for j in range(len(result))]
        _, strength, reached = write_changed(run, result, [file] * len(places), places)
        shown = []
        for place in places:
            with Image.open(place) as picture:
                picture.thumbnail((_SHOWN, _SHOWN))
                pixels = np.array(picture.convert("L" if picture.mode == "L" else "RGB"))
            shown.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    return shown, result.success & reached, strength


def _doubt(job: Job, run: Run) -> str:
    """Why there are no counterfactuals of a model, and what helps; empty if there are."""
    if fault := gradient_fault(run.model, with_originals=True):
        return f"there are no counterfactuals of this model: {fault}"
    pretraining = job.settings.recipe.pretraining
    enough = max(2 * pretraining.steps, math.ceil(ENOUGH_IMAGES / pretraining.batch_size))
    return doubt_of(
        run,
        f"set steps in the section [pretraining] of {job.path / 'job.toml'} to {enough} instead of {pretraining.steps}, and "
        f"fit again: ssld loop fit {job.path}",
    )
