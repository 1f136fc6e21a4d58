"""Work behind the labeling page: samples are handed out, votes recorded, and models follow in the background.

Labeling never waits: one thread reorders the queue and chooses rounds, another searches counterfactuals, and fits have their
own process.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np

from ssl_diffusion.annotation.loop import class_examples
from ssl_diffusion.annotation.loop.class_sets import predicted_names, predicted_sets
from ssl_diffusion.annotation.loop.counterfactuals import Counterfactual, Explainer
from ssl_diffusion.annotation.loop.current_model import Classifier, Model, present_model
from ssl_diffusion.annotation.loop.explanations import MEASURES, Explanation, Named
from ssl_diffusion.annotation.loop.fits import Background
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.job_classes import assign_keys
from ssl_diffusion.annotation.loop.model_file import teaches, training_labels
from ssl_diffusion.annotation.loop.pool_view import PoolView
from ssl_diffusion.annotation.loop.rounds import choose_round, rerank
from ssl_diffusion.annotation.loop.sheets import Sheet, Wanted, choose_sheet
from ssl_diffusion.annotation.loop.snapshot import Snapshot, take_snapshot
from ssl_diffusion.annotation.loop.status import JobStatus, fitted_labels, job_status
from ssl_diffusion.annotation.loop.stopping import progress_of
from ssl_diffusion.annotation.loop.suspicious import find_suspicious
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.labels import NamedLabel, named
from ssl_diffusion.annotation.store.review import n_open
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.annotation.store.statements import known_of
from ssl_diffusion.annotation.store.store import Action, Actor, GivenLabel, Verb
from ssl_diffusion.errors import DataError, Interrupted, SSLDError
from ssl_diffusion.progress import ProgressUpdate

__all__ = ["PageState", "Workbench"]

_log = logging.getLogger(__name__)

_RERANK_EVERY, _RERANK_PAUSE = 5, 2.0  # labels; seconds at least
_WATCH_EVERY = 2.0  # seconds between looks for a new model
_AHEAD = 4  # samples whose counterfactuals are searched before they are requested
_LOADED_AHEAD = 2  # samples whose images the page loads before they are handed out
_TOP = 3  # predicted classes that are shown
_QUEUED = 200  # samples of the queue of which one begins a sheet


@dataclass(frozen=True)
class PageState:
    """What the page shows beside a sample.

    Attributes:
        status: Status of the job.
        classes: Names of the classes in use.
        keys: Key of the keyboard of each class, see :func:`~ssl_diffusion.annotation.loop.job_classes.assign_keys`.
        numbers: Number of each class, which its color goes by.
        examples: Word that changes when the examples of the classes may have become others.
        suspicious: Number of samples that a check doubts.
        curve: Labels, accuracy on the audit set, and the ends of its interval, one row per round.
        problem: Last failure in the background that no success has followed; empty if there is none.
    """

    status: JobStatus
    classes: tuple[str, ...]
    keys: list[str]
    numbers: list[int]
    examples: str
    suspicious: int
    curve: list[tuple[float, float, float, float]]
    problem: str


class Workbench:
    """The server's view of a job.

    Args:
        job: Job to label.
        refit_every: New labels after which a fit starts in the background, 0 for never; None takes the job's setting.
        map_method: Projection of the map, "pca" or "umap".

    Attributes:
        started: Whether the work in the background was started.
    """

    def __init__(self, job: Job, refit_every: int | None = None, *, map_method: str = "pca") -> None:
        self.job = job
        self.refit_every = job.settings.refit_every if refit_every is None else refit_every
        self.fits = Background(job)
        self.explainer = Explainer(job)
        self.pool = PoolView(job, map_method)
        self._model: Model | None = None
        self._classifier: Classifier | None = None
        self._stamp: int | None = None  # of model.json, when the model was opened
        self._fitted = 0  # labels of the last fit
        self._since_rerank, self._reranked = 0, -_RERANK_PAUSE
        self._counting = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="workbench")
        self._pending: set[str] = set()  # names of tasks that have not begun
        self._futures: set[Future[None]] = set()
        self._submitting = threading.Lock()
        self._problems: dict[str, str] = {}
        self._settling: dict[str, str] = {}  # disputed sample that a holder was given under review
        self.started = False
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="model watcher", daemon=True)

    def start(self) -> None:
        """Start the work in the background, unless it has been started."""
        with self._submitting:
            if self.started or self._stopped.is_set():
                return
            self.started = True
        self._watcher.start()
        self.explainer.start()
        self.submit("model", self.refresh_model)

    def stop(self) -> None:
        """Stop it; a fit is interrupted and can be resumed."""
        with self._submitting:
            self._stopped.set()
        self._executor.shutdown(cancel_futures=True)
        if self.started:
            self._watcher.join()
            self.explainer.stop()
        self.fits.stop()

    # -- samples ------------------------------------------------------------------------------------------------------

    def take(self, annotator: str, holder: str) -> leases.LeasedSample | None:
        """Lease the next sample to an annotator; without one, None, and a round is chosen if the queue is empty."""
        items = leases.lease(self.job.store, annotator, holder)
        if not items:
            if not len(leases.pending(self.job.store, 1)):
                self.submit("round", self.next_round)
            return None
        self._look_ahead()
        return items[0]

    def record(self, id_: str, verb: Verb, by: Actor, label: GivenLabel = None, *, final: bool = False) -> str:
        """Apply a verb to a sample; returns the sample's status, which is on disk then."""
        return self.apply(Action(verb, id_, by, label, final and verb == "label"))

    def apply(self, action: Action) -> str:
        """See :meth:`record`."""
        (found,) = self.job.store.apply([action])
        if action.verb in ("label", "un-label", "drop"):
            self._count(1)
        return found.status

    def _count(self, n: int) -> None:
        """Count labels: after some of them the queue is reordered."""
        if n:
            with self._counting:
                self._since_rerank += n
                due = self._since_rerank >= _RERANK_EVERY and time.monotonic() - self._reranked >= _RERANK_PAUSE
                self._reranked = time.monotonic() if due else self._reranked
                self._since_rerank = 0 if due else self._since_rerank
            if due:
                self.submit("rerank", self.rerank)

    def ahead(self, annotator: str, holder: str) -> list[leases.LeasedSample]:
        """Samples that a holder is likely to get next, so that their images can be loaded."""
        return leases.ahead(self.job.store, annotator, holder, _LOADED_AHEAD)

    def review(self, id_: str, annotator: str, holder: str) -> leases.LeasedSample:
        """Lease one sample, whoever else has it; if it is disputed, the holder's label will settle it, see :meth:`label`."""
        item = leases.take(self.job.store, id_, annotator, holder)
        self._settling.pop(holder, None)
        if item.status == "disputed":
            self._settling[holder] = id_
        return item

    def label(self, id_: str, verb: Verb, by: Actor, label: GivenLabel, holder: str, *, settles: bool = True) -> str:
        """Apply a verb of a tab, see :meth:`record`.

        A label of a disputed sample that the tab has under review is final, if its person may settle disputes (`settles`).
        """
        final = settles and verb == "label" and self._settling.get(holder) == id_
        status = self.record(id_, verb, by, label, final=final)
        if final:
            self._settling.pop(holder, None)
        return status

    def undo(self, annotator: str, holder: str, token: str) -> list[leases.LeasedSample]:
        """Take an action back: the votes before it stand again, and what it settled is to be looked at again.

        Its samples are leased; none if it does not stand any more.
        """
        votes, by = queries.action_of(self.job.store, annotator, token), Actor(annotator, "page")
        if not votes:
            return []
        names = self.job.store.classes
        self.job.store.apply([action for vote in votes for action in _restored(vote, by, names)])
        self._count(len(votes))
        if len(votes) == 1:
            return [leases.take(self.job.store, votes[0].id, annotator, holder)]
        return leases.lease_these(self.job.store, self.job.store.positions([vote.id for vote in votes]), annotator, holder)

    def sheet(self, wanted: Wanted, annotator: str, holder: str) -> Sheet:
        """Samples that can be labeled with one key, leased; see :func:`~ssl_diffusion.annotation.loop.sheets.choose_sheet`.

        Raises:
            DataError: In a multi-label job, or see there.
        """
        self._check_sheets()
        return choose_sheet(self.job, self.pool, wanted, annotator, holder, lambda: leases.pending(self.job.store, _QUEUED))

    def label_sheet(self, ids: list[str], label: str, by: Actor) -> int:
        """Give several samples the same label, as one action; returns how many are labeled now. Errors as :meth:`sheet`."""
        self._check_sheets()
        each = [replace(by, token=f"{by.token}.{k}", seconds=by.seconds) for k in range(len(ids))]
        found = self.job.store.apply([Action("label", id_, one, label) for id_, one in zip(ids, each, strict=True)])
        self._count(len(ids))
        return sum(status.status == "labeled" for status in found)

    def _check_sheets(self) -> None:
        if self.job.store.multilabel:
            raise DataError(
                "a sheet gives all images one class, and the images of this job may have several: label one at a time"
            )

    def explanation(self, id_: str) -> Explanation:
        """Predicted classes and counterfactuals of a sample; nothing of one whose label measures the model."""
        (position,) = self.job.store.positions([id_]).tolist()
        if self._measures(position):
            return MEASURES
        names, (found, ready) = self.job.store.classes, self._counterfactuals(position)
        counterfactuals = [Named(names[c.source], names[c.label], c) for c in found]
        return Explanation(self._top_predictions(position, names), counterfactuals, ready, self.explainer.problem(position))

    def counterfactuals(self, id_: str) -> list[Counterfactual]:
        """Counterfactuals of a sample, as far as they have been found; none of one whose label measures the model."""
        (position,) = self.job.store.positions([id_]).tolist()
        return [] if self._measures(position) else self._counterfactuals(position)[0]

    def predicted_classes(self, ids: list[str]) -> dict[str, NamedLabel]:
        """Predicted class or, in a multi-label job, classes by id; empty without a classifier.

        Unknown ids and samples that measure the model are left out.
        """
        with self.job.store.reading() as connection:
            known = {id_: row for id_, row in known_of(connection, ids).items() if not self._measures(row)}
        if self._classifier is None or not known:
            return {}
        p, names = self._classifier.probabilities(np.array(list(known.values()), dtype=np.int64)), self.job.store.classes
        if self._classifier.multilabel:
            return dict(zip(known, predicted_names(p, names), strict=True))
        return {id_: names[k] for id_, k in zip(known, p.argmax(axis=1).tolist(), strict=True)}

    def _measures(self, position: int) -> bool:
        """Whether the label of a sample measures the models, so that it has to be given without knowing what they say."""
        return bool(self.job.store.role_of(position) != "pool")

    def _top_predictions(self, position: int, names: tuple[str, ...]) -> list[tuple[str, float]]:
        if self._classifier is None:
            return []
        p = self._classifier.probabilities(np.array([position]))[0]
        n = max(_TOP, int(predicted_sets(p).sum())) if self._classifier.multilabel else _TOP
        return [(names[k], float(p[k])) for k in np.argsort(-p, kind="stable")[:n].tolist()]

    def _counterfactuals(self, position: int) -> tuple[list[Counterfactual], bool]:
        """What has been found, and whether that is all."""
        found = self.explainer.of(position) if self._stamp is not None else None  # None: the model is being opened
        return (self.explainer.so_far(position), False) if found is None else (found, True)

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """What went wrong in the background and has not succeeded since; empty if nothing did."""
        return next(iter(self._problems.copy().values()), "")

    def state(self) -> PageState:
        """What the page shows beside a sample."""
        snapshot = Snapshot(self.job, read_state(self.job.store), self.fits.state(), self._model, self._classifier)
        table = progress_of(self.job).dropna(subset=["audit_accuracy"])
        columns = (table[name].round(4).tolist() for name in ("labels", "audit_accuracy", "audit_low", "audit_high"))
        curve = list(zip(*columns, strict=True))
        names = snapshot.state.names
        keys = assign_keys(names, snapshot.state.keys)
        status = job_status(snapshot)
        seen = class_examples.stamp(snapshot.state, status.labels, self.pool.model)
        return PageState(status, names, keys, list(snapshot.state.in_use), seen, n_open(self.job.store), curve, self.problem)

    # -- in the background --------------------------------------------------------------------------------------------

    def submit(self, name: str, task: Callable[[], object]) -> None:
        """Run a task in the background, unless one with this name has yet to begin."""
        with self._submitting:
            if name in self._pending or self._stopped.is_set():
                return
            self._pending.add(name)
            future = self._executor.submit(self._run, name, task)
            self._futures.add(future)
        future.add_done_callback(self._futures.discard)

    def idle(self, timeout: float | None = None) -> bool:
        """Wait until no task is running or pending; returns whether that came before the timeout (seconds)."""
        end = None if timeout is None else time.monotonic() + timeout
        while futures := self._futures.copy():
            if wait(futures, None if end is None else max(0.0, end - time.monotonic())).not_done:
                return False
        return True

    def _run(self, name: str, task: Callable[[], object]) -> None:
        self._pending.discard(name)  # what happens from now on may need the task again
        try:
            task()
            self._problems.pop(name, None)
        except SSLDError as error:
            self._problems[name] = str(error)
            _log.info("%s: %s", name, error)
        except Exception:  # the page continues; the error is in the log
            self._problems[name] = f"{name} failed; see the log of the server"
            _log.exception("%s failed", name)

    def _watch(self) -> None:
        """Look for a new model again and again: a fit may have ended, also one that was started elsewhere."""
        while not self._stopped.wait(_WATCH_EVERY):
            self.submit("model", self.refresh_model)

    def _check_running(self, _update: ProgressUpdate) -> None:
        if self._stopped.is_set():
            raise Interrupted("the server was stopped")

    def refresh_model(self) -> None:
        """Open the current model if it is a new one, and start a fit if one is due."""
        path = self.job.path / "model.json"
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if stamp != self._stamp:
            self._model = present_model(self.job, self._check_running)
            snapshot = self._classify(fast=True, afresh=True)
            self._stamp = stamp
            self._fitted = max(self._fitted, fitted_labels(self.job, self._model.name))
            rerank(snapshot)
            self._look_ahead()
        if self.refit_every and not self.fits.running:
            known, classes = training_labels(self.job)
            # A failed fit is tried again after as many labels more.
            if len(known) >= self._fitted + self.refit_every and teaches(classes) and self.fits.start():
                self._fitted = len(known)

    def find_suspicious(self) -> None:
        """Ask people to look again at labels that are probably wrong."""
        self.refresh_model()
        if self._model is not None:
            find_suspicious(self.job, self._model)

    def rerank(self) -> None:
        """Fit the probe to the current labels and reorder the queue by it."""
        self.refresh_model()
        rerank(self._classify(fast=True))

    def next_round(self) -> None:
        """Choose a round if the queue is empty."""
        self.refresh_model()
        with self.job.alone("next"):
            if len(leases.pending(self.job.store, 1)):  # someone has just chosen one
                return
            choose_round(self._classify())
        self._look_ahead()

    def _classify(self, *, fast: bool = False, afresh: bool = False) -> Snapshot:
        """Snapshot whose classifier (of the current labels) is shown and explained from now on; `afresh` for a new model."""
        snapshot = take_snapshot(self.job, self._model, fast=fast)
        self._classifier = snapshot.classifier
        self.pool.use(self._model, self._classifier)
        run = self._model.run if self._model is not None else None
        self.explainer.use(self._classifier, run, afresh=afresh)
        return snapshot

    def _look_ahead(self) -> None:
        if self._model is not None and self._model.run is not None:  # only a network has counterfactuals
            self.explainer.ahead(leases.pending(self.job.store, _AHEAD).tolist())


def _restored(vote: queries.Undoable, by: Actor, names: tuple[str, ...]) -> list[Action]:
    """The actions that take a vote, or a label that was kept, back: the vote and the flag before stand again."""
    if vote.kept:
        back = Action("un-keep", vote.id, by, undoes=vote.number)
    elif vote.before is None:
        back = Action("un-label", vote.id, by)
    elif vote.before.label is None:
        back = Action("drop" if vote.before.final else "skip", vote.id, by)
    else:
        back = Action("label", vote.id, by, named(vote.before.label, names), vote.before.final)
    return [replace(back, undoes=vote.number), *([Action("flag", vote.id, by)] if vote.flagged else [])]
