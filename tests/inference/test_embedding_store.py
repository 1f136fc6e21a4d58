"""What the encoder said is kept: a second query reads it, and nothing else is mistaken for it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_diffusion.acquisition import query
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference import embed as scanning
from ssl_diffusion.inference.embed import scan_images, store_of
from ssl_diffusion.inference.embedding_store import Embeddings, EmbeddingStore, digests
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.storage import allocate, create_array


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Run:
    """A run whose folder may be written to."""
    return load_run(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("scores")), "cpu", "fp32")


def count_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the encoder reads from now on."""
    sizes: list[int] = []
    representation = run.model.representation

    def counted(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return representation(x)

    monkeypatch.setattr(run.model, "representation", counted)
    return sizes


def test_a_second_query_reads_nothing_and_chooses_the_same(
    run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = query(run, digits_pool, 10, "badge", keep_scores=False)
    assert not (run.path / "scores").exists()
    first = query(run, digits_pool, 10, "badge")
    reads = count_reads(run, monkeypatch)
    second = query(run, digits_pool, 10, "badge")
    assert reads == []
    for batch in (first, second):
        np.testing.assert_array_equal(batch.ids, fresh.ids)
        np.testing.assert_array_equal(batch.utilities, fresh.utilities)


def test_only_what_is_new_is_read(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = digits_pool.train[:50]
    scan_images(run.model, digits_pool.images, positions[:30], store=store_of(run))
    reads = count_reads(run, monkeypatch)
    z, p = scan_images(run.model, digits_pool.images, positions[::-1], store=store_of(run))
    assert sum(reads) == 20
    whole, q = scan_images(run.model, digits_pool.images, positions[::-1])
    np.testing.assert_allclose(z, whole, atol=1e-5)
    np.testing.assert_allclose(p, q, atol=1e-5)


def test_another_image_under_the_same_id_is_read_again(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = digits_pool.train[:30]
    scan_images(run.model, digits_pool.images, positions, store=store_of(run))
    images = digits_pool.images.copy()
    images[positions[3]] = 255 - images[positions[3]]
    changed = Pool("d", images, digits_pool.ids, digits_pool.labels, digits_pool.classes, digits_pool.is_test)
    reads = count_reads(run, monkeypatch)
    z, _ = scan_images(run.model, changed.images, positions, store=store_of(run))
    assert reads == [1]
    np.testing.assert_allclose(z, scan_images(run.model, changed.images, positions)[0], atol=1e-5)


def test_scores_of_another_model_are_not_used_but_deleted(run: Run, digits_pool: Pool) -> None:
    positions = digits_pool.train[:20]
    scan_images(run.model, digits_pool.images, positions, store=store_of(run))
    old = set((run.path / "scores").iterdir())
    with (run.path / "model.safetensors").open("ab") as file:
        file.write(b" ")
    scan_images(run.model, digits_pool.images, positions, store=store_of(run))
    new = set((run.path / "scores").iterdir())
    assert len(new) == 1
    assert not new & old


def test_what_a_stopped_query_had_read_is_kept(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_BATCH", 8)
    monkeypatch.setattr(scanning, "_PART", 16)

    def stop(update: ProgressUpdate) -> None:
        if update.done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_images(run.model, digits_pool.images, digits_pool.train[:80], progress=stop, store=store_of(run))
    reads = count_reads(run, monkeypatch)
    scan_images(run.model, digits_pool.images, digits_pool.train[:80], store=store_of(run))
    assert sum(reads) == 80 - 32


@pytest.mark.parametrize("damage", ["cut", "missing", "text"])
def test_damaged_parts_are_passed_over(run: Run, digits_pool: Pool, damage: str) -> None:
    positions = digits_pool.train[:20]
    z, _ = scan_images(run.model, digits_pool.images, positions, store=store_of(run))
    (file,) = (run.path / "scores").glob("*/part-*/representation.npy")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:200] if damage == "cut" else b"no array")
    np.testing.assert_array_equal(scan_images(run.model, digits_pool.images, positions, store=store_of(run))[0], z)


def test_a_place_that_cannot_be_written_costs_only_the_cache(run: Run, digits_pool: Pool) -> None:
    (run.path / "scores").write_text("a file where the folder should be")
    assert len(query(run, digits_pool, 5, "margin")) == 5


def test_copies_share_their_scores(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = digits_pool.images.copy()
    images[digits_pool.train[1:9]] = images[digits_pool.train[0]]
    copied = Pool("d", images, digits_pool.ids, digits_pool.labels, digits_pool.classes, digits_pool.is_test)
    scan_images(run.model, copied.images, digits_pool.train[:1], store=store_of(run))
    reads = count_reads(run, monkeypatch)
    z, _ = scan_images(run.model, copied.images, digits_pool.train[:9], store=store_of(run))
    assert reads == []
    assert (z == z[0]).all()


def test_large_arrays_are_files_and_behave_the_same(tmp_path: Path) -> None:
    array = allocate((30, 4), np.float32, 100)
    assert isinstance(array, np.memmap)
    array[:] = np.arange(120, dtype=np.float32).reshape(30, 4)
    assert array.sum() == 120 * 119 / 2
    made = create_array(tmp_path / "a.npy", (3, 2), np.float32)
    made[:] = [[1, 2], [3, 4], [5, 6]]
    made.flush()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), [[1, 2], [3, 4], [5, 6]])
    assert not isinstance(allocate((5, 4), np.float32, 100), np.memmap)


def test_an_empty_store_knows_nothing(tmp_path: Path) -> None:
    keys = digests(np.zeros((3, 1, 2, 2), dtype=np.uint8))
    assert len(set(keys.tolist())) == 1
    scores = Embeddings(3, 5, 2)
    assert EmbeddingStore(tmp_path / "none", "x").fill(keys, scores).tolist() == [0, 1, 2]
