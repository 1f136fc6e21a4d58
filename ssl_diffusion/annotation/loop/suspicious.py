"""Labels that are probably wrong, by a classifier that has not seen them: they are put before people again."""

import numpy as np

from ssl_diffusion.annotation.loop.current_model import Model, training_labels
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.review import ReviewItem, add_items
from ssl_diffusion.curation.label_issues import judge_labels

__all__ = ["KIND", "find_suspicious"]

KIND = "label issue"
_MOST = 500


def find_suspicious(job: Job, model: Model) -> int:
    """Ask people to look again at the labels that are more probably wrong than right; returns how many are new.

    Args:
        job: Job of the labels.
        model: Model whose representation judges them.

    Raises:
        DataError: If fewer than two classes have three labels.

    Example:
        >>> find_suspicious(job, present_model(job))  # doctest: +SKIP
        7
    """
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
