"""The findings of a check as one HTML page that needs nothing else, as CSV files, and as a picture."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ssl_diffusion.curation.check import CheckResult
from ssl_diffusion.curation.pair_pictures import PairPicture
from ssl_diffusion.data.thumbnails import shown_image, to_pil
from ssl_diffusion.errors import DataError
from ssl_diffusion.outputs import output_folder

__all__ = ["overview_figure", "write_check"]

_SHOWN, _GROUPS, _MEMBERS, _ROWS = 48, 24, 8, 40
_SIDE = 160  # pixels of a thumbnail
_TINY = 64  # pixels up to which images are drawn as blocks


def write_check(
    result: CheckResult,
    out: Path,
    *,
    fixed: pd.DataFrame | None = None,
    findings: pd.DataFrame | None = None,
    pictures: Sequence[PairPicture] = (),
    overwrite: bool = False,
    inputs: Sequence[Path] = (),
) -> list[str]:
    """Write findings: index.html, overview.png, a CSV file a kind, and the labels that are left, labels.csv.

    Args:
        result: Findings.
        out: Folder to write.
        fixed: Result of :func:`~ssl_diffusion.curation.check.fixed_labels`; None writes no labels.
        findings: Samples that people of a job should look at, for findings.csv; None writes no such file.
        pictures: Result of :func:`~ssl_diffusion.curation.pair_pictures.draw_pairs`.
        overwrite: Whether an earlier output may be replaced.
        inputs: Files and folders that are read, which the output may not lie in.

    Returns:
        Names of the files.

    Raises:
        RunError: If the folder is taken or cannot be written.

    Example:
        >>> write_check(result, Path("check"))  # doctest: +SKIP
    """
    with output_folder(out, overwrite=overwrite, inputs=inputs) as folder:
        (folder / "index.html").write_text(_page(result, pictures), encoding="utf-8")
        overview_figure(result).savefig(folder / "overview.png", dpi=110)
        for name, table in result.tables().items():
            table.to_csv(folder / f"{name}.csv", index=False)
        if fixed is not None:
            fixed.to_csv(folder / "labels.csv", index=False)
        if findings is not None:
            findings.to_csv(folder / "findings.csv", index=False)
        return sorted(path.name for path in folder.iterdir())


def overview_figure(result: CheckResult) -> Figure:
    """The most suspicious image of each kind, a row of eight a kind."""
    rows = [
        ("label issues", result.wrong_labels[:8].tolist()),
        ("duplicates", [int(i) for group in result.duplicates.groups for i in group[:2]][:8]),
        ("outliers", result.foreign[:8].tolist()),
        ("image faults", list(dict.fromkeys(i for _, i, _, _ in result.faults))[:8]),
    ]
    pool = result.collection.pool
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    axes = figure.subplots(len(rows), 8, squeeze=False)
    for line, (name, at) in zip(axes, rows, strict=True):
        for i, cell in enumerate(line):
            cell.axis("off")
            if i < len(at):
                picture = to_pil(pool.images[at[i]])
                cell.imshow(picture, cmap="gray" if picture.mode == "L" else None, vmin=0, vmax=255)
                cell.set_title(result.label_of(at[i])[:14], fontsize=7)
        line[0].text(
            -0.15, 0.5, name if at else f"{name}: none", transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
    return figure


def _page(result: CheckResult, pictures: Sequence[PairPicture]) -> str:
    pool = result.collection.pool
    parts = [_labels(result), _duplicates(result), _outliers(result), _faults(result), _classes(result, pictures)]
    sentences = result.sentences
    loader = jinja2.PackageLoader("ssl_diffusion", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template("curation/page.html")
    test = int(pool.is_test.sum())
    return template.render(
        title=f"Check of {result.collection.name}",
        subtitle=f"{len(pool)} images{f', {test} of them in the test split' if test else ''}, {len(result.labeled)} labels, "
        f"{len(pool.classes)} classes; represented by {result.collection.by}.",
        parts=parts,
        alarms=[line for line in sentences if line.startswith("LEAK")],
        sentences=[line for line in sentences if not line.startswith("LEAK")],
    )


def _labels(result: CheckResult) -> dict[str, Any]:
    wrong = result.wrong_labels
    part = _part("labels", "Label issues", len(wrong))
    if (issues := result.issues) is None:
        return part | {"about": f"Labels were not judged: {result.not_judged}.", "count": "–"}
    ranked = issues.ranked[: max(min(len(wrong), _SHOWN), 12)]
    classes = result.collection.pool.classes
    items = []
    for i in ranked:
        position, suggested = int(result.labeled[i]), classes[issues.suggested[i]]
        items.append(_item(result, position, f"{result.label_of(position)} → {suggested}, {issues.wrong[i]:.0%}"))
    about = (
        "Given label, likelier label, and the probability that the given one is wrong, by a linear classifier that has not "
        "seen this label. The first ones are shown; label_issues.csv ranks all."
    )
    if not len(wrong):
        about = "No label is more probably wrong than right. The most suspicious ones: " + about[0].lower() + about[1:]
    return part | {"items": items, "about": about, "more": _more(len(wrong), _SHOWN, "label_issues.csv")}


def _duplicates(result: CheckResult) -> dict[str, Any]:
    leaks = {int(group[0]) for group in result.leaks}
    groups = sorted(result.duplicates.groups, key=lambda group: int(group[0]) not in leaks)
    shown = [
        {
            "leak": int(group[0]) in leaks,
            "items": [_item(result, int(i), result.label_of(int(i)) or "no label") for i in group[:_MEMBERS]],
        }
        for group in groups[:_GROUPS]
    ]
    return _part("duplicates", "Duplicates", len(groups)) | {
        "groups": shown,
        "about": "Groups of copies: the same file, or one that was cropped, compressed, scaled, brightened or mirrored. Groups "
        "in a red frame are in the test split and outside it, so that a figure on the test split is too good.",
        "more": _more(len(groups), _GROUPS, "duplicates.csv"),
    }


def _outliers(result: CheckResult) -> dict[str, Any]:
    found, foreign = result.outliers, result.foreign
    by = "by the distance to the nearest images in the representation, or to all but a few of the same kind" + (
        ", or by the error of the denoiser" if result.collection.errors is not None else ""
    )
    shown = np.argsort(-found.score, kind="stable")[: max(12, min(len(foreign), _SHOWN))]
    items = [_item(result, int(i), f"{result.label_of(int(i)) or 'no label'}, {found.ordinary[i]:.0%}") for i in shown]
    return _part("outliers", "Foreign images", len(foreign)) | {
        "items": items,
        "about": f"Label, and how many of the images that are at least as odd, {by}, should be ordinary. Those with less "
        "than 70 % count as foreign; the oddest dozen is shown in any case.",
        "more": _more(len(foreign), _SHOWN, "outliers.csv"),
    }


def _faults(result: CheckResult) -> dict[str, Any]:
    faults, skipped = result.faults, result.collection.pool.skipped
    items = [_item(result, i, f"{name}: {text}") for name, i, _, text in faults[:_SHOWN]]
    tables = []
    if skipped:
        tables = [{"columns": ["file", "cannot be read because"], "rows": skipped[:_ROWS], "two": True}]
    return _part("faults", "Image faults", len({i for _, i, _, _ in faults}) + len(skipped)) | {
        "items": items,
        "tables": tables,
        "about": "Images that are dark, bright, nearly empty or blurred, or have an odd size or aspect ratio.",
        "more": _more(len(faults), _SHOWN, "image_faults.csv"),
    }


def _classes(result: CheckResult, pictures: Sequence[PairPicture]) -> dict[str, Any]:
    part = _part("classes", "Classes", len(result.collection.pool.classes))
    tables = [_table(result.classes)] if len(result.classes) else []
    pairs = result.pairs.head(_ROWS // 2)
    if len(pairs):
        tables.append(_table(pairs) | {"two": True})
    about = (
        "Labels of each class; recall of predictions by the classifier that has not seen them. Below, pairs of classes that "
        "are taken for each other, and labels that probably belong to the other one."
    )
    shown = [_pair(result, picture) for picture in pictures]
    return part | {"tables": tables, "pairs": shown, "about": about if tables else "There are no labels."}


def _pair(result: CheckResult, picture: PairPicture) -> dict[str, str]:
    """What is shown of a pair of classes, and said below it."""
    first, second, run = picture.first, picture.second, result.collection.run
    if picture.words or run is None:
        return {"src": "", "alt": "", "text": f"What tells {first} from {second} is not drawn: {picture.words}."}
    text = (
        f"What tells {first} from {second} for the model: typical ones of each, changed until it is sure of the other class, "
        f"and the mean change. More of it: ssld explain {run.path} --between {first},{second}"
    )
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    return {"src": source, "alt": f"{first} that become {second}, and the other way round", "text": text}


def _part(key: str, title: str, count: int) -> dict[str, Any]:
    return {"key": key, "title": title, "count": count, "items": [], "groups": [], "tables": [], "pairs": [], "more": ""}


def _more(n: int, shown: int, file: str) -> str:
    return f"{shown} of {n} are shown; {file} has all." if n > shown else ""


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "–" if value != value else f"{value:.1%}"
        return str(value)

    columns = [str(name).replace("_", " ") for name in frame.columns]
    return {"columns": columns, "rows": [[cell(value) for value in row] for row in frame.itertuples(index=False)], "two": False}


def _item(result: CheckResult, position: int, text: str) -> dict[str, Any]:
    pool = result.collection.pool
    height, width = result.collection.seen.size[position]
    item = {"id": str(pool.ids[position]), "text": text, "test": bool(pool.is_test[position]), "src": ""}
    try:
        if pool.files is not None:
            content, kind = shown_image(pool.files[position], _SIDE)
        else:
            content, kind = _png(to_pil(pool.images[position])), "image/png"
    except DataError:
        return item
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return item | {"src": source, "tiny": max(height, width) <= _TINY}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
