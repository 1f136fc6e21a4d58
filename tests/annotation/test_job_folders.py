"""Sub-folders of photos: classes, or just folders."""

from pathlib import Path

from support.commands import ok, refused, write_digits

from ssl_diffusion.annotation.loop.job import open_job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.data.pool import Pool


def test_sub_folders_are_classes_only_where_that_is_said(tmp_path: Path, digits_pool: Pool) -> None:
    write_digits(tmp_path / "data", digits_pool, range(20))
    said = ok("loop", "init", tmp_path / "plain", "--data", tmp_path / "data")
    plain = open_job(tmp_path / "plain")
    assert (plain.store.classes, len(plain.store.ids), len(queries.listing(plain.store))) == ((), 20, 0)
    n = len(list((tmp_path / "data").iterdir()))
    assert f"{n} sub-folders" in said.stderr
    assert "labeled training image" not in said.stderr
    assert "--folders classes" in said.stderr
    ok("loop", "init", tmp_path / "job", "--data", tmp_path / "data", "--folders", "classes")
    job = open_job(tmp_path / "job")
    assert {row["id"].split("/")[0] == row["label"] for row in queries.listing(job.store, "labeled")} == {True}
    assert len(job.store.classes) == n
    options = ("loop", "init", tmp_path / "new", "--data", tmp_path / "data")
    assert "--folders is classes or ignore, not 'labels'" in refused(*options, "--folders", "labels")
    assert "add --folders classes" in refused(*options, "--test-fraction", 0.2)
