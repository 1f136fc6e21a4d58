"""Distributions that offer plug-ins, written to a folder as an installer leaves them."""

from pathlib import Path

__all__ = ["install"]


def install(folder: Path, distribution: str, group: str, entries: dict[str, str], modules: dict[str, str]) -> Path:
    """Install a distribution, version 1.0, into a folder of sys.path.

    Args:
        folder: Folder on sys.path.
        distribution: Name of the distribution.
        group: Group of its entry points.
        entries: Entry points, name to "module" or "module:object".
        modules: Source text of its modules by name.
    """
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder
