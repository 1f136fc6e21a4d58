"""A batch for annotators: CSV, JSON, a folder of images with a table, tasks of Label Studio; and as a picture."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_diffusion.acquisition.query import QueryBatch
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.generation.counterfactual.search import explain_run
from ssl_diffusion.generation.gallery import file_stems
from ssl_diffusion.generation.readiness import doubt_of
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.outputs import check_output_file, check_output_folder, output_folder, write_output
from ssl_diffusion.training.panels import fitted, inch_panel, place_image, text_width, wrapped

__all__ = ["FORMATS", "batch_figure", "check_place", "label_studio_tasks", "write_batch"]

_PICTURED = 30
_COLUMN, _ROW, _TITLE, _SIDE, _NARROWEST = 1.15, 1.48, 0.3, 1.08, 3.0  # inches of the picture


def write_batch(
    batch: QueryBatch, pool: Pool | None, out: Path, form: str = "csv", overwrite: bool = False, inputs: Sequence[Path] = ()
) -> None:
    """Write a batch in one of :data:`FORMATS`, complete or not at all.

    Args:
        batch: Batch to write.
        pool: Pool that holds its images; None will do for "csv" and "json".
        out: File, or for "folder" a folder.
        form: "csv" or "json": the rows of :meth:`QueryBatch.to_frame`; "folder": a PNG each and batch.csv with a column
            `file` and an empty column `label` to fill in; "label-studio": tasks to import, with the image inside, ordered by
            score as Label Studio's uncertainty sampling reads it (lowest first).
        overwrite: Whether an earlier output may be replaced.
        inputs: Files and folders that no output may replace.

    Raises:
        SSLDError: if the format does not exist or the place is taken.
    """
    check_place(out, form, overwrite, inputs)
    if form == "folder":
        assert pool is not None
        with output_folder(out, overwrite=overwrite, inputs=inputs) as folder:
            _fill_folder(batch, pool, folder)
    else:
        write_output(out, FORMATS[form](batch, pool), overwrite=overwrite, inputs=inputs)


def check_place(out: Path, form: str, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise :class:`SSLDError` if :func:`write_batch` would, before a batch has been made."""
    if form not in (*FORMATS, "folder"):
        raise SSLDError(f"no format {shown(form)}; {nearest_names(form, [*FORMATS, 'folder'])}")
    check = check_output_folder if form == "folder" else check_output_file
    check(out, overwrite=overwrite, inputs=inputs)


def _csv(batch: QueryBatch, pool: Pool | None) -> str:
    return batch.to_frame().to_csv(index=False)


def _json(batch: QueryBatch, pool: Pool | None) -> str:
    rows = json.loads(batch.to_frame().to_json(orient="records"))
    facts = {"strategy": batch.strategy, "reason": batch.reason, "seed": batch.seed, "samples": rows}
    return json.dumps(facts, indent=2) + "\n"


def _fill_folder(batch: QueryBatch, pool: Pool, folder: Path) -> None:
    frame = batch.to_frame()
    files = [f"{stem}.png" for stem in file_stems(batch.ids.tolist())]
    for file, image in zip(files, pool.images[pool.positions(batch.ids)], strict=True):
        to_pil(image).save(folder / file)
    frame.insert(1, "file", files)
    frame.insert(2, "label", "")
    frame.to_csv(folder / "batch.csv", index=False)


def _label_studio(batch: QueryBatch, pool: Pool | None) -> str:
    assert pool is not None
    return json.dumps(label_studio_tasks(batch, pool)) + "\n"


FORMATS: dict[str, Callable[[QueryBatch, Pool | None], str]] = {"csv": _csv, "json": _json, "label-studio": _label_studio}
"""Formats of one file; "folder" is the other one."""


def label_studio_tasks(batch: QueryBatch, pool: Pool) -> list[dict[str, object]]:
    """Tasks to import into Label Studio: the image as a data URL, the id, and a prediction whose score gives the order.

    The score is (rank - 1/2) / n: uncertainty sampling serves the lowest first, so the order of the batch survives.
    """
    tasks: list[dict[str, object]] = []
    version = f"ssld-{batch.strategy}-s{batch.seed}"
    for rank, (sample, image) in enumerate(zip(batch.ids, pool.images[pool.positions(batch.ids)], strict=True)):
        buffer = io.BytesIO()
        to_pil(image).save(buffer, format="PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        result = []
        if batch.predictions:
            name, _ = batch.predictions[rank]
            choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [name]}}
            result = [{"id": f"{rank}", **choice}]
        data = {"image": url, "id": str(sample), "utility": float(batch.utilities[rank])}
        prediction = {"model_version": version, "score": (rank + 0.5) / len(batch), "result": result}
        tasks.append({"data": data, "predictions": [prediction]})
    return tasks


def batch_figure(batch: QueryBatch, pool: Pool, run: Run | None = None) -> Figure:
    """The first samples of a batch and why they were chosen; with a run that has classes, each beside its counterfactual.

    There are none where they would be noise, or would take minutes: through a backbone.

    Example:
        >>> figure = batch_figure(query(run, pool, n=4, strategy="margin"), pool)
    """
    n = min(_PICTURED, len(batch))
    images = pool.images[pool.positions(batch.ids[:n])]
    predictions = batch.predictions[:n]
    beside: NDArray[np.uint8] | None = None
    if run is not None and len(run.classes) > 1 and not run.multilabel and _draws(run):
        result = explain_run(run, images, "runner-up")
        assert result.counterfactual is not None
        beside = result.counterfactual
        names = [run.classes[k] if ok else "" for k, ok in zip(result.target, result.success, strict=True)]
        # In fp32, as the search has them: near the boundary rounding decides which of two classes comes first.
        before = predict_probabilities(run.model, images)
        predictions = [(run.classes[k], float(p[k])) for k, p in zip(result.source, before, strict=True)]
    columns = min(6, n)
    wide = 1 if beside is None else 2
    width = max(_NARROWEST, _COLUMN * columns * wide + 0.1)
    figure, axis = inch_panel(width, 1)
    reason = wrapped(figure, batch.reason, 9, width - 0.2)
    above = 0.2 + 0.16 * (reason.count("\n") + 1)
    figure.set_size_inches(width, height := above + _ROW * -(-n // columns))
    axis.set_ylim(height, 0)
    axis.text(0.1, 0.08, reason, fontsize=9, ha="left", va="top", parse_math=False)

    def fit(text: str, beside: str, *, end: bool = False) -> str:
        return fitted(figure, text, 7, _COLUMN - 0.06 - text_width(figure, beside, 7), end=end)

    def draw(image: NDArray[np.uint8], place: int, title: str, color: str) -> None:
        left, top = 0.05 + _COLUMN * (place % (columns * wide)), above + _ROW * (place // (columns * wide))
        style: dict[str, Any] = {"fontsize": 7, "linespacing": 1.15, "color": color, "parse_math": False}
        axis.text(left + _COLUMN / 2, top + _TITLE - 0.04, title, ha="center", va="bottom", **style)
        place_image(axis, image, left + (_COLUMN - _SIDE) / 2, top + _TITLE, _SIDE)

    for i in range(n):
        title = (rank := f"{i + 1}. ") + fit(str(batch.ids[i]), rank, end=True)
        if predictions:
            name, p = predictions[i]
            title += "\n" + fit(name, probability := f" {p:.2f}") + probability
        draw(images[i], i * wide, title, "black")
        if beside is not None:
            draw(beside[i], i * wide + 1, f"it would say\n{fit(names[i], '')}" if names[i] else "", "#d1603d")
    return figure


def _draws(run: Run) -> bool:
    """Whether counterfactuals of a run are worth a look, and come soon."""
    return not isinstance(run.model, FusedDiffusion) and not doubt_of(run)
