"""What `ssld fit` says in the end, in words."""

from typing import Any

__all__ = ["start_words"]


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
