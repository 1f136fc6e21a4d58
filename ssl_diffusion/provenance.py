"""Where a figure comes from: versions of the packages and the commit of this program."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

__all__ = ["package_versions", "source_commit"]


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's figures."""
    names = ("ssld", "torch", "torchvision", "numpy", "scikit-learn", "lightning-fabric", "safetensors")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def source_commit() -> str | None:
    """Commit of the source tree this program runs from or was installed from; None if that is not a git checkout.

    A tree with uncommitted changes gets "+changes" appended.
    """
    here = Path(__file__).resolve().parent.parent
    if (here / "setup.cfg").exists():
        return _git_commit(here)
    try:
        text = distribution("ssld").read_text("direct_url.json")  # PEP 610: written by pip for local and VCS installs
    except PackageNotFoundError:
        return None
    origin = json.loads(text) if text else {}
    if "vcs_info" in origin:
        return str(origin["vcs_info"]["commit_id"])
    url = urlparse(origin.get("url", ""))
    return _git_commit(Path(url2pathname(url.path))) if url.scheme == "file" else None


def _git_commit(folder: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        program = ("--", ".", ":(exclude)benchmarks/results")  # a benchmark that adds a figure does not change the program
        changes = git("status", "--porcelain", "--untracked-files=no", *program)
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None
