"""The answer "none of these" in a job: rounds leave such samples out; a name that comes later keeps every label."""

from pathlib import Path

import numpy as np
import pytest
from support.annotation_jobs import asked, make_job, truth

from ssl_diffusion.acquisition import Candidates, Choice, Strategy
from ssl_diffusion.acquisition import choose as choose_batch
from ssl_diffusion.acquisition.open_pool import NONE_OF_THESE, none_of
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.rounds import next_round
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.store import class_changes, queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool

FOREIGN = ("0", "6")


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    made = make_job(tmp_path, digits_pool, tiny, "--n", 30)
    made.store.add_classes([NONE_OF_THESE])
    for name in FOREIGN:
        class_changes.remove(made.store, name, "ann")
    for id_ in asked(made):
        label = truth(digits_pool, id_)
        made.store.label(id_, NONE_OF_THESE if label in FOREIGN else label, Actor("ann"))
    return made


def test_rounds_leave_out_what_is_none_of_the_classes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def choose(strategy: Strategy, candidates: Candidates, n: int) -> Choice:
        seen.append(candidates.none)
        return choose_batch(strategy, candidates, n)

    monkeypatch.setattr("ssl_diffusion.annotation.loop.rounds.choose", choose)
    state = take_snapshot(job).state
    none = none_of(state.classes)
    whole = set(state.in_use) - {none} <= set(state.training[1].tolist())
    chosen = next_round(job, 12, "uherding")
    assert chosen.batch is not None
    assert len(chosen.batch) == 12
    missing = [k for k in state.in_use if k not in state.training[1]]
    for id_, k in zip(
        job.store.ids[~np.isin(np.arange(len(job.store.ids)), queries.touched(job.store))], missing, strict=False
    ):
        job.store.label(str(id_), state.classes[k], Actor("ann"))
    assert len(next_round(job, 5)) >= 5
    assert seen == [none if whole else None, none]  # images of a class without a label could be taken for it


def test_a_class_that_gets_a_name_later_keeps_its_labels(job: Job) -> None:
    before = take_snapshot(job).state
    none = none_of(before.classes)
    assert none is not None
    said = before.training[0][before.training[1] == none].tolist()
    assert said
    class_changes.rename(job.store, NONE_OF_THESE, "round ones", "ann")
    after = take_snapshot(job).state
    assert none_of(after.classes) is None
    named = after.classes.index("round ones")
    assert after.training[0][after.training[1] == named].tolist() == said
    assert len(after.training[0]) == len(before.training[0])
    job.store.add_classes([NONE_OF_THESE])  # what is none of the classes from now on
    assert len(next_round(job, 6, "margin")) == 6
    queries.check(job.store)
