"""What is wrong with the labels and images of a job, as findings that its people can review."""

from typing import TYPE_CHECKING

import numpy as np

from ssl_diffusion.annotation.loop.current_model import present_model
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.pool_rows import read_rows
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.curation.check import CheckResult, check_collection
from ssl_diffusion.curation.collection import Collection, denoised
from ssl_diffusion.curation.image_faults import survey
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError
from ssl_diffusion.progress import ProgressCallback

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_job", "collect_job", "findings_of"]


def collect_job(job: Job, *, levels: int = 1, progress: ProgressCallback | None = None) -> Collection:
    """The images of a job but those skipped or dropped, as its current model sees them, with the labels that people gave.

    Args:
        job: Job to read; nothing in it is changed but caches.
        levels: Number of noise levels, 0 to 4, at which the denoiser is asked, once there is a model.
        progress: Callback for the number of images read.

    Raises:
        DataError: If an image file is missing, or all images were skipped or dropped.

    Example:
        >>> collection = collect_job(open_job(Path("job")))  # doctest: +SKIP
    """
    job.check_files()
    model, state = present_model(job, progress), read_state(job.store)
    known, given = state.labels
    sets = job.store.multilabel and len(state.in_use) > 0
    labels = np.full((len(job.store.ids), len(state.in_use)) if sets else len(job.store.ids), -1, dtype=np.int64)
    if sets:
        labels[known] = given[:, list(state.in_use)]
    elif not job.store.multilabel:
        number = {k: i for i, k in enumerate(state.in_use)}
        labels[known] = [number.get(int(k), -1) for k in given]
    images, files = (
        (job.images, [job.image_file(i) for i in range(len(labels))]) if job.shards is None else (job.shards.read(), None)
    )
    is_test = np.isin(np.arange(len(labels)), job.store.of_role("test"))
    pool = Pool(job.path.name, images, job.store.ids, labels, state.names, is_test, sets, files=files)
    z = np.asarray(model.frozen.representation)
    errors = denoised(model.run, model.frozen.images, levels) if model.run is not None else None
    if (out := read_rows(job.store).has_status("skipped")).any():
        if out.all():
            raise DataError(f"all images of {job.path} were skipped or dropped: there is nothing to check")
        pool, z = pool.select(~out), z[~out]
        errors = None if errors is None else errors[:, ~out]
    seen = survey(pool.images, pool.files, progress=progress)
    return Collection(str(job.path), pool, seen, z, model.description, errors, model.run)


def check_job(job: Job, *, levels: int = 1, seed: int = 0, progress: ProgressCallback | None = None) -> "pd.DataFrame":
    """Check a job.

    Args:
        job: Job to check.
        levels: Number of noise levels, 0 to 4, at which the denoiser is asked.
        seed: Random seed of the folds by which labels are judged.
        progress: Callback for the number of images read.

    Returns:
        Findings, see :func:`findings_of`.

    Example:
        >>> check_job(open_job(Path("job"))).head()  # doctest: +SKIP
    """
    return findings_of(check_collection(collect_job(job, levels=levels, progress=progress), seed=seed))


def findings_of(result: CheckResult) -> "pd.DataFrame":
    """What people should look at, a row each, the most urgent of each kind first.

    Args:
        result: Result of a check.

    Returns:
        Table with the columns id, kind ("label", "duplicate", "outlier" or "fault"), score (the larger, the more urgent), label
        (the present one), suggested (a class, for kind "label"), of (id of the copy that is kept, for kind "duplicate") and
        what (a phrase).
    """
    import pandas as pd

    pool, rows = result.collection.pool, []
    if (issues := result.issues) is not None:
        for i in issues.ranked[issues.flagged[issues.ranked]]:
            position, suggested = int(result.labeled[i]), pool.classes[issues.suggested[i]]
            label = result.label_of(position)
            what = f"labeled {label}, and probably {suggested}"
            rows.append((pool.ids[position], "label", round(float(issues.wrong[i]), 4), label, suggested, "", what))
    for group in result.duplicates.groups:
        for position in group[1:].tolist():
            first = str(pool.ids[group[0]])
            rows.append((pool.ids[position], "duplicate", 1.0, result.label_of(position), "", first, f"a copy of {first}"))
    for position in result.foreign.tolist():
        score = round(1 - float(result.outliers.ordinary[position]), 4)
        rows.append((pool.ids[position], "outlier", score, result.label_of(position), "", "", "unlike all other images"))
    for name, position, score, what in result.faults:
        rows.append((pool.ids[position], "fault", round(score, 3), result.label_of(position), "", "", f"{name}: {what}"))
    return pd.DataFrame(rows, columns=["id", "kind", "score", "label", "suggested", "of", "what"])
