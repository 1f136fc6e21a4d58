"""How right a classifier is on labeled images: overall, class by class, and with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ssl_diffusion.inference.class_metrics import (
    bootstrap_intervals,
    check_metric,
    class_metrics,
    one_versus_rest,
    ordinal_metrics,
)
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import probabilities

__all__ = ["ClassificationReport", "classification_report", "wilson_interval"]

_IN_A_FILE = 100  # classes; of more the table of confusions is most of a file that people read


@dataclass(frozen=True)
class ClassificationReport:
    """Result of :func:`classification_report`.

    Attributes:
        n: Number of images.
        metrics: Values of accuracy, nll and ece (:func:`ssl_diffusion.inference.classification_metrics`).
        accuracy_interval: Wilson interval of the accuracy, at 95 %.
        per_class: Table with one row per class: class, precision, recall, f1, auroc, average_precision, n.
        balanced: Figures in which every class counts the same (:func:`ssl_diffusion.inference.class_metrics.class_metrics`).
        intervals: Bootstrap intervals of these figures, at 95 %.
        ordinal: Figures of classes in an order (:func:`ssl_diffusion.inference.class_metrics.ordinal_metrics`), in that of the
            model's class names; empty for multi-label data.
        confusion: Number of images by true class (rows) and predicted class, int64 (K, K); None for multi-label data.
    """

    n: int
    metrics: dict[str, float]
    accuracy_interval: tuple[float, float]
    per_class: pd.DataFrame
    balanced: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    ordinal: dict[str, float]
    confusion: NDArray[np.int64] | None

    def figure(self, metric: str) -> tuple[float, float, float]:
        """One of the figures, and the ends of its interval at 95 %.

        Args:
            metric: Name of the figure, see :data:`~ssl_diffusion.inference.class_metrics.METRICS`.

        Raises:
            DataError: If there is no such figure.
        """
        check_metric(metric)
        if metric == "accuracy":
            return self.metrics["accuracy"], *self.accuracy_interval
        name = metric.replace("-", "_")
        return self.balanced[name], *self.intervals[name]

    @property
    def imbalance(self) -> float | None:
        """How many images the most frequent class has for one of the rarest class that occurs; None for multi-label data."""
        if self.confusion is None:
            return None
        n = self.per_class["n"].to_numpy()
        return float(n.max() / n[n > 0].min())

    def to_dict(self) -> dict[str, Any]:
        """What a file of metrics holds: values for JSON, None in place of NaN; the confusion of up to 100 classes."""
        of_classes = self.per_class.drop(columns="class").to_dict(orient="records")
        small = self.confusion is not None and len(self.confusion) <= _IN_A_FILE
        return {
            "majority_accuracy": self.balanced["majority_accuracy"],
            "imbalance": self.imbalance,
            **{name: _known(value) for name, value in self.balanced.items() if name != "majority_accuracy"},
            "intervals": {
                "accuracy": list(self.accuracy_interval),
                **{name: [_known(bound) for bound in bounds] for name, bounds in self.intervals.items()},
            },
            "per_class": {
                str(name): {figure: _known(value) for figure, value in row.items()}
                for name, row in zip(self.per_class["class"], of_classes, strict=True)
            },
            "confusion": self.confusion.tolist() if small and self.confusion is not None else None,
        }


def classification_report(
    logits: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]
) -> ClassificationReport:
    """Every figure of a classifier on labeled images.

    Args:
        logits: Logits, float32 (n, K), n at least 1.
        labels: Classes, int64 (n,) in [0, K), or 0/1 for every class, (n, K), for multi-label data.
        classes: Names of the K classes.

    Example:
        >>> logits = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]], np.float32)
        >>> report = classification_report(logits, np.array([0, 1, 1]), ("cat", "dog"))
        >>> report.confusion.tolist(), round(report.balanced["majority_accuracy"], 2)
        ([[1, 0], [1, 1]], 0.67)
    """
    multilabel = labels.ndim == 2
    metrics = classification_metrics(logits, labels)
    p = probabilities(logits, multilabel)
    predicted = (p > 0.5).astype(np.int64) if multilabel else p.argmax(axis=1)
    precision, recall, f1, n = precision_recall_fscore_support(labels, predicted, labels=range(len(classes)), zero_division=0.0)
    auroc, average = one_versus_rest(p, labels)
    figures_of = {"precision": precision, "recall": recall, "f1": f1, "auroc": auroc, "average_precision": average, "n": n}
    return ClassificationReport(
        len(labels),
        metrics,
        wilson_interval(metrics["accuracy"], labels.size),
        pd.DataFrame({"class": classes, **figures_of}),
        class_metrics(p, labels),
        bootstrap_intervals(p, labels),
        {} if multilabel else ordinal_metrics(predicted, labels),
        None if multilabel else confusion_matrix(labels, predicted, labels=range(len(classes))),
    )


def wilson_interval(proportion: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson 1927).

    Args:
        proportion: Observed proportion, in [0, 1].
        n: Number of trials, at least 1.
        z: Normal quantile of the confidence; the default gives 95 %.

    Returns:
        Lower and upper bound, in [0, 1].

    Example:
        >>> low, high = wilson_interval(0.9, 100)
    """
    center = (proportion + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(proportion * (1 - proportion) / n + z * z / (4 * n * n))
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def _known(value: Any) -> Any:
    """The value; None for NaN, which JSON does not have."""
    return None if value != value else value
