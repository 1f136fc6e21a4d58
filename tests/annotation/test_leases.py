"""Leases against a model of them: two annotators, one with two tabs, who lease, wait, label, undo and review in any order."""

import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import event

from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.store import Actor, Store
from ssl_diffusion.annotation.store.votes import Status, Vote, status_of

IDS = [f"{i}.png" for i in range(5)]
CLASSES = ["cat", "dog"]
HOLDERS = {"ann 1": "ann", "ann 2": "ann", "bob 1": "bob"}
holders, ids = st.sampled_from(sorted(HOLDERS)), st.sampled_from(IDS)


@pytest.fixture(scope="module", autouse=True)
def empty(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A store without votes, which every run copies."""
    path = tmp_path_factory.mktemp("empty") / "job.db"
    store = Store(f"sqlite:///{path}")
    store.add_samples(IDS)
    store.add_classes(CLASSES)
    store.close()
    Leases.empty = path


def test_a_lease_ends_at_its_last_moment_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Leases.empty, tmp_path / "job.db")
    store = Store(f"sqlite:///{tmp_path}/job.db")
    leases.add_round(store, leases.RoundBatch("random", "", 0, "none", len(IDS), [leases.QueueEntry(0, "")]))
    clock = SimpleNamespace(time=lambda: 1000.0)
    monkeypatch.setattr(leases, "time", clock)
    assert [item.id for item in leases.lease(store, "ann", "ann 1", seconds=60)] == ["0.png"]
    clock.time = lambda: 1059.9
    assert leases.lease(store, "bob", "bob 1") == []
    clock.time = lambda: 1060.0
    assert [item.id for item in leases.lease(store, "bob", "bob 1")] == ["0.png"]
    store.close()


class Leases(RuleBasedStateMachine):
    """Votes and leases as dictionaries beside the store."""

    empty: Path

    @initialize(agreement=st.integers(1, 2), order=st.permutations(IDS))
    def begin(self, agreement: int, order: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(self.empty, self.folder / "job.db")
        self.store = Store(f"sqlite:///{self.folder}/job.db", agreement)
        # Nothing here is about power failures.
        event.listen(self.store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        self.store.engine.dispose()
        self.now = 1000.0
        leases.time = SimpleNamespace(time=lambda: self.now)  # type: ignore[assignment]
        self.agreement = agreement
        self.votes: dict[str, dict[str, Vote]] = {id_: {} for id_ in IDS}  # in order of time
        self.last: dict[str, list[str]] = {"ann": [], "bob": []}  # samples by their votes, the latest at the end
        self.leases: dict[tuple[str, str], float] = {}
        self.queue: list[str] = []
        self.new_round(order, len(IDS))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            leases.time = time
            queries.check(self.store)
            self.store.close()
            shutil.rmtree(self.folder)

    def status(self, id_: str) -> Status:
        return status_of(self.votes[id_].values(), self.agreement)

    def free(self, id_: str, holder: str, *, elsewhere: bool = False) -> bool:
        """Whether a sample of the queue may be given to a holder; `elsewhere`: although another tab of the annotator has it."""
        who, status = HOLDERS[holder], self.status(id_)
        if status.status in ("labeled", "skipped") or who in self.votes[id_]:
            return False
        others = [h for i, h in self.leases if i == id_ and h != holder]
        strangers = [h for h in others if HOLDERS[h] != who]
        lacking = max(self.agreement - status.votes, 1 if status.status == "disputed" else 0)
        return len(strangers) < lacking and (elsewhere or others == strangers)

    def vote(self, id_: str, who: str, vote: Vote | None) -> None:
        self.votes[id_].pop(who, None)
        self.last[who] = [i for i in self.last[who] if i != id_]
        if vote is not None:
            self.votes[id_][who] = vote
            self.last[who].append(id_)
            self.leases = {(i, h): t for (i, h), t in self.leases.items() if i != id_ or HOLDERS[h] != who}

    def give(self, holder: str, given: list[str]) -> None:
        self.leases = {key: until for key, until in self.leases.items() if key[1] != holder}
        self.leases |= {(id_, holder): self.now + leases.LEASE for id_ in given}

    @rule(order=st.permutations(IDS), n=st.integers(1, len(IDS)))
    def new_round(self, order: list[str], n: int) -> None:
        self.queue = order[:n]
        entries = [leases.QueueEntry(IDS.index(id_), "", k) for k, id_ in enumerate(self.queue, start=1)]
        leases.add_round(self.store, leases.RoundBatch("random", "", 0, "none", len(IDS), entries))

    @rule(order=st.permutations(IDS))
    def new_order(self, order: list[str]) -> None:
        self.queue = [id_ for id_ in order if id_ in self.queue]
        leases.reorder(self.store, self.store.positions(self.queue))

    @rule(holder=holders, n=st.integers(1, 3))
    def lease_after_lease(self, holder: str, n: int) -> None:
        self.lease(holder, n)  # as often as everything else

    @rule(holder=holders, n=st.integers(1, 3))
    def lease(self, holder: str, n: int) -> None:
        self.leases = {key: until for key, until in self.leases.items() if until > self.now}
        mine = {i for i, h in self.leases if h == holder and HOLDERS[holder] not in self.votes[i]}
        free = [id_ for id_ in self.queue if self.free(id_, holder)]
        kept, fresh = [i for i in free if i in mine], [i for i in free if i not in mine][:n]
        first = mine - set(kept)  # of an earlier round, or taken out of turn: in any order
        expected = kept + fresh
        if not first and not expected:  # what another tab of the same annotator has
            expected = [i for i in self.queue if self.free(i, holder, elsewhere=True)][:n]
            self.leases = {(i, h): t for (i, h), t in self.leases.items() if i not in expected or HOLDERS[h] != HOLDERS[holder]}
        items = leases.lease(self.store, HOLDERS[holder], holder, n)
        given = [item.id for item in items]
        assert set(given[: len(first)]) <= first
        assert given[len(first) :] == expected[: max(0, n - len(first))]
        assert len(given) == min(n, len(first) + len(expected))
        assert all(item.until == self.now + leases.LEASE for item in items)
        assert [item.status for item in items] == [self.status(id_).status for id_ in given]
        self.give(holder, given)

    @rule(holder=holders, id_=ids)
    def review(self, holder: str, id_: str) -> None:
        item = leases.take(self.store, id_, HOLDERS[holder], holder)
        assert (item.id, item.status) == (id_, self.status(id_).status)
        self.give(holder, [id_])

    @rule(holder=holders, fraction=st.sampled_from([0.0, 0.5, 1.0]))
    def release_or_wait(self, holder: str, fraction: float) -> None:
        self.now += fraction * leases.LEASE
        if not fraction:
            leases.release(self.store, holder)
            self.give(holder, [])

    @rule(holder=holders, age=st.sampled_from([0.0, 1.0]))
    def leave(self, holder: str, age: float) -> None:
        """A tab is closed that saw its leases of so many seconds before: only those end, soon."""
        seen = self.now + leases.LEASE - age
        leases.release(self.store, holder, seen, after=10.0)
        for key, until in self.leases.items():
            if key[1] == holder and until <= seen:
                self.leases[key] = min(until, self.now + 10.0)
        self.now += age

    @rule(holder=holders, id_=ids, label=st.sampled_from([0, 1, None]), final=st.booleans())
    def answer(self, holder: str, id_: str, label: int | None, final: bool) -> None:
        who = HOLDERS[holder]
        self.vote(id_, who, Vote(label, final and label is not None))
        if label is None:
            found = self.store.skip(id_, Actor(who))
        else:
            found = self.store.label(id_, CLASSES[label], Actor(who), final=final)
        assert found == self.status(id_)

    @rule(holder=holders)
    def answer_what_is_in_hand(self, holder: str) -> None:
        for id_ in sorted(i for i, h in self.leases if h == holder):
            self.answer(holder, id_, 0, False)

    @rule(holder=holders)
    def undo(self, holder: str) -> None:
        who = HOLDERS[holder]
        if self.last[who]:
            id_ = self.last[who][-1]
            self.store.unlabel(id_, Actor(who))
            self.vote(id_, who, None)
            self.review(holder, id_)

    @invariant()
    def pending_are_the_samples_of_the_queue_without_a_decision(self) -> None:
        if hasattr(self, "store"):
            waiting = [id_ for id_ in self.queue if self.status(id_).status not in ("labeled", "skipped")]
            assert self.store.ids[leases.pending(self.store)].tolist() == waiting


Leases.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestLeases = Leases.TestCase
