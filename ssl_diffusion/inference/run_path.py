"""Whether a folder is a finished run, told before anything that opens models is imported."""

from pathlib import Path

from ssl_diffusion.errors import RunError

__all__ = ["MODEL_FILE", "model_file_of"]

MODEL_FILE = "model.safetensors"


def model_file_of(path: Path) -> Path:
    """File of the weights of a run.

    Args:
        path: Run folder.

    Raises:
        RunError: If the folder is missing, is no run, or has no model yet.
    """
    if not path.is_dir():
        raise RunError(f"no run folder {path}")
    file = path / MODEL_FILE
    if not file.exists():
        if not (path / "recipe.toml").is_file():
            raise RunError(f"{path} is not a run folder (it has no recipe.toml)")
        raise RunError(f"{path} has no model yet; continue it with: ssld fit --resume {path}")
    return file
