"""What tells two classes apart, on one page: prototypes of each, their counterfactuals in the other, and the mean change.

A counterfactual explains one decision. What the model has learned of two classes is what those of many images have in common:
the mean of their changes. It is taken over prototypes, the images nearest to the mean of their class in the representation, for
in what is typical of a class the changes are at the same places.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, nearest_names, shown
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import SearchOptions
from ssl_diffusion.generation.explanations import write_explanations
from ssl_diffusion.generation.figures import ClassChange, class_pair_figure
from ssl_diffusion.generation.gallery import class_index
from ssl_diffusion.generation.strips import Panel
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.outputs import check_output_folder
from ssl_diffusion.training.run_folder import RunFolder, run_inputs

__all__ = ["PAGE", "class_pair", "prototypes", "write_class_pair"]

PAGE = "between.png"
_PROTOTYPES = 10
_CANDIDATES = 2000  # images of a class that are looked at


def class_pair(run: Run, text: str) -> tuple[str, str]:
    """Two classes that a user names, separated by a comma.

    Args:
        run: Fitted model with classes, whose names may have commas, too.
        text: The names, as in "shirt,coat".

    Raises:
        DataError: If there are not two names of classes, or both are the same.

    Example:
        >>> class_pair(run, "3,8")
        ('3', '8')
    """
    run.check_single_label("to explain")
    places = [i for i, letter in enumerate(text) if letter == ","]
    splits = [(text[:i].strip(), text[i + 1 :].strip()) for i in places]
    if not splits:
        raise DataError(f"name two classes, separated by a comma, as in {','.join(run.classes[:2])}: not {shown(text)}")
    known = [pair for pair in splits if set(pair) <= set(run.classes)]
    for name in [] if known else splits[0]:
        if name not in run.classes:
            raise DataError(f"{run.path} has no class {shown(name)}; {nearest_names(name, run.classes)}")
    one, other = known[0]
    if one == other:
        raise DataError(f"{shown(one)} is named twice: name two different classes")
    return one, other


def prototypes(run: Run, pool: Pool, classes: Sequence[str], n: int) -> list[NDArray[np.int64]]:
    """Images of known label that a run classifies correctly, the nearest to the mean of these first.

    Labels are known of the test split and of the samples that the run was fitted with.

    Args:
        run: Fitted model.
        pool: Images of the run.
        classes: Class names.
        n: Images of each class.

    Returns:
        Positions in the pool, int64 (n,), for each class.

    Raises:
        DataError: If a class has fewer than n such images.

    Example:
        >>> sevens, ones = prototypes(run, pool, ["7", "1"], 10)
    """
    known = pool.is_test | np.isin(pool.ids, RunFolder(run.path).used_ids())
    found = []
    for name in classes:
        k = class_index(run, name)
        at = np.flatnonzero(known & (pool.labels == k))
        at = at[:: max(1, -(-len(at) // _CANDIDATES))]
        seen = embed(run.model, pool_rows(run, pool, at), precision=run.precision)
        right = seen.probabilities.argmax(axis=1) == k
        if (count := int(right.sum())) < n:
            raise DataError(
                f"a page of two classes shows {n} images of each, and of {name!r} {run.path} has {count} whose label is known "
                "and which it classifies correctly: label more of them, or fit longer"
            )
        z = np.asarray(seen.representation)[right]
        nearest = np.linalg.norm(z - z.mean(axis=0), axis=1).argsort(kind="stable")[:n]
        found.append(at[right][nearest])
    return found


def write_class_pair(
    run: Run,
    pool: Pool,
    classes: tuple[str, str],
    out: Path,
    *,
    n: int | None = None,
    animation: bool = False,
    overwrite: bool = False,
    **options: Unpack[SearchOptions],
) -> tuple[pd.DataFrame, CounterfactualResult]:
    """Explain what tells two classes apart: a folder of explanations of prototypes of each, with the page between.png.

    The page has the prototypes, their counterfactuals in the other class, the changes, and the mean of the changes that reached
    the other class.

    Args:
        run: Fitted model with classes.
        pool: Images of the run.
        classes: The two class names.
        out: Folder to write, completely or not at all.
        n: Prototypes of each class, at most 20; None takes ten.
        animation: Whether to write the way to each counterfactual as a WebP file.
        overwrite: Whether an earlier output may be replaced.
        options: Confidence, revert, seed, batch size and progress, as in :func:`write_explanations`.

    Returns:
        The table counterfactuals.csv, and the result of the search.

    Raises:
        RunError: If the place is taken or cannot be written, or the run has no classes, or several for one image.
        DataError: If a class has fewer images that the run classifies correctly.

    Example:
        >>> table, result = write_class_pair(run, pool, ("shirt", "coat"), Path("between"))
    """
    run.check_single_label("to explain")
    check_output_folder(out, overwrite=overwrite, inputs=run_inputs(run))
    n = _PROTOTYPES if n is None else n
    chosen = prototypes(run, pool, classes, n)

    def page(folder: Path, result: CounterfactualResult, rows: list[list[Panel]]) -> list[Path]:
        parts = [slice(0, n), slice(n, None)]
        changes = [
            ClassChange(*names, rows[part], _mean_change(result, part)) for names, part in zip(pairs, parts, strict=True)
        ]
        class_pair_figure(changes).savefig(folder / PAGE, dpi=110)
        return [folder / PAGE]

    pairs = [classes, classes[::-1]]
    ids = pool.ids[np.concatenate(chosen)].tolist()
    target = [name for name in reversed(classes) for _ in range(n)]
    return write_explanations(
        run, pool, ids, out, target=target, animation=animation, page=page, overwrite=overwrite, **options
    )


def _mean_change(result: CounterfactualResult, part: slice) -> NDArray[np.float32] | None:
    """Mean change on the scale [0, 1] of the pairs that reached their target, float32 (C, H, W); None without any."""
    reached = result.success[part]
    if not reached.any():
        return None
    change = (result.images()[part][reached].astype(np.float32) - result.original[part][reached]) / 255
    mean: NDArray[np.float32] = change.mean(axis=0)
    return mean
