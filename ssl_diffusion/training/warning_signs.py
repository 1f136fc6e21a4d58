r"""What a history says of a training that went wrong, each in one sentence with advice.

Every rule is a pure function of the rows of the training phase. Rows are noisy (a row can be one batch), so the rules compare
means of tenths of the history, and say nothing of fewer than 20 rows. With :math:`K` classes a guess has the negative
log-likelihood (NLL) :math:`\log K`, and :math:`\log 2` for each class of multi-label data; this is the scale for what has been
learned. The thresholds, and why training that works does not reach them:

* **NLL that is not finite** in the whole last tenth. Single steps whose gradient is not finite are left out and do no harm.
* **Training NLL above a guess**: the mean of the last tenth is above :math:`1.2 \log K`. A head that knows nothing starts at
  :math:`\log K`, and the labels of training only get easier; a fifth above it is more than the noise of a tenth of the rows.
* **Training NLL that has risen**: against the lowest tenth, more than half of what was learned (:math:`\log K` minus that
  lowest mean) is lost again, and the rise is more than :math:`\log K / 4` = 0.58 for ten classes. The mean of a tenth varies by
  about 0.1 in fits of digits. Training that starts at a probe may rise a little, since its views are augmented and the probe
  has seen the plain images; half of the way back to a guess it does not go.
* **Validation NLL above a guess**: by more than two standard errors over the validation images. The model is then surer than
  it is right, even if its accuracy is good. The NLL is computed once, at the end: training does not look at validation labels.
* **A threshold out of reach**: in the second half less than one unlabeled image in a hundred passes the threshold of the
  pseudo-labels (`mask_rate`), that is about one in a batch, beside as many labels. The adaptive threshold follows the mean
  confidence, so that a large part always passes; only a fixed threshold can be out of reach.
* **Pseudo-labels that confirm themselves**: at least 95 % pass in the median tenth, and classes with at least a tenth of the
  labels are predicted less than a tenth as often as they occur among the labels. Neither is a fault alone: a good model may be
  sure of nearly everything, and labels need not have the frequencies of the pool. On digits, four collapses (24 to 67 % right)
  had medians of 97 to 100 % and lost two to seven classes; with 95 to 98 % right the medians were 83 to 87 %.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["chance_nll", "history_signs", "pseudo_label_signs", "validation_sign", "vanished_classes"]

_TENTHS = 10
_LEAST_ROWS = 20
_ABOVE_CHANCE = 1.2
_LOST, _LEAST_RISE = 0.5, 0.25  # of what was learned, and of a guess
_NOBODY, _EVERYBODY = 0.01, 0.95  # fractions of the unlabeled images
_RARELY, _MUCH = 0.1, 0.1  # of the frequency of a class among the labels, and of all labels
_STANDARD_ERRORS = 2.0


def chance_nll(n_classes: int, multilabel: bool) -> float:
    """NLL of a guess that knows nothing: log K, or log 2 for each class of multi-label data.

    Args:
        n_classes: Number of classes.
        multilabel: Whether classes are predicted independently.
    """
    return math.log(2 if multilabel else n_classes)


def history_signs(history: Sequence[dict[str, Any]], chance: float) -> list[str]:
    """Warnings about the training NLL.

    Args:
        history: Rows of the training phase.
        chance: NLL of a guess (:func:`chance_nll`).

    Returns:
        Sentences with advice; at most one.
    """
    tenths = _tenths(history, "classification_loss")
    if not len(tenths) or chance <= 0:
        return []
    last = float(tenths[-1])
    if not math.isfinite(last):
        return [
            "the classification loss was not finite at the end of the training: lower the learning rate (--set "
            "training.learning_rate=...) or use --precision fp32"
        ]
    lowest = float(np.nanmin(tenths))
    if last > _ABOVE_CHANCE * chance:
        return [
            f"the classification loss is {last:.2f} at the end of the training, and {chance:.2f} with no knowledge at all: "
            "lower the learning rate (--set training.learning_rate=...), or use --objective probe"
        ]
    if last - lowest > max(_LOST * (chance - lowest), _LEAST_RISE * chance):
        return [
            f"the classification loss has risen from {lowest:.2f} to {last:.2f} in the course of the training: lower the "
            "learning rate (--set training.learning_rate=...), or use --objective probe"
        ]
    return []


def pseudo_label_signs(
    history: Sequence[dict[str, Any]],
    classes: Sequence[str],
    labels: NDArray[np.float64],
    predicted: Callable[[], NDArray[np.float64] | None],
) -> list[str]:
    """Warnings about the pseudo-labels of the consistency term.

    Args:
        history: Rows of the training phase.
        classes: Names of the classes.
        labels: Class frequencies of the labels, float64 (K,), with sum 1.
        predicted: Function that returns the class frequencies which the trained model predicts for unlabeled images, float64
            (K,), or None if there are too few of these; called only where the mask rate gives cause.

    Returns:
        Sentences with advice; at most one, and none without a consistency term.
    """
    tenths = _tenths(history, "mask_rate")
    if not len(tenths):
        return []
    late = float(np.mean(tenths[_TENTHS // 2 :]))
    if late < _NOBODY:
        return [
            f"only {late:.1%} of the unlabeled images passed the threshold of the pseudo-labels, so --consistency has done "
            "nothing: let the threshold adapt (--set training.consistency_threshold=0), train longer (--steps, --time), or use "
            "--consistency none"
        ]
    usual = float(np.median(tenths))
    if usual < _EVERYBODY:
        return []
    frequencies = predicted()
    vanished = [] if frequencies is None else vanished_classes(frequencies, labels)
    if not vanished:
        return []
    names = ", ".join(repr(classes[k]) for k in vanished[:5]) + (", ..." if len(vanished) > 5 else "")
    return [
        f"nearly all unlabeled images ({usual:.0%}) passed the threshold of the pseudo-labels throughout, and "
        f"{len(vanished)} of {len(classes)} classes are hardly predicted any more ({names}): pretrain longer "
        "(--pretrain-steps, --time), give more labels, or use --consistency none"
    ]


def vanished_classes(predicted: NDArray[np.float64], labels: NDArray[np.float64]) -> list[int]:
    """Classes that are predicted less than a tenth as often as they occur among the labels; none if less than a tenth of the
    labels is theirs.

    Args:
        predicted: Class frequencies of predictions, float64 (K,), with sum 1.
        labels: Class frequencies of the labels, float64 (K,), with sum 1.
    """
    rare = predicted < _RARELY * labels
    return np.flatnonzero(rare).tolist() if labels[rare].sum() >= _MUCH - 1e-9 else []


def validation_sign(losses: NDArray[np.float64], chance: float) -> list[str]:
    """Warning about the NLL of the validation labels.

    Args:
        losses: Negative log-likelihood of every validation image, a mean over classes for multi-label data, float64 (n,).
        chance: NLL of a guess (:func:`chance_nll`).

    Returns:
        Sentences with advice; at most one.
    """
    if len(losses) < 2 or chance <= 0:
        return []
    mean = float(losses.mean())
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if math.isfinite(mean) else 0.0
    if mean - _STANDARD_ERRORS * error <= chance:
        return []
    return [
        f"the NLL of the trained model is {mean:.2f} on the validation labels, and {chance:.2f} with no knowledge at all: it "
        "is surer than it is right; train for fewer steps (--steps), give more labels, or use --objective probe"
    ]


def _tenths(history: Sequence[dict[str, Any]], name: str) -> NDArray[np.float64]:
    """Means of a column over ten consecutive parts of the rows, (10,); (0,) without the column, or of fewer than 20 rows.

    Values that are not finite are left out; a part without others is NaN.
    """
    values = np.array([row[name] for row in history if name in row], dtype=np.float64)
    if len(values) < _LEAST_ROWS:
        return np.zeros(0)
    parts = [part[np.isfinite(part)] for part in np.array_split(values, _TENTHS)]
    return np.array([part.mean() if len(part) else np.nan for part in parts])
