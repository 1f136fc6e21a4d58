"""Errors that a user can act on: one sentence each, saying what is wrong, where, and what to do.

Everything the library raises on purpose derives from :class:`SSLDError`; the command line turns it into
exit code 2. Anything else that escapes is a bug.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "Interrupted",
    "RecipeError",
    "RunError",
    "SSLDError",
    "StateError",
    "first_line",
    "nearest_names",
    "shown",
    "unknown_setting",
]

# Of names that come from a file there may be thousands, of any length.
_LONGEST_NAME = 80
_MOST_NAMES = 90


class SSLDError(Exception):
    """Base of every deliberate error of this package."""


class DataError(SSLDError, ValueError):
    """The images, labels or their description cannot be used as they are."""


class RecipeError(SSLDError, ValueError):
    """A recipe or a setting is unknown, of the wrong type or out of range."""


class RunError(SSLDError):
    """A run folder cannot be created, resumed or read as asked."""


class StateError(RunError):
    """A file that the program keeps for itself is missing, damaged, or was changed."""


class CheckpointError(StateError):
    """A checkpoint is missing, damaged, or was made by something else."""


class Interrupted(SSLDError):  # noqa: N818 (nothing went wrong)
    """Training was stopped by the user after its state was saved."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut if it is long; the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Say which known names are meant by `name`: the nearest ones, or all if none is near; the first of very many."""
    known = sorted(each if len(each) <= _LONGEST_NAME else f"{each[:_LONGEST_NAME]}..." for each in known)
    near = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    more = f" and {len(known) - _MOST_NAMES} others" if len(known) > _MOST_NAMES else ""
    return "known: " + ", ".join(known[:_MOST_NAMES]) + more


def unknown_setting(key: str, names: Iterable[str]) -> str:
    """Say that there is no such setting, and which is meant: the nearest ones, else those of its section, else all sections.

    Args:
        key: Name of the setting, as "section.name".
        names: Names of all settings.
    """
    names, section = list(names), key.partition(".")[0]
    own = [name for name in names if name.startswith(f"{section}.")]
    near = nearest_names(key, names)
    if not near.startswith("did you mean"):
        near = nearest_names(key, own or {name.partition(".")[0] for name in names})
    if own and near.startswith("known: "):  # in a long section its name before each would make a long sentence
        near = near.replace("known: ", f"known in [{section}]: ", 1).replace(f"{section}.", "")
    return f"unknown setting {shown(key)}; {near}"


def shown(value: Any) -> str:
    """A value in a message, cut if it is long."""
    try:
        return _short.repr(value)
    except ValueError:  # whole numbers of thousands of digits have no text
        return "a number of thousands of digits"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlist = _short.maxtuple = _short.maxdict = 10
