"""Contracts to inherit: what every image source, backbone and strategy promises, as tests for one of your own.

With pytest a subclass is a test class; without it, :func:`check` runs the same tests. Nothing in the package imports this one.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.testing.backbones import BackboneContract as BackboneContract
    from ssl_diffusion.testing.base import check as check
    from ssl_diffusion.testing.sources import ImageSourceContract as ImageSourceContract
    from ssl_diffusion.testing.strategies import StrategyContract as StrategyContract

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "backbones": ["BackboneContract"],
        "base": ["check"],
        "sources": ["ImageSourceContract"],
        "strategies": ["StrategyContract"],
    },
)
