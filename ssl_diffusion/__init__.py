"""ssld: semi-supervised and active learning on one joint diffusion model (arXiv 2301.13622)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_diffusion.data.labels import LabeledSet
    from ssl_diffusion.data.pool import Pool
    from ssl_diffusion.estimator import JointDiffusionClassifier
    from ssl_diffusion.inference.run import Run, load_run
    from ssl_diffusion.models.joint import JointConfig, JointDiffusion

__version__ = "0.1.0"

__all__ = ["JointConfig", "JointDiffusion", "JointDiffusionClassifier", "LabeledSet", "Pool", "Run", "load_run"]

# Public names are imported on first use: `import ssl_diffusion` and `ssld --help` stay quick without torch.
_HOMES = {
    "JointConfig": "joint",
    "JointDiffusion": "joint",
    "JointDiffusionClassifier": "estimator",
    "LabeledSet": "pool",
    "Pool": "pool",
    "Run": "run",
    "load_run": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssl_diffusion' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"ssl_diffusion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
