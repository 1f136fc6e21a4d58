"""Feature extractors for metrics of generated images: a frozen classifier that is not the model being measured.

The default is the classifier of a labels-only fit of the same network on the same labels, which is trained once for a run and
cached. Its features are the channel means of its feature maps. As it shares no weights with the joint model, it also judges
whether guided samples belong to their class.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError, RunError, StateError
from ssl_diffusion.inference.predict import by_batches, predict_logits
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.build import weights_fault
from ssl_diffusion.models.fused import gradient_fault
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import clear_place, default_cache_dir
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.run_folder import RunFolder

__all__ = ["Extractor", "extractor_of_run", "inception_extractor", "labels_only_extractor"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extractor:
    """Named features of images.

    Attributes:
        name: Kind of the extractor with a hash of its weights; values of different names cannot be compared.
        features: Function from uint8 images, (n, C, H, W), to features, float32, (n, d).
        classify: Function from uint8 images, (n, C, H, W), to class logits, (n, K); None without classes.
        inception: Whether the Fréchet distance of these features may be called FID.
    """

    name: str
    features: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None
    inception: bool = False


def extractor_of_run(run: Run) -> Extractor:
    """Extractor that is the classifier of a run, with the same kind of features as the default.

    Args:
        run: Fitted model, other than the one to be measured.

    Example:
        >>> extractor = extractor_of_run(load_run("runs/digits-40-s0"))
    """
    return _of_model(run.model, "classifier")


def labels_only_extractor(
    run: Run, pool: Pool, cache_dir: Path | None = None, progress: ProgressCallback | None = None
) -> Extractor:
    """Extractor that is a labels-only fit with the recipe, labels and seed of a run; from the cache if it is there.

    Args:
        run: Run whose samples are to be measured.
        pool: Images of the run.
        cache_dir: Folder of the cache; None is the default cache.
        progress: Callback for the state of the fit.

    Raises:
        RunError: If the run has no labels to train an extractor with.

    Example:
        >>> extractor = labels_only_extractor(run, load_run_pool(run))
    """
    folder = RunFolder(run.path)
    labeled = folder.labeled(pool)
    if labeled is None:
        raise RunError(f"{run.path} has no labels to train an extractor with: name a run with classes with --extractor")
    recipe = folder.recipe().with_settings(
        {
            "training.objective": "labels-only",
            "training.consistency": "none",
            "backbone.name": "none",
            "backbone.weights": "",
        }
    )
    identity = json.dumps([recipe.identity(), pool.fingerprint(), labeled.train], sort_keys=True, default=vars)
    key = hashlib.sha256(identity.encode()).hexdigest()[:24]
    path = (cache_dir or default_cache_dir()) / "extractors" / f"{key}.safetensors"
    model = _load(path)
    if model is None:
        model = fit_model(recipe, pool, labeled, options=FitOptions(progress=progress)).model()
        clear_place(path)
        save_tensors(path, model.state_dict(), {"config": model.config.to_dict()})
    device = next(run.model.parameters()).device
    return _of_model(model.to(device), "labels-only")


def inception_extractor(weights: Path) -> Extractor:
    """Inception V3 as FID uses it, from torch-fidelity.

    Args:
        weights: File with the weights (`pt_inception-2015-12-05-6726825d.pth`).

    Raises:
        RunError: If torch-fidelity is not installed, or the file cannot be used.

    Example:
        >>> extractor = inception_extractor(Path("pt_inception-2015-12-05-6726825d.pth"))  # doctest: +SKIP
    """
    if not weights.is_file():
        raise RunError(f"no file {weights}: name the weights of Inception with --inception")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise RunError("Inception features need torch-fidelity: pip install 'ssld[fid]'") from error
    try:
        torch.load(weights, weights_only=True)  # torch-fidelity reads any pickle; what passes here holds tensors only
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    except Exception as error:  # torch.load and load_state_dict have many of them
        raise RunError(f"{weights} does not hold the weights of torch-fidelity's Inception V3 ({error})") from error

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return by_batches(network, lambda network, x, _: network(x)[0].float(), images, batch_size=64, tensor=_colours)

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    return Extractor(f"inception-{digest}", features, inception=True)


def _of_model(model: JointDiffusion, kind: str) -> Extractor:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())

    def channel_means(model: JointDiffusion, x: Tensor, _: NDArray[np.int64]) -> Tensor:
        return model.pool_features(model.encode(x, model.read_level(0.0)), (1,))

    return Extractor(
        f"{kind}-{digest.hexdigest()[:8]}",
        lambda images: by_batches(model, channel_means, images, task="features"),
        (lambda images: predict_logits(model, images)) if model.config.n_classes and not gradient_fault(model) else None,
    )


def _colours(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Three channels of 8 bits, as Inception reads them: gray images are repeated, a fourth channel is left out."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return batch[:, :3].expand(-1, 3, -1, -1) if batch.shape[1] < 3 else batch[:, :3]


def _load(path: Path) -> JointDiffusion | None:
    if not os.path.lexists(path):
        return None
    try:
        weights, metadata = load_tensors(path)
        config = JointConfig.from_dict(metadata.get("config", {}), str(path))
        if fault := weights_fault(config, weights):
            raise StateError(f"{path} is damaged, or of another version: {fault}")
    except (StateError, RecipeError) as error:
        _log.warning("a kept extractor is made again: %s", error)
        return None
    model = JointDiffusion(config)
    model.load_state_dict(weights)
    return model.eval()
