"""Durable store of annotations: every event, and the current status of each sample."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.annotation.store.store import Action as Action
    from ssl_diffusion.annotation.store.store import Actor as Actor
    from ssl_diffusion.annotation.store.store import Store as Store

# Imported on first use, so that one name does not load all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "store": ["Action", "Actor", "Store"],
    },
)
