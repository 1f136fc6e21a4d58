"""Backbones by name: those of this package, those that are registered by a decorator, and those of installed plug-ins."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.machine import load_plugins
from ssl_diffusion.models.backbones.base import Backbone

__all__ = ["BACKBONES", "PLUGINS", "backbone_names", "load_backbone", "register_backbone"]

PLUGINS = "ssld.backbones"
BACKBONES: dict[str, Callable[..., Backbone]] = {}
Factory = TypeVar("Factory", bound=Callable[..., Backbone])


def register_backbone(name: str) -> Callable[[Factory], Factory]:
    """Register a class or a function that makes a backbone; what comes after "NAME:" is its first argument.

    Distributions offer backbones by entry points of the group "ssld.backbones", which are imported when a name is not known or
    all names are listed.

    Raises:
        SSLDError: If the name is taken or cannot be a name.

    Example:
        >>> @register_backbone("pixels")
        ... class Pixels(Backbone): ...
    """
    if name in ("auto", "none") or not name or any(c in ":," or c.isspace() for c in name):
        raise SSLDError(f"a backbone cannot be called {name!r}: choose a word without colon, comma or space, not auto or none")

    def register(factory: Factory) -> Factory:
        # The same one may register again: a cell of a notebook is run twice.
        if name in BACKBONES and _home(BACKBONES[name]) != _home(factory):
            raise SSLDError(f"the backbone name {name!r} is taken by {_home(BACKBONES[name])}: choose another")
        BACKBONES[name] = factory
        return factory

    return register


def load_backbone(name: str, **options: Any) -> Backbone:
    """A backbone by name.

    Args:
        name: Name of a registered backbone, or "NAME:ARGUMENT", as in "torchvision:resnet18" or "precomputed:features.npz".
        options: Further arguments of the backbone, such as `weights`.

    Raises:
        SSLDError: If there is none of this name, with the nearest names; if the plug-in that offers it cannot be loaded; or if
            an argument is missing or unknown.

    Example:
        >>> load_backbone("torchvision:resnet18", weights="resnet18.safetensors").n_features  # doctest: +SKIP
        512
    """
    base, colon, argument = name.partition(":")
    if base not in BACKBONES:
        broken = load_plugins(PLUGINS)
        if base not in BACKBONES:
            why = broken.get(base) or nearest_names(base, BACKBONES)
            raise SSLDError(f"no backbone {shown(base)}; {why}")
    arguments = (argument,) if colon else ()
    try:
        inspect.signature(BACKBONES[base]).bind(*arguments, **options)
    except TypeError as error:
        raise SSLDError(f"the backbone {name!r} cannot be made: {error}") from None
    return BACKBONES[base](*arguments, **options)


def backbone_names() -> list[str]:
    """Names of all backbones, those of plug-ins included, sorted.

    Example:
        >>> "torchvision" in backbone_names()
        True
    """
    load_plugins(PLUGINS)
    return sorted(BACKBONES)


def _home(factory: Callable[..., Backbone]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"
