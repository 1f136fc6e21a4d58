"""What `ssld fit` says in the end, and of settings that are wrong, in words."""

from collections.abc import Iterable
from typing import Any

__all__ = ["as_typed", "start_words"]


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
