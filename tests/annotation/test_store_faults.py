"""Databases that are lost, locked, full, read-only, damaged, foreign or away: a sentence each, nothing lost."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from sqlalchemy import event, make_url, text
from support.annotation_jobs import make_job
from support.commands import refused
from support.damage import DAMAGES, Damage
from support.stores import PostgreSQL, postgresql_database, postgresql_program

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import class_changes, faults, leases, queries, schema
from ssl_diffusion.annotation.store.faults import StoreError, StoreUnavailableError, shown_url
from ssl_diffusion.annotation.store.store import Action, Actor, Store
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

ANN = Actor("ann")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/job.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = filled(url)
    yield made
    made.close()


def filled(url: str) -> Store:
    store = Store(url)
    store.add_samples(["a.png", "b.png"])
    store.add_classes(["cat", "dog"])
    return store


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny: list[str]) -> Job:
    """A job in a folder whose name has what means something in a URL; not to be changed."""
    folder = tmp_path_factory.mktemp("job") / "what? #1 100%"
    folder.mkdir()
    return make_job(folder, digits_pool, tiny)


def test_classes_and_labels_are_added_together_or_not_at_all(store: Store) -> None:
    with pytest.raises(DataError, match=r"no sample 'z\.png'"):
        store.apply([Action("label", "a.png", ANN, "emu"), Action("label", "z.png", ANN, "emu")], ["emu"])
    assert store.classes == ("cat", "dog")
    assert store.apply([Action("label", "a.png", ANN, "emu")], ["emu"])[0].status == "labeled"
    assert store.classes == ("cat", "dog", "emu")


@pytest.mark.parametrize("bad", ["\ud800", "a\0b"])
def test_text_that_no_database_stores_is_refused(store: Store, bad: str) -> None:
    for do in (
        lambda: Actor(bad),
        lambda: Actor("ann", token=bad),
        lambda: leases.lease(store, bad, "tab"),
        lambda: leases.lease(store, "ann", bad),
        lambda: leases.take(store, "a.png", "ann", bad),
        lambda: leases.release(store, bad),
        lambda: store.label(bad, "cat", ANN),
        lambda: store.label("a.png", bad, ANN),
        lambda: store.add_classes([bad]),
    ):
        with pytest.raises(DataError):
            do()
    for seconds in (float("nan"), float("inf"), -1.0):
        with pytest.raises(DataError, match="seconds"):
            Actor("ann", seconds=seconds)


# -- SQLite -----------------------------------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def emptied(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f"DROP TABLE {name}")


def without_votes(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE votes")


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ae1027a6acf'")


STORES = [
    Damage("another program's", foreign),
    Damage("all tables dropped", emptied),
    Damage("a table dropped", without_votes),
    Damage("newer", newer),
    Damage("another program's migrations", of_another_program),
]


@pytest.mark.parametrize("damage", [*(d for d in DAMAGES if d.name != "twice"), *STORES], ids=repr)  # what follows is unread
def test_a_damaged_store_of_a_job_is_a_sentence(job: Job, tmp_path: Path, damage: Damage) -> None:
    path = Path(shutil.copytree(job.path, tmp_path / "job"))
    damage.apply(path / "job.db")
    there = (path / "job.db").exists()
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n0000.png,3\n")
    message = refused("loop", "import", path, labels)
    assert str(path / "job.db") in message
    assert (path / "job.db").exists() == there


def test_a_locked_store_waits_and_then_says_by_whom(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "job.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, other.rollback).start()
    store.label("a.png", "cat", ANN)  # waited
    monkeypatch.setattr(schema, "_BUSY", 0.05)
    monkeypatch.setattr(faults, "PATIENCE", 0.0)
    impatient = Store(url)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match=r"job\.db is locked by"):
        impatient.label("b.png", "cat", ANN)
    assert [row["id"] for row in queries.listing(impatient)] == ["a.png"]  # readers do not wait
    other.rollback()
    impatient.label("b.png", "cat", ANN)
    other.close()


def test_the_holder_of_a_lock_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "job.db-shm"
    shared.touch()
    lines = [
        f"1: POSIX  ADVISORY  WRITE 4711 fe:00:{shared.stat().st_ino} 120 120",
        f"2: POSIX  ADVISORY  READ  4712 fe:00:{shared.stat().st_ino} 124 124",
        f"2: -> POSIX  ADVISORY  WRITE 4713 fe:00:{shared.stat().st_ino} 120 120",
        "3: FLOCK  ADVISORY  WRITE 4714 fe:00:1 0 EOF",
    ]
    read = Path.read_text

    def read_text(path: Path, *args: str | None, **kwargs: str | None) -> str:
        found = {"/proc/locks": "\n".join(lines), "/proc/4711/comm": "backup\n"}
        return found[str(path)] if str(path) in found else read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert faults.holders(tmp_path / "job.db") == "process 4711 (backup)"


def test_a_full_disk_and_a_read_only_file_are_sentences(store: Store, tmp_path: Path) -> None:
    def full(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # raised to the present size

    store.close()
    event.listen(store.engine, "connect", full)
    with pytest.raises(StoreError, match="the disk is full"):
        store.add_samples([f"{i:0100}" for i in range(2000)])
    assert len(store.ids) == 2
    read_only = Store(f"sqlite:///file:{tmp_path}/job.db?mode=ro&uri=true", exists=True)
    assert read_only.ids.tolist() == ["a.png", "b.png"]
    with pytest.raises(StoreError, match="read-only"):
        read_only.label("a.png", "cat", ANN)


def test_a_table_dropped_meanwhile_is_a_sentence(store: Store, tmp_path: Path) -> None:
    store.label("a.png", "cat", ANN)
    without_votes(tmp_path / "job.db")
    with pytest.raises(StoreError, match="no such table: votes"):
        store.label("b.png", "cat", ANN)


# -- migrations -------------------------------------------------------------------------------------------------------


def upgrade_from_the_first_version(url: str) -> None:
    engine = schema.open_store(url)
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with schema.writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO classes VALUES (0, 'cat')"))
        connection.execute(text("INSERT INTO samples VALUES (0, 'a.png', 'pool', NULL)"))
        connection.execute(
            text("INSERT INTO events VALUES (1, .5, 'labeled', 0, 'ann', 0, 0, 'page', 1, NULL, NULL, NULL, NULL)")
        )
        connection.execute(text("INSERT INTO votes VALUES (0, 'ann', 0, 0, 1)"))
        connection.execute(text("INSERT INTO current VALUES (0, 'labeled', 0, 1, 0)"))
        connection.execute(text("INSERT INTO rounds VALUES (1, 0.5, 'random', '', 7, 'pixels', 1)"))
        connection.execute(text("INSERT INTO batch VALUES (1, 0, 1, 0.0, NULL, NULL, 0, '')"))
    engine.dispose()
    store = Store(url, exists=True)
    last = leases.last_round(store)
    assert last is not None
    assert (last["number"], last["seed"]) == (1, 7)
    leases.add_round(store, leases.RoundBatch("random", "", 2**32 + 5, "none", 1, [leases.QueueEntry(0, "")]))
    assert (leases.last_round(store) or {})["seed"] == 2**32 + 5
    assert [row["id"] for row in leases.batch_of(store, 1)] == ["a.png"]
    class_changes.rename(store, "cat", "Cat", "ann")  # what later versions added is there
    assert [(row["label"], row["text"]) for row in queries.history(store) if row["kind"] == "labeled"] == [("Cat", None)]
    queries.check(store)
    store.close()


def test_a_store_of_the_first_version_takes_large_seeds(url: str) -> None:
    upgrade_from_the_first_version(url)


# -- passwords --------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t"
URLS = [
    f"postgresql+nope://u:{SECRET}@h/x",
    f"postgresql://u:{SECRET}@127.0.0.1:1/x",
    f"postgresql://u:{SECRET}@@127.0.0.1:1/x",
    f"postgresql://u:a@{SECRET}@127.0.0.1:1/x",
    f"postgresql://u:{SECRET}@127.0.0.1:port/x",
    f"postgresql://127.0.0.1:1/x?password={SECRET}",
    f"postgresql://127.0.0.1:1/x?sslmode=never&password={SECRET}",
    f"nonsense?password={SECRET}",
    f"mysql://u:{SECRET}@h/x",
    f"u:{SECRET}@h/x",
    f"://u:{SECRET}@h/x",
]


@pytest.mark.parametrize("bad", URLS)
def test_passwords_are_never_printed(bad: str, tmp_path: Path) -> None:
    assert SECRET not in shown_url(bad)
    (tmp_path / "photos").mkdir()
    with pytest.raises(StoreError) as caught:
        Store(bad)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_page_whose_store_fails_answers_503(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailableError("the store does not answer")

    client = TestClient(make_app(job), base_url="http://127.0.0.1:8700")
    monkeypatch.setattr(queries, "listing", away)
    answer = client.get("/api/review")
    assert (answer.status_code, answer.json()["error"]) == (503, "the store does not answer")


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql_program() as started:
        if started is None:
            pytest.skip("PostgreSQL's server is not installed (Debian package postgresql)")
        yield started


@pytest.fixture
def database(server: PostgreSQL) -> Iterator[str]:
    with postgresql_database(server.url) as found:
        yield found


@pytest.mark.slow
def test_a_server_store_of_the_first_version_takes_large_seeds(database: str) -> None:
    upgrade_from_the_first_version(database)


def restart_within(server: PostgreSQL, seconds: float) -> threading.Thread:
    server.stop()
    thread = threading.Thread(target=lambda: (time.sleep(seconds), server.start()))
    thread.start()
    return thread


@pytest.mark.slow
def test_a_server_that_is_started_again_loses_nothing_and_is_waited_for(
    server: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 30.0)
    store = filled(database)
    store.label("a.png", "cat", ANN)
    thread = restart_within(server, 0.3)
    store.label("b.png", "dog", ANN)
    thread.join()
    thread = restart_within(server, 0.3)
    assert {row["id"]: row["label"] for row in queries.listing(store)} == {"a.png": "cat", "b.png": "dog"}
    thread.join()
    queries.check(store)
    store.close()


@pytest.mark.slow
def test_a_label_that_was_committed_when_the_server_went_away_is_there_once(
    server: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 30.0)
    store = filled(database)
    commit: Callable[..., None] = store.engine.dialect.do_commit
    lost: list[bool] = []

    def commit_and_crash(connection: object) -> None:
        commit(connection)
        if not lost:
            lost.append(True)
            server.stop()
            server.start()
            connection.cursor().execute("SELECT 1")  # type: ignore[attr-defined]  # raises what a lost answer would

    monkeypatch.setattr(store.engine.dialect, "do_commit", commit_and_crash)
    store.label("a.png", "cat", ANN)
    assert lost
    assert [(row["kind"], row["id"]) for row in queries.history(store)] == [("labeled", "a.png")]
    store.close()


@pytest.mark.slow
def test_a_page_whose_server_is_away_answers_503_and_goes_on_when_it_is_back(
    server: PostgreSQL, database: str, tmp_path: Path, digits_pool: Pool, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 0.0)
    job = make_job(tmp_path, digits_pool, tiny, "--store", database)
    job.store.add_samples(["more.png"])
    who = {"annotator": "ann", "holder": "tab"}
    app = make_app(job)
    with TestClient(app, base_url="http://127.0.0.1:8700") as client:
        client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
        first, second = (app.state.page.pictures.digest(int(i)) for i in job.store.positions(["0000.png", "0001.png"]))
        told = {**who, "verb": "label", "label": "3", "id": "0000.png", "digest": first, "token": "first token"}
        assert client.post("/api/label", json=told).status_code == 200
        server.stop()
        try:
            again = {**told, "id": "0001.png", "digest": second, "token": "second token"}
            answer = client.post("/api/label", json=again)
            assert answer.status_code == 503
            assert "does not answer" in answer.json()["error"]
            assert client.get("/api/state").status_code == 503
        finally:
            server.start()
        assert client.post("/api/label", json=again).status_code == 200
    assert {row["id"]: row["label"] for row in queries.listing(job.store)} == {"0000.png": "3", "0001.png": "3"}
    job.store.close()
    with schema.open_store(database).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    assert "is empty, but should hold the labels" in refused("loop", "status", job.path)


@pytest.mark.slow
def test_a_server_store_locked_by_another_program_is_said(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(database)
    monkeypatch.setattr(schema, "_BUSY", 0.05)
    monkeypatch.setattr(faults, "PATIENCE", 0.0)
    other = schema.open_store(make_url(database).set(query={"application_name": "nightly backup"}))
    with schema.writing(other), pytest.raises(StoreUnavailableError, match="locked by nightly backup"):
        store.label("a.png", "cat", ANN)
    store.label("a.png", "cat", ANN)
    other.dispose()
    store.close()
