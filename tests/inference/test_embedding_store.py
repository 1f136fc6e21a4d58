"""What the encoder said is kept: a second query reads it, and nothing else is mistaken for it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.damage import DAMAGES, Damage

from ssl_diffusion.acquisition import query
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference import embedding
from ssl_diffusion.inference.embedding import embed, embed_whole
from ssl_diffusion.inference.embedding_store import Embeddings, EmbeddingStore, digests, store_of
from ssl_diffusion.inference.rows import SelectedRows
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


def read(run: Run, images: NDArray[np.uint8], positions: NDArray[np.int64], store: EmbeddingStore | None = None) -> Embeddings:
    return embed(run.model, SelectedRows(images, positions), store)


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
    read(run, digits_pool.images, positions[:30], store_of(run))
    reads = count_reads(run, monkeypatch)
    found = read(run, digits_pool.images, positions[::-1], store_of(run))
    assert sum(reads) == 20
    whole = read(run, digits_pool.images, positions[::-1])
    np.testing.assert_allclose(found.representation, whole.representation, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-5)


def test_another_image_under_the_same_id_is_read_again(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = digits_pool.train[:30]
    read(run, digits_pool.images, positions, store_of(run))
    images = digits_pool.images.copy()
    images[positions[3]] = 255 - images[positions[3]]
    changed = Pool("d", images, digits_pool.ids, digits_pool.labels, digits_pool.classes, digits_pool.is_test)
    reads = count_reads(run, monkeypatch)
    z = read(run, changed.images, positions, store_of(run)).representation
    assert reads == [1]
    np.testing.assert_allclose(z, read(run, changed.images, positions).representation, atol=1e-5)


def test_scores_of_another_model_are_not_used_but_deleted(run: Run, digits_pool: Pool) -> None:
    positions = digits_pool.train[:20]
    read(run, digits_pool.images, positions, store_of(run))
    old = set((run.path / "scores").iterdir())
    with (run.path / "model.safetensors").open("ab") as file:
        file.write(b" ")
    read(run, digits_pool.images, positions, store_of(run))
    new = set((run.path / "scores").iterdir())
    assert len(new) == 1
    assert not new & old


def test_what_a_stopped_query_had_read_is_kept(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_PART", 16)
    images = SelectedRows(digits_pool.images, digits_pool.train[:80])

    def stop(update: ProgressUpdate) -> None:
        if update.done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(run.model, images, store_of(run), batch_size=8, progress=stop)
    reads = count_reads(run, monkeypatch)
    embed(run.model, images, store_of(run))
    assert sum(reads) == 80 - 48


@pytest.mark.parametrize("damage", ["cut", "missing", "text"])
def test_damaged_parts_are_passed_over(run: Run, digits_pool: Pool, damage: str) -> None:
    positions = digits_pool.train[:20]
    z = read(run, digits_pool.images, positions, store_of(run)).representation
    (file,) = (run.path / "scores").glob("*/part-*/representation.npy")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:200] if damage == "cut" else b"no array")
    np.testing.assert_array_equal(read(run, digits_pool.images, positions, store_of(run)).representation, z)


def test_a_place_that_cannot_be_written_costs_only_the_cache(run: Run, digits_pool: Pool) -> None:
    (run.path / "scores").write_text("a file where the folder should be")
    assert len(query(run, digits_pool, 5, "margin")) == 5


def test_copies_share_their_scores(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = digits_pool.images.copy()
    images[digits_pool.train[1:9]] = images[digits_pool.train[0]]
    copied = Pool("d", images, digits_pool.ids, digits_pool.labels, digits_pool.classes, digits_pool.is_test)
    read(run, copied.images, digits_pool.train[:1], store_of(run))
    reads = count_reads(run, monkeypatch)
    z = read(run, copied.images, digits_pool.train[:9], store_of(run)).representation
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


# ---- representations of all images in one file


class Computed:
    """Fills a file, and counts how often it had to."""

    def __init__(self, value: float = 1.0) -> None:
        self.value, self.times = value, 0

    def __call__(self, out: NDArray[np.float32]) -> None:
        self.times += 1
        out[:] = self.value


def test_a_whole_file_is_computed_once_and_memory_mapped(run: Run, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddingStore(run.path / "kept", run.digest())
    first = embed_whole(run.model, digits_pool.images, store, "all", batch_size=100)
    reads = count_reads(run, monkeypatch)
    second = embed_whole(run.model, digits_pool.images, store, "all")
    assert reads == []
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, run.represent(digits_pool.images), atol=1e-5)
    assert sorted(path.name for path in (run.path / "kept").iterdir()) == ["all.npy", "all.txt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "no note", "other note", "folder"])
def test_a_damaged_whole_file_is_made_again(tmp_path: Path, damage: str) -> None:
    store, fill = EmbeddingStore(tmp_path, "model 1"), Computed()
    store.whole("a", (5, 3), fill)
    file, note = tmp_path / "a.npy", tmp_path / "a.txt"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("no array")
    elif damage == "missing":
        file.unlink()
    elif damage == "no note":
        note.unlink()
    elif damage == "other note":
        note.write_bytes(b"\xff")
    else:
        shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(store.whole("a", (5, 3), fill), np.ones((5, 3)))
    store.whole("a", (5, 3), fill)
    assert fill.times == 2


@pytest.mark.parametrize("name", ["a.npy", "a.txt"])
@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_whatever_stands_in_the_place_of_a_whole_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage, name: str
) -> None:
    store, fill = EmbeddingStore(tmp_path, "model 1"), Computed()
    store.whole("a", (5, 3), fill)
    damage.apply(tmp_path / name)
    np.testing.assert_array_equal(store.whole("a", (5, 3), fill), np.ones((5, 3)))
    np.testing.assert_array_equal(store.whole("a", (5, 3), fill), np.ones((5, 3)))
    assert fill.times == 2
    assert "pickle" not in caplog.text


@pytest.mark.parametrize("name", ["keys.npy", "representation.npy", "probabilities.npy"])
@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_whatever_stands_in_the_place_of_a_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage, name: str
) -> None:
    keys = digests(np.arange(8, dtype=np.uint8).reshape(2, 4))
    values = np.ones((2, 3), np.float32)
    store, found = EmbeddingStore(tmp_path, "model 1"), Embeddings(2, 3, 3)
    store.keep(keys, values, values)
    assert not len(store.fill(keys, found))
    (file,) = tmp_path.glob(f"*/part-*/{name}")
    damage.apply(file)
    assert len(store.fill(keys, found)) == 2
    assert "is made again" in caplog.text
    assert "pickle" not in caplog.text
    store.keep(keys, values, values)
    assert not len(store.fill(keys, found))


def test_a_flipped_bit_is_no_other_representation(tmp_path: Path) -> None:
    store, fill = EmbeddingStore(tmp_path, "model 1"), Computed()
    store.whole("a", (5, 3), fill)
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.npy").write_bytes(data)
    np.testing.assert_array_equal(store.whole("a", (5, 3), fill), np.ones((5, 3)))


def test_a_whole_file_of_other_images_or_of_another_model_is_made_again(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "model 1").whole("a", (5, 3), Computed(1))
    assert EmbeddingStore(tmp_path, "model 1").whole("a", (6, 3), Computed(2)).tolist() == [[2] * 3] * 6
    assert EmbeddingStore(tmp_path, "model 2").whole("a", (6, 3), Computed(3)).tolist() == [[3] * 3] * 6


def test_a_whole_file_that_was_not_finished_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "model 1").whole("a", (5, 3), Computed(1))

    def stop(out: NDArray[np.float32]) -> None:
        out[:] = 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore(tmp_path, "model 2").whole("a", (5, 3), stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.txt"]
    fill = Computed()
    EmbeddingStore(tmp_path, "model 1").whole("a", (5, 3), fill)
    assert fill.times == 0


def test_parts_of_other_models_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    keys, one = digests(np.zeros((1, 1, 2, 2), dtype=np.uint8)), np.ones((1, 2), dtype=np.float32)
    EmbeddingStore(tmp_path, "model 1").whole("a", (5, 3), Computed())
    (tmp_path / "mine").mkdir()
    for identity in ("model 1", "model 2"):
        EmbeddingStore(tmp_path, identity).keep(keys, one, one)
    names = [path.name for path in tmp_path.iterdir()]
    assert {"a.npy", "a.txt", "mine"} < set(names)
    assert len(names) == 4
