"""The figures of a test split: what metrics.json holds of them, and what `ssld fit` says of them in the end."""

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from ssl_diffusion.cli.fit_words import test_lines as lines_of

from ssl_diffusion.training.classification_report import classification_report


def logits_of(said: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(3 * np.eye(k)[said], np.float32)


def rare() -> tuple[np.ndarray, np.ndarray]:
    """Nine images of a common class, three of a rare one, of which two are taken for the common one."""
    y = np.array([0] * 9 + [1] * 3)
    return logits_of(np.array([0] * 11 + [1]), 2), y


def metrics_of(logits: np.ndarray, y: np.ndarray, names: tuple[str, ...]) -> dict[str, object]:
    report = classification_report(logits, y, names)
    figures = {f"test_{name}": value for name, value in report.metrics.items()}
    return json.loads(json.dumps({**figures, "n_test": len(y), "test_figures": report.to_dict()}, allow_nan=False))


def test_a_file_holds_every_figure() -> None:
    found = classification_report(*rare(), ("common", "rare")).to_dict()
    assert (found["majority_accuracy"], found["imbalance"]) == (0.75, 3)
    assert found["confusion"] == [[9, 0], [2, 1]]
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(rare()[1], rare()[0].argmax(axis=1)))
    assert found["per_class"]["rare"] == {
        **{"precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5, "n": 3},
        **{name: found["per_class"]["rare"][name] for name in ("auroc", "average_precision")},
    }
    for name in ("balanced_accuracy", "macro_f1", "auroc", "average_precision", "accuracy"):
        low, high = found["intervals"][name]
        assert 0 <= low <= found.get(name, 10 / 12) <= high <= 1


def test_a_class_without_images_has_no_figures_and_json_no_nan() -> None:
    logits, y = rare()
    found = metrics_of(np.pad(logits, ((0, 0), (0, 1))), y, ("common", "rare", "absent"))["test_figures"]
    assert found["per_class"]["absent"] == {  # type: ignore[index]
        **dict.fromkeys(("precision", "recall", "f1"), 0.0),
        **{"auroc": None, "average_precision": None, "n": 0},
    }
    assert found["imbalance"] == 3  # type: ignore[index]


def test_the_confusion_of_very_many_classes_is_left_to_the_picture() -> None:
    y = np.arange(101)
    assert classification_report(logits_of(y, 101), y, [str(k) for k in y]).to_dict()["confusion"] is None


def test_the_end_of_a_fit_names_the_baseline_and_what_unbalanced_classes_need() -> None:
    said = "\n".join(lines_of(metrics_of(*rare(), ("common", "rare")), "accuracy"))
    assert "test accuracy   83.33% of 12 images" in said
    assert "75.00% by always saying the most frequent class" in said
    assert "balanced accuracy 66.7% (95 % interval " in said
    assert "macro F1        70.0% (95 % interval " in said
    assert "the most frequent class has 3.0 times as many test images as the rarest" in said


def test_of_balanced_classes_only_the_figure_that_was_asked_for_is_added() -> None:
    y = np.array([0, 1] * 6)
    metrics = metrics_of(logits_of(y, 2), y, ("a", "b"))
    assert len(lines_of(metrics, "accuracy")) == 2
    assert lines_of(metrics, "auroc")[2].startswith("AUROC           100.0%")
    assert len(lines_of(metrics, "auroc")) == 3


def test_several_labels_have_a_baseline_of_their_own() -> None:
    y = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    metrics = metrics_of(np.where(y, 2, -2).astype(np.float32), y, ("a", "b", "c"))
    assert metrics["test_figures"]["confusion"] is None  # type: ignore[index]
    said = "\n".join(lines_of(metrics, "accuracy"))
    assert "83.33% by always saying of every class what is more frequent, yes or no" in said
    assert "balanced accuracy 100.0%" in said


def test_runs_of_earlier_versions_have_the_accuracy_alone() -> None:
    metrics = metrics_of(*rare(), ("common", "rare"))
    del metrics["test_figures"]
    assert len(lines_of(metrics, "macro-f1")) == 1
