"""Formulas, written as on GitHub ($`...`$ within a line, a block of code in the language math) and rendered as MathML.

Browsers show MathML by themselves, so that the site loads no script from elsewhere.
"""

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

if TYPE_CHECKING:
    from markdown import Markdown

__all__ = ["Formulas"]

_BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


class _Blocks(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return _BLOCK.sub(self._rendered, "\n".join(lines)).split("\n")

    def _rendered(self, match: re.Match[str]) -> str:
        return "\n" + self.md.htmlStash.store(convert(match[1], display="block")) + "\n"


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str | Element, int, int]:  # type: ignore[override]  # noqa: N802
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class Formulas(Extension):
    """Markdown extension."""

    def extendMarkdown(self, md: "Markdown") -> None:  # noqa: N802
        """Before blocks of code and `code` are taken for what they look like."""
        md.preprocessors.register(_Blocks(md), "formula-blocks", 28)
        md.inlinePatterns.register(_Inline(r"\$`([^`]+)`\$", md), "formulas", 195)
