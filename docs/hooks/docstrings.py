"""Griffe extension: what this project has that reading its source in the Google style and Markdown would miss.

Names that a package exports on first use (`lazy_loader`). In docstrings: roles (:func:`...`, :class:`...`, :math:`...`),
formulas on lines of their own (.. math::), and entries for several names at once (`low, high: the interval`).
"""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":([a-z]+):`~?([^`]+)`")
_FORMULA = re.compile(r"^\.\. math::((?:.*\n?)(?:(?: +.*)?\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 +.*)*)", re.MULTILINE)


class Reference(griffe.Extension):
    """A role becomes a link where the reference has its target, and code where it has not; an entry serves one name."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Once everything is read, so that names of modules read later resolve, too."""
        self._root = pkg.path
        self._visit(pkg)

    def _visit(self, node: griffe.Object) -> None:
        if node.docstring:
            text = _FORMULA.sub(_block, _ENTRY.sub(_one_by_one, node.docstring.value))
            node.docstring.value = _ROLE.sub(lambda match: _rendered(node, match[1], match[2]), text)
        if isinstance(node, griffe.Module) and node.is_init_module and node.exports is None:
            node.exports = [name for name, member in node.members.items() if self._exported(member)]
        for member in node.members.values():
            if isinstance(member, griffe.Object):
                self._visit(member)

    def _exported(self, member: griffe.Object | griffe.Alias) -> bool:
        """Whether a package imports a name of its own, for type checkers, that it gives out on first use."""
        return isinstance(member, griffe.Alias) and member.target_path.startswith(f"{self._root}.")


def _block(match: re.Match[str]) -> str:
    formula = "\n".join(line.strip() for line in match[1].splitlines() if line.strip())
    return f"```math\n{formula}\n```\n\n"


def _one_by_one(match: re.Match[str]) -> str:
    return "\n".join(match[1] + name + match[3] for name in match[2].split(", "))


def _rendered(node: griffe.Object, role: str, target: str) -> str:
    if role == "math":
        return f"$`{target}`$"
    label = target.rpartition(".")[2] if target.startswith("ssl_diffusion.") else target
    return f'<autoref optional identifier="{_path(node, target)}"><code>{label}</code></autoref>'


def _path(node: griffe.Object, target: str) -> str:
    """Full path of a name as it is seen from an object."""
    first, dot, rest = target.partition(".")
    try:
        return node.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        return target
