"""Labels that are probably wrong, by a classifier that has not seen them: they are put before people again."""

from typing import TYPE_CHECKING

import numpy as np

from ssl_diffusion.annotation.loop.current_model import Model
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.model_file import training_labels
from ssl_diffusion.annotation.store.review import ReviewItem, add_items
from ssl_diffusion.curation.label_issues import judge_labels
from ssl_diffusion.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COPY", "KIND", "find_suspicious", "queue_findings"]

KIND = "label issue"
COPY = "a copy of "
"""Beginning of the note of a duplicate, before the id of the image that is kept."""

_MOST = 500


def find_suspicious(job: Job, model: Model) -> int:
    """Ask people to look again at the labels that are more probably wrong than right; returns how many are new.

    Args:
        job: Job of the labels.
        model: Model whose representation judges them.

    Raises:
        DataError: If fewer than two classes have three labels, or in a multi-label job.

    Example:
        >>> find_suspicious(job, present_model(job))  # doctest: +SKIP
        7
    """
    if job.store.multilabel:
        raise DataError("labels are judged where an image has one class, and the images of this job may have several")
    positions, labels = training_labels(job)
    names, ids = job.store.classes, job.store.ids
    found = judge_labels(np.asarray(model.frozen.representation[positions]), labels, len(names), seed=job.settings.seed)
    chosen = [k for k in found.ranked.tolist() if found.wrong[k] > 0.5][:_MOST]
    items = [
        ReviewItem(
            str(ids[positions[k]]),
            KIND,
            f"{names[labels[k]]} is wrong with probability {found.wrong[k]:.2f}; {names[found.suggested[k]]} is likelier",
            names[found.suggested[k]],
            float(found.wrong[k]),
        )
        for k in chosen
    ]
    return add_items(job.store, items, replaces=[KIND])


def queue_findings(job: Job, findings: "pd.DataFrame") -> int:
    """Put the findings of a check before people, in place of those of the check before; returns how many are new.

    Args:
        job: Job that was checked.
        findings: Table of findings, see :func:`ssl_diffusion.annotation.loop.job_check.findings_of`.

    Example:
        >>> queue_findings(job, check_job(job))  # doctest: +SKIP
        12
    """
    items = []
    for row in findings.to_dict("records"):
        kind = KIND if row["kind"] == "label" else str(row["kind"])
        note = f"{COPY}{row['of']}" if row["of"] else str(row["what"])
        items.append(ReviewItem(str(row["id"]), kind, note, row["suggested"] or None, float(row["score"])))
    return add_items(job.store, items, replaces=[KIND, "duplicate", "outlier", "fault"])
