"""A fit whose images are streamed out of shards: what goes with a stream, what does not, and what is damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.commands import ok, pack_digits, refused
from support.jobs import TINY_RUN
from support.shards import noise, png

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shards.rows import ShardImages
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.models.build import build_model
from ssl_diffusion.training import streaming
from ssl_diffusion.training.batches import BatchSampler
from ssl_diffusion.training.fit import fit_model
from ssl_diffusion.training.phases import pretraining_job, training_job
from ssl_diffusion.training.recipe import Recipe

IMAGES = 53
OPTIONS = [*TINY_RUN[TINY_RUN.index("--labeled") :], "--no-cache", "--set", "data.size=0"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Path:
    return pack_digits(tmp_path_factory.mktemp("digits"), digits_pool, IMAGES, per_shard=10)


def streamed(recipe: Recipe, shards: Path, buffer: int) -> tuple[Recipe, Pool]:
    recipe = recipe.replace(data=DataSettings(path=str(shards), stream=buffer))
    return recipe, load_pool(recipe.data)


def test_terms_share_the_buffer_and_draw_the_images_of_their_rows(tiny_recipe: Recipe, shards: Path) -> None:
    recipe, pool = streamed(tiny_recipe.with_setting("training.consistency", "match"), shards, 40)
    labeled = choose_labeled(pool, 20, seed=0)
    phase = training_job(recipe, pool, labeled)
    noise_levels = build_model(phase.config, 0).noise
    one, other = BatchSampler(phase, noise_levels), BatchSampler(phase, noise_levels)
    buffers = [term.images._stream.buffer for term in (one._denoising, one._unlabeled)]  # type: ignore[union-attr]
    assert buffers == [20, 20]
    first, again = one(3), other(3)
    assert first.denoising is not None
    assert first.unlabeled is not None
    assert again.denoising is not None
    assert torch.equal(first.denoising.clean, again.denoising.clean)
    rows, images = one._unlabeled.take(5)  # type: ignore[union-attr]
    np.testing.assert_array_equal(images.numpy(), pool.images[pool.train[rows.numpy()]])
    held = torch.from_numpy(pool.images[pool.positions(labeled.fitted)])
    assert torch.equal(phase.data.images[phase.data.labeled], held)  # labeled images are in memory
    for sampler in (one, other):
        sampler.close()


def test_what_a_step_costs_is_measured_without_reading_the_stream(
    tiny_recipe: Recipe, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pool = streamed(tiny_recipe, shards, 20)
    phase = training_job(recipe, pool, choose_labeled(pool, 20, seed=0))
    monkeypatch.setattr(streaming, "StreamedImages", None)
    small = replace(phase, data=phase.data.standing_in())
    batch = BatchSampler(small, build_model(phase.config, 0).noise)(0)
    assert batch.denoising is not None
    assert batch.denoising.clean.shape[1:] == (1, 8, 8)
    assert len(small.data.train) == len(phase.data.train)
    held = replace(phase.data, stream=None)
    assert held.standing_in() is held


def test_each_order_of_the_images_has_a_denoiser_of_its_own(tiny_recipe: Recipe, shards: Path) -> None:
    keys = set()
    for buffer in (0, 20, 30):
        recipe, pool = streamed(tiny_recipe, shards, buffer)
        phase = pretraining_job(recipe, training_job(recipe, pool, None), pool.fingerprint())
        assert phase is not None
        keys.add(phase.identity)
    assert len(keys) == 3


def test_the_scale_of_the_pixels_is_measured_in_few_places(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = load_pool(DataSettings(path=str(shards), stream=20))
    asked = []
    read = ShardImages.__getitem__

    def counted(self: ShardImages, rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return read(self, rows)

    monkeypatch.setattr(ShardImages, "__getitem__", counted)
    monkeypatch.setattr("ssl_diffusion.data.pool._SAMPLED", 12)
    monkeypatch.setattr("ssl_diffusion.data.pool._PLACES", 3)
    assert pool.sigma_data() == pool.sigma_data()
    (rows,) = asked  # the second time it is known
    assert len(rows) == 12
    assert (np.diff(rows) > 1).sum() == 2
    pool.is_test[:20] = True
    pool.sigma_data()
    assert len(asked) == 2  # but other training images are others


def write_damaged(folder: Path) -> Path:
    """Shards of twelve images of which the fourth of the second one is damaged, and so is one that nobody trains on."""
    folder.mkdir()
    images = noise(24)
    for k in range(2):
        rows = range(12 * k, 12 * k + 12)
        files = [png(images[i]) if i != 15 else png(images[i])[:60] for i in rows]
        table = pa.table({"id": [f"i{i}" for i in rows], "image": files, "label": [str(i % 2) for i in rows]})
        pq.write_table(table, folder / f"{k}.parquet", row_group_size=4)
    return folder


def test_a_damaged_image_ends_the_fit_unless_bad_ones_are_skipped(tmp_path: Path) -> None:
    data = ["fit", "--data", write_damaged(tmp_path / "s"), *OPTIONS, "--stream", "8"]
    data[data.index("--labeled") + 1] = "6"
    error = refused(*data, "--out", tmp_path / "r")
    assert "1.parquet, row 3 ('i15')" in error
    ok(*data, "--skip-bad", "--out", tmp_path / "r", "--overwrite")
    assert str(pd.read_csv(tmp_path / "r" / "skipped.csv").iloc[0, 0]).endswith("1.parquet, row 3 ('i15')")
    ok("evaluate", tmp_path / "r", "--data", write_digits_like(tmp_path / "test"))


def write_digits_like(folder: Path) -> Path:
    for i, image in enumerate(noise(6, seed=1)):
        place = folder / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(png(image))
    return folder


def test_what_does_not_go_with_a_stream_is_refused(tmp_path: Path, shards: Path, tiny_recipe: Recipe) -> None:
    out = ["--out", tmp_path / "r"]
    assert "--stream feeds one device" in refused("fit", "--data", shards, *OPTIONS, "--stream", "20", "--devices", "2", *out)
    images = shards.parent / "images"
    assert "--stream (data.stream) has no effect on the folder" in refused("fit", "--data", images, "--stream", "20", *out)
    assert "has no effect on the data set" in refused("fit", "--dataset", "digits", "--stream", "20", *out)
    assert "--stream" in refused("fit", "--data", shards, "--stream", "-1", *out)
    assert not (tmp_path / "r").exists()
    recipe, pool = streamed(tiny_recipe, shards, 20)
    with pytest.raises(RecipeError, match="images stay in their shards"):
        fit_model(recipe.with_setting("data.stream", 0), pool, choose_labeled(pool, 20, seed=0))
