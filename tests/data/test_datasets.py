"""Published data sets: what is read, where it is looked for, what is said when it is missing or damaged."""

import gzip
import logging
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssl_diffusion.data.published import datasets
from ssl_diffusion.data.published.catalog import DATASETS, LAYOUTS
from ssl_diffusion.data.published.datasets import find_dataset, load_dataset
from ssl_diffusion.data.published.idx import read_idx
from ssl_diffusion.errors import DataError
from ssl_diffusion.storage import default_cache_dir

torchvision_datasets = pytest.importorskip("torchvision.datasets")

DEBIAN = datasets.DEBIAN_FASHION_MNIST


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """An idx file, gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(data, compresslevel=1) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, ending: str = "", n_train: int = 60_000, first: tuple[int, ...] = ()) -> Path:
    """Four idx files of the published shapes; image i is filled with i % 256, its label is i % 10, save for the `first`."""
    for name, n in (("train", n_train), ("t10k", 10_000)):
        rows = np.arange(n)
        labels = (rows % 10).astype(np.uint8)
        labels[: len(first)] = first
        pixels = np.broadcast_to((rows % 256).astype(np.uint8)[:, None, None], (n, 28, 28))
        write_idx(folder / f"{name}-images-idx3-ubyte{ending}", pixels)
        write_idx(folder / f"{name}-labels-idx1-ubyte{ending}", labels)
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, no Debian folder, an empty cache; returns the cache."""

    def no_network(*_: object, **__: object) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", no_network)
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", Path("/nowhere/fashion-mnist"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setenv("SSLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- what is known without reading


def test_registry() -> None:
    assert set(DATASETS) == {"digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "svhn", "stl10"}
    assert {name: info.augmentation for name, info in DATASETS.items()} == {
        "digits": "digits", "mnist": "digits", "svhn": "digits", "fashion-mnist": "fashion",
        "cifar10": "photo", "cifar100": "photo", "stl10": "photo",
    }  # fmt: skip
    for info in DATASETS.values():
        assert len(set(info.classes)) == len(info.classes) == (100 if info.title == "CIFAR-100" else 10)
        assert info.source
        assert info.download


@pytest.mark.parametrize("use", [load_dataset, find_dataset])
def test_unknown_name(use: Any) -> None:
    with pytest.raises(DataError, match="'cifar'; did you mean cifar10"):
        use("cifar")


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLD_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache_dir() == Path("/a")
    monkeypatch.delenv("SSLD_CACHE")
    assert default_cache_dir() == Path("/b/ssld")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "ssld"


# ---- digits


def test_digits() -> None:
    from sklearn.datasets import load_digits

    pool = load_dataset("digits")
    assert pool.images.shape == (1797, 1, 8, 8)
    assert (len(pool.train), len(pool.test)) == (1437, 360)
    assert pool.ids[[0, 1436, 1437, -1]].tolist() == ["train/00000", "train/01436", "test/00000", "test/00359"]
    assert (pool.images.min(), pool.images.max()) == (0, 255)
    assert np.bincount(pool.labels[pool.test]).min() >= 34
    # Every published image is there once.
    rows = {(image.tobytes(), int(label)) for image, label in zip(pool.images, pool.labels, strict=True)}
    data = load_digits()
    assert rows == {
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(data.images, data.target, strict=True)
    }
    assert find_dataset("digits") is not None


def test_digits_are_the_same_every_time_and_can_be_mapped() -> None:
    one, two = load_dataset("digits"), load_dataset("digits", max_memory=1000)
    assert isinstance(two.images, np.memmap)
    assert one.fingerprint() == two.fingerprint()
    np.testing.assert_array_equal(one.labels, two.labels)


# ---- idx files


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=3), zipped=st.booleans(), seed=st.integers(0, 100))
def test_idx_round_trip(tmp_path: Path, shape: list[int], zipped: bool, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / ("x.gz" if zipped else "x")
    write_idx(path, values)
    np.testing.assert_array_equal(read_idx(path), values)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("x", b"", "not an idx file"),
        ("x", b"\x00\x00\x08\x01\x00\x00", "not an idx file"),
        ("x", b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an idx file"),
        ("x", b"\x00\x00\x08\x01\x00\x00\x00\x03ab", "holds 2 values but its header says 3"),
        ("x", b"\x00\x00\x08\x02\xff\xff\xff\xff\xff\xff\xff\xffab", "4294967295 x 4294967295"),
        ("x.gz", b"no gzip", "x.gz is damaged"),
        ("x.gz", gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x64" + bytes(range(100)))[:-20], "x.gz is damaged"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=match) as caught:
        read_idx(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_mnist_from_the_data_folder(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "here")
    assert find_dataset("mnist", data_dir=folder) == folder
    pool = load_dataset("mnist", data_dir=folder, download=False)
    assert pool.images.shape == (70_000, 1, 28, 28)
    assert (pool.ids[17], pool.ids[60_017]) == ("train/00017", "test/00017")
    assert (pool.images[300] == 300 % 256).all()
    assert pool.labels[60_003] == 3
    assert len(pool.test) == 10_000


@pytest.mark.parametrize("root", ["data", "cache"])
def test_torchvision_layout_and_gzip(tmp_path: Path, offline: Path, root: str) -> None:
    folder = write_mnist((offline if root == "cache" else tmp_path / "data") / "FashionMNIST" / "raw", ending=".gz")
    assert find_dataset("fashion-mnist", data_dir=tmp_path / "data" if root == "data" else None) == folder
    assert find_dataset("mnist", data_dir=tmp_path) is None


def test_files_at_the_top_of_the_cache_are_nobodys(offline: Path) -> None:
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        offline.mkdir(exist_ok=True)
        (offline / f"{name}-ubyte").touch()
    assert find_dataset("mnist") is None


def test_wrong_number_of_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte holds an array of 50 x 28 x 28, not 60000 x 28 x 28"):
        load_dataset("mnist", data_dir=write_mnist(tmp_path, n_train=50))


def test_labels_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels .* go up to 11"):
        load_dataset("mnist", data_dir=write_mnist(tmp_path, first=(11,)))


def test_fashion_mnist_is_not_taken_for_mnist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds Fashion-MNIST, not MNIST"):
        load_dataset("mnist", data_dir=write_mnist(tmp_path, first=(9, 0, 0, 3, 0, 2, 7, 2)))


@pytest.mark.skipif(not DEBIAN.exists(), reason=f"the Debian package dataset-fashion-mnist is not installed ({DEBIAN})")
def test_fashion_mnist_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", DEBIAN)
    assert find_dataset("fashion-mnist") == DEBIAN
    assert find_dataset("mnist") is None
    pool = load_dataset("fashion-mnist", download=False)
    assert np.bincount(pool.labels[pool.train]).tolist() == [6000] * 10
    assert np.bincount(pool.labels[pool.test]).tolist() == [1000] * 10
    assert pool.classes[pool.labels[0]] == "ankle-boot"
    assert pool.augmentation == "fashion"


# ---- missing, downloaded


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_no_network(name: str, offline: Path) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded.*Network is unreachable") as caught:
        load_dataset(name)
    message = str(caught.value)
    assert str(offline) in message
    assert "--data-dir" in message
    assert "--dataset digits" in message
    assert "\n" not in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion-mnist")
    assert [path for path in offline.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_download_false_does_not_try(name: str, offline: Path) -> None:
    with pytest.raises(DataError, match="is not on this machine"):
        load_dataset(name, download=False)
    assert not offline.exists()


def test_data_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset("mnist", data_dir=tmp_path / "nowhere")


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write to .*file"):
        load_dataset("mnist", cache_dir=tmp_path / "file" / "cache")


def test_download_is_announced_and_lands_in_the_cache(
    offline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(root: Path, *, train: bool, download: bool) -> None:
        assert download
        if train:
            write_mnist(Path(root) / "MNIST" / "raw", ending=".gz")

    monkeypatch.setattr(torchvision_datasets, "MNIST", fetch)
    with caplog.at_level(logging.INFO):
        pool = load_dataset("mnist")
    assert len(pool) == 70_000
    assert any("downloading MNIST (12 MB)" in record.message for record in caplog.records)
    assert find_dataset("mnist") == offline / "MNIST" / "raw"
    assert [path.name for path in offline.iterdir()] == ["MNIST"]
    monkeypatch.setattr(torchvision_datasets, "MNIST", None)
    assert len(load_dataset("mnist", download=False)) == 70_000


def test_fashion_mnist_by_apt(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *, cwd: Path, **_: object) -> None:
        if command[0] == "apt-get":
            (cwd / "dataset-fashion-mnist_0.0_all.deb").touch()
        else:
            write_mnist(cwd / "unpacked" / "nowhere" / "fashion-mnist", ending=".gz")

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", run)
    assert len(load_dataset("fashion-mnist")) == 70_000
    assert find_dataset("fashion-mnist") == offline / "FashionMNIST" / "raw"


def test_failing_apt_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> None:
        said = "Reading lists\nE: Unable to locate package dataset-fashion-mnist\n"
        raise subprocess.CalledProcessError(100, command, stderr=said)

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(DataError, match=r"torchvision: .*; apt-get: E: Unable to locate package dataset-fashion-mnist\)"):
        load_dataset("fashion-mnist")


# ---- through torchvision


def fake(kind: str) -> Any:
    """A stand-in for a torchvision class with six training and three test images."""

    def cifar(root: Path, *, train: bool, download: bool) -> SimpleNamespace:
        n = 6 if train else 3
        return SimpleNamespace(data=np.arange(n * 32 * 32 * 3).reshape(n, 32, 32, 3).astype(np.uint8), targets=list(range(n)))

    def svhn(root: Path, *, split: str, download: bool) -> SimpleNamespace:
        n, size = (6 if split == "train" else 3), (96 if kind == "STL10" else 32)
        return SimpleNamespace(data=np.full((n, 3, size, size), 7, dtype=np.uint8), labels=np.arange(n))

    return cifar if kind.startswith("CIFAR") else svhn


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10"])
def test_sets_of_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS[name]
    for file in layout.files:
        (tmp_path / layout.folder).mkdir(exist_ok=True)
        (tmp_path / layout.folder / file).touch()
    if name == "stl10":
        # Two unlabeled images; the first has a bright left column, which comes first in the file.
        raw = np.zeros((2, 3, 96, 96), dtype=np.uint8)
        raw[0, :, 0] = 255
        (tmp_path / layout.folder / "unlabeled_X.bin").write_bytes(raw.tobytes())
    monkeypatch.setattr(torchvision_datasets, layout.torchvision, fake(layout.torchvision))
    pool = load_dataset(name, data_dir=tmp_path, download=False)
    info = DATASETS[name]
    assert pool.image_shape == (info.channels, info.size, info.size)
    assert pool.ids.tolist()[:7] == [*(f"train/0000{i}" for i in range(6)), "test/00000"]
    assert pool.labels.tolist()[:9] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert pool.is_test.tolist()[:9] == [False] * 6 + [True] * 3
    if name == "stl10":
        assert pool.ids.tolist()[9:] == ["unlabeled/00000", "unlabeled/00001"]
        assert pool.labels.tolist()[9:] == [-1, -1]
        assert (pool.images[9, :, :, 0] == 255).all()
        assert not pool.images[9, :, :, 1:].any()
    if name.startswith("cifar"):
        np.testing.assert_array_equal(pool.images[0], np.arange(3072).reshape(32, 32, 3).astype(np.uint8).transpose(2, 0, 1))


def test_damaged_sets_of_torchvision(tmp_path: Path) -> None:
    layout = LAYOUTS["cifar10"]
    (tmp_path / layout.folder).mkdir()
    for file in layout.files:
        (tmp_path / layout.folder / file).touch()
    with pytest.raises(DataError, match=r"data_batch_1.*cannot be read.*corrupted"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_damaged_archive(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(b"half a download")
    assert find_dataset("cifar100", data_dir=tmp_path) == archive
    with pytest.raises(DataError, match=r"cifar-100-python.tar.gz cannot be read \(its checksum is wrong\)"):
        load_dataset("cifar100", data_dir=tmp_path)
    assert archive.exists()
