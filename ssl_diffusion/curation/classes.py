"""Classes as a whole: how many labels they have, and which of them are taken for each other."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.curation.label_issues import LabelIssues

__all__ = ["class_table", "pair_table"]


def class_table(
    labels: NDArray[np.int64], classes: tuple[str, ...], is_test: NDArray[np.bool_], issues: LabelIssues | None
) -> pd.DataFrame:
    """Labels of every class, and how many of them are probably wrong.

    Args:
        labels: Classes of the labeled samples, int64 (n,).
        classes: Class names.
        is_test: Samples of the test split, bool (n,).
        issues: Findings about these labels; None where they could not be judged.

    Returns:
        A row per class: class, labels, of them in the test split, fraction of all labels, probably_wrong, recall (of held-out
        predictions); the last two are missing where labels were not judged.
    """
    k = len(classes)
    counts = np.bincount(labels, minlength=k)
    frame = pd.DataFrame(
        {
            "class": classes,
            "labels": counts,
            "test": np.bincount(labels[is_test], minlength=k),
            "fraction": np.round(counts / max(1, len(labels)), 4),
        }
    )
    if issues is not None:
        judged = np.isfinite(issues.wrong)
        right = (issues.held_out.argmax(axis=1) == labels) & judged
        n = np.bincount(labels[judged], minlength=k)
        frame["probably_wrong"] = np.bincount(labels[issues.flagged], minlength=k)
        frame["recall"] = np.round(np.bincount(labels[right], minlength=k) / np.where(n, n, np.nan), 4)
    return frame


def pair_table(labels: NDArray[np.int64], classes: tuple[str, ...], issues: LabelIssues) -> pd.DataFrame:
    """Pairs of classes that are taken for each other, the worst first.

    Args:
        labels: Classes of the labeled samples, int64 (n,).
        classes: Class names.
        issues: Findings about these labels.

    Returns:
        A row per pair: first, second, swapped (labels of one of them that probably belong to the other), confused (fraction of
        the samples of both that a classifier, which has not seen them, takes for the other one).
    """
    k = len(classes)
    predicted, counts = issues.held_out.argmax(axis=1), np.bincount(labels, minlength=k)
    confusion, swapped = np.zeros((k, k)), np.zeros((k, k), dtype=np.int64)
    judged = np.isfinite(issues.wrong)
    np.add.at(confusion, (labels[judged], predicted[judged]), 1)
    flagged = issues.flagged
    np.add.at(swapped, (labels[flagged], issues.suggested[flagged]), 1)
    a, b = np.triu_indices(k, 1)
    both = np.maximum(counts[a] + counts[b], 1)
    frame = pd.DataFrame(
        {
            "first": [classes[i] for i in a],
            "second": [classes[i] for i in b],
            "swapped": swapped[a, b] + swapped[b, a],
            "confused": np.round((confusion[a, b] + confusion[b, a]) / both, 4),
        }
    )
    frame = frame[(frame["swapped"] > 0) | (frame["confused"] > 0)]
    return frame.sort_values(["confused", "swapped"], ascending=False, kind="stable").reset_index(drop=True)
