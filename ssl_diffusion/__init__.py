"""ssld: semi-supervised and active learning on one joint diffusion model (arXiv 2301.13622)."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.data.label_choice import LabeledSet as LabeledSet
    from ssl_diffusion.data.pool import Pool as Pool
    from ssl_diffusion.estimator import JointDiffusionClassifier as JointDiffusionClassifier
    from ssl_diffusion.inference.run import Run as Run
    from ssl_diffusion.inference.run import load_run as load_run
    from ssl_diffusion.models.joint import JointConfig as JointConfig
    from ssl_diffusion.models.joint import JointDiffusion as JointDiffusion

__version__ = "0.1.0"

# Public names are imported on first use: `import ssl_diffusion` and `ssld --help` stay quick without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data.label_choice": ["LabeledSet"],
        "data.pool": ["Pool"],
        "estimator": ["JointDiffusionClassifier"],
        "inference.run": ["Run", "load_run"],
        "models.joint": ["JointConfig", "JointDiffusion"],
    },
)
