"""Notebooks executed in a kernel of this Python, and what of their results is kept in the repository.

As a script it executes the notebooks of examples/ and writes their results into them: `nox -s notebooks`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from nbformat import NotebookNode

__all__ = ["EXAMPLES", "cleaned", "execute", "parameters_of", "surroundings"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@contextmanager
def surroundings(folder: Path) -> Iterator[Path]:
    """An empty working folder; a kernel `python3` that is this Python; neither settings of the user nor a network.

    Args:
        folder: Temporary folder.
    """
    write_kernel_spec(folder / "jupyter" / "kernels" / "python3")
    changed = {"JUPYTER_PATH": str(folder / "jupyter"), "OMP_NUM_THREADS": "1"}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR"):
        (folder / name).mkdir()
        changed[name] = str(folder / name)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        changed[name] = "http://127.0.0.1:9"  # where nobody answers: a download fails
    before = dict(os.environ)
    os.environ.update(changed)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
    working = folder / "working"
    working.mkdir()
    try:
        yield working
    finally:
        os.environ.clear()
        os.environ.update(before)


def execute(notebook: NotebookNode, working: Path) -> None:
    """Run every cell from top to bottom in a new process; the outputs are in the notebook afterwards.

    Args:
        notebook: Notebook, changed in place.
        working: Folder in which the kernel starts.

    Raises:
        CellExecutionError: A cell raises.
    """
    resources = {"metadata": {"path": str(working)}}
    NotebookClient(notebook, kernel_name="python3", startup_timeout=300, timeout=None, resources=resources).execute()


def parameters_of(notebook: NotebookNode) -> NotebookNode:
    """The one cell with the tag `parameters`."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    return cell


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without times, versions and names of this machine."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})
    return notebook


def main() -> None:
    """Execute the notebooks of examples/ and keep their results."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, surroundings(Path(folder)) as working:
            execute(notebook, working)
        nbformat.write(cleaned(notebook), path)
        sys.stdout.write(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size // 1024} KB\n")


if __name__ == "__main__":
    main()
