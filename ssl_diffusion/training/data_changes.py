"""The images of a run, read again: changes since the fit are reported, and no label that trained the run is tested on."""

import logging

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError
from ssl_diffusion.inference.run import Run
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.run_folder import RunFolder

__all__ = ["load_run_pool"]

_log = logging.getLogger(__name__)
_SHOWN = 3


def load_run_pool(run: Run, *, progress: ProgressCallback | None = None) -> Pool:
    """Read the images that a run was fitted to, as they are now.

    Images that were added, removed, changed or labeled since the fit are reported as a warning of this module's logger.

    Args:
        run: Fitted model.
        progress: Callback for the number of images read.

    Returns:
        The pool; its classes may differ from the model's.

    Raises:
        DataError: If the images cannot be used, or a sample whose label trained the run is in the test split.

    Example:
        >>> pool = load_run_pool(load_run("runs/digits-40-s0"))
    """
    folder = RunFolder(run.path)
    pool = load_pool(folder.recipe().data, progress=progress)
    changes = folder.changes(pool)
    used = folder.used_ids()
    testing = set(pool.ids[pool.is_test].tolist())
    if leaked := [sample for sample in used if sample in testing]:
        names = ", ".join(leaked[:_SHOWN]) + (" ..." if len(leaked) > _SHOWN else "")
        raise DataError(
            f"{len(leaked)} samples whose labels trained {run.path} are in the test split now ({names}): a figure on them "
            "would mean nothing; put them back, or fit again"
        )
    there = set(pool.ids.tolist())
    if gone := [sample for sample in used if sample not in there]:
        changes.append(f"{len(gone)} of its {len(used)} labeled samples are gone, {gone[0]!r} for one")
    if changes:
        _log.warning("the images have changed since %s was fitted: %s", run.path, "; ".join(changes))
    return pool
