"""Labels that are sets of classes, in the store: votes, disputes, undo, agreement, and classes that change in the middle."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ssl_diffusion.annotation.store import class_changes, people, queries
from ssl_diffusion.annotation.store.faults import StoreError
from ssl_diffusion.annotation.store.pool_rows import read_rows
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.annotation.store.store import Action, Actor, Store
from ssl_diffusion.errors import DataError

ANN, BOB, CLEO = Actor("ann"), Actor("bob"), Actor("cleo")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/job.db", multilabel=True)
    made.add_samples(["a", "b", "c", "d"], ["pool", "pool", "audit", "pool"])
    made.add_classes(["cat", "dog", "bird"])
    yield made
    queries.check(made)
    made.close()


def labels(store: Store) -> dict[str, object]:
    return {row["id"]: row["label"] for row in queries.listing(store)}


def test_a_set_has_the_order_of_the_classes_and_none_of_them_is_an_answer(store: Store) -> None:
    assert store.label("a", ["bird", "cat"], ANN).label == (0, 2)
    assert store.label("b", [], ANN).status == "labeled"
    assert store.skip("d", ANN).status == "skipped"
    assert labels(store) == {"a": ("cat", "bird"), "b": (), "d": None}
    positions, sets = queries.labels(store)
    assert positions.tolist() == [0, 1]
    assert sets.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert queries.counts(store) | {"flagged": 0} == {
        "samples": 4, "open": 1, "partial": 0, "labeled": 2, "disputed": 0, "skipped": 1, "flagged": 0
    }  # fmt: skip
    store.label("c", ["dog"], ANN)
    state = read_state(store)
    assert [each.tolist() for each in state.labels_of("audit")] == [[2], [[0, 1, 0]]]
    assert [each.tolist() for each in state.training] == [[0, 1], [[1, 0, 1], [0, 0, 0]]]
    assert read_rows(store).sets == {0: (0, 2), 1: (), 2: (1,)}


def test_without_labels_there_are_as_many_columns_as_classes(store: Store) -> None:
    assert queries.labels(store)[1].shape == (0, 3)
    assert read_state(store).training[1].shape == (0, 3)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (["cat", "fox"], "no class 'fox'"),
        (["cat", "cat"], "'cat' is named twice"),
        ("cat", "a set of classes: give a list of names, not 'cat'"),
        (None, "a set of classes"),
        ([""], "no class ''"),
    ],
)
def test_what_is_no_set(store: Store, label: Sequence[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        store.apply([Action("label", "b", ANN, ["dog"]), Action("label", "a", ANN, label)])
    assert labels(store) == {}  # all or none


def test_without_classes_an_image_cannot_have_none_of_them(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/job.db", multilabel=True)
    store.add_samples(["a"])
    with pytest.raises(DataError, match="add one first"):
        store.label("a", [], ANN)
    assert store.apply([Action("label", "a", ANN, [])], ["cat"])[0].label == ()
    store.close()


def test_a_set_is_no_label_of_other_jobs(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/job.db")
    store.add_samples(["a"])
    store.add_classes(["cat", "dog"])
    with pytest.raises(DataError, match="has one class, not the set"):
        store.label("a", ["cat", "dog"], ANN)
    store.label("a", "cat", ANN)
    store.close()


@pytest.mark.parametrize("multilabel", [True, False])
def test_a_store_is_not_opened_as_one_of_the_other_kind(tmp_path: Path, multilabel: bool) -> None:
    url = f"sqlite:///{tmp_path}/job.db"
    store = Store(url, multilabel=multilabel)
    store.add_samples(["a"])
    store.add_classes(["cat"])
    store.label("a", ["cat"] if multilabel else "cat", ANN)
    store.close()
    with pytest.raises(StoreError, match=f"set multilabel = {str(multilabel).lower()} in job.toml again"):
        Store(url, exists=True, multilabel=not multilabel)
    Store(url, exists=True, multilabel=multilabel).close()


def test_two_different_sets_are_a_dispute_and_a_third_vote_or_a_final_one_settles_it(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/job.db", agreement=2, multilabel=True)
    store.add_samples(["a", "b", "c"])
    store.add_classes(["cat", "dog"])
    store.label("a", ["cat"], ANN)
    assert store.label("a", ["dog", "cat"], BOB).status == "disputed"
    assert store.label("a", ["cat", "dog"], CLEO).label == (0, 1)
    store.label("b", [], ANN)
    assert store.label("b", [], BOB).label == ()  # they agree that nothing is there
    store.label("c", [], ANN)
    assert store.label("c", ["dog"], BOB).status == "disputed"
    assert store.label("c", [], BOB, final=True).label == ()
    queries.check(store)
    store.close()


def test_undo_gives_the_set_before_back(store: Store) -> None:
    store.label("a", ["cat", "dog"], Actor("ann", token="1"))
    store.label("a", [], Actor("ann", token="2"))
    (vote,) = queries.action_of(store, "ann", "2")
    assert vote.before is not None
    assert vote.before.label == (0, 1)
    class_changes.merge(store, "dog", "cat", "ann")
    (vote,) = queries.action_of(store, "ann", "2")
    assert vote.before is not None
    assert vote.before.label == (0,)  # as the classes are now


def test_merged_classes_are_united_and_removed_ones_leave_the_sets(store: Store) -> None:
    store.label("a", ["cat", "dog"], ANN)
    store.label("b", ["dog"], ANN)
    store.label("c", ["bird", "dog"], ANN)
    class_changes.rename(store, "dog", "hound", "ann")
    assert labels(store) == {"a": ("cat", "hound"), "b": ("hound",), "c": ("hound", "bird")}
    class_changes.merge(store, "hound", "cat", "ann")
    assert labels(store) == {"a": ("cat",), "b": ("cat",), "c": ("cat", "bird")}
    queries.check(store)
    class_changes.remove(store, "cat", "ann")
    assert labels(store) == {"a": (), "b": (), "c": ("bird",)}
    assert [row["label"] for row in queries.history(store)] == [
        ("cat (removed)", "hound (merged into cat)"),
        ("hound (merged into cat)",),
        ("hound (merged into cat)", "bird"),
    ]
    with pytest.raises(DataError, match="no class 'cat'"):
        store.label("d", ["cat"], ANN)
    store.add_classes(["fox"])
    assert queries.labels(store)[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_numbers_that_contain_another_are_other_classes(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/job.db", multilabel=True)
    store.add_samples(["a", "b"])
    store.add_classes([f"class {k}" for k in range(13)])
    store.label("a", ["class 11", "class 12"], ANN)
    store.label("b", ["class 1"], ANN)
    class_changes.remove(store, "class 1", "ann")
    assert labels(store) == {"a": ("class 11", "class 12"), "b": ()}
    queries.check(store)
    store.close()


def test_agreement_is_the_jaccard_index_of_the_sets(store: Store) -> None:
    for id_, ann, bob in (("a", ["cat", "dog"], ["cat"]), ("b", [], []), ("c", ["bird"], ["dog"])):
        store.label(id_, ann, ANN)
        store.label(id_, bob, BOB)
    store.label("d", ["cat"], ANN)
    ann, bob = people.annotators(store)
    assert ann.agreed == bob.agreed == pytest.approx((0.5 + 1 + 0) / 3)
    assert (ann.votes, ann.compared, bob.compared) == (4, 3, 3)
    assert people.latest_events(store, id_="a")[0]["label"] == ("cat",)
    assert np.asarray([row["label"] == () for row in people.latest_events(store, id_="b")]).all()
