"""Notebooks as pages: text, code, and the results that are kept in them."""

import base64
import json
import posixpath
import re
from pathlib import Path

__all__ = ["page"]


def page(path: Path, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures as PNG files.

    Args:
        path: Notebook.
        name: Name of the page, "folder/page.md"; its pictures lie beside it.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    folder, stem = posixpath.dirname(name), Path(name).stem
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{stem}-{len(pictures) + 1}.png"
                pictures[f"{folder}/{picture}"] = base64.b64decode("".join(data["image/png"]))
                width = output["metadata"].get("image/png", {}).get("width")
                parts.append(f"![Result of the cell above]({picture})" + (f'{{ width="{width}" }}' if width else ""))
            elif "text/html" in data:
                parts.append(_table("".join(data["text/html"])))
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    title, _, rest = parts[0].partition("\n")
    note = f"This page is the notebook `{path.parent.name}/{path.name}` of the repository with its results."
    parts[0] = f"{title}\n\n{note}\n{rest}"
    return "\n\n".join(parts) + "\n", pictures


def _table(html: str) -> str:
    """The table of a data frame without pandas' own style, so that it looks like every other table of the site."""
    (table,) = re.findall(r"<table.*?</table>", html, flags=re.DOTALL)
    lines = (line.strip() for line in re.sub(r"<table[^>]*>", "<table>", table).splitlines())
    return re.sub(r' style="[^"]*"', "", "\n".join(lines))
