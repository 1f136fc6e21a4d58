"""Commands on shards in a bucket, through the real protocol of S3: moto serves it on this machine.

pip install s3fs 'moto[server]'
"""

import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.commands import CPU, ok, pack_digits, refused
from support.jobs import TINY_RUN

from ssl_diffusion.annotation.loop.job import open_job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.source import ShardSource

s3fs = pytest.importorskip("s3fs", reason="needs s3fs and moto: pip install s3fs 'moto[server]'")
moto = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")

POOL = "s3://bucket/pool/*.parquet"
N = 60


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Path:
    """Digits in four shards, as they also lie in the bucket; not to be changed."""
    return pack_digits(tmp_path_factory.mktemp("bucket"), digits_pool, N, per_shard=16)


@pytest.fixture(scope="module")
def server(shards: Path) -> Iterator[str]:
    """Address of a server of S3 with a bucket that holds the shards, for whoever has a key until :func:`only_owners`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("AWS_CA_BUNDLE", raising=False)
        running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        running.start()
        host, port = running.get_host_and_port()
        address = f"http://{host}:{port}"
        system = s3fs.S3FileSystem(key="owner", secret="owner", endpoint_url=address, skip_instance_cache=True)
        system.mkdir("bucket")
        system.put(f"{shards}/*.parquet", "bucket/pool/")
        yield address
        running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The bucket as the environment of a user names it."""
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "owner")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "owner")
    s3fs.S3FileSystem.clear_instance_cache()  # which would keep keys and address
    yield server
    s3fs.S3FileSystem.clear_instance_cache()


def only_owners(server: str, after: int) -> None:
    """Let the server refuse keys that it does not know, after some requests."""
    request = urllib.request.Request(
        f"{server}/moto-api/reset-auth", data=str(after).encode(), headers={"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request).close()


def test_the_story_of_a_pool_in_a_bucket(bucket: str, tiny_run: Path, shards: Path, tmp_path: Path) -> None:
    assert ShardSource(POOL).fingerprint == ShardSource(shards).fingerprint
    for command in ("embed", "predict"):
        ok(command, tiny_run, POOL, "--out", tmp_path / command, *CPU)
        ok(command, tiny_run, shards, "--out", tmp_path / "here" / command, *CPU)
        parts = sorted((tmp_path / command).glob("*.parquet"))
        assert len(parts) == 4
        for part in parts:
            assert part.read_bytes() == (tmp_path / "here" / command / part.name).read_bytes()
    ok("query", tiny_run, "--pool", tmp_path / "embed", "--n", "5", "--out", tmp_path / "b.csv", *CPU)
    assert set(pd.read_csv(tmp_path / "b.csv", dtype={"id": str})["id"]) < set(ShardSource(shards).ids.tolist())
    ok("fit", "--data", POOL, *TINY_RUN[2:], "--no-cache", "--out", tmp_path / "run")
    run = ok("embed", tmp_path / "run", POOL, "--out", tmp_path / "again", *CPU).stdout
    assert f"{N} representations in 4 parts" in run
    assert (
        "4 of 4 shards hold what their footers say" in ok("check", POOL, "--out", tmp_path / "c", "--backbone", "none").stdout
    )


def test_the_page_shows_images_of_a_bucket(bucket: str, shards: Path, tmp_path: Path) -> None:
    ok("loop", "init", tmp_path / "job", "--data", POOL, "--classes", ",".join(map(str, range(10))))
    here = ShardSource(shards)
    with TestClient(make_app(open_job(tmp_path / "job")), base_url="http://127.0.0.1:8700") as client:
        for at in (0, N - 1):
            found = client.get("/image", params={"id": str(here.ids[at])})
            with Image.open(io.BytesIO(found.content)) as image:
                np.testing.assert_array_equal(np.asarray(image), here.at(np.array([at]))[0, 0])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://none/pool/*.parquet", "s3://none does not exist"),
        ("s3://none/pool/", "s3://none/pool/ does not exist"),
        ("s3://bucket/none/*.parquet", "no shard matches s3://bucket/none/*.parquet"),
        ("s3://bucket/pool/shard-{00003..00005}.parquet", "s3://bucket/pool/shard-00004.parquet does not exist"),
    ],
)
def test_what_is_not_there_is_said(bucket: str, tmp_path: Path, place: str, message: str) -> None:
    assert message in refused("fit", "--data", place, *TINY_RUN[2:], "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_bucket_without_permission_is_one_sentence(
    bucket: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_owners(bucket, after=0)
    try:
        for place in (POOL, "s3://bucket/pool/", "s3://bucket/pool/shard-00000.parquet"):
            s3fs.S3FileSystem.clear_instance_cache()
            said = refused("embed", tiny_run, place, "--out", tmp_path / "f")
            assert said.startswith(f"{place} cannot be read: permission denied (")
    finally:
        only_owners(bucket, after=10**9)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where the machine could have a key of its own
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    assert "cannot be read: NoCredentialsError: Unable to locate credentials" in refused("check", POOL, "--out", tmp_path / "c")


def test_nothing_is_written_to_a_bucket(bucket: str, tiny_run: Path, shards: Path, tmp_path: Path) -> None:
    for arguments in (
        ("embed", tiny_run, shards, "--out", "s3://bucket/f"),
        ("pack", shards.parent / "images", "--out", "s3://bucket/packed"),
        ("pack", POOL, "--out", tmp_path / "again"),
        ("fit", "--data", POOL, "--labels", "s3://bucket/labels.csv"),
        ("query", tiny_run, "--pool", "s3://bucket/f"),
    ):
        assert "is a URL: of those only shards can be read" in refused(*arguments)
    assert not Path("s3:").exists()
