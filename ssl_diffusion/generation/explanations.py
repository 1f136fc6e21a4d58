"""Explanations of a run as a folder: what would have to change in images for another class, in pictures and a table."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.animations import write_animation
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult, joined
from ssl_diffusion.generation.counterfactual.search import SearchOptions
from ssl_diffusion.generation.figures import counterfactual_figure, distance_figure
from ssl_diffusion.generation.gallery import NOISE, class_index, file_stems
from ssl_diffusion.generation.original_size import is_larger, read_pixels, write_changed
from ssl_diffusion.generation.pair_panels import Picture, pair_panels
from ssl_diffusion.generation.pair_search import AUTO, Explained, searched
from ssl_diffusion.generation.readiness import caution_of, doubt_of, stamp
from ssl_diffusion.generation.regions import Region, region_mask, region_of
from ssl_diffusion.generation.strips import Panel, strip
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import original_images, pool_rows
from ssl_diffusion.models.fused import check_gradient
from ssl_diffusion.outputs import check_output_folder, output_folder
from ssl_diffusion.training.run_folder import run_inputs

_log = logging.getLogger(__name__)

__all__ = ["Page", "write_explanations"]

Page = Callable[[Path, CounterfactualResult, list[list[Panel]]], list[Path]]
"""Function that adds pictures to a folder of explanations, from their result and the panels of the first 40 pairs; it returns
those that show them."""

_SHEET = 40  # pairs in sheet.png


def write_explanations(
    run: Run,
    pool: Pool,
    ids: Sequence[str],
    out: Path,
    *,
    target: str | Sequence[str] = "runner-up",
    region: str | None = None,
    n: int = 1,
    animation: bool = False,
    page: Page | None = None,
    overwrite: bool = False,
    **options: Unpack[SearchOptions],
) -> tuple[pd.DataFrame, CounterfactualResult]:
    """Search counterfactuals into a folder: counterfactuals.csv, pictures of each pair, sheet.png and distances.png.

    Each pair of an image and a target has up to three PNG files: the counterfactual (column `file`); the one at the boundary,
    if more is asked for (`boundary_file`); and a strip of the original, the boundary, the counterfactual and its signed
    difference, six-fold (`strip`). An attempt that failed has no picture: the column is empty, and the strip says so in words
    and shows the boundary alone, if that was reached.

    Where the file of an image is larger than the images of the model, or the model has a backbone that reads files, pictures
    are the file at its own size with the enlarged change added, and the column `verified` says whether the saved one is
    predicted as the target, with the confidence that was asked for. The search ends where the probability just suffices, and
    there rounding at another size decides: the change that is saved may be a little larger, by the factor in `strength`.

    Args:
        run: Fitted model with classes.
        pool: Images of the run.
        ids: Ids of the samples to explain.
        out: Folder to write, completely or not at all.
        target: Class name, or one for each sample; "runner-up", "nearest" (by the change to the boundary) or "all".
        region: Rectangle that may change, "x,y,w,h" in pixels of the pictures, or path of an image of their size that is white
            there. None is everywhere; "auto" is, for each image and target, where the decision between both classes lies, and
            everywhere for those that do not reach their target there.
        n: Number of counterfactuals of each pair; each changes only pixels that those before it left as they were.
        animation: Whether to write the way from the image to its counterfactual as a WebP file, where the search succeeded
            (column `animation`).
        page: Function that adds pictures of all pairs to the folder.
        overwrite: Whether an earlier output may be replaced.
        options: Confidence (0.9 if not given), revert, seed, batch size and progress of the search, see
            :func:`ssl_diffusion.generation.explain`.

    Returns:
        The table counterfactuals.csv, and the result of the search.

    Raises:
        RunError: If the place is taken or cannot be written, or the run has no classes, or several for one image.
        DataError: If an id or the target does not exist, the target is the predicted class of an image, or the region does not
            suit a picture.

    Example:
        >>> table, result = write_explanations(run, pool, ["test/00001"], Path("why"), target="nearest")
    """
    run.check_single_label("to explain")
    check_gradient(run.model, with_originals=pool.files is not None)
    inputs = run_inputs(run)
    check_output_folder(out, overwrite=overwrite, inputs=inputs)
    if len(set(ids)) != len(ids):
        raise DataError("each id can be explained once; one is given twice")
    positions = pool.positions(ids)
    images = pool.images[positions]
    originals, doubt = original_images(run, pool, positions), doubt_of(run)
    before = predict_probabilities(run.model, pool_rows(run, pool, positions))
    wanted = _wanted(run, target, ids, before.argmax(axis=1))
    paths = [None] * len(ids) if pool.files is None else [pool.files[i] for i in positions]
    always = originals is not None  # a backbone reads the files
    own = [file if file is not None and (always or is_larger(file, run.image_shape)) else None for file in paths]
    allowed = None if region in (None, AUTO) else _allowed(region_of(region), own, images, ids)
    stems = file_stems(ids)
    with output_folder(out, overwrite=overwrite, inputs=inputs) as folder:
        rounds: list[_Round] = []
        at, aims = np.arange(len(ids)), wanted
        for number in range(1, n + 1):
            masks = None if allowed is None else [allowed[i] for i in at]
            if rounds:
                masks = _unchanged(rounds[-1], own, masks)
            some = Explained(images[at], None if originals is None else originals[at], [own[i] for i in at], masks)
            boundary, result = (
                replace(each, image=at[each.image]) for each in searched(run, some, aims, options, attributed=region == AUTO)
            )
            pairs = zip(result.image, result.target, strict=True)
            names = [f"{stems[i]}_to_{run.classes[k]}{'' if number == 1 else f'_{number}'}".replace("/", "_") for i, k in pairs]
            rounds.append(_round(run, some, at, boundary, result, names, folder, options["confidence"]))
            at, aims = result.image, result.target
        order = np.arange(n * len(at)).reshape(n, len(at)).T.ravel()  # the rounds of a pair beside each other
        every = joined([each.result for each in rounds]).take(order)
        frame = pd.concat([_table(each, ids, run.classes, number) for number, each in enumerate(rounds, 1)], ignore_index=True)
        frame = frame.iloc[order].reset_index(drop=True)
        rows: list[list[Panel]] = []
        films = []
        for place in order.tolist():
            one, i = rounds[place // len(at)], place % len(at)
            original = _original(one.result.original[i], own[at[i]])
            panels = pair_panels(original, one.pictures(i), run.classes, int(one.result.source[i]), int(one.result.target[i]))
            strip(panels).save(folder / f"{one.names[i]}_strip.png")
            films.append(f"{one.names[i]}.webp" if animation and one.saved.reached[i] else "")
            if films[-1]:
                stated = panels[0].caption, one.target(run, i)
                write_animation([panel.image for panel in panels[:-1]], stated, folder / films[-1])
            if len(rows) < _SHEET:
                rows.append([panel.reduced() for panel in panels])
        if animation:
            frame["animation"] = films
        if not any(own):
            frame = frame.drop(columns=["strength", "verified"])
        frame.to_csv(folder / "counterfactuals.csv", index=False)
        for path in {path for one in rounds for saved in (one.edge, one.saved) for path in saved.failed()}:
            path.unlink()
        shown, after = every.take(np.arange(len(rows))), np.concatenate([each.shown_p() for each in rounds])[order[: len(rows)]]
        nothing = np.isnan(after[:, 0])  # that was reached: nothing has changed
        after[nothing] = before[shown.image[nothing]]
        beside = [str(ids[i]) for i in shown.image]
        counterfactual_figure(shown, run.classes, before[shown.image], after, beside, rows).savefig(
            folder / "sheet.png", dpi=110
        )
        pages = [] if page is None else page(folder, every, rows)
        if doubt:
            for path in (folder / "sheet.png", *(folder / file for file in frame["strip"]), *pages):
                stamp(path, NOISE)
        if len(rounds[0].boundary) > 1:
            distance_figure(rounds[0].boundary).savefig(folder / "distances.png", dpi=130)
    if said := doubt or caution_of(run):
        _log.warning("%s", said)
    return frame, every


def _wanted(run: Run, target: str | Sequence[str], ids: Sequence[str], predicted: NDArray[np.int64]) -> str | NDArray[np.int64]:
    """The target class of each sample, int64 (n,), or a word that stands for it."""
    if target in ("runner-up", "nearest", "all"):
        return str(target)
    names = [target] * len(ids) if isinstance(target, str) else target
    indices = {name: class_index(run, name) for name in dict.fromkeys(names)}
    wanted = np.array([indices[name] for name in names], dtype=np.int64)
    for i in np.flatnonzero(wanted == predicted)[:1]:
        raise DataError(f"{ids[i]} is classified as {names[i]!r} already; choose another target for it")
    return wanted


@dataclass(frozen=True)
class _Saved:
    """Saved pictures of m pairs.

    Attributes:
        paths: PNG files.
        p: Class probabilities of what was saved, float32, (m, K).
        strength: Factors of the changes, float64, (m,).
        reached: Whether the picture is predicted as the target with the confidence that is asked for, bool, (m,).
    """

    paths: list[Path]
    p: NDArray[np.float32]
    strength: NDArray[np.float64]
    reached: NDArray[np.bool_]

    def failed(self) -> list[Path]:
        """Pictures of attempts that failed, which nobody is to take for results."""
        return [path for path, reached in zip(self.paths, self.reached, strict=True) if not reached]

    def names(self) -> list[str]:
        """Names of the pictures, empty for attempts that failed."""
        return [path.name if reached else "" for path, reached in zip(self.paths, self.reached, strict=True)]


@dataclass(frozen=True)
class _Round:
    """Counterfactuals of m pairs, those at the boundary, and the pictures of both."""

    boundary: CounterfactualResult
    result: CounterfactualResult
    names: list[str]
    edge: _Saved
    saved: _Saved

    def target(self, run: Run, i: int) -> str:
        """Name of the class that a pair was to reach."""
        return run.classes[int(self.result.target[i])]

    def pictures(self, i: int) -> list[Picture | None]:
        """What a pair has: the boundary, if more was asked for, and the counterfactual; None where it was not reached."""
        both = [self.saved] if self.edge is self.saved else [self.edge, self.saved]
        channels = len(self.result.original[i])
        return [(read_pixels(each.paths[i], channels), each.p[i]) if each.reached[i] else None for each in both]

    def shown_p(self) -> NDArray[np.float32]:
        """Class probabilities of the last picture that each pair has, float32 (m, K); NaN where it has none."""
        sure, edge = self.saved.reached[:, None], self.edge.reached[:, None]
        return np.where(sure, self.saved.p, np.where(edge, self.edge.p, np.float32(np.nan)))


def _allowed(
    region: Region, files: list[Path | None], images: NDArray[np.uint8], ids: Sequence[str]
) -> list[NDArray[np.bool_]]:
    """Which pixels of the picture of each image may change."""
    masks = []
    for file, image, name in zip(files, images, ids, strict=True):
        size = image.shape[1:] if file is None else read_pixels(file, 1).shape[1:]
        masks.append(region_mask(region, (size[0], size[1]), name))
    return masks


def _unchanged(before: _Round, files: list[Path | None], masks: list[NDArray[np.bool_]] | None) -> list[NDArray[np.bool_]]:
    """Which pixels of the pictures of pairs may change that have not changed before."""
    kept = []
    for i, image in enumerate(before.result.original):
        original = _original(image, files[before.result.image[i]])
        made = next((picture[0] for picture in reversed(before.pictures(i)) if picture is not None), original)
        same = (original == made).all(axis=0)
        kept.append(same if masks is None else same & masks[i])
    return kept


def _round(
    run: Run,
    some: Explained,
    at: NDArray[np.int64],
    boundary: CounterfactualResult,
    result: CounterfactualResult,
    names: list[str],
    folder: Path,
    confidence: float,
) -> _Round:
    """Save the pictures of pairs, whose images are numbered by `at`."""
    place = np.searchsorted(at, result.image) if len(at) != len(result) else np.arange(len(at))
    files = [some.files[i] for i in place]
    masks = None if some.masks is None else [some.masks[i] for i in place]
    saved = edge = _save(run, result, files, masks, [folder / f"{name}.png" for name in names], confidence)
    if boundary is not result and confidence:
        edge = _save(run, boundary, files, masks, [folder / f"{name}_boundary.png" for name in names], 0.0)
    return _Round(boundary, result, names, edge, saved)


def _table(one: _Round, ids: Sequence[str], classes: tuple[str, ...], number: int) -> pd.DataFrame:
    """The rows of counterfactuals.csv for one round."""
    frame = one.result.to_frame(np.array(ids), classes)
    frame.insert(1, "file", one.saved.names())
    frame.insert(2, "number", number)
    frame["boundary_file"], frame["strip"] = one.edge.names(), [f"{name}_strip.png" for name in one.names]
    frame["boundary_success"], frame["boundary_distance"] = one.boundary.success, one.boundary.distance_pixel
    frame["strength"], frame["verified"] = one.saved.strength, one.saved.reached
    return frame


def _save(
    run: Run,
    result: CounterfactualResult,
    sources: Sequence[Path | None],
    masks: list[NDArray[np.bool_]] | None,
    places: list[Path],
    confidence: float,
) -> _Saved:
    """Write the counterfactuals, at the size of the files that they come from where there are some."""
    strength, reached = np.ones(len(result)), result.success.copy()
    p = np.zeros((len(result), len(run.classes)), dtype=np.float32)
    whole, small = ([i for i, file in enumerate(sources) if (file is None) == without] for without in (False, True))
    if small:
        p[small] = predict_probabilities(run.model, result.images()[small])
        for i in small:
            to_pil(result.images()[i]).save(places[i])
    if whole:
        files = [file for file in sources if file is not None]
        some, within = result.take(np.array(whole)), None if masks is None else [masks[i] for i in whole]
        made = write_changed(run, some, files, [places[i] for i in whole], confidence, within)
        p[whole], strength[whole], reached[whole] = made
    return _Saved(places, p, strength, reached)


def _original(image: NDArray[np.uint8], file: Path | None) -> NDArray[np.uint8]:
    """The image before the change, in the size of its pictures."""
    return image if file is None else read_pixels(file, len(image))
