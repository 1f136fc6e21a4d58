"""Targets of classes and images that show what they look like: in the store, by command, route and client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import make_job, status
from support.commands import ok, refused

from ssl_diffusion.annotation.loop.class_examples import examples_of_classes
from ssl_diffusion.annotation.loop.class_targets import MOST, parsed_targets, progress_line, targets_of
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.page.client import RemoteJob
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import class_changes, class_examples
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.annotation.store.store import Actor, Store
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, SSLDError

ANN, BOB = Actor("ann"), Actor("bob")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/job.db")
    made.add_samples([f"{k}.png" for k in range(8)])
    made.add_classes(["cat", "dog"])
    yield made
    made.close()


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def chosen(store: Store) -> dict[int, list[str]]:
    return {k: [str(store.ids[i]) for i in positions] for k, positions in class_examples.chosen(store).items()}


# -- targets ----------------------------------------------------------------------------------------------------------


def test_a_target_of_a_class_comes_before_that_of_all(store: Store) -> None:
    class_changes.set_target(store, "cat", 3)
    assert read_state(store).targets == {"cat": 3}
    assert targets_of(["cat", "dog"], {"cat": 3}, 50) == {"cat": 3, "dog": 50}
    class_changes.set_target(store, "cat", 0)
    assert targets_of(["cat", "dog"], read_state(store).targets, 50) == {"dog": 50}
    class_changes.set_target(store, "cat", None)
    assert read_state(store).targets == {}
    with pytest.raises(DataError, match="no class 'cow'"):
        class_changes.set_target(store, "cow", 3)


def test_a_renamed_class_keeps_its_target_and_one_that_ends_has_none(store: Store) -> None:
    class_changes.set_target(store, "cat", 3)
    class_changes.rename(store, "cat", "Cat", "ann")
    assert read_state(store).targets == {"Cat": 3}
    class_changes.merge(store, "Cat", "dog", "ann")
    assert read_state(store).targets == {}
    assert [row.target for row in class_changes.class_rows(store)] == [None, None]


@pytest.mark.parametrize("words", [["many"], ["-1"], ["1.5"], ["=5"], ["cat="], ["cat=x"], [str(MOST + 1)], ["٣"]])
def test_targets_that_are_none(words: list[str]) -> None:
    with pytest.raises(SSLDError, match="--target is a number, or CLASS=NUMBER"):
        parsed_targets(words)


def test_a_target_may_have_a_class_with_signs_and_the_last_word_counts() -> None:
    assert parsed_targets(["5", "a=b=7", "9", "cat=1", "cat=2"]) == (9, {"a=b": 7, "cat": 2})


def test_how_far_the_classes_are() -> None:
    assert progress_line({"cat": 4}, {}) == ""
    assert progress_line({"cat": 4}, {"cat": 4}) == "the class has the labels that are wanted"
    assert progress_line({"cat": 4, "dog": 9}, {"cat": 4, "dog": 2}).startswith("every class")
    assert progress_line({"cat": 1}, {"cat": 4, "dog": 2}).startswith("0 of 2 classes have the labels that are wanted; most")
    assert progress_line({"cat": 1}, {"cat": 4, "dog": 2}).endswith("'cat': 3")


def test_targets_are_set_at_the_start_and_shown(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--target", 4, "--target", "3=2", "--target", "5=0")
    assert job.settings.target == 4
    for k in range(2):
        job.label(f"{k:04d}.png", "3")
    found = status(job)
    assert found["targets"] == {name: 2 if name == "3" else 4 for name in digits_pool.classes if name != "5"}
    text = ok("loop", "status", job.path).stdout
    assert "3 2 of 2, 4 0 of 4, 5 0, 6 0 of 4" in text
    assert "1 of 9 classes have the labels that are wanted; most are missing of '0': 4" in text
    (job.path / "job.toml").write_text((job.path / "job.toml").read_text().replace("target = 4", "target = 7"))
    assert open_job(job.path).status().targets["0"] == 7


def test_a_target_of_no_class_makes_no_job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    make_job(tmp_path, digits_pool, tiny)
    words = ("--data", tmp_path / "photos", "--classes", "cat,dog")
    assert "no class 'cow'" in refused("loop", "init", tmp_path / "other", *words, "--target", "cow=3")
    assert not (tmp_path / "other").exists()
    assert "CLASS=NUMBER, not 'cat=some'" in refused("loop", "init", tmp_path / "other", *words, "--target", "cat=some")


# -- examples ---------------------------------------------------------------------------------------------------------


def test_an_example_is_a_labeled_image_of_its_class(store: Store) -> None:
    with pytest.raises(DataError, match=r"0\.png is not labeled 'cat'"):
        class_examples.choose(store, "0.png", "cat")
    store.label("0.png", "dog", ANN)
    with pytest.raises(DataError, match=r"0\.png is not labeled 'cat'"):
        class_examples.choose(store, "0.png", "cat")
    store.label("0.png", "cat", ANN)
    class_examples.choose(store, "0.png", "cat")
    assert chosen(store) == {0: ["0.png"]}
    store.label("0.png", "dog", ANN)  # corrected: it is no example any more
    assert chosen(store) == {}
    store.label("0.png", "cat", ANN)
    assert chosen(store) == {0: ["0.png"]}
    class_examples.unchoose(store, "0.png", "cat")
    class_examples.unchoose(store, "0.png", "cat")
    assert chosen(store) == {}
    for id_, name, message in [("no.png", "cat", "no.png"), ("0.png", "cow", "no class 'cow'")]:
        for change in (class_examples.choose, class_examples.unchoose):
            with pytest.raises(DataError, match=message):
                change(store, id_, name)


def test_the_oldest_of_five_examples_ends(store: Store) -> None:
    for k in range(class_examples.MOST + 1):
        store.label(f"{k}.png", "cat", ANN)
        class_examples.choose(store, f"{k}.png", "cat")
    assert chosen(store) == {0: ["4.png", "3.png", "2.png", "1.png"]}
    class_examples.choose(store, "1.png", "cat")
    assert chosen(store) == {0: ["1.png", "4.png", "3.png", "2.png"]}


def test_examples_follow_a_merged_class_and_end_with_a_removed_one(store: Store) -> None:
    for k, name in enumerate(["cat", "cat", "dog"]):
        store.label(f"{k}.png", name, ANN)
        class_examples.choose(store, f"{k}.png", name)
    class_changes.merge(store, "cat", "dog", "ann")
    assert {k: sorted(ids) for k, ids in chosen(store).items()} == {1: ["0.png", "1.png", "2.png"]}
    class_changes.remove(store, "dog", "ann")
    assert chosen(store) == {}


def test_sets_have_examples_of_each_of_their_classes(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/sets.db", multilabel=True)
    store.add_samples(["0.png", "1.png"])
    store.add_classes(["cat", "dog", "emu"])
    store.label("0.png", ["cat", "dog"], ANN)
    class_examples.choose(store, "0.png", "cat")
    class_examples.choose(store, "0.png", "dog")
    with pytest.raises(DataError, match="not labeled 'emu'"):
        class_examples.choose(store, "0.png", "emu")
    assert chosen(store) == {0: ["0.png"], 1: ["0.png"]}
    class_changes.merge(store, "cat", "dog", "ann")
    assert chosen(store) == {1: ["0.png"]}
    store.close()


def test_without_a_choice_the_surest_agreed_images_are_shown(job: Job) -> None:
    zero = [f"{k:04d}.png" for k in (1, 2, 3, 4, 5, 6)]
    for id_ in zero:
        job.label(id_, "0", "ann")
    job.label(zero[3], "0", "bob")  # two agree
    job.store.label(zero[0], "1", BOB)  # one disagrees
    job.store.label(zero[0], "0", ANN, final=True)
    job.store.flag(zero[1], ANN)
    p = np.zeros((len(job.store.ids), 10))
    p[:, 0] = np.linspace(0, 1, len(p))
    assert [each.id for each in examples_of_classes(job)["0"]] == [zero[3], zero[2], zero[4]]
    assert [each.id for each in examples_of_classes(job, p)["0"]] == [zero[3], zero[5], zero[4]]
    assert "1" not in examples_of_classes(job, p)
    class_examples.choose(job.store, zero[1], "0")  # a choice is a choice
    assert [(each.id, each.chosen) for each in examples_of_classes(job, p)["0"]] == [(zero[1], True)]


# -- the page ---------------------------------------------------------------------------------------------------------


def change(client: TestClient, **what: Any) -> Any:
    return client.post("/api/class", json={"annotator": "ann", "holder": "tab", **what})


def test_the_page_sets_targets_and_examples(client: TestClient, job: Job) -> None:
    before = client.get("/api/state").json()
    assert (before["status"]["targets"], client.get("/api/examples").json()) == ({}, {"examples": {}})
    assert change(client, verb="target", name="3", to="2").status_code == 200
    for bad in ("two", "-1", "1e3", "9" * 9):
        answer = change(client, verb="target", name="3", to=bad)
        assert (answer.status_code, "is no number of labels" in answer.json()["error"]) == (400, True)
    job.label("0003.png", "3", "ann")
    after = client.get("/api/state").json()
    assert after["status"]["targets"] == {"3": 2}
    assert after["status"]["advice"][0].endswith("most are missing of '3': 1")
    assert after["examples"] != before["examples"]
    image = "image?id=0003.png"
    assert client.get("/api/examples").json() == {"examples": {"3": [{"id": "0003.png", "image": image, "chosen": False}]}}
    found = client.post("/api/example", json={"id": "0003.png", "name": "3"}).json()
    assert found == {"examples": {"3": [{"id": "0003.png", "image": image, "chosen": True}]}}
    assert client.get("/api/state").json()["examples"] != after["examples"]
    assert client.get(f"/{image}&size=small").status_code == 200
    answer = client.post("/api/example", json={"id": "0003.png", "name": "4"})
    assert (answer.status_code, "is not labeled '4'" in answer.json()["error"]) == (400, True)
    found = client.post("/api/example", json={"id": "0003.png", "name": "3", "on": False}).json()
    assert not found["examples"]["3"][0]["chosen"]
    assert change(client, verb="target", name="3", to="").status_code == 200
    assert client.get("/api/state").json()["status"]["targets"] == {}


def test_the_client_sets_targets_and_examples(job: Job) -> None:
    job.label("0003.png", "3", "ann")
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        remote = RemoteJob("", "ada", client=client)
        remote.set_target("3", 5)
        remote.set_target("4", 0)
        assert remote.status()["targets"] == {"3": 5}
        remote.set_target("3", None)
        assert remote.status()["targets"] == {}
        remote.choose_example("0003.png", "3")
        assert [(each["id"], each["chosen"]) for each in remote.examples()["3"]] == [("0003.png", True)]
        remote.choose_example("0003.png", "3", on=False)
        assert not remote.examples()["3"][0]["chosen"]
        with pytest.raises(SSLDError, match="is not labeled"):
            remote.choose_example("0004.png", "4")
        described = client.get("/api/openapi.json").json()["paths"]
        assert {"/api/examples", "/api/example"} <= {*described}
