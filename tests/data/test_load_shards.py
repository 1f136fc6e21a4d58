"""A pool of shards has the images, labels and splits that the shards or a CSV file say."""

from pathlib import Path

import numpy as np
import pytest
from support.commands import ok, refused
from support.shards import noise, png, write_folder, write_parquet, write_tar

from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.loading import check_used, load_pool, with_size_of
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shards.pack import pack
from ssl_diffusion.errors import DataError, RecipeError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.training.recipe import Recipe


def labels(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("write", [write_parquet, write_tar])
def test_labels_are_those_in_the_shards(tmp_path: Path, write: object) -> None:
    data = DataSettings(path=str(write(tmp_path / "s")))
    pool = load_pool(data)
    np.testing.assert_array_equal(pool.images, noise(10).transpose(0, 3, 1, 2))
    assert pool.classes == ("0", "1", "2")
    assert pool.labels.tolist() == [i % 3 for i in range(10)]
    assert (pool.name, pool.test.tolist()) == ("s", [])
    again = load_pool(with_size_of(pool, data))
    np.testing.assert_array_equal(again.images, pool.images)


def test_packed_shards_are_the_folder_that_they_were_packed_of(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for split in ("train", "test"):
        write_folder(folder / split)
    pack(list_folder(folder), tmp_path / "s", (3, 6, 5), per_shard=9)
    one, other = (load_pool(DataSettings(path=str(tmp_path / name), size=0)) for name in ("images", "s"))
    assert one.ids.tolist() == other.ids.tolist()
    assert one.classes == other.classes
    for name in ("images", "labels", "is_test"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.fingerprint() != other.fingerprint()  # which comes from the digests of the shards


def test_labels_may_come_from_a_file(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "s")
    file = labels(tmp_path / "labels.csv", "id,label,split\né3,cat,train\né0,dog,test\né9,cat,unlabeled\né1,dog,train\n")
    pool = load_pool(DataSettings(path=f"{folder}/*.parquet", labels=file))
    assert pool.classes == ("cat", "dog")
    assert pool.labels.tolist() == [1, 1, -1, 0, *[-1] * 6]
    assert pool.test.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\né0,a\nx7,b\nx8,b\n", "labels for 2 samples that no shard has, 'x7' for one"),
        ("id,label\nphotos\\É7.JPG,b\n", "'photos.*7.JPG' for one; did you mean 'é7'\\?"),
        ("id,label\né0,a\né0,b\n", "row 3 names the sample 'é0' again"),
        ("name,label\né0,a\n", "has no column id"),
        ("id,kind\né0,a\n", "has no column of labels.*--label-column"),
        ("id,label,split\né0,a,train\né1,b,test\n", "the training split has none"),
    ],
)
def test_wrong_labels_are_named(tmp_path: Path, text: str, message: str) -> None:
    folder = write_parquet(tmp_path / "s")
    with pytest.raises(DataError, match=message):
        load_pool(DataSettings(path=str(folder), labels=labels(tmp_path / "labels.csv", text)))


def test_bad_images_are_left_out_with_their_labels(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "s").mkdir()
    files = [png(x) for x in noise(4)]
    files[1] = b"no image"
    pq.write_table(pa.table({"id": list("abcd"), "image": files, "label": list("xyxy")}), tmp_path / "s" / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 1 \('b'\)"):
        load_pool(DataSettings(path=str(tmp_path / "s")))
    pool = load_pool(DataSettings(path=str(tmp_path / "s"), skip_bad=True))
    assert (pool.ids.tolist(), [pool.classes[k] for k in pool.labels]) == (["a", "c", "d"], ["x", "x", "y"])
    assert len(pool.skipped) == 1


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    folder = str(write_parquet(tmp_path / "s"))
    for changed in ({"multilabel": True}, {"image_root": "x"}, {"data_dir": "x"}, {"unlabeled": "x"}):
        with pytest.raises(RecipeError, match="has no effect on the shards"):
            check_used(DataSettings(path=folder, **changed))
    with pytest.raises(RecipeError, match=r"--labels .* has no effect on the folder"):
        check_used(DataSettings(path=str(tmp_path), labels="labels.csv"))


def test_a_folder_of_images_with_a_tar_file_is_one_of_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    (folder / "backup.tar").write_bytes(b"x")
    assert len(load_pool(DataSettings(path=str(folder)))) == 14


def test_settings_of_earlier_recipes_stay_the_same() -> None:
    assert not {"labels", "id_column"} & Recipe().to_dict()["data"].keys()


def test_a_run_is_fitted_to_shards_and_reads_them_again(
    tmp_path: Path, tiny_settings: tuple[str, ...], no_pictures: None
) -> None:
    folder = tmp_path / "images"
    write_folder(folder, 24)
    pack(list_folder(folder), tmp_path / "s", (3, 8, 8), per_shard=10)
    rows = "".join(f"{'ant' if i % 2 else 'bee'}/{i:02d}.png,{'a' if i % 2 else 'b'}\n" for i in range(12))
    file = labels(tmp_path / "labels.csv", f"id,label\n{rows}")
    options = [part for text in tiny_settings for part in ("--set", text)]
    out = tmp_path / "run"
    shards = f"{tmp_path}/s/shard-{{00000..00002}}.parquet"
    ok("fit", "--data", shards, "--labels", file, "--labeled", "8", "--no-cache", "--out", out, *options)
    assert load_run(out).classes == ("a", "b")
    ok("query", out, "--n", "3", "--out", tmp_path / "batch.csv")
    assert "has changed" not in refused("fit", "--resume", out)
    assert "no shard matches" in refused("fit", "--data", f"{tmp_path}/none/*.parquet", "--out", tmp_path / "x")
    assert "labels for 1 samples that no shard has" in refused(
        "fit", "--data", tmp_path / "s", "--labels", labels(tmp_path / "l.csv", "id,label\nx,a\n"), "--out", tmp_path / "x"
    )
