"""MkDocs hook: pages that are not files under docs/, and links that lead out of it.

The README, the benchmarks and the files that a repository has at its top are pages of the site as they stand, and the notebooks
of examples/ are pages with their results; the references of the command line and of the settings are written anew from the
program. In every page a relative link is one of the repository, so that it also works where the repository is read; here it
becomes the link within the site. A link to a file that is no page stays as it is, and the strict build refuses it.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import command_line
import notebooks
import settings_reference
from formulas import Formulas
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {"reference/command-line.md": command_line.reference, "reference/settings.md": settings_reference.reference}
PAGES = {
    "README.md": "index.md",
    "benchmarks/README.md": "explanation/benchmarks.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
}
NOTEBOOKS = {
    "examples/01-fit-and-predict.ipynb": "examples/fit-and-predict.md",
    "examples/02-what-to-label-next.ipynb": "examples/what-to-label-next.md",
    "examples/03-explain-and-sample.ipynb": "examples/explain-and-sample.md",
}
PICTURES = "benchmarks/results"

_PAGES = PAGES | NOTEBOOKS
_SOURCES = {page: source for source, page in _PAGES.items()}
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Formulas are rendered by an extension of our own."""
    config.markdown_extensions.append(Formulas())  # type: ignore[arg-type]  # an instance is what Markdown wants, too
    return config


def on_files(files: Files, config: "MkDocsConfig") -> Files:
    """Add the pages and pictures that lie elsewhere."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for source, page in NOTEBOOKS.items():
        text, results = notebooks.page(ROOT / source, page)
        files.append(File.generated(config, page, content=text))
        for name, content in results.items():
            files.append(File.generated(config, name, content=content))
    for picture in sorted((ROOT / PICTURES).glob("*.png")):
        files.append(File.generated(config, f"{PICTURES}/{picture.name}", abs_src_path=str(picture)))
    for page, reference in WRITTEN.items():
        files.append(File.generated(config, page, content=reference()))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: Files) -> str:
    """Turn links of the repository into links of the site."""
    here = page.file.src_uri
    source = _SOURCES.get(here, f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        to = _PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(to) is None:
            return match[0]
        return match[1] + posixpath.relpath(to, posixpath.dirname(here))

    return _LINK.sub(moved, markdown)
