"""What `ssld fit` says in the end, and of settings that are wrong, in words."""

from collections.abc import Iterable
from typing import Any

__all__ = ["as_typed", "start_words", "test_lines"]

_UNBALANCED = 2.0  # images of the most frequent class for one of the rarest


def start_words(start: dict[str, Any]) -> str:
    """How the trained model compares with the probe that it could start from, in one line."""
    kept = {
        "trained": "trained model kept",
        "probe": "probe kept, the trained model is worse",
        "backbone": "backbone alone kept, the trained model is worse",
    }[start["kept"]]
    score = start.get("score", "accuracy")
    word = "" if score == "accuracy" else f"{score.replace('-', ' ')} "

    def shown(model: str, on: str) -> str:
        value = start[model][on]
        return "not finite" if value is None else f"NLL {value:.3f}" if score == "nll" else f"{word}{value:.1%}"

    if start["reason"] == "validation":
        alone = f", backbone alone {shown('backbone', 'validation')}" if "backbone" in start else ""
        both = f"{shown('trained', 'validation')} of the validation labels, probe {shown('probe', 'validation')}"
        return f"{kept}: {both}{alone}"
    parts = [f"trained {shown('trained', 'own_labels')} of its own labels"]
    parts += [f"probe {shown('probe', 'folds')} of labels held out for it"] if start["probe"]["folds"] is not None else []
    if start["probe"]["neighbors"] is not None:
        parts.append(f"by neighbors {shown('trained', 'neighbors')} and {shown('probe', 'neighbors')}")
    return f"{kept}: {', '.join(parts)}"


def test_lines(metrics: dict[str, Any], metric: str) -> list[str]:
    """Lines about the test split: the accuracy beside that of the most frequent class, and what an unbalanced task needs.

    Balanced accuracy and macro F1 are named of multi-label data, and where the most frequent class has at least twice as many
    test images as the rarest one that occurs.

    Args:
        metrics: Values of metrics.json; those of older runs lack some.
        metric: Name of the figure that the run goes by.
    """
    from ssl_diffusion.inference.class_metrics import METRICS

    lines = [
        f"test accuracy   {metrics['test_accuracy']:.2%} of {metrics['n_test']} images   "
        f"(NLL {metrics['test_nll']:.3f}, calibration error {metrics['test_ece']:.3f})"
    ]
    if (figures := metrics.get("test_figures")) is None:
        return lines
    imbalance = figures["imbalance"]
    always = "the most frequent class" if imbalance is not None else "of every class what is more frequent, yes or no"
    lines.append(f"                {figures['majority_accuracy']:.2%} by always saying {always}")
    unbalanced = imbalance is None or imbalance >= _UNBALANCED
    names = ["balanced-accuracy", "macro-f1"] if unbalanced else []
    for name in dict.fromkeys([metric, *names]):
        if name != "accuracy" and (value := figures[name.replace("-", "_")]) is not None:
            low, high = figures["intervals"][name.replace("-", "_")]
            lines.append(f"{METRICS[name]:15} {value:.1%} (95 % interval {low:.1%} to {high:.1%})")
    if imbalance is not None and unbalanced:
        lines.append(f"                (the most frequent class has {imbalance:.1f} times as many test images as the rarest)")
    return lines


def as_typed(message: str, settings: Iterable[str]) -> str:
    """A message about a setting as one about the option that gave it.

    Args:
        message: Message that begins with the key of a setting.
        settings: Keys of the settings that options have given.
    """
    options = {"labels.budget": "--labeled", "pretraining.steps": "--pretrain-steps", "data.path": "--data"}
    for key in settings:
        if message.startswith(f"{key} ") or message.startswith(f"{key}:"):
            return options.get(key, "--" + key.partition(".")[2].replace("_", "-")) + message[len(key) :]
    return message
