"""The store of an annotation job: verbs, agreement, leases, durability."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.annotation_faults import IDS, batch
from support.stores import postgresql_database, postgresql_server

from ssl_diffusion.annotation.store import leases, queries, schema, upgrades
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.annotation.store.store import Action, Actor, Store
from ssl_diffusion.annotation.store.votes import Status, Vote, status_of
from ssl_diffusion.errors import DataError, SSLDError

ANN, BOB, EVE = Actor("ann"), Actor("bob"), Actor("eve")


@pytest.fixture(scope="session")
def server() -> Iterator[str | None]:
    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/job.db"
        return
    server = request.getfixturevalue("server")
    if server is None:
        pytest.skip("PostgreSQL's server is not installed (Debian package postgresql)")
    with postgresql_database(server) as found:
        yield found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = filled(url)
    yield made
    made.close()


def filled(url: str, agreement: int = 1) -> Store:
    store = Store(url, agreement)
    store.add_samples(IDS)
    store.add_classes(["cat", "dog", "emu"])
    return store


def votes(store: Store) -> dict[str, dict[str, str | None]]:
    return {row["id"]: row["votes"] for row in queries.listing(store) if row["votes"]}


def test_what_is_said_stands_after_the_store_is_opened_again(store: Store, url: str) -> None:
    assert store.label("0.png", "cat", Actor("ann", "page", seconds=1.5)) == Status("labeled", 0, 1)
    assert store.label("0.png", "dog", ANN) == Status("labeled", 1, 1)
    store.skip("1.png", ANN)
    store.label("2.png", "emu", ANN)
    assert store.unlabel("2.png", ANN) == Status("open", None, 0)
    store.flag("3.png", ANN)
    store.close()
    store = Store(url)
    assert store.ids.tolist() == IDS
    assert store.classes == ("cat", "dog", "emu")
    positions, classes = queries.labels(store)
    assert (positions.tolist(), classes.tolist()) == ([0], [1])
    assert queries.counts(store) == {
        "samples": 6, "open": 4, "partial": 0, "labeled": 1, "disputed": 0, "skipped": 1, "flagged": 1
    }  # fmt: skip
    kinds = [row["kind"] for row in queries.history(store)]
    assert kinds == ["labeled", "corrected", "skipped", "labeled", "un-labeled", "flagged"]
    first = queries.history(store)[0]
    assert (first["id"], first["label"], first["annotator"], first["seconds"]) == ("0.png", "cat", "ann", 1.5)
    assert [row["id"] for row in queries.listing(store, flagged=True)] == ["3.png"]
    queries.check(store)


def test_unknown_samples_and_classes_change_nothing(store: Store) -> None:
    with pytest.raises(DataError, match=r"no sample 'x\.png'"):
        store.label("x.png", "cat", ANN)
    with pytest.raises(DataError, match="no class 'catt'; did you mean cat"):
        store.label("0.png", "catt", ANN)
    with pytest.raises(DataError, match="no class 'ox'"):
        store.apply([Action("label", "0.png", ANN, "cat"), Action("label", "1.png", ANN, "ox")])
    with pytest.raises(DataError, match="no verb"):
        store.apply([Action("paint", "0.png", ANN)])
    assert queries.history(store) == []
    for name in ("", " cat", "a\nb"):
        with pytest.raises(DataError, match="not a valid class name"):
            store.add_classes([name])
    store.add_classes(["cat", "fox"])
    assert store.classes == ("cat", "dog", "emu", "fox")


def test_a_request_that_is_sent_twice_has_one_effect(store: Store) -> None:
    store.label("0.png", "cat", Actor("ann", token="one"))
    store.label("0.png", "dog", ANN)
    assert store.label("0.png", "cat", Actor("ann", token="one")) == Status("labeled", 1, 1)
    assert len(queries.history(store)) == 2
    store.apply(
        [Action("label", "1.png", Actor("ann", token="two"), "cat"), Action("skip", "1.png", Actor("ann", token="two"))]
    )
    assert votes(store)["1.png"] == {"ann": "cat"}


@pytest.mark.parametrize(
    ("said", "wanted", "stands"),
    [
        ([], 1, Status("open")),
        ([Vote(1)], 1, Status("labeled", 1, 1)),
        ([Vote(None)], 1, Status("skipped")),
        ([Vote(None)], 2, Status("partial")),
        ([Vote(1)], 2, Status("partial", None, 1)),
        ([Vote(1), Vote(2)], 2, Status("disputed", None, 2)),
        ([Vote(1), Vote(2), Vote(2)], 2, Status("labeled", 2, 3)),
        ([Vote(1), Vote(None), Vote(1)], 2, Status("labeled", 1, 2)),
        ([Vote(None), Vote(None), Vote(1)], 2, Status("skipped", None, 1)),
        ([Vote(1), Vote(2, final=True), Vote(1)], 2, Status("labeled", 2, 3)),
        ([Vote(2, final=True), Vote(1, final=True)], 1, Status("labeled", 1, 2)),
        ([Vote(None, final=True)], 1, Status("skipped")),
    ],
)
def test_majority_ties_skips_and_decisions(said: list[Vote], wanted: int, stands: Status) -> None:
    assert status_of(said, wanted) == stands


def test_a_sample_can_ask_for_more_votes(url: str) -> None:
    store = filled(url, agreement=2)
    assert store.label("0.png", "cat", ANN).status == "partial"
    assert store.label("0.png", "dog", BOB).status == "disputed"
    assert [(row["id"], row["votes"]) for row in queries.listing(store, "disputed")] == [
        ("0.png", {"ann": "cat", "bob": "dog"})
    ]
    assert store.label("0.png", "dog", EVE) == Status("labeled", 1, 3)
    assert store.label("0.png", "emu", EVE, final=True) == Status("labeled", 2, 3)
    store.label("1.png", "cat", ANN)
    store.require_votes("1.png", 1)
    assert queries.labels(store)[0].tolist() == [0, 1]
    with pytest.raises(DataError, match="one vote or more"):
        store.require_votes("1.png", 0)
    queries.check(store)
    store.close()


def test_of_two_final_decisions_by_different_people_the_later_wins(store: Store) -> None:
    # The names are in the reverse of the order of time, so that no order by name passes for it.
    for label, by in (("cat", EVE), ("dog", BOB), ("emu", ANN)):
        store.label("0.png", label, by, final=True)
        assert queries.listing(store)[0]["label"] == label
    store.label("0.png", "cat", BOB, final=True)  # said again, it is the latest
    store.require_votes("0.png", 3)  # the status is computed again from the votes
    assert [row["label"] for row in queries.listing(store)] == ["cat"]
    assert votes(store)["0.png"] == {"eve": "cat", "ann": "emu", "bob": "cat"}
    queries.check(store)


def test_a_state_is_what_the_single_queries_say(store: Store) -> None:
    store.add_samples(["audit.png"], "audit")
    leases.add_round(store, batch())
    store.label("audit.png", "dog", ANN)
    store.label("1.png", "emu", ANN)
    store.skip("2.png", ANN)
    store.flag("1.png", BOB)
    store.flag("3.png", BOB)
    found = read_state(store)
    assert found.classes == store.classes
    assert found.counts == queries.counts(store) == {
        "samples": 7, "open": 4, "partial": 0, "labeled": 2, "disputed": 0, "skipped": 1, "flagged": 2
    }  # fmt: skip
    assert found.last_round == leases.last_round(store)
    assert found.waiting.tolist() == leases.pending(store).tolist() == [0, 3, 4, 5]
    for role in ("pool", "audit", "test"):
        for ours, theirs in zip(found.labels_of(role), queries.labels(store, role), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [values.tolist() for values in found.training] == [[1], [2]]


def test_annotators_get_different_samples_in_the_order_of_the_round(store: Store) -> None:
    assert leases.last_round(store) is None
    assert leases.lease(store, "ann", "tab") == []
    assert leases.add_round(store, batch()) == 1
    assert [item.id for item in leases.lease(store, "ann", "tab", 2)] == IDS[:2]
    assert [item.id for item in leases.lease(store, "ann", "tab", 2)] == IDS[:2]  # a reload
    assert [item.id for item in leases.lease(store, "bob", "other", 2)] == IDS[2:4]
    assert [item.id for item in leases.lease(store, "ann", "second tab")] == IDS[4:5]
    store.label(IDS[0], "cat", ANN)
    assert [item.id for item in leases.lease(store, "ann", "tab", 2)] == [IDS[1], IDS[5]]
    leases.release(store, "other")
    assert [item.id for item in leases.lease(store, "eve", "third", 9)] == IDS[2:4]
    assert leases.pending(store).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(DataError, match="lease one sample or more"):
        leases.lease(store, "ann", "tab", 0)


def test_what_somebody_walked_away_from_comes_back(store: Store) -> None:
    leases.add_round(store, batch())
    leases.lease(store, "ann", "tab", 6, seconds=-1)
    assert [item.id for item in leases.lease(store, "bob", "other", 6)] == IDS


def test_skipped_samples_are_shown_to_others(url: str) -> None:
    store = filled(url, agreement=2)
    leases.add_round(store, batch())
    store.skip(IDS[0], ANN)
    assert leases.lease(store, "ann", "tab")[0].id == IDS[1]
    assert leases.lease(store, "bob", "other")[0].id == IDS[0]
    store.close()


def test_agreement_gives_a_sample_to_as_many_as_it_needs_and_a_tie_to_one_more(url: str) -> None:
    store = filled(url, agreement=2)
    leases.add_round(store, batch())
    assert [leases.lease(store, who, who)[0].id for who in ("ann", "bob", "eve")] == [IDS[0], IDS[0], IDS[1]]
    store.label(IDS[0], "cat", ANN)
    store.label(IDS[0], "dog", BOB)
    leases.release(store, "eve")
    (item,) = leases.lease(store, "eve", "eve")
    assert (item.id, item.status) == (IDS[0], "disputed")
    assert leases.lease(store, "joe", "joe")[0].id == IDS[1]
    store.close()


def test_one_sample_can_be_taken_out_of_turn(store: Store) -> None:
    leases.add_round(store, batch())
    store.label(IDS[3], "cat", ANN)
    leases.take(store, IDS[3], "ann", "tab")
    store.unlabel(IDS[3], ANN)
    assert leases.lease(store, "ann", "tab")[0].id == IDS[3]
    with pytest.raises(DataError, match="no sample"):
        leases.take(store, "x.png", "ann", "tab")


def test_a_new_order_and_a_new_round(store: Store) -> None:
    leases.reorder(store, np.array([1]))  # before the first round there is nothing to order
    leases.add_round(store, batch())
    leases.reorder(store, np.array([4, 2]))
    assert leases.pending(store).tolist() == [4, 2, 0, 1, 3, 5]
    assert leases.add_round(store, batch()) == 2
    assert leases.pending(store).tolist() == [0, 1, 2, 3, 4, 5]
    rows = leases.batch_of(store, 1)
    assert [row["id"] for row in rows[:2]] == [IDS[4], IDS[2]]
    assert [row["draw"] for row in rows[:2]] == [5, 3]


def test_many_at_once_lose_nothing_and_double_nothing(url: str) -> None:
    store = Store(url)
    ids = [f"{i:03d}" for i in range(40)]
    store.add_samples(ids)
    store.add_classes(["cat"])
    leases.add_round(store, leases.RoundBatch("random", "", 0, "", 40, [leases.QueueEntry(i, "") for i in range(40)]))
    done: list[str] = []

    def work(name: str) -> None:
        while items := leases.lease(store, name, name):
            store.label(items[0].id, "cat", Actor(name))
            done.append(items[0].id)

    threads = [threading.Thread(target=work, args=(f"a{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ids
    assert queries.counts(store)["labeled"] == 40
    queries.check(store)
    store.close()


_VERBS = st.tuples(
    st.sampled_from(["label", "skip", "un-label", "flag", "un-flag"]),
    st.sampled_from(IDS[:3]),
    st.sampled_from(["ann", "bob", "eve"]),
    st.sampled_from(["cat", "dog"]),
    st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(_VERBS, max_size=25), agreement=st.integers(1, 3), together=st.booleans())
def test_the_view_is_what_the_events_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, str, bool]], agreement: int, together: bool
) -> None:
    store = filled(f"sqlite:///{tmp_path_factory.mktemp('store')}/job.db", agreement)
    actions = [
        Action(verb, id_, Actor(who), label if verb == "label" else None, final and verb == "label")
        for verb, id_, who, label, final in steps
    ]
    for part in [actions] if together else [[action] for action in actions]:
        store.apply(part)
    queries.check(store)
    told: dict[str, dict[str, str | None]] = {}
    for verb, id_, who, label, _ in steps:
        own = told.setdefault(id_, {})
        if verb in ("label", "skip"):
            own[who] = label if verb == "label" else None
        elif verb == "un-label":
            own.pop(who, None)
    assert votes(store) == {id_: own for id_, own in told.items() if own}
    store.close()


def test_a_view_that_differs_from_the_events_is_found(store: Store) -> None:
    store.label("0.png", "cat", ANN)
    with store.writing() as connection:
        connection.execute(schema.current.update().values(status="skipped"))
    with pytest.raises(SSLDError, match=r"damaged: sample '0\.png'"):
        queries.check(store)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_at_any_statement_loses_nothing_acknowledged(tmp_path: Path, step: int) -> None:
    script = Path(__file__).parents[1] / "support" / "annotation_faults.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(step)], capture_output=True, text=True, timeout=240, check=True
    )
    (last,) = done.stdout.splitlines()
    assert int(last.removeprefix("survived ")) > 50


def test_migrations_make_the_tables_of_the_program(store: Store) -> None:
    with store.writing() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_the_names_of_migrations_are_their_versions() -> None:
    script = ScriptDirectory(str(Path(schema.__file__).with_name("migrations")))
    assert [found.revision for found in script.walk_revisions()][::-1] == upgrades.versions()
    assert script.get_current_head() == upgrades.versions()[-1]


def test_stores_that_cannot_be_used_are_named(store: Store, url: str, tmp_path: Path) -> None:
    with store.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SSLDError, match="version 9999, which is newer"):
        Store(url)
    with store.writing() as connection:
        connection.execute(text("INSERT INTO alembic_version VALUES ('0003')"))
    with pytest.raises(SSLDError, match="another program"):
        Store(url)
    for bad, message in [
        ("mysql://localhost/x", "SQLite or PostgreSQL"),
        ("nonsense", "not the URL of a store"),
        (f"sqlite:///{tmp_path}/none/job.db", "cannot be opened"),
        ("postgresql://ssld:secret@127.0.0.1:1/none", r"ssld:\*\*\*@127"),
        ("postgresql+nope://ssld:secret@h/x", r"ssld:\*\*\*@h"),
    ]:
        with pytest.raises(SSLDError, match=message):
            Store(bad)
    other = schema.open_store(f"sqlite:///{tmp_path}/other.db")
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE samples (x INTEGER)"))
    with pytest.raises(SSLDError, match="another program"):
        Store(f"sqlite:///{tmp_path}/other.db")
