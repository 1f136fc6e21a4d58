"""Backbones by name: those of this package, those that are registered by a decorator, and those of installed plug-ins."""

import difflib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.machine import load_plugins
from ssl_diffusion.models.backbones.base import Backbone

__all__ = [
    "BACKBONES",
    "PLUGINS",
    "backbone_argument",
    "backbone_fault",
    "backbone_names",
    "load_backbone",
    "register_backbone",
]

PLUGINS = "ssld.backbones"
BACKBONES: dict[str, Callable[..., Backbone]] = {}
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {}  # modules, and what installs them
_PROGRAM = ".pt2"
Factory = TypeVar("Factory", bound=Callable[..., Backbone])


def register_backbone(name: str, *, needs: Sequence[str] = (), install: str = "") -> Callable[[Factory], Factory]:
    """Register a class or a function that makes a backbone; what comes after "NAME:" is its first argument.

    Distributions offer backbones by entry points of the group "ssld.backbones", which are imported when a name is not known or
    all names are listed.

    Args:
        name: Name, a word.
        needs: Modules that it imports only when it is made, and that may not be installed.
        install: Argument of `pip install` that brings them, such as "ssld[photos]".

    Raises:
        SSLDError: If the name is taken or cannot be a name.

    Example:
        >>> @register_backbone("pixels")
        ... class Pixels(Backbone): ...
    """
    if name in ("auto", "none") or not name or any(c in ":,@" or c.isspace() for c in name) or name.endswith(_PROGRAM):
        raise SSLDError(
            f"a backbone cannot be called {name!r}: choose a word without colon, comma, @ or space, not auto or none"
        )

    def register(factory: Factory) -> Factory:
        # The same one may register again: a cell of a notebook is run twice.
        if name in BACKBONES and _home(BACKBONES[name]) != _home(factory):
            raise SSLDError(f"the backbone name {name!r} is taken by {_home(BACKBONES[name])}: choose another")
        BACKBONES[name] = factory
        _NEEDS[name] = (tuple(needs), install)
        return factory

    return register


def load_backbone(name: str, **options: Any) -> Backbone:
    """A backbone by name.

    Args:
        name: Name of a registered backbone, "NAME:ARGUMENT", as in "torchvision:resnet18" or "precomputed:features.npz", or a
            file of torch.export (.pt2); "@PIXELS" at its end is the option `input_size`, as in "efficientnet-lite0@224".
        options: Further arguments of the backbone, such as `weights`.

    Raises:
        SSLDError: If there is none of this name, with the nearest names; if a package that it needs is not installed; if the
            plug-in that offers it cannot be loaded; or if an argument is missing or unknown.

    Example:
        >>> load_backbone("torchvision:resnet18", weights="resnet18.safetensors").n_features  # doctest: +SKIP
        512
    """
    if (sized := re.fullmatch(r"(.+)@(\d{1,5})", name)) is not None:
        name = sized[1]
        options = {"input_size": int(sized[2])} | options
    base, colon, argument = name.partition(":")
    if base not in BACKBONES and name.endswith(_PROGRAM):  # before the plug-ins: a path is no name
        base, colon, argument = "exported", ":", name
    if base not in BACKBONES:
        broken = load_plugins(PLUGINS)
        if base not in BACKBONES:
            raise SSLDError(f"no backbone {shown(base)}; {broken.get(base) or _meant(base)}")
    if (fault := backbone_fault(base)) is not None:
        raise SSLDError(f"the backbone {name!r} {fault}")
    if isinstance(size := options.get("input_size"), int) and size < 1:
        raise SSLDError(f"an input size is 1 pixel or more, not {size}")
    arguments = (argument,) if colon else ()
    try:
        inspect.signature(BACKBONES[base]).bind(*arguments, **options)
    except TypeError as error:
        raise SSLDError(f"the backbone {name!r} cannot be made: {error}") from None
    return BACKBONES[base](*arguments, **options)


def backbone_names() -> list[str]:
    """Names of all backbones, those of plug-ins and those whose packages are not installed included, sorted.

    Example:
        >>> "torchvision" in backbone_names()
        True
    """
    load_plugins(PLUGINS)
    return sorted(BACKBONES)


def backbone_fault(name: str) -> str | None:
    """Why a registered backbone cannot be made here: the package that is missing and how it is installed; None if nothing is.

    Example:
        >>> backbone_fault("torchvision") is None
        True
    """
    needs, install = _NEEDS.get(name, ((), ""))
    missing = [module for module in needs if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    advice = f"pip install {install!r}" if install else "install it"
    return f"needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: {advice}"


def backbone_argument(name: str) -> str | None:
    """Name of the argument that a registered backbone cannot be made without, as NAME in "torchvision:NAME"; None without one.

    Example:
        >>> backbone_argument("torchvision")
        'NAME'
    """
    parameters = inspect.signature(BACKBONES[name]).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return next((p.name.upper() for p in parameters if p.default is p.empty and p.kind in kinds), None)


def _meant(name: str) -> str:
    """The backbones that a wrong name may stand for, and what is to be installed for them."""
    words = nearest_names(name, BACKBONES)
    if words.startswith("did you mean"):
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        fault = backbone_fault(near[0]) if near else None
        return f"{words} ({near[0]} {fault})" if fault else words
    from torchvision import models  # slow to import

    if name.partition(".")[0] in models.list_models(module=models):
        return f"{name} is a network of torchvision: torchvision:{name}"
    if backbone_fault("timm") is None:
        import timm  # slow to import

        if timm.is_model(name):
            return f"{name} is a network of timm: timm:{name}"
    absent = [f"{each} {fault}" for each in sorted(BACKBONES) if (fault := backbone_fault(each)) is not None]
    return "; ".join([words, *absent])


def _home(factory: Callable[..., Backbone]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"
