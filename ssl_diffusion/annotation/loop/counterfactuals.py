"""Counterfactuals for the labeling page, searched by their own thread: first those of the sample on the screen.

A search takes seconds, and nothing else waits for it. The latest request comes first, and old ones are dropped.
"""

import hashlib
import logging
import math
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.current_model import Classifier
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import SURE, explain
from ssl_diffusion.generation.counterfactual.way import boundary_on_the_way
from ssl_diffusion.generation.original_size import read_pixels, write_changed
from ssl_diffusion.generation.pair_panels import on_the_fence
from ssl_diffusion.generation.readiness import ENOUGH_IMAGES, caution_of, doubt_of
from ssl_diffusion.generation.strips import difference
from ssl_diffusion.inference.backbone_features import file_source
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.rows import FusedRows, Rows
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import FusedDiffusion, gradient_fault

__all__ = ["Counterfactual", "Explainer", "Kind"]

_log = logging.getLogger(__name__)

_TARGETS = 2  # counterfactuals per sample
_REQUESTS = 8  # latest ones that are answered
_SHOWN = 384  # pixels of a changed file on the page
_KEPT = 200  # samples whose counterfactuals stay in memory


Kind = Literal["sure", "boundary", "fence", "none"]
"""What was found: a sure counterfactual, the boundary alone, a change that nobody sees, or nothing."""


@dataclass(frozen=True)
class Counterfactual:
    """What would change the prediction of a sample to another class, in pictures that show something, or none.

    Where the model's backbone reads the image files, pictures are the file with the enlarged change, at most 384 pixels large.

    Attributes:
        source: Number of the predicted class.
        label: Number of the other class.
        kind: Kind of the result.
        probability: Probability of the other class after the change; NaN where nothing was found.
        distance: RMS distance of the change on the scale [0, 1]; NaN where nothing was found.
        pictures: Pictures by name, uint8 (C, H, W): "original", "sure" if there is a sure one, "boundary" and "difference"
            (six-fold, in colors); empty where there is nothing to see.
        changed: The changed image as the model sees it, uint8 (C, H, W); None where there is nothing to see.
    """

    source: int
    label: int
    kind: Kind
    probability: float
    distance: float
    pictures: dict[str, NDArray[np.uint8]]
    changed: NDArray[np.uint8] | None = None

    @property
    def digest(self) -> str:
        """Digest of the changed image, 32 hexadecimal digits; empty where there is nothing to see."""
        return "" if self.changed is None else hashlib.sha256(self.changed.tobytes()).hexdigest()[:32]


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
        self._so_far: tuple[int, list[Counterfactual]] = (-1, [])  # of the sample that is being searched
        self._failed: dict[int, str] = {}
        self._requests: deque[int] = deque(maxlen=_REQUESTS)
        self._ahead: deque[int] = deque()
        self._wake = threading.Condition()
        self._searching = False
        self._stop = False
        self._doubt = self._caution = ""
        self._judged: Run | None = None
        self._judgement = "", ""
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
            doubt = "" if run is None else _doubt(self.job, run)
            self._judged, self._judgement = run, (doubt, "" if run is None or doubt else caution_of(run))
        doubt, caution = self._judgement
        with self._wake:
            self._classifier, self._run = (None, None) if doubt else (classifier, run)
            self._doubt, self._caution = doubt, caution
            if afresh:
                self._found, self._failed, self._so_far = {}, {}, (-1, [])

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

    def so_far(self, position: int) -> list[Counterfactual]:
        """Counterfactuals of a sample that have been found while others are still being searched."""
        with self._wake:
            return self._so_far[1] if self._so_far[0] == position else []

    def problem(self, position: int) -> str:
        """Why there are no counterfactuals of a sample, or what is to be kept in mind about them; empty if there is nothing."""
        with self._wake:
            return self._doubt or self._failed.get(position, "") or self._caution

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
            problem, found, postponed = "", list[Counterfactual](), False
            wanted = min(_TARGETS, len(classifier.numbers) - 1)
            try:
                for each in self._search(replace(run, model=classifier.model), classifier, position):
                    found = [*found, each]
                    with self._wake:
                        if self._found is before:
                            self._so_far = position, found
                        # Somebody waits for another sample, and nobody for this one.
                        postponed = len(found) < wanted and bool(self._requests) and position not in self._requests
                    if postponed:
                        break
            except Exception as error:  # the page says so, and labeling goes on
                _log.exception("no counterfactuals of sample %d", position)
                found = []
                reason = str(error) if isinstance(error, SSLDError) else "see the log of the server"
                problem = f"the search for counterfactuals failed: {reason}"
            with self._wake:
                self._so_far = -1, []
                if self._found is not before:  # there is another model: search again if it is still requested
                    continue
                if postponed:
                    self._ahead.appendleft(position)
                    continue
                if position in self._requests:
                    self._requests.remove(position)
                if len(before) >= _KEPT:
                    before.clear()
                    self._failed.clear()
                before[position] = found
                if problem:
                    self._failed[position] = problem

    def _search(self, run: Run, classifier: Classifier, position: int) -> Iterator[Counterfactual]:
        """Counterfactuals towards the two most probable classes after the predicted one, as they are found.

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
        order = np.argsort(-p, kind="stable")
        source = int(classifier.numbers[int(order[0])])
        for target in order[1 : 1 + _TARGETS]:  # one after another: the first is on the screen before the second is there
            sure = explain(run.model, image, target[None], originals=originals, confidence=SURE, precision=run.precision)
            if sure.success[0]:
                edge = boundary_on_the_way(run.model, sure, originals)
            else:
                edge = explain(run.model, image, target[None], originals=originals, precision=run.precision)
            if file is None:
                original = image[0]
                pictures = _small(edge), _small(sure)
            else:
                original = _reduced(file, len(image[0]))
                named = replace(run, classes=tuple(map(str, classifier.numbers)))
                pictures = _in_file(named, edge, 0.0, file), _in_file(named, sure, SURE, file)
            yield _shown(original, source, int(classifier.numbers[target]), *pictures)


@dataclass(frozen=True)
class _Picture:
    """A changed image, whether it is predicted as it was to be, how surely, its distance, and what the model sees of it."""

    image: NDArray[np.uint8]
    reached: bool
    p: float
    distance: float
    small: NDArray[np.uint8] | None = None


def _shown(original: NDArray[np.uint8], source: int, label: int, edge: _Picture, sure: _Picture) -> Counterfactual:
    """What is shown of the boundary and of the sure counterfactual of a class: nothing that failed, or that nobody sees."""
    last = sure if sure.reached else edge
    if not last.reached:
        return Counterfactual(source, label, "none", float("nan"), float("nan"), {})
    if on_the_fence(original, last.image):
        return Counterfactual(source, label, "fence", last.p, last.distance, {})
    pictures = {"original": original}
    if sure.reached:
        pictures["sure"] = sure.image
    if edge.reached:
        pictures["boundary"] = edge.image
    pictures["difference"] = difference(original, last.image)
    changed = last.image if last.small is None else last.small
    return Counterfactual(source, label, "sure" if sure.reached else "boundary", last.p, last.distance, pictures, changed)


def _small(result: CounterfactualResult) -> _Picture:
    """The only counterfactual of a result, at the size of the model."""
    return _Picture(result.images()[0], bool(result.success[0]), float(result.p_target[0]), float(result.distance_pixel[0]))


def _in_file(run: Run, result: CounterfactualResult, confidence: float, file: Path) -> _Picture:
    """A file with the change of the only counterfactual of a result, and whether it is predicted as the target at full size.

    Args:
        run: Fitted model.
        result: Counterfactual of the small image of the file.
        confidence: Least probability of the target.
        file: Image file.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "changed.png"
        p, strength, reached = write_changed(run, result, [file], [place], confidence)
        shown = _reduced(place, result.original.shape[1])
    reaches = bool(result.success[0] and reached[0])
    p_target, distance = float(p[0, result.target[0]]), float(result.distance_pixel[0] * strength[0])
    return _Picture(shown, reaches, p_target, distance, result.images()[0])


def _reduced(file: Path, channels: int) -> NDArray[np.uint8]:
    """The pixels of a file as the page shows them, uint8 (C, H, W)."""
    picture = to_pil(read_pixels(file, channels))
    picture.thumbnail((_SHOWN, _SHOWN))
    pixels = np.array(picture)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _doubt(job: Job, run: Run) -> str:
    """Why there are no counterfactuals of a model, and what helps; empty if there are."""
    if run.multilabel or job.store.multilabel:
        return "there are no counterfactuals where an image may have several classes"
    if fault := gradient_fault(run.model, with_originals=True):
        return f"there are no counterfactuals of this model: {fault}"
    pretraining = job.settings.recipe.pretraining
    enough = max(2 * pretraining.steps, math.ceil(ENOUGH_IMAGES / pretraining.batch_size))
    return doubt_of(
        run,
        f"set steps in the section [pretraining] of {job.path / 'job.toml'} to {enough} instead of {pretraining.steps}, and "
        f"fit again: ssld loop fit {job.path}",
    )
