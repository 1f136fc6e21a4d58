"""Files of tensors: whole or not there, whatever happens while they are written."""

import errno
import json
import os
import pickle
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from ssl_diffusion.errors import CheckpointError
from ssl_diffusion.models import weights
from ssl_diffusion.models.weights import load_tensors, prefixed, read_metadata, save_tensors, with_prefix

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "step": torch.tensor(7.0), "half": torch.ones(3, dtype=torch.bfloat16)}
METADATA = {"steps": 3, "history": [{"loss": 0.25, "phase": "training"}], "name": "ünïcode"}


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_tensors_and_metadata_survive(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on" / "the" / "way" / "x.safetensors"
    save_tensors(path, TENSORS, METADATA)
    tensors, metadata = load_tensors(path)
    assert metadata == METADATA
    assert set(tensors) == set(TENSORS)
    for name, t in TENSORS.items():
        assert torch.equal(tensors[name], t)
        assert tensors[name].dtype == t.dtype
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_views_and_tensors_that_need_gradients_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    save_tensors(tmp_path / "x", {"t": base.T, "row": base[1], "p": torch.nn.Parameter(base[:, 1:].clone())}, {})
    tensors, _ = load_tensors(tmp_path / "x")
    assert torch.equal(tensors["t"], base.T)
    assert torch.equal(tensors["row"], base[1])
    assert not tensors["p"].requires_grad


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path: Path) -> None:
    """A published model can be checked by the digest of its file."""
    path, saved = tmp_path / "x.safetensors", set()
    for _ in range(20):
        save_tensors(path, TENSORS, METADATA)
        saved.add(path.read_bytes())
    assert len(saved) == 1


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They had the format and the metadata in two keys, whose order was random."""
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "ssld-1", "metadata": json.dumps(METADATA)})
    tensors, metadata = load_tensors(path)
    assert metadata == read_metadata(path) == METADATA
    assert tensors.keys() == TENSORS.keys()


def test_files_follow_the_umask(tmp_path: Path) -> None:
    """A run folder can be shared like any other."""
    save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("where", ["save_file", "os.replace", "os.fsync"])
@pytest.mark.parametrize("halfway", [True, False])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, halfway: bool
) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, METADATA)

    def half_written(_: Any, filename: Path, **__: Any) -> None:
        Path(filename).write_bytes(b"\x10\x00\x00")
        full_disk()

    with monkeypatch.context() as patch:
        target = safetensors.torch if where == "save_file" else os
        patch.setattr(target, where.removeprefix("os."), half_written if where == "save_file" and halfway else full_disk)
        with pytest.raises(CheckpointError, match=r"cannot write .*x\.safetensors.*No space left.*untouched.*--resume"):
            save_tensors(path, {"b": torch.zeros(1000)}, {"steps": 4})
    tensors, metadata = load_tensors(path)
    assert metadata == METADATA
    assert torch.equal(tensors["a.weight"], TENSORS["a.weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=20)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=20)


def test_really_full_disk(tiny_disk: Path) -> None:
    path = tiny_disk / "x.safetensors"
    save_tensors(path, TENSORS, METADATA)
    with pytest.raises(CheckpointError, match="cannot write"):
        save_tensors(path, {"b": torch.zeros(100_000)}, {})
    assert load_tensors(path)[1] == METADATA
    assert [p.name for p in tiny_disk.iterdir()] == ["x.safetensors"]
    save_tensors(path, {"b": torch.zeros(10_000)}, {"steps": 9})  # there is room again
    assert load_tensors(path)[1] == {"steps": 9}


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        save_tensors(tmp_path / "file" / "x.safetensors", TENSORS, {})


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def write_unreadable(path: Path, kind: str) -> None:
    save_tensors(path, TENSORS, METADATA)
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[:-5])
    elif kind == "cut in its header":
        path.write_bytes(data[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "header damaged":
        path.write_bytes(data[:8] + b"\x00" * 16 + data[24:])
    elif kind == "header length damaged":
        path.write_bytes(b"\xff" * 8 + data[8:])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "torch.save":
        torch.save(TENSORS, path)
    elif kind == "image":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    elif kind == "foreign":
        save_file(TENSORS, path, metadata={"format": "pt"})
    elif kind == "foreign without metadata":
        save_file(TENSORS, path)
    elif kind == "without our metadata":
        save_file(TENSORS, path, metadata={"format": "ssld-1"})
    elif kind == "metadata not json":
        save_file(TENSORS, path, metadata={"ssld-1": "{"})
    elif kind == "missing":
        path.unlink()
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "cut in its header",
        "empty",
        "header damaged",
        "header length damaged",
        "pickle",
        "torch.save",
        "image",
        "foreign",
        "foreign without metadata",
        "without our metadata",
        "metadata not json",
        "missing",
        "a folder",
    ],
)
def test_unreadable_files_raise_one_error_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.safetensors"
    write_unreadable(path, kind)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_tensors(path)
    assert read_metadata(path) is None or kind == "truncated"  # which the header alone does not show
    assert not (tmp_path / "exploded").exists()


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, checksum, replaced = tmp_path / "x.safetensors", weights._checksum, []
    save_tensors(path, TENSORS, METADATA)

    def of_two_files(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> int:
        if replaced:
            return checksum(tensors, metadata)
        replaced.append(True)
        save_tensors(path, {"step": torch.tensor(8.0)}, METADATA)
        return -1

    monkeypatch.setattr(weights, "_checksum", of_two_files)
    tensors, _ = load_tensors(path)
    assert {name: float(t) for name, t in tensors.items()} == {"step": 8.0}


def test_prefixes_are_undone() -> None:
    joined = {**prefixed("ema", TENSORS), **prefixed("emaline", TENSORS), **prefixed("raw", TENSORS)}
    assert with_prefix("ema", joined) == TENSORS
    assert len(joined) == 3 * len(TENSORS)
