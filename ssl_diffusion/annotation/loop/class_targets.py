"""How many labels are wanted of each class: a number for all of them in the settings, one for single classes in the store."""

from collections.abc import Iterable, Mapping, Sequence

from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.settings import shown

__all__ = ["MOST", "check_target", "parsed_targets", "progress_line", "targets_of"]

MOST = 1_000_000
"""The largest target."""


def targets_of(names: Iterable[str], own: Mapping[str, int], default: int) -> dict[str, int]:
    """Targets by class name; classes without one are left out.

    Args:
        names: Names of the classes in use.
        own: Targets that were set for single classes, 0 for none.
        default: Target of the other ones, 0 for none.

    Example:
        >>> targets_of(["cat", "dog", "emu"], {"cat": 20, "emu": 0}, 50)
        {'cat': 20, 'dog': 50}
    """
    each = {name: own.get(name, default) for name in names}
    return {name: target for name, target in each.items() if target}


def parsed_targets(words: Sequence[str]) -> tuple[int, dict[str, int]]:
    """The target of all classes, 0 for none, and those of single ones.

    Args:
        words: Numbers, such as "50", of which the last one counts, and pairs such as "cat=20".

    Raises:
        SSLDError: If a word is neither, or a number is out of range.

    Example:
        >>> parsed_targets(["50", "cat=20"])
        (50, {'cat': 20})
    """
    default, own = 0, {}
    for word in words:
        name, is_pair, number = word.rpartition("=")
        if is_pair and not name.strip():
            raise SSLDError(f"--target is a number, or CLASS=NUMBER, not {shown(word)}")
        try:
            target = check_target(number)
        except DataError as error:
            raise SSLDError(f"--target is a number, or CLASS=NUMBER, not {shown(word)}: {error}") from None
        if is_pair:
            own[name.strip()] = target
        else:
            default = target
    return default, own


def check_target(text: str) -> int:
    """A target that was typed.

    Raises:
        DataError: If it is not a whole number from 0 to a million.
    """
    if not (text.strip().isascii() and text.strip().isdigit() and len(text.strip()) < 9 and int(text) <= MOST):
        raise DataError(f"{shown(text)} is no number of labels: give a whole number from 0, for no target, to {MOST:,}")
    return int(text)


def progress_line(labels: Mapping[str, int], targets: Mapping[str, int]) -> str:
    """How far the classes are, one sentence; empty without targets.

    Args:
        labels: Number of labels by class name.
        targets: Targets by class name.

    Example:
        >>> progress_line({"cat": 20, "dog": 3}, {"cat": 20, "dog": 50})
        "1 of 2 classes have the labels that are wanted; most are missing of 'dog': 47"
    """
    if not targets:
        return ""
    missing = {name: target - labels.get(name, 0) for name, target in targets.items() if labels.get(name, 0) < target}
    if not missing:
        return "every class has the labels that are wanted" if len(targets) > 1 else "the class has the labels that are wanted"
    most = max(missing, key=lambda name: missing[name])
    done = len(targets) - len(missing)
    return f"{done} of {len(targets)} classes have the labels that are wanted; most are missing of {most!r}: {missing[most]}"
