"""Pretrained denoisers, cached by the content of the pool and the recipe, for every budget, seed and objective.

The key is a hash of the training images, the architecture, the noise distribution and the pretraining settings; labels, the
run's seed and the budget do not enter it. An unfinished pretraining leaves a checkpoint under the same key and its conditions
(threads, device, precision), from which the next fit with the same continues.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from ssl_diffusion.errors import RunError, StateError
from ssl_diffusion.models.build import weights_fault
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.weights import load_tensors, read_metadata, save_tensors
from ssl_diffusion.outputs import path_fault, place_fault
from ssl_diffusion.settings import Count, State, parse_state
from ssl_diffusion.storage import clear_place
from ssl_diffusion.training.conditions import Conditions, file_digest
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.settings import PhaseSettings

__all__ = ["CachedDenoiser", "DenoiserCache", "denoiser_key"]

_log = logging.getLogger(__name__)
_VERSION = 1
# The settings of a model that its denoiser depends on; the others are about the representation and the head.
_NETWORK = ("channels", "multipliers", "blocks", "attention", "heads", "groups", "dropout", "stem")
_NOISE = ("parameterisation", "p_mean", "p_std", "ddpm_steps")


@dataclass(frozen=True)
class CachedDenoiser:
    """A pretrained denoiser.

    Attributes:
        weights: Averaged weights by name, without a head.
        history: Rows of the history.
        steps: Number of training steps.
        images_seen: Number of images that these steps read.
        seconds: Time of the pretraining, in seconds.
        made_with: Conditions of the pretraining, as plain values; None if they are not known, or changed on the way.
        replanned: Steps at which their number was planned again; see :attr:`PhaseSettings.replanned`.
        planned: Number of steps before that.
    """

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    steps: int
    images_seen: int
    seconds: float
    made_with: dict[str, Any] | None = None
    replanned: tuple[int, ...] = ()
    planned: int | None = None

    @classmethod
    def from_result(cls, result: TrainingResult, planned: int, made_with: dict[str, Any] | None = None) -> "CachedDenoiser":
        """The denoiser of a finished pretraining, of which so many steps were planned at first."""
        weights = {name: t for name, t in result.ema.items() if not name.startswith("head.")}
        facts = (result.steps, result.images_seen, result.seconds, made_with, result.replanned, planned)
        return cls(weights, result.history, *facts)


def denoiser_key(fingerprint: str, config: JointConfig, settings: PhaseSettings, flip: bool) -> str:
    """Key of a pretraining: a hash of everything that its weights depend on, except the machine.

    Args:
        fingerprint: Fingerprint of the pool.
        config: Configuration of the model; its head does not enter the key.
        settings: Settings of the pretraining. With `steps` 0 the key is that of a family: of pretrainings that differ only in
            their number of steps.
        flip: Whether images are mirrored at random.

    Returns:
        24 hexadecimal digits.

    Example:
        >>> recipe = load_recipe("digits")
        >>> key = denoiser_key(pool.fingerprint(), model.config, recipe.pretraining, flip=False)
    """
    m = config.model
    unet = {name: getattr(m, name) for name in _NETWORK}
    network = {name: getattr(m, name) for name in _NOISE} | {
        "unet": unet | {"in_channels": config.image_shape[0], "decoder_blocks": m.decoder_blocks or None},
        "image_shape": config.image_shape,
        "sigma_data": config.sigma_data,
    }
    phase = {name: value for name, value in settings.to_dict().items() if name != "replanned" or value}
    identity = [_VERSION, fingerprint, network, phase, flip]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


class _Facts(State):
    """Metadata of a file of the cache; see :class:`CachedDenoiser`."""

    history: list[dict[str, Any]]
    steps: Annotated[int, Field(ge=0)]
    images_seen: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    made_with: dict[str, Any] | None = None
    replanned: tuple[Count, ...] = ()
    planned: Count | None = None
    family: str = ""
    key: str | None = None


_KEPT = ("history", "steps", "images_seen", "seconds", "made_with", "replanned", "planned")


def _facts(path: Path, metadata: dict[str, Any]) -> _Facts:
    return parse_state(json.dumps(metadata), _Facts, path, remedy="it is made again when it is needed", nan=True)


class DenoiserCache:
    """A folder of pretrained denoisers.

    Args:
        folder: Folder of the cache; created when first written to.

    Example:
        >>> fitted = fit_model(recipe, pool, labeled, options=FitOptions(cache=DenoiserCache(default_cache_dir())))
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "denoisers"

    def check_writable(self) -> None:
        """Raise :class:`RunError` if nothing can be written to the cache, before the work that fills it."""
        if (fault := path_fault(self.folder.parent, "any") or place_fault(self.folder / "denoiser")) is not None:
            raise RunError(f"the cache cannot be used ({fault}); choose another --cache-dir, or fit with --no-cache")

    def steps_of(self, family: str) -> list[int]:
        """Numbers of steps of the finished pretrainings of a family, see :func:`denoiser_key`."""
        return sorted(facts.steps for facts in self._of(family))

    def longest(self, family: str, settings: PhaseSettings) -> PhaseSettings | None:
        """Settings of the finished pretraining of a family that has the most steps; None if there is none.

        Args:
            family: Key of the family.
            settings: Settings of one of its pretrainings.
        """
        if not (found := self._of(family)):
            return None
        facts = max(found, key=lambda facts: facts.steps)
        return settings.replace(steps=facts.planned or facts.steps, replanned=facts.replanned)

    def _of(self, family: str) -> list[_Facts]:
        """What the files of a family say of themselves."""
        paths = [
            path for path in sorted(self.folder.glob("*.safetensors")) if path.stem.isalnum()
        ]  # neither partial nor temporary
        found = []
        for path in paths:
            if (metadata := read_metadata(path)) is not None:
                with suppress(StateError):  # a damaged one is reported when it is wanted
                    facts = _facts(path, metadata)
                    found += [facts] if facts.family == family else []
        return found

    def load(self, key: str, config: JointConfig | None = None) -> CachedDenoiser | None:
        """A denoiser of the cache.

        Args:
            key: Key of the pretraining.
            config: Configuration of the model, which the weights are checked against; None checks only that the file is whole.

        Returns:
            The denoiser; None if there is none, or if its file is damaged, which is logged as a warning: pretraining makes it
            again.
        """
        path = self._path(key)
        if not os.path.lexists(path):
            return None
        try:
            weights, metadata = load_tensors(path)
            facts = _facts(path, metadata)
            if facts.key not in (None, key):
                raise StateError(f"{path} is the denoiser of another key")
            if config is not None and (fault := weights_fault(config, weights, head=False)):
                raise StateError(f"{path} is damaged: {fault}")
        except StateError as error:
            _log.warning("a cached denoiser is made again: %s", error)
            return None
        return CachedDenoiser(weights, **{name: getattr(facts, name) for name in _KEPT})

    def store(self, key: str, denoiser: CachedDenoiser, family: str = "") -> None:
        """Write a finished denoiser.

        Args:
            key: Key of the pretraining.
            denoiser: Result of the pretraining.
            family: Key of its family, see :func:`denoiser_key`.

        Raises:
            CheckpointError: If the cache cannot be written.
        """
        metadata = {name: getattr(denoiser, name) for name in _KEPT} | {"family": family, "key": key}
        clear_place(self._path(key))
        save_tensors(self._path(key), denoiser.weights, metadata)

    def digest(self, key: str) -> str | None:
        """SHA-256 of the file of a finished denoiser; None if there is none."""
        return file_digest(self._path(key))

    def partial(self, key: str, conditions: Conditions) -> Path:
        """File for the checkpoint of an unfinished pretraining; a damaged one is removed, which is logged as a warning.

        Args:
            key: Key of the pretraining.
            conditions: Conditions of the pretraining, since only under these it is continued bit for bit.
        """
        path = self.folder / f"{key}.{conditions.key()}.partial.safetensors"
        if os.path.lexists(path):
            try:
                _, metadata = load_tensors(path)
                if metadata.get("identity") != key:
                    raise StateError(f"{path} is the state of another pretraining")
            except StateError as error:
                _log.warning("an unfinished pretraining begins again: %s", error)
                self._discard(path)
        return path

    def discard_partial(self, key: str, conditions: Conditions) -> None:
        """Remove the checkpoint of an unfinished pretraining, if there is one."""
        self._discard(self.partial(key, conditions))

    @staticmethod
    def _discard(path: Path) -> None:
        clear_place(path)
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
