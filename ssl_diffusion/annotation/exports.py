"""Labels as files for other programs: CSV, JSON lines, COCO, a folder a class, Label Studio, Prodigy.

`--status` says which samples are written: by default those whose label is settled.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from PIL import Image

from ssl_diffusion.annotation import views
from ssl_diffusion.annotation.job import Job
from ssl_diffusion.checkpoint import atomic_write_text
from ssl_diffusion.errors import DataError, SSLDError, nearest_names
from ssl_diffusion.gallery import new_folder

__all__ = ["EXPORTS", "export_labels"]

Rows = list[dict[str, Any]]


def export_labels(job: Job, out: Path, form: str = "csv", *, status: str = "labeled", overwrite: bool = False) -> int:
    """Write what was said; returns the number of samples.

    Args:
        job: the job.
        out: a file, or for "folder" a folder.
        form: one of :data:`EXPORTS`.
        status: samples to write: "labeled", "disputed", "skipped", "partial", "flagged" or "all". Only "csv" and "jsonl" can
            hold samples without a label.
        overwrite: replace what is there.

    Raises:
        SSLDError: if the format or status does not exist, the place is taken, or an image is not there (any more).
    """
    if form not in EXPORTS:
        raise SSLDError(f"no format {form!r}; {nearest_names(form, EXPORTS)}")
    states = ("labeled", "disputed", "skipped", "partial", "flagged", "all")
    if status not in states:
        raise SSLDError(f"no status {status!r}; {nearest_names(status, states)}")
    if form not in ("csv", "jsonl") and status not in ("labeled", "flagged"):
        raise SSLDError(f"{form} holds labels only: write samples that are {status} as csv or jsonl")
    if form != "folder" and out.exists() and not overwrite:
        raise SSLDError(f"{out} exists; --overwrite replaces it, --out chooses another file")
    if status == "flagged":
        rows = views.listing(job.store, flagged=True)
    else:
        rows = views.listing(job.store, None if status == "all" else status)
    if form not in ("csv", "jsonl"):
        rows = [row for row in rows if row["label"] is not None]
    if not rows:
        raise DataError(f"{job.path} has no samples that are {status}: nothing is written")
    out.parent.mkdir(parents=True, exist_ok=True)
    EXPORTS[form](job, rows, out, overwrite)
    return len(rows)


def _csv(job: Job, rows: Rows, out: Path, _overwrite: bool) -> None:
    table = [row | {"votes": "; ".join(f"{who}: {label or 'skipped'}" for who, label in row["votes"].items())} for row in rows]
    atomic_write_text(out, pd.DataFrame(table).to_csv(index=False))


def _jsonl(job: Job, rows: Rows, out: Path, _overwrite: bool) -> None:
    atomic_write_text(out, "".join(json.dumps(row) + "\n" for row in rows))


def _coco(job: Job, rows: Rows, out: Path, _overwrite: bool) -> None:
    """Images, categories, and an annotation an image: the whole image belongs to the category."""
    numbers = {name: k for k, name in enumerate(job.store.classes, start=1)}
    images, annotations = [], []
    for k, (row, position) in enumerate(
        zip(rows, job.store.positions(row["id"] for row in rows).tolist(), strict=True), start=1
    ):
        with Image.open(job.image_file(position)) as image:
            width, height = image.size
        images.append({"id": k, "file_name": row["id"], "width": width, "height": height})
        whole = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
        annotations.append({"id": k, "image_id": k, "category_id": numbers[row["label"]], **whole})
    categories = [{"id": k, "name": name} for name, k in numbers.items()]
    facts = {
        "info": {"description": job.path.resolve().name},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    atomic_write_text(out, json.dumps(facts) + "\n")


def _folder(job: Job, rows: Rows, out: Path, overwrite: bool) -> None:
    """A folder a class, as `ssld fit --data` and torchvision's ImageFolder read it, and labels.csv with ids and files."""
    files = _files(job, rows)
    with new_folder(out, "labels.csv", overwrite) as folder:
        written = []
        for row, source in zip(rows, files, strict=True):
            # A class may have any name, also one that is no name of a folder.
            place = folder / _folder_name(row["label"]) / row["id"].replace("/", "__")
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, place)
            written.append({"id": row["id"], "file": place.relative_to(folder).as_posix(), "label": row["label"]})
        pd.DataFrame(written).to_csv(folder / "labels.csv", index=False)


def _label_studio(job: Job, rows: Rows, out: Path, _overwrite: bool) -> None:
    """Tasks with annotations, to import; images by their path below the document root (see docs/annotate.md)."""
    tasks = []
    for row in rows:
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [row["label"]]}}
        data = {"image": f"/data/local-files/?d={quote(row['id'])}", "ssld_id": row["id"]}
        tasks.append({"data": data, "annotations": [{"result": [{"id": "label", **choice}]}]})
    atomic_write_text(out, json.dumps(tasks) + "\n")


def _prodigy(job: Job, rows: Rows, out: Path, _overwrite: bool) -> None:
    """Examples of Prodigy's choice interface, answered."""
    options = [{"id": name, "text": name} for name in job.store.classes]
    lines = []
    for row, file in zip(rows, _files(job, rows), strict=True):
        answer = {"accept": [row["label"]], "answer": "accept", "options": options, "meta": {"id": row["id"]}}
        lines.append(json.dumps({"image": str(file), **answer}) + "\n")
    atomic_write_text(out, "".join(lines))


EXPORTS: dict[str, Callable[[Job, Rows, Path, bool], None]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "coco": _coco,
    "folder": _folder,
    "label-studio": _label_studio,
    "prodigy": _prodigy,
}


def _files(job: Job, rows: Rows) -> list[Path]:
    """The files of samples; all of them are there."""
    return [job.image_file(position) for position in job.store.positions(row["id"] for row in rows).tolist()]


def _folder_name(label: str) -> str:
    name = "".join(c if c.isalnum() or c in " -_.()" else "_" for c in label).strip(". ")
    return name or "_"
