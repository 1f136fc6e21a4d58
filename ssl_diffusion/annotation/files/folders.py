"""Exports that are folders: one folder per class, YOLO classification, Hugging Face datasets, FiftyOne, cleanlab, verdicts."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_diffusion.annotation.files.names import flat_name, folder_name, unique_names
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.labels import NamedLabel
from ssl_diffusion.annotation.store.verdicts import verdicts
from ssl_diffusion.data.shards.rows import ImageInShard
from ssl_diffusion.errors import DataError, SSLDError

__all__ = ["CLEANLAB", "FOLDERS", "VERDICTS", "fill_verdicts"]

Rows = list[dict[str, Any]]
Images = Sequence[Path | ImageInShard]
VERDICTS = "verdicts"
CLEANLAB = "cleanlab"

# Of the roles of samples: the audit only measures models, as a validation split does.
_SPLITS = {"pool": "train", "audit": "val", "test": "test"}
_HUGGING_FACE = {"train": "train", "val": "validation", "test": "test"}
_ROWS = 1000  # of a group of rows in a Parquet file


def _per_class(_job: Job, rows: Rows, files: Images, folder: Path) -> None:
    """A folder per class, as `ssld fit --data` and torchvision's ImageFolder read it, and labels.csv with ids and files."""
    import pandas as pd

    folders = _folders(rows)
    names = _names(rows, files)
    places = unique_names([f"{folders[row['label']]}/{name}" for row, name in zip(rows, names, strict=True)])
    _copy(files, folder, places)
    written = {"id": [row["id"] for row in rows], "file": places, "label": [row["label"] for row in rows]}
    pd.DataFrame(written).to_csv(folder / "labels.csv", index=False)


def _yolo(_job: Job, rows: Rows, files: Images, folder: Path) -> None:
    """Folders train, val (the audit) and test, each with a folder per class, as Ultralytics' classifiers read them."""
    folders = _folders(rows)
    names = _names(rows, files)
    places = [f"{_SPLITS[row['role']]}/{folders[row['label']]}/{name}" for row, name in zip(rows, names, strict=True)]
    _copy(files, folder, unique_names(places))


def _hugging_face(job: Job, rows: Rows, files: Images, folder: Path) -> None:
    """Parquet files with the images inside, which `datasets.load_dataset` reads with classes and splits; sets are lists."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SSLDError("datasets of Hugging Face need pyarrow: pip install 'ssld[parquet]'") from None
    names = list(job.store.classes_in_use)
    one, several = {"names": names, "_type": "ClassLabel"}, job.store.multilabel
    features = {
        "image": {"_type": "Image"},
        "label": {"feature": one, "_type": "Sequence"} if several else one,
        "id": {"dtype": "string", "_type": "Value"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    facts = {"huggingface": json.dumps({"info": {"features": features}})}
    label = pa.list_(pa.int64()) if several else pa.int64()
    schema = pa.schema([("image", image), ("label", label), ("id", pa.string())], metadata=facts)
    (folder / "data").mkdir()
    for role, split in _SPLITS.items():
        own = [(row, file) for row, file in zip(rows, files, strict=True) if row["role"] == role]
        if not own:
            continue
        with pq.ParquetWriter(folder / "data" / f"{_HUGGING_FACE[split]}-00000-of-00001.parquet", schema) as writer:
            for start in range(0, len(own), _ROWS):
                part = own[start : start + _ROWS]
                columns = {
                    "image": [{"bytes": file.read_bytes(), "path": row["id"]} for row, file in part],
                    "label": [_numbers(row["label"], names) for row, _ in part],
                    "id": [row["id"] for row, _ in part],
                }
                writer.write_table(pa.table(columns, schema=schema))


def _numbers(label: NamedLabel, names: list[str]) -> int | list[int]:
    return names.index(label) if isinstance(label, str) else [names.index(name) for name in label]


def _fiftyone(job: Job, rows: Rows, files: Images, folder: Path) -> None:
    """A FiftyOneImageClassificationDataset: the files in `data`, and labels.json with the class of each by its stem."""
    names = list(job.store.classes_in_use)
    stems = unique_names([Path(flat_name(row["id"])).stem for row in rows])
    _copy(files, folder, [f"data/{stem}{file.suffix}" for stem, file in zip(stems, files, strict=True)])
    labels = {stem: names.index(row["label"]) for stem, row in zip(stems, rows, strict=True)}
    text = json.dumps({"classes": names, "labels": labels}, ensure_ascii=False)
    (folder / "labels.json").write_text(text + "\n", encoding="utf-8")


def _cleanlab(job: Job, rows: Rows, _files: Images, folder: Path) -> None:
    """labels.npy and pred_probs.npy as cleanlab takes them, the rows' ids in samples.csv, and the classes in classes.json.

    The probabilities are those of classifiers on the model's representation that have not seen the label of the row.
    """
    import pandas as pd

    from ssl_diffusion.annotation.loop.current_model import present_model
    from ssl_diffusion.curation.held_out import condensed, held_out_probabilities

    names = [name for name in job.store.classes_in_use if any(row["label"] == name for row in rows)]
    labels = np.array([names.index(row["label"]) for row in rows], dtype=np.int64)
    if len(names) < 2 or (rare := np.bincount(labels).min()) < 2:
        few = f"all labels are {names[0]}" if len(names) < 2 else f"{names[int(np.bincount(labels).argmin())]} has {rare}"
        raise DataError(f"cleanlab needs what other labels say of each: two labels of each of two classes or more, and {few}")
    z = present_model(job).frozen.representation[job.store.positions(row["id"] for row in rows)]
    p, _ = held_out_probabilities(condensed(np.asarray(z)), labels, len(names), seed=job.settings.seed)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "pred_probs.npy", p)
    table = {"id": [row["id"] for row in rows], "label": [row["label"] for row in rows], "number": labels}
    pd.DataFrame(table).to_csv(folder / "samples.csv", index=False)
    (folder / "classes.json").write_text(json.dumps(names, ensure_ascii=False) + "\n", encoding="utf-8")


FOLDERS: dict[str, Callable[[Job, Rows, Images, Path], None]] = {
    "folder": _per_class,
    "yolo": _yolo,
    "huggingface": _hugging_face,
    "fiftyone": _fiftyone,
    CLEANLAB: _cleanlab,
}


def fill_verdicts(job: Job, folder: Path) -> int:
    """Write the pictures that people have judged, and verdicts.csv; returns the number of verdicts.

    Args:
        job: Job with the verdicts.
        folder: Folder to write into.

    Example:
        >>> fill_verdicts(job, Path("verdicts"))  # doctest: +SKIP
        120
    """
    import pandas as pd

    rows = []
    for verdict in verdicts(job.store):
        name = f"{verdict.digest}.png"
        (folder / name).write_bytes(verdict.picture)
        facts = {"id": verdict.id, "file": name, "verdict": verdict.verdict, "source": verdict.source, "target": verdict.target}
        label = {"true": verdict.target, "false": verdict.source}.get(verdict.verdict, "")
        rows.append(facts | {"label": label, "annotator": verdict.annotator, "model": verdict.model, "at": verdict.at})
    pd.DataFrame(rows).to_csv(folder / "verdicts.csv", index=False)
    return len(rows)


def _folders(rows: Rows) -> dict[str, str]:
    """Folder name of each class."""
    # A class may have a name that no folder can have; those that can keep it, also if another would become the same.
    classes = sorted({row["label"] for row in rows}, key=lambda name: (folder_name(name) != name, name))
    return dict(zip(classes, unique_names(map(folder_name, classes)), strict=True))


def _names(rows: Rows, files: Images) -> list[str]:
    """File names of samples; ids of shards have any ending, or none, so that of the image is added where it is another one."""
    names = []
    for row, file in zip(rows, files, strict=True):
        name, ending = flat_name(row["id"]), "" if isinstance(file, Path) else file.suffix
        names.append(name if name.lower().replace(".jpeg", ".jpg").endswith(ending) else name + ending)
    return names


def _copy(files: Images, folder: Path, places: list[str]) -> None:
    for place, source in zip(places, files, strict=True):
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, target)
        else:
            target.write_bytes(source.read_bytes())
