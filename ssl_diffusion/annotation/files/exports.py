"""Export of labels: CSV, JSON lines, COCO, Label Studio, Prodigy, and folders for other programs."""

import base64
import json
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ssl_diffusion.annotation.files.folders import CLEANLAB, FOLDERS, VERDICTS, fill_verdicts
from ssl_diffusion.annotation.loop.class_sets import check_columns
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.labels import NamedLabel, said
from ssl_diffusion.annotation.store.verdicts import verdicts
from ssl_diffusion.data.decoding import open_image
from ssl_diffusion.data.shards.rows import ImageInShard
from ssl_diffusion.errors import DataError, SSLDError, nearest_names, shown
from ssl_diffusion.outputs import check_output_file, check_output_folder, output_folder, write_output

__all__ = ["EXPORTS", "default_output", "export_labels", "export_text"]

Rows = list[dict[str, Any]]
_HOLD_SETS = ("csv", "jsonl", "coco", "label-studio", "prodigy", "huggingface")
_COLUMNS = ("id", "role", "status", "flagged", "votes")


def export_labels(job: Job, out: Path, form: str = "csv", *, status: str = "labeled", overwrite: bool = False) -> int:
    """Write labels; returns the number of samples.

    Args:
        job: Job to export.
        out: Output file, or folder for "verdicts" and the formats of :data:`~ssl_diffusion.annotation.files.folders.FOLDERS`.
        form: One of :data:`EXPORTS` or of these.
        status: Samples to write: "labeled", "disputed", "skipped", "partial", "flagged" or "all". Only "csv" and "jsonl" can
            hold samples without a label.
        overwrite: Whether to replace an existing file or folder.

    Raises:
        SSLDError: If the format or status does not exist, the format cannot hold the sets of a multi-label job, the output
            exists, or an image file is missing.

    Example:
        >>> export_labels(open_job(Path("job")), Path("labels.csv"))  # doctest: +SKIP
        120
    """
    _check(job, form, [*EXPORTS, *FOLDERS, VERDICTS], status)
    check = check_output_file if form in EXPORTS else check_output_folder
    check(out, overwrite=overwrite, inputs=job.inputs)
    if form == VERDICTS:
        if not verdicts(job.store):
            raise DataError(f"{job.path} has no verdicts on counterfactuals: nothing was written")
        with output_folder(out, overwrite=overwrite, inputs=job.inputs) as folder:
            return fill_verdicts(job, folder)
    rows = _rows(job, form, status)
    if form in FOLDERS:
        files = _files(job, rows) if form != CLEANLAB else []
        with output_folder(out, overwrite=overwrite, inputs=job.inputs) as folder:
            FOLDERS[form](job, rows, files, folder)
    else:
        write_output(out, EXPORTS[form](job, rows), overwrite=overwrite, inputs=job.inputs)
    return len(rows)


def export_text(job: Job, form: str = "csv", *, status: str = "labeled") -> str:
    """What :func:`export_labels` would write to a file.

    Args:
        job: Job to export.
        form: One of :data:`EXPORTS`.
        status: As there.

    Raises:
        SSLDError: If the format or status does not exist, there are no such samples, or an image file is missing.

    Example:
        >>> export_text(open_job(Path("job"))).splitlines()[0]  # doctest: +SKIP
        'id,role,status,label,flagged,votes'
    """
    _check(job, form, [*EXPORTS], status)
    return EXPORTS[form](job, _rows(job, form, status))


def _check(job: Job, form: str, forms: list[str], status: str) -> None:
    if form not in forms:
        raise SSLDError(f"no format {shown(form)}; {nearest_names(form, forms)}")
    if job.store.multilabel and form not in (*_HOLD_SETS, VERDICTS):
        raise SSLDError(
            f"{form} holds one class an image, and the images of this job may have several: export as {', '.join(_HOLD_SETS)}"
        )
    states = ("labeled", "disputed", "skipped", "partial", "flagged", "all")
    if status not in states:
        raise SSLDError(f"no status {shown(status)}; {nearest_names(status, states)}")
    if form not in ("csv", "jsonl") and status not in ("labeled", "flagged"):
        raise SSLDError(f"{form} can hold labeled samples only: export samples that are {status} as csv or jsonl")


def _rows(job: Job, form: str, status: str) -> Rows:
    if status == "flagged":
        rows = queries.listing(job.store, flagged=True)
    else:
        rows = queries.listing(job.store, None if status == "all" else status)
    if form not in ("csv", "jsonl"):
        rows = [row for row in rows if row["label"] is not None]
    if not rows:
        raise DataError(f"{job.path} has no samples that are {status}: nothing was written")
    return rows


def default_output(form: str) -> Path:
    """Name of the output of a format, see :func:`export_labels`, where the user gives none."""
    if form == VERDICTS:
        return Path(form)
    endings = {"coco": ".json", "label-studio": ".json", "prodigy": ".jsonl"} | dict.fromkeys(FOLDERS, "")
    return Path(f"labels{endings.get(form, f'.{form}')}")


def _csv(job: Job, rows: Rows) -> str:
    import pandas as pd

    table = [row | {"votes": "; ".join(f"{who}: {_said(label)}" for who, label in row["votes"].items())} for row in rows]
    if job.store.multilabel:
        names = job.store.classes_in_use
        check_columns(names, _COLUMNS)
        table = [{name: row[name] for name in _COLUMNS} | _flags(row["label"], names) for row in table]
    return pd.DataFrame(table).to_csv(index=False)


def _said(label: NamedLabel | None) -> str:
    return "skipped" if label is None else said(label)


def _flags(label: tuple[str, ...] | None, names: tuple[str, ...]) -> dict[str, int | str]:
    """A column of 0 and 1 for each class, as `ssld fit --label-columns` reads them; empty ones without a label."""
    return dict.fromkeys(names, "") if label is None else {name: int(name in label) for name in names}


def _jsonl(job: Job, rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _coco(job: Job, rows: Rows) -> str:
    """Images, categories, and one annotation for each class of an image, whose box is the whole image."""
    numbers = {name: k for k, name in enumerate(job.store.classes_in_use, start=1)}
    images: Rows = []
    annotations: Rows = []
    for k, (row, position) in enumerate(
        zip(rows, job.store.positions(row["id"] for row in rows).tolist(), strict=True), start=1
    ):
        width, height = _size(job.image_content(position))
        images.append({"id": k, "file_name": row["id"], "width": width, "height": height})
        whole = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
        for name in _names(row):
            annotations.append({"id": len(annotations) + 1, "image_id": k, "category_id": numbers[name], **whole})
    categories = [{"id": k, "name": name} for name, k in numbers.items()]
    facts = {
        "info": {"description": job.path.resolve().name},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return json.dumps(facts) + "\n"


def _size(path: Path | ImageInShard) -> tuple[int, int]:
    """Width and height of an image."""
    from PIL import Image

    try:
        with open_image(path if isinstance(path, Path) else path.read_bytes()) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not an image that can be read ({error}): put back a copy of it, or export as csv") from None


def _label_studio(job: Job, rows: Rows) -> str:
    """Tasks with annotations to import; images by their path below the document root (see docs/how-to/annotate.md).

    Images of shards lie in the tasks.
    """
    if job.shards is None:
        addresses = (f"/data/local-files/?d={quote(row['id'])}" for row in rows)
    else:
        addresses = (_inside(image) for image in _files(job, rows))
    tasks = []
    for row, address in zip(rows, addresses, strict=True):
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": _names(row)}}
        data = {"image": address, "ssld_id": row["id"]}
        tasks.append({"data": data, "annotations": [{"result": [{"id": "label", **choice}] if _names(row) else []}]})
    return json.dumps(tasks) + "\n"


def _prodigy(job: Job, rows: Rows) -> str:
    """Answered examples of Prodigy's choice interface."""
    options = [{"id": name, "text": name} for name in job.store.classes_in_use]
    several = {"config": {"choice_style": "multiple"}} if job.store.multilabel else {}
    lines = []
    for row, file in zip(rows, _files(job, rows), strict=True):
        answer = {"accept": _names(row), "answer": "accept", "options": options, "meta": {"id": row["id"]}, **several}
        lines.append(json.dumps({"image": _inside(file) if job.shards is not None else str(file), **answer}) + "\n")
    return "".join(lines)


EXPORTS: dict[str, Callable[[Job, Rows], str]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "coco": _coco,
    "label-studio": _label_studio,
    "prodigy": _prodigy,
}


def _names(row: dict[str, Any]) -> list[str]:
    """Classes of a sample: one, or those of its set."""
    return [row["label"]] if isinstance(row["label"], str) else list(row["label"])


def _inside(image: Path | ImageInShard) -> str:
    """An address that holds the image itself."""
    content, ending = (image.read_bytes(), image.suffix) if isinstance(image, Path) else image.load()
    kind = mimetypes.guess_type(f"image{ending}")[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _files(job: Job, rows: Rows) -> list[Path | ImageInShard]:
    """Images of samples: files, all of which exist, or what lies in shards."""
    return [job.image_content(position) for position in job.store.positions(row["id"] for row in rows).tolist()]
