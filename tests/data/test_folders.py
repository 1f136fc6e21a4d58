"""Image folders and CSV manifests: layouts, labels, splits, and every complaint."""

import tarfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssl_diffusion.data.folders import load_csv, load_folder
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-jpeg.tar.xz"


def images(root: Path, *names: str) -> Path:
    """Small images of distinct colors under a folder."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i + 1, 0, 0)).save(path)
    return root


def by_id(pool: Pool) -> dict[str, str]:
    """Class name of every sample, "" where there is none."""
    return {str(name): pool.classes[label] if label >= 0 else "" for name, label in zip(pool.ids, pool.labels, strict=True)}


# ---- folders


def test_one_folder_a_class(tmp_path: Path) -> None:
    root = images(tmp_path / "pets", "dog/1.png", "dog/old/2.png", "cat/1.jpg", "cat/2.png", "unlabeled/u.png", "top.png")
    pool = load_folder(root)
    assert by_id(pool) == {
        "cat/1.jpg": "cat", "cat/2.png": "cat", "dog/1.png": "dog", "dog/old/2.png": "dog",
        "top.png": "", "unlabeled/u.png": "",
    }  # fmt: skip
    assert pool.ids.tolist() == sorted(pool.ids)
    assert (pool.name, pool.classes, pool.augmentation, pool.multilabel) == ("pets", ("cat", "dog"), "photo", False)
    assert not pool.is_test.any()
    assert pool.images[pool.positions(["dog/old/2.png"])[0], 0, 0, 0] == 2


def test_splits_at_the_top(tmp_path: Path) -> None:
    root = images(
        tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "train/x.png", "train/unlabeled/y.png",
        "test/a/1.png", "unlabeled/z.png",
    )  # fmt: skip
    pool = load_folder(root)
    assert pool.classes == ("a", "b")
    assert pool.ids[pool.is_test].tolist() == ["test/a/1.png"]
    blank = {name for name, label in by_id(pool).items() if not label}
    assert blank == {"train/x.png", "train/unlabeled/y.png", "unlabeled/z.png"}


def test_test_folder_beside_classes(tmp_path: Path) -> None:
    pool = load_folder(images(tmp_path, "a/1.png", "a/2.png", "test/a/1.png", "test/x.png"))
    assert pool.classes == ("a",)
    assert pool.is_test.tolist() == [False, False, True, True]
    assert any("1 test images have no label" in note for note in pool.notes)


def test_unlabeled_only_and_single_class_are_noted(tmp_path: Path) -> None:
    flat = load_folder(images(tmp_path / "flat", "1.png", "2.png"))
    assert (flat.classes, flat.labels.tolist()) == ((), [-1, -1])
    assert any("unlabeled" in note for note in flat.notes)
    nested = load_folder(images(tmp_path / "nested", "photos/1.png", "photos/2.png"))
    assert any("only one class folder, 'photos'" in note for note in nested.notes)


def test_empty_class_folder_is_ignored_with_a_note(tmp_path: Path) -> None:
    root = images(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/2.png", "test/a/1.png")
    (root / "train" / "c").mkdir()
    (root / "train" / "b" / "2.png").write_bytes(b"")
    pool = load_folder(root, skip_bad=True)
    assert pool.classes == ("a",)
    assert pool.skipped == [("train/b/2.png", "zero bytes")]
    for name in ("train/b", "train/c"):
        assert any(f"folder {name} has no readable images" in note for note in pool.notes)


def test_a_class_with_one_image_is_noted(tmp_path: Path) -> None:
    pool = load_folder(images(tmp_path, "a/1.png", "b/1.png", "b/2.png"))
    assert [note for note in pool.notes if "'a'" in note and "single" in note and "'b'" not in note]


def test_size_and_memory_map(tmp_path: Path) -> None:
    pool = load_folder(images(tmp_path, "a/1.png", "b/1.png"), size=6, max_memory=10)
    assert pool.image_shape == (3, 6, 6)
    assert isinstance(pool.images, np.memmap)


def no_images(root: Path) -> Path:
    (root / "a").mkdir()
    (root / "a" / "notes.txt").touch()
    return root


def unreadable(root: Path) -> Path:
    images(root, "a/1.png", "a/2.png")
    (root / "a" / "1.png").write_text("no")
    return root


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda root: root / "nowhere", "does not exist"),
        (lambda root: images(root, "x.png") / "x.png", "not a folder"),
        (no_images, r"no images under .*\.bmp.*\.webp"),
        (unreadable, r"1 of 2 images cannot be read(.|\n)*a/1\.png"),
        (lambda root: images(root, "train/a/1.png", "test/b/1.png"), "'b'.*training split has none"),
        (lambda root: images(root, "test/b/1.png"), "'b'.*training split has none"),
        (lambda root: images(root, "train/a/1.png", "val/a/1.png"), "'val' beside"),
    ],
)
def test_folder_errors(tmp_path: Path, make: Callable[[Path], Path], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load_folder(make(tmp_path))


def test_a_test_class_whose_training_images_are_all_bad(tmp_path: Path) -> None:
    root = images(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/1.png")
    (root / "train" / "b" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="'b'"):
        load_folder(root, skip_bad=True)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.sets(st.sampled_from(["a", "b", "c c", "unlabeled", "é/deep", "."]).flatmap(
        lambda folder: st.integers(0, 3).map(lambda i: f"{folder}/{i}.png".removeprefix("./"))
    ), min_size=1)
)  # fmt: skip
def test_every_image_becomes_one_sample(tmp_path_factory: pytest.TempPathFactory, places: set[str]) -> None:
    pool = load_folder(images(tmp_path_factory.mktemp("pool"), *places))
    assert pool.ids.tolist() == sorted(places)
    for name, label in by_id(pool).items():
        top = name.split("/")[0] if "/" in name else ""
        assert label == ("" if top == "unlabeled" else top)


# ---- CSV


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes a CSV file beside images 0.png to 5.png."""
    images(tmp_path, *(f"{i}.png" for i in range(6)))
    numbers = count()

    def write(text: str | bytes) -> Path:
        path = tmp_path / f"labels{next(numbers)}.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_csv_with_default_columns(manifest: Callable[..., Path]) -> None:
    pool = load_csv(manifest("path,label\n0.png,cat\n2.png,dog\n1.png,\n./3.png, cat \n4.png,dog\n"))
    assert by_id(pool) == {"0.png": "cat", "2.png": "dog", "1.png": "", "./3.png": "cat", "4.png": "dog"}
    assert pool.ids.tolist()[:3] == ["0.png", "2.png", "1.png"]
    assert pool.images[:, 0, 0, 0].tolist() == [1, 3, 2, 4, 5]
    assert pool.name.startswith("labels")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_of_a_spreadsheet(manifest: Callable[..., Path], separator: str) -> None:
    rows = [["Filename", "Class", "remark"], ["0.png", "é", "a, b"], ["", "", ""][:0], ["1.png", "é", ""]]
    text = "\r\n".join(separator.join(row) for row in rows)
    pool = load_csv(manifest(b"\xef\xbb\xbf" + text.encode()))
    assert by_id(pool) == {"0.png": "é", "1.png": "é"}


def test_csv_named_columns_root_and_encoding(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    images(tmp_path / "deep", "x.png", "y.png")
    path = manifest("id,kind,label\nx.png,Bär,1\ny.png,Bär,2\n".encode("cp1252"))
    pool = load_csv(path, image_column="id", label_column="kind", root=tmp_path / "deep", encoding="cp1252")
    assert by_id(pool) == {"x.png": "Bär", "y.png": "Bär"}


def test_csv_without_labels(manifest: Callable[..., Path]) -> None:
    pool = load_csv(manifest("image\n0.png\n1.png\n"))
    assert pool.labels.tolist() == [-1, -1]
    assert any("unlabeled" in note for note in pool.notes)


def test_csv_windows_paths(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    images(tmp_path, "sub/x.png")
    assert load_csv(manifest("path\nsub\\x.png\n")).ids.tolist() == ["sub\\x.png"]


def test_csv_splits(manifest: Callable[..., Path]) -> None:
    rows = ["path,label,split", "0.png,a,train", "1.png,a,TEST", "2.png,b,unlabeled", "3.png,,unlabeled", "4.png,a,train"]
    pool = load_csv(manifest("\n".join(rows)))
    assert pool.is_test.tolist() == [False, True, False, False, False]
    assert pool.labels.tolist() == [0, 0, -1, -1, 0]
    assert pool.classes == ("a",)
    assert any("labels of 1 rows" in note for note in pool.notes)


def test_csv_one_label_a_class_beside_unlabeled_images(manifest: Callable[..., Path]) -> None:
    pool = load_csv(manifest("path,label\n0.png,a\n1.png,b\n2.png,\n3.png,\n"))
    assert pool.labels.tolist() == [0, 1, -1, -1]
    assert any("single" in note and "'a', 'b'" in note for note in pool.notes)


def test_csv_joined_labels(manifest: Callable[..., Path]) -> None:
    pool = load_csv(manifest("path,label\n0.png,sea|sun\n1.png, sun | \n2.png,\n3.png,|\n"), multilabel=True)
    assert (pool.classes, pool.multilabel) == (("sea", "sun"), True)
    assert pool.labels.tolist() == [[1, 1], [0, 1], [-1, -1], [0, 0]]
    assert pool.has_label.tolist() == [True, True, False, True]
    other = load_csv(manifest("path,label\n0.png,sea+sun\n1.png,a|b\n"), multilabel=True, separator="+")
    assert other.classes == ("a|b", "sea", "sun")


def test_csv_multilabel_without_any_label(manifest: Callable[..., Path]) -> None:
    pool = load_csv(manifest("path,label\n0.png,\n1.png,\n"), multilabel=True)
    assert not pool.has_label.any()


def test_csv_label_columns(manifest: Callable[..., Path]) -> None:
    text = "path,sun,sea\n0.png,1,0\n1.png,0.0,1.0\n2.png,,\n3.png,1,\n4.png,0,0\n"
    pool = load_csv(manifest(text), label_columns=["sun", "sea"])
    assert (pool.classes, pool.multilabel) == (("sun", "sea"), True)
    assert pool.labels.tolist() == [[1, 0], [0, 1], [-1, -1], [-1, -1], [0, 0]]
    assert any("1 rows have an empty cell" in note for note in pool.notes)


def test_csv_single_label_column(manifest: Callable[..., Path]) -> None:
    pool = load_csv(manifest("path,defect\n0.png,1\n1.png,0\n"), label_columns=["defect"])
    assert pool.labels.tolist() == [[1], [0]]


def test_csv_skips_missing_and_damaged_files(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    pool = load_csv(manifest("path,label\n0.png,a\nnowhere.png,b\n1.png,c\n2.png,c\n"), skip_bad=True)
    assert pool.skipped == [("0.png", "zero bytes"), ("nowhere.png", "file not found")]
    assert by_id(pool) == {"1.png": "c", "2.png": "c"}


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("path,label\n", {}, "no rows"),
        ("path,path\n0.png,0.png\n", {}, "two columns called 'path'"),
        ("path,label\n0.png\n", {}, "row 2 has 1 cells"),
        ('path,label\n"0.png,a\n', {}, "not a valid CSV"),
        ('path\tlabel\n"0.png"x\ta\n', {}, "not a valid CSV file at line 2: a tab expected after"),
        (b"path,label\n0.png,caf\xe9\n", {}, r"byte 0xe9 at position 20 \(row 2\).*UTF-8"),
        ("path,label\n0.png,a\n", {"encoding": "klingon"}, "no text encoding 'klingon'"),
        ("photo,label\n0.png,a\n", {}, "no column called path.*'photo', 'label'"),
        ("path,file,label\n0.png,x,a\n", {}, "several columns"),
        ("path,label\n0.png,a\n", {"image_column": "pth"}, "no column 'pth'; did you mean path"),
        ("path,label\n0.png,a\n", {"label_column": "lable"}, "no column 'lable'; did you mean label"),
        ("path,label\n0.png,a\n", {"label_columns": ["labe"]}, "no column 'labe'; did you mean label"),
        ("path,label\n0.png,a\n", {"split_column": "fold"}, "no column 'fold'"),
        ("path,label\n0.png,a\n", {"root": "/nowhere"}, "/nowhere.*does not exist"),
        ("path,label\n0.png,a\n\n ,b\n", {}, "row 4 has no image path"),
        ("path,label\n0.png,a\n1.png,a\n0.png,a\n", {}, "row 4 names the image of row 2 again"),
        ("path,label\n0.png,a\n./0.png,a\n", {}, "row 3 names the image of row 2 again"),
        ("path,label\nx.png,a\n0.png,a\ny.png,a\n", {}, r"2 of 3 images are not found(.|\n)*row 2: x.png\n *row 4: y.png"),
        ("path,label\nx.png,a\ny.png,a\n", {"skip_bad": True}, "2 of 2 images are not found"),
        ("path,label\n0.png,a\n1.png,b\n", {}, "column 'label' occurs only once.*label_column among 'path', 'label'"),
        ("path,label,split\n0.png,a,train\n1.png,a,val\n", {}, "row 3 has 'val' in column 'split'"),
        ("path,label,split\n0.png,a,train\n1.png,a,\n", {}, "row 3 has '' in column 'split'"),
        ("path,label,split\n0.png,a,train\n1.png,b,test\n2.png,b,test\n", {}, "images of 'b'.*training split has none"),
        ("path,a,b\n0.png,1,0\n1.png,2,0\n", {"label_columns": ["a", "b"]}, "row 3 has '2' in column 'a'"),
        ("path,a,b\n0.png,1,0\n", {"label_columns": ["a", "a"]}, "named twice"),
        ("path,label,a\n0.png,x,0\n", {"label_columns": ["a"], "label_column": "label"}, "either label_column or"),
        ("path,label\n0.png,a|b\n", {"multilabel": True, "separator": ""}, "separator"),
    ],
)  # fmt: skip
def test_csv_errors(manifest: Callable[..., Path], text: str | bytes, options: dict[str, object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load_csv(manifest(text), **options)  # type: ignore[arg-type]


def test_csv_lists_the_first_twenty_missing_files(manifest: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"30 of 30(.|\n)*row 21: (.|\n)*and 10 more"):
        load_csv(manifest("path\n" + "".join(f"x{i}.png\n" for i in range(30))))


def test_csv_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist: give a CSV file"):
        load_csv(tmp_path / "nowhere.csv")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.sets(st.sampled_from(["a", "b", "c d", "é"])) | st.none(), min_size=1, max_size=6))
def test_csv_joined_labels_and_label_columns_agree(manifest: Callable[..., Path], rows: list[set[str] | None]) -> None:
    names = ["a", "b", "c d", "é"]
    joined = "path,label\n" + "".join(
        f"{i}.png,{'' if row is None else '|'.join(sorted(row)) or '|'}\n" for i, row in enumerate(rows)
    )
    flags = f"path,{','.join(names)}\n" + "".join(
        ",".join([f"{i}.png", *("" if row is None else str(int(name in row)) for name in names)]) + "\n"
        for i, row in enumerate(rows)
    )
    one, two = load_csv(manifest(joined), multilabel=True), load_csv(manifest(flags), label_columns=names)
    assert two.has_label.tolist() == [row is not None for row in rows]
    for name in names:
        column = two.labels[:, two.classes.index(name)]
        if name in one.classes:
            assert one.labels[:, one.classes.index(name)].tolist() == column.tolist()
        else:
            assert not (column == 1).any()


# ---- real files


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR} is not there")
def test_cifar_jpegs(tmp_path: Path) -> None:
    kept: dict[str, int] = {}
    with tarfile.open(CIFAR) as archive:
        for member in archive:
            folder = member.name.rpartition("/")[0]
            if member.isfile() and kept.setdefault(folder, 0) < 20:
                kept[folder] += 1
                archive.extract(member, tmp_path, filter="data")
    pool = load_folder(tmp_path)
    assert pool.image_shape == (3, 32, 32)
    assert len(pool.classes) == 10
    assert np.bincount(pool.labels[pool.train]).tolist() == [20] * 10
    assert np.bincount(pool.labels[pool.test]).tolist() == [20] * 10
    assert (pool.notes, pool.skipped) == ([], [])
    assert 80 < pool.images.mean() < 160
