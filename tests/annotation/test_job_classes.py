"""Keys of classes, and classes that are renamed, merged and removed in the middle of the work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.annotation_jobs import photos
from support.commands import ok

from ssl_diffusion.annotation.loop.job import open_job
from ssl_diffusion.annotation.loop.job_classes import RESERVED, assign_keys, check_key
from ssl_diffusion.annotation.store import class_changes, queries
from ssl_diffusion.annotation.store.store import Action, Actor, Store
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

ANN, BOB = Actor("ann"), Actor("bob")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/job.db")
    made.add_samples(["a", "b", "c", "d"])
    made.add_classes(["Zero", "zero", "one"])
    yield made
    made.close()


@pytest.mark.parametrize(
    ("names", "chosen", "keys"),
    [
        ([str(k) for k in range(10)], {}, [str(k) for k in range(10)]),
        (["1", "0"], {}, ["1", "0"]),
        (["cat", "1", "dog"], {}, ["2", "1", "3"]),
        (["a", "s", "B"], {}, ["a", "1", "2"]),  # s skips, b blinks
        (["cat", "dog"], {"dog": "1"}, ["2", "1"]),
        (["cat", "dog"], {"dog": "dd"}, ["1", "dd"]),
        ([], {}, []),
    ],
)
def test_keys(names: list[str], chosen: dict[str, str], keys: list[str]) -> None:
    assert assign_keys(names, chosen) == keys


@pytest.mark.parametrize("n", [11, 12, 45, 46, 500])
@pytest.mark.parametrize("named", ["{}", "class {}"])
def test_more_than_ten_classes_have_keys_of_which_none_begins_another(n: int, named: str) -> None:
    keys = assign_keys([named.format(k + 1) for k in range(n)])
    _check_keys(keys, n)
    assert keys[:9] == [str(k + 1) for k in range(9)]
    assert keys[9:11] == ["01", "02"][: n - 9]


def test_500_classes_of_which_some_are_letters_all_have_keys() -> None:
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    keys = assign_keys([*letters, *(str(k) for k in range(474))])
    _check_keys(keys, 500)
    assert keys[27:36] == [str(k) for k in range(1, 10)]  # digits keep their own keys, letters give way
    assert assign_keys([*letters, *"0123456789"])[:5] == ["a", "01", "02", "03", "e"]


def test_chosen_keys_stay_and_leave_enough_for_500_classes() -> None:
    names = [f"class {k}" for k in range(500)]
    chosen = {names[k]: key for k, key in enumerate(["a", "9", "e", "07", "hz", "l1", "g", "1", "t0", "yy"])}
    keys = assign_keys(names, chosen)
    _check_keys(keys, 500)
    assert keys[:10] == [*chosen.values()]
    assert assign_keys(names, {"class 1": "a", "class 2": "a1"})[1:3] != ["a", "a1"]  # of two that clash the first stays


def test_more_classes_than_keys_are_found_by_their_names() -> None:
    keys = assign_keys([str(k) for k in range(1000)])
    _check_keys([key for key in keys if key], 864)
    assert keys[864:] == [""] * 136


def _check_keys(keys: list[str], n: int) -> None:
    assert len({*keys} - {""}) == len(keys) == n
    assert not any(a != b and b.startswith(a) for a in keys for b in keys)
    assert not {key[0] for key in keys} & {*RESERVED}
    assert max(map(len, keys)) <= 2


@pytest.mark.parametrize("key", ["", "abc", "A", "é", "u", "s1", "1", "12", "a"])
def test_keys_that_cannot_be_chosen(key: str) -> None:
    with pytest.raises(DataError, match=r"shortcut|function"):
        check_key(key, ["1", "ab"])


def test_letters_of_the_page_are_no_keys_of_classes() -> None:
    assert not set("".join(assign_keys(list(RESERVED)))) & set(RESERVED)


def test_a_renamed_class_keeps_its_labels_and_the_history_its_names(store: Store) -> None:
    store.label("a", "one", ANN)
    class_changes.rename(store, "one", "eins", "bob")
    assert store.classes == ("Zero", "zero", "eins")
    assert queries.listing(store)[0]["label"] == "eins"
    (event,) = class_changes.history(store)
    assert (event["kind"], event["annotator"], event["before"], event["after"]) == ("renamed", "bob", "one", "eins")
    class_changes.rename(store, "eins", "one", "bob")  # back again
    class_changes.rename(store, "one", "uno", "bob")
    for name, text in (("zero", "already"), ("one", "before"), (" x", "not a valid"), ("", "not a valid")):
        with pytest.raises(DataError, match=text):
            class_changes.rename(store, "Zero", name, "bob")
    queries.check(store)


def test_a_merged_class_lends_its_votes_and_its_events_stay(store: Store) -> None:
    store.agreement = 2
    store.apply([Action("label", "a", ANN, "Zero"), Action("label", "a", BOB, "zero"), Action("label", "b", ANN, "Zero")])
    assert [row["status"] for row in queries.listing(store)] == ["disputed", "partial"]
    class_changes.merge(store, "Zero", "zero", "ann")
    assert [(row["status"], row["label"]) for row in queries.listing(store)] == [("labeled", "zero"), ("partial", None)]
    assert store.classes_in_use == ("zero", "one")
    assert [row["label"] for row in queries.history(store)] == ["Zero (merged into zero)", "zero", "Zero (merged into zero)"]
    queries.check(store)
    class_changes.merge(store, "zero", "one", "ann")  # on and on
    assert {label for row in queries.listing(store) for label in row["votes"].values()} == {"one"}
    queries.check(store)
    store.add_classes(["Zero"])  # a new class of that name has nothing to do with the former one
    assert store.classes_in_use == ("one", "Zero")
    with pytest.raises(DataError, match="no class 'zero'"):
        store.label("c", "zero", ANN)
    with pytest.raises(DataError, match="into itself"):
        class_changes.merge(store, "one", "one", "ann")


def test_labels_of_a_removed_class_are_withdrawn(store: Store) -> None:
    store.apply([Action("label", "a", ANN, "Zero"), Action("label", "b", ANN, "one"), Action("flag", "a", ANN)])
    store.label("a", "one", BOB)
    class_changes.remove(store, "Zero", "ann")
    assert [(row["id"], row["status"], row["label"], row["flagged"]) for row in queries.listing(store)] == [
        ("a", "labeled", "one", True),
        ("b", "labeled", "one", False),
    ]
    queries.check(store)
    class_changes.remove(store, "one", "ann")
    assert queries.counts(store)["open"] == 4
    queries.check(store)
    store.add_classes(["one"])
    class_changes.remove(store, "one", "ann")
    assert store.classes[2:] == ("one (removed)", "one (removed) 2")


def test_a_class_that_another_became_part_of_is_removed(store: Store) -> None:
    store.apply([Action("label", "a", ANN, "Zero"), Action("label", "b", ANN, "zero")])
    class_changes.merge(store, "Zero", "zero", "ann")
    class_changes.remove(store, "zero", "ann")
    assert queries.counts(store)["open"] == 4
    queries.check(store)


def test_names_that_differ_in_nothing_that_is_heard() -> None:
    assert class_changes.similar("Zero", ["one", "zero"]) == "zero"
    assert class_changes.similar("t-shirt", ["T Shirt"]) == "T Shirt"
    assert class_changes.similar("zero", ["zero", "one"]) is None
    assert class_changes.similar("+", ["-"]) is None


def test_dropped_kept_and_commented(store: Store) -> None:
    store.apply([Action("label", "a", ANN, "one"), Action("flag", "a", ANN), Action("label", "b", ANN, "one")])
    store.apply([Action("keep", "a", BOB), Action("drop", "b", BOB), Action("comment", "c", BOB, text="what is this?")])
    rows = {row["id"]: (row["status"], row["label"], row["flagged"]) for row in queries.listing(store)}
    assert rows == {"a": ("labeled", "one", False), "b": ("skipped", None, False), "c": ("open", None, False)}
    assert queries.history(store)[-1]["text"] == "what is this?"
    queries.check(store)
    with pytest.raises(DataError, match="needs a text"):
        Action("comment", "c", BOB, text=" ")


def test_the_status_of_a_job_without_classes_says_what_to_do(tmp_path: Path, digits_pool: Pool) -> None:
    ok("loop", "init", tmp_path / "job", "--data", photos(tmp_path / "photos", digits_pool, 12), "--set", "model.stem=1")
    said = "there are no classes yet: ssld loop serve"
    assert said in ok("loop", "status", tmp_path / "job").stdout
    open_job(tmp_path / "job").store.add_classes(["one"])
    assert said not in ok("loop", "status", tmp_path / "job").stdout
