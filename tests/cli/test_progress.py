"""Lines of progress where there is no terminal."""

import pytest
from ssl_diffusion.cli import output
from ssl_diffusion.cli.output import ProgressBars

from ssl_diffusion.progress import ProgressUpdate


def test_a_task_that_comes_twice_is_timed_anew(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A fit has its backbone read the images of the probe, and those of the test split in the end."""
    now = 0.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    show = ProgressBars(every=30.0)
    for total in (500, 200):
        for done in range(50, total + 1, 50):
            now += 40.0
            show(ProgressUpdate("backbone", done, total))
        now += 1000.0
    first, *_, last = lines = capsys.readouterr().err.splitlines()
    assert first == "backbone 20%, 1 images/s, 5.3 min left"
    assert last == "backbone 100%, 1 images/s, 0.0 min left"
    assert lines[9] == "backbone 50%, 1 images/s, 1.3 min left"  # the first of the second time
