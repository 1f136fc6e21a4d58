"""Run by a test: processes that die at one statement after the other of a session of annotation; prints what was lost.

python annotation_faults.py FOLDER STEP, which takes every STEPth statement
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from sqlalchemy import event

from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.store import Actor, Store

IDS = [f"{i}.png" for i in range(6)]


def batch() -> leases.RoundBatch:
    """All samples."""
    entries = [leases.QueueEntry(i, "", i + 1) for i in range(len(IDS))]
    return leases.RoundBatch("random", "", 0, "none", len(IDS), entries)


SESSION = (
    ["round"]
    + [f"label {id_} cat" for id_ in IDS[:3]]
    + [f"label {IDS[0]} dog", f"skip {IDS[3]}", f"un-label {IDS[1]}", f"label {IDS[1]} dog"]
)


def session(store: Store, say: int) -> None:
    """What an annotator does; every call that returned is told at once."""
    by = Actor("ann")
    for line in SESSION:
        verb, *rest = line.split()
        if verb == "round":
            leases.add_round(store, batch())
        elif verb == "label":
            leases.lease(store, "ann", "tab")
            store.label(rest[0], rest[1], by)
        elif verb == "skip":
            store.skip(rest[0], by)
        else:
            store.unlabel(rest[0], by)
        os.write(say, f"{line}\n".encode())


def votes_after(lines: list[str]) -> dict[str, str | None]:
    """What stands after these."""
    votes: dict[str, str | None] = {}
    for verb, *rest in (line.split() for line in lines):
        if verb == "label":
            votes[rest[0]] = rest[1]
        elif verb == "skip":
            votes[rest[0]] = None
        elif verb == "un-label":
            votes.pop(rest[0])
    return votes


def kill_at(store: Store, number: int) -> None:
    """Die before this statement, counted from now; commits count, too."""
    left = number

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(store.engine, "before_cursor_execute", count)
    event.listen(store.engine, "commit", count)


def main(folder: Path, step: int) -> None:
    """One process for each statement, or every `step`th, until a session comes to its end."""
    fresh = folder / "fresh.db"
    store = Store(f"sqlite:///{fresh}")
    store.add_samples(IDS)
    store.add_classes(["cat", "dog"])
    store.close()
    for number in range(1, 1000, step):
        shutil.copy(fresh, folder / f"{number}.db")
        url = f"sqlite:///{folder}/{number}.db"
        read, write = os.pipe()
        child = os.fork()
        if not child:
            store = Store(url)
            kill_at(store, number)
            session(store, write)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read().splitlines()
        _, status = os.waitpid(child, 0)
        store = Store(url)
        queries.check(store)
        found = {row["id"]: row["votes"]["ann"] for row in queries.listing(store) if row["votes"]}
        # The call that was under way is done or not done.
        if found not in (votes_after(told), votes_after(SESSION[: len(told) + 1])):
            print(f"statement {number}: {found} after {told}")
        store.close()
        if status == 0:
            print(f"survived {number}")
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
