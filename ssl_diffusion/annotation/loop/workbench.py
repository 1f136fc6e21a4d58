"""What goes on behind the labeling page: samples are handed out, what is said is kept, and models follow in the background.

Labeling never waits: a new order of the queue and the next round are made by one thread, counterfactuals by another, fits by a
process.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from ssl_diffusion.annotation.loop.counterfactuals import Counterfactual, Explainer
from ssl_diffusion.annotation.loop.current_model import Classifier, Model, classifier_of, present_model, training_labels
from ssl_diffusion.annotation.loop.fits import Background
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.rounds import next_round, rerank
from ssl_diffusion.annotation.loop.status import fitted_labels, job_status
from ssl_diffusion.annotation.loop.stopping import progress_of
from ssl_diffusion.annotation.store import queries, queue
from ssl_diffusion.annotation.store.statements import known_of
from ssl_diffusion.annotation.store.store import Action, Actor, Verb
from ssl_diffusion.errors import SSLDError

__all__ = ["Workbench"]

_log = logging.getLogger(__name__)

_RERANK_EVERY, _RERANK_PAUSE = 5, 2.0  # labels; seconds at least
_AHEAD = 4  # samples whose counterfactuals are made before they are asked for
_KEPT = 500


class Workbench:
    """The server's view of a job.

    Args:
        job: the job.
        refit_every: labels after which a fit is started in the background; None is the job's.
    """

    def __init__(self, job: Job, refit_every: int | None = None) -> None:
        self.job = job
        self.refit_every = job.settings.refit_every if refit_every is None else refit_every
        self.fits = Background(job)
        self.explainer = Explainer(job)
        self._problems: dict[str, str] = {}
        self._model: Model | None = None
        self._stamp: int | None = None
        self._fitted = 0  # labels of the last fit
        self._classifier: Classifier | None = None
        self._tasks: deque[tuple[str, Callable[[], object]]] = deque()
        self._names: set[str] = set()
        self._wake = threading.Condition()
        self._stop = False
        self._since_rerank, self._reranked = 0, -_RERANK_PAUSE
        self._said_lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="workbench", daemon=True)

    def start(self) -> None:
        """Begin the work in the background."""
        self._thread.start()
        self.explainer.start()
        self.soon("look", self.look)

    def stop(self) -> None:
        """End it; a fit is interrupted and can be continued."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(timeout=60)
        self.explainer.stop()
        self.fits.stop()

    # -- samples ------------------------------------------------------------------------------------------------------

    def take(self, annotator: str, holder: str) -> queue.LeasedSample | None:
        """The next sample for an annotator; None if there is none, and then a round is on its way if one can be made."""
        items = queue.lease(self.job.store, annotator, holder)
        if not items:
            if not len(queue.pending(self.job.store, 1)):
                self.soon("round", self.round)
            return None
        self._look_ahead()
        return items[0]

    def said(self, id_: str, verb: Verb, by: Actor, label: str | None = None, *, final: bool = False) -> str:
        """Keep what an annotator says; returns how the sample stands. It is on disk when this returns."""
        (stands,) = self.job.store.apply([Action(verb, id_, by, label, final and verb == "label")])
        if verb in ("label", "un-label"):
            with self._said_lock:
                self._since_rerank += 1
                due = self._since_rerank >= _RERANK_EVERY and time.monotonic() - self._reranked >= _RERANK_PAUSE
                self._reranked = time.monotonic() if due else self._reranked
                self._since_rerank = 0 if due else self._since_rerank
            if due:
                self.soon("rerank", self.rerank)
        return stands.status

    def undo(self, annotator: str, holder: str) -> str | None:
        """Take back the last label or skip of an annotator and hand the sample out again; its id, or None if there is none."""
        last = queries.last_voted(self.job.store, annotator)
        if last is None:
            return None
        self.said(last, "un-label", Actor(annotator, "page"))
        queue.take(self.job.store, last, annotator, holder)
        return last

    def guesses(self, id_: str) -> list[tuple[str, float]]:
        """Classes by probability, the first three; none before there is a classifier."""
        if self._classifier is None:
            return []
        position = self.job.store.positions([id_])
        p = self._classifier.probabilities(position)[0]
        names = self.job.store.classes
        return [(names[k], float(p[k])) for k in np.argsort(-p, kind="stable")[:3].tolist()]

    def classes_of(self, ids: list[str]) -> dict[str, str]:
        """The class that the model thinks of, by id; empty before there is a classifier; unknown ids are left out."""
        with self.job.store.reading() as connection:
            known = known_of(connection, ids)
        if self._classifier is None or not known:
            return {}
        best = self._classifier.probabilities(np.array(list(known.values()), dtype=np.int64)).argmax(axis=1)
        names = self.job.store.classes
        return {id_: names[k] for id_, k in zip(known, best.tolist(), strict=True)}

    def counterfactuals(self, id_: str) -> list[Counterfactual] | None:
        """Those of a sample; None while they are being made."""
        (position,) = self.job.store.positions([id_]).tolist()
        if self._stamp is None:  # the model is being opened
            return None
        return self.explainer.of(position)

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """What went wrong in the background and has not gone right since; empty if nothing has."""
        return next(iter(self._problems.copy().values()), "")

    def state(self) -> dict[str, Any]:
        """What the page shows beside the sample: how the job stands, the curve of the audit, the fit, what went wrong."""
        table = progress_of(self.job)
        curve = table.dropna(subset=["audit_accuracy"])[["labels", "audit_accuracy", "audit_low", "audit_high"]]
        more = {"curve": curve.to_numpy().round(4).tolist(), "fit": asdict(self.fits.state()), "problem": self.problem}
        return job_status(self.job, seen=(self._model, self._classifier)).to_dict() | more

    # -- in the background --------------------------------------------------------------------------------------------

    def soon(self, name: str, task: Callable[[], object]) -> None:
        """Do something in the background, unless it is waiting to be done already."""
        with self._wake:
            if name not in self._names and not self._stop:
                self._names.add(name)
                self._tasks.append((name, task))
                self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._tasks and not self._stop:
                    if not self._wake.wait(timeout=2.0):
                        break  # a fit may have ended
                if self._stop:
                    return
                name, task = self._tasks.popleft() if self._tasks else ("look", self.look)
                self._names.discard(name)  # what happens from now on may need it again
            try:
                task()
                self._problems.pop(name, None)
            except SSLDError as error:
                self._problems[name] = str(error)
                _log.info("%s: %s", name, error)
            except Exception:  # the page goes on; what went wrong is in the log
                self._problems[name] = f"{name} failed; see the log of the server"
                _log.exception("%s failed", name)

    def look(self) -> None:
        """Take the present model, if it is another one, and start a fit if one is due."""
        path = self.job.path / "model.json"
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if stamp != self._stamp:
            self._model = present_model(self.job)
            self._classify(fast=True, afresh=True)
            self._stamp = stamp
            self._fitted = max(self._fitted, fitted_labels(self.job, self._model.name))
            self._reorder()
            self._look_ahead()
        if self.refit_every and not self.fits.running:
            known, classes = training_labels(self.job)
            # A fit that failed is tried again after as many labels more.
            if len(known) >= self._fitted + self.refit_every and len(np.unique(classes)) > 1:
                self._fitted = len(known)
                self.fits.start()

    def rerank(self) -> None:
        """Fit the probe to the labels there are now, and put the queue into its order."""
        self.look()
        self._classify(fast=True)
        self._reorder()

    def _classify(self, *, fast: bool = False, afresh: bool = False) -> tuple[Model, Classifier | None]:
        """Fit the probe to the labels there are now; afresh for another model."""
        assert self._model is not None
        self._classifier = classifier_of(self.job, self._model, fast=fast)
        self.explainer.use(self._classifier, afresh=afresh)
        return self._model, self._classifier

    def _look_ahead(self) -> None:
        self.explainer.ahead(queue.pending(self.job.store, _AHEAD).tolist())

    def _reorder(self) -> None:
        if self._classifier is not None:
            rerank(self.job, self._classifier)

    def round(self) -> None:
        """Choose what to label next, unless something waits."""
        self.look()
        if not len(queue.pending(self.job.store, 1)):  # or somebody has just made one
            next_round(self.job, quick=True, seen=self._classify())
            self._look_ahead()
