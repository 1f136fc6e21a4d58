"""Import of labels from folders and Parquet files, as exports and other programs write them.

Understood are a folder per class (also below train, val and test: YOLO, torchvision, and the exports "folder" and "yolo"), a
data set of FiftyOne (labels.json beside the folder data), Parquet files with images and labels (Hugging Face `datasets`), and
the export "cleanlab", of which samples.csv has the labels.
Samples are found again by their id, by the name that an export gives it, or by the content of the image, in a file or a shard.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ssl_diffusion.annotation.files.contents import Contents
from ssl_diffusion.annotation.files.foreign import parse_json
from ssl_diffusion.annotation.files.names import flat_name, folder_name
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.labels import NamedLabel
from ssl_diffusion.data.image_files import list_images
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError, SSLDError, shown
from ssl_diffusion.storage import read_regular

__all__ = ["is_data_set", "labels_of_data_set"]

_SPLITS = ("train", "val", "valid", "validation", "test")
_LARGEST = 2**30  # bytes of labels.json

Found = tuple[str, NamedLabel, str]
"""Sample id, class name or, in a multi-label job, names, and place in the data set, for messages."""


def is_data_set(path: Path) -> bool:
    """Whether a path is a folder or a Parquet file, whose labels :func:`labels_of_data_set` reads."""
    return path.is_dir() or path.suffix.lower() == ".parquet"


def labels_of_data_set(job: Job, path: Path) -> list[Found]:
    """Labels of a data set, by sample id.

    Args:
        job: Job that has the images.
        path: Folder, or Parquet file.

    Raises:
        DataError: If it is no such data set, is damaged, has an image that the job does not have, or holds one class an image
            while the job is multi-label.
        SSLDError: If pyarrow is missing.

    Example:
        >>> labels_of_data_set(job, Path("yolo"))  # doctest: +SKIP
        [('cat/1.png', 'cat', 'train/cat/cat__1.png')]
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: name a file or folder of labels")
    samples = _Samples(job)
    tables = [path] if path.is_file() else sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
    if tables:
        found = list(_parquet(tables, samples, multilabel=job.store.multilabel))
    elif job.store.multilabel:
        raise DataError(f"{path} holds one class an image, and this job is multi-label: import a CSV, JSON or Parquet file")
    elif (path / "samples.csv").exists():
        found = list(_listed(path / "samples.csv", samples))
    elif (path / "labels.json").exists():
        found = list(_fiftyone(path, samples))
    else:
        found = list(_class_folders(path, samples, job.store.classes_in_use))
    if not found:
        kinds = "class folders with images, labels.json beside data/, samples.csv, or Parquet files"
        raise DataError(f"{path} is a {'file' if path.is_file() else 'folder'} without labels to import: these are {kinds}")
    return found


class _Samples:
    """Finds the samples of a job by what other programs call them, or by their content."""

    def __init__(self, job: Job) -> None:
        self._contents = Contents(job)
        self._ids = set(job.store.ids.tolist())
        self._flat, self._stems = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for id_ in job.store.ids.tolist():
            name = flat_name(id_)
            self._flat[name].append(id_)
            self._stems[PurePosixPath(name).stem].append(id_)

    def find(self, names: Iterable[str], content: bytes | None, where: str) -> str:
        """Id of a sample.

        Args:
            names: Names that it may have, the best first.
            content: Content of the image file; None if it is not known.
            where: Place, for messages.

        Raises:
            DataError: If the job has no such image, or several.
        """
        several: list[str] = []
        for name in names:
            if name in self._ids:
                return name
            candidates = self._flat.get(name) or self._stems.get(name) or []
            if len(candidates) == 1 and (content is None or self._contents.may_be(candidates[0], content)):
                return candidates[0]
            several = several or candidates
        if content is not None:
            several = self._contents.find(content) or several
            if len(several) == 1:
                return several[0]
        if several:
            raise DataError(f"{where} may be {shown(several[0])} or {shown(several[1])} of the job: give it the id as its name")
        raise DataError(f"{where} is none of the images of the job, neither by its name nor by its content: leave it out")


def _class_folders(root: Path, samples: _Samples, classes: tuple[str, ...]) -> Iterator[Found]:
    """Labels of a folder per class; a class has the name that its folder was made of."""
    names = {folder_name(name): name for name in reversed(classes)} | {name: name for name in classes}
    for path in list_images(root):
        parts = path.relative_to(root).parts
        inside = parts[1:] if parts[0].lower() in _SPLITS and len(parts) > 2 else parts
        if len(inside) < 2:
            raise DataError(f"{path} lies in no class folder: expected {root}/CLASS/image.png, or {root}/train/CLASS/image.png")
        where = "/".join(parts)
        yield (
            samples.find([where, "/".join(inside), "/".join(inside[1:])], path.read_bytes(), where),
            names.get(inside[0], inside[0]),
            where,
        )


def _fiftyone(root: Path, samples: _Samples) -> Iterator[Found]:
    """Labels of a FiftyOneImageClassificationDataset."""
    file = root / "labels.json"
    try:
        content = parse_json(read_regular(file, largest=_LARGEST).decode("utf-8-sig"), str(file))
    except UnicodeDecodeError:
        raise DataError(f"{file} is not text in UTF-8: save it as UTF-8") from None
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        raise DataError(f"{file} has no object labels: FiftyOne writes one, from the names of the images to their classes")
    names = content.get("classes")
    files = {path.stem: path for path in list_images(root / "data")} if (root / "data").is_dir() else {}
    for stem, label in labels.items():
        where = f"labels.json, {shown(stem)}"
        if label is None:
            continue
        path = files.get(stem)
        image = path.read_bytes() if path is not None else None
        yield (
            samples.find([stem, *([path.name] if path is not None else [])], image, where),
            _class_name(label, names, where),
            where,
        )


def _listed(file: Path, samples: _Samples) -> Iterator[Found]:
    """Labels of a table beside the arrays of cleanlab, which have neither ids nor images; empty ones are left out."""
    table = read_table(file)
    for name in ("id", "label"):
        if name not in table.header:
            raise DataError(f"{file} has no column {name!r}; its columns are {', '.join(map(shown, table.header))}")
    for number, sample, label in zip(table.numbers, table.column("id"), table.column("label"), strict=True):
        if name := label.strip():
            where = f"{file.name}, row {number}"
            yield samples.find([sample], None, where), name, where


def _class_name(label: Any, names: Any, where: str) -> str:
    """Name of a class that is given by its name or its number."""
    if isinstance(label, str):
        return label
    if isinstance(label, int) and not isinstance(label, bool) and isinstance(names, list) and 0 <= label < len(names):
        return str(names[label])
    raise DataError(f"{where}: a label is the name or number of one class, not {shown(label)}")


def _label(found: Any, names: Any, where: str, *, multilabel: bool) -> NamedLabel:
    """A label of a Parquet file: one class, or a list of them."""
    if not multilabel:
        return _class_name(found, names, where)
    if not isinstance(found, list):
        raise DataError(f"{where}: a label of a multi-label job is a list of classes, not {shown(found)}")
    return tuple(_class_name(each, names, where) for each in found)


def _parquet(tables: list[Path], samples: _Samples, *, multilabel: bool) -> Iterator[Found]:
    """Labels of Parquet files with the columns image and label."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SSLDError("Parquet files need pyarrow: pip install 'ssld[parquet]'") from None
    for table in tables:
        try:
            with pq.ParquetFile(table) as file:
                columns = file.schema_arrow.names
                if "label" not in columns or not {"id", "image"} & set(columns):
                    raise DataError(
                        f"{table} needs the columns label and image (or id); it has {', '.join(map(shown, columns))}"
                    )
                names, k = _names_of(file.schema_arrow.metadata), 0
                for batch in file.iter_batches(256, columns=[name for name in ("id", "image", "label") if name in columns]):
                    for row in batch.to_pylist():
                        k += 1
                        where = f"{table.name}, row {k}"
                        if row["label"] is None or row["label"] == -1:
                            continue
                        image = row.get("image")
                        image = image if isinstance(image, dict) else {}
                        given = [str(name) for name in (row.get("id"), image.get("path")) if name]
                        id_ = samples.find(given, image.get("bytes"), where)
                        yield id_, _label(row["label"], names, where, multilabel=multilabel), where
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{table} cannot be read ({' '.join(str(error).split())}): is it a whole Parquet file?") from None


def _names_of(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Names of the classes that `datasets` keeps beside the columns; None if there are none."""
    try:
        label = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]
        label = label.get("feature", label)  # of a list
        return [str(name) for name in label["names"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
