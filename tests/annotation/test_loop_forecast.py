"""What more labels promise a job: in its status, in its stopping advice, and in words where nothing can be foreseen."""

from pathlib import Path

import pandas as pd
import pytest
from support.annotation_jobs import make_job
from support.commands import ok

from ssl_diffusion.acquisition.forecast import Forecast
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.snapshot import Snapshot, take_snapshot
from ssl_diffusion.annotation.loop.stopping import advice, forecast_of, progress_of
from ssl_diffusion.data.pool import Pool


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 20, "--audit", 10)


def measured(job: Job, labels: list[int], accuracy: list[float], half: float = 0.02) -> Snapshot:
    """The job as if these rounds had been measured."""
    table = pd.DataFrame({"round": range(1, len(labels) + 1), "at": 1.0, "model": "m", "labels": labels, "audit_n": 500})
    a = pd.Series(accuracy)
    table = table.assign(audit_accuracy=a, audit_low=a - half, audit_high=a + half)
    table.reindex(columns=progress_of(job).columns).to_csv(job.path / "progress.csv", index=False)
    return take_snapshot(job)


def test_status_says_what_more_labels_promise(job: Job) -> None:
    assert (
        "forecast        a forecast needs 3 rounds with a measured accuracy, and there are 0"
        in ok("loop", "status", job.path).stdout
    )
    found = forecast_of(measured(job, [20, 40, 40, 80], [0.6, 0.7, 0.71, 0.8]))
    assert isinstance(found, Forecast)
    assert found.more == 80
    assert 0.8 < found.low < found.accuracy < found.high < 0.9
    assert f"forecast        {found}" in ok("loop", "status", job.path).stdout
    assert not any("forecast" in line for line in advice(take_snapshot(job)))
    wide = forecast_of(measured(job, [20, 40, 80], [0.6, 0.71, 0.8], half=0.2))
    assert isinstance(wide, Forecast)
    assert wide.high - wide.low > 1.5 * (found.high - found.low)


def test_advice_to_stop_uses_the_forecast_and_the_budget_bounds_it(job: Job) -> None:
    flat = measured(job, [100, 200, 400, 800], [0.9, 0.9, 0.9, 0.9], half=0.0001)
    assert any("more labels may gain less than half a point" in line for line in advice(flat))
    job.settings.__dict__["budget"] = 50
    found = forecast_of(flat)
    assert isinstance(found, Forecast)
    assert found.more == 50


def test_nothing_to_go_by_is_said(job: Job, tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    assert "3 rounds with a measured accuracy, and there are 2" in str(
        forecast_of(measured(job, [20, 40, 40], [0.5, 0.6, 0.6]))
    )
    # Labels that were withdrawn: the rounds after it are not more labels.
    assert "there are 2" in str(forecast_of(measured(job, [20, 40, 30], [0.5, 0.6, 0.6])))
    (tmp_path / "other").mkdir()
    blind = make_job(tmp_path / "other", digits_pool, tiny, "--n", 20)
    assert "needs an audit set" in str(forecast_of(take_snapshot(blind)))
