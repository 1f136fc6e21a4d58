"""Acquisition: which samples to label next.

:func:`query` runs one of :data:`STRATEGIES` on what a model makes of the unlabeled samples of a pool. One file a family:
`uncertainty`, `boundary`, `coverage`, `competence`, `gradient`, `herding`, `information`, `value`, `dropout`; the first use of
:data:`STRATEGIES` registers all.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.acquisition.batch_files import batch_figure as batch_figure
    from ssl_diffusion.acquisition.candidates import Candidates as Candidates
    from ssl_diffusion.acquisition.forecast import Forecast as Forecast
    from ssl_diffusion.acquisition.forecast import forecast as forecast
    from ssl_diffusion.acquisition.query import QueryBatch as QueryBatch
    from ssl_diffusion.acquisition.query import choose as choose
    from ssl_diffusion.acquisition.query import query as query
    from ssl_diffusion.acquisition.registry import Choice as Choice
    from ssl_diffusion.acquisition.registry import Strategy as Strategy
    from ssl_diffusion.acquisition.registry import get_strategy as get_strategy
    from ssl_diffusion.acquisition.registry import register_batch as register_batch
    from ssl_diffusion.acquisition.registry import register_score as register_score
    from ssl_diffusion.acquisition.registry import strategies_frame as strategies_frame
    from ssl_diffusion.acquisition.strategies import STRATEGIES as STRATEGIES
    from ssl_diffusion.acquisition.strategies import boundary as boundary
    from ssl_diffusion.acquisition.strategies import competence as competence
    from ssl_diffusion.acquisition.strategies import coverage as coverage
    from ssl_diffusion.acquisition.strategies import dropout as dropout
    from ssl_diffusion.acquisition.strategies import gradient as gradient
    from ssl_diffusion.acquisition.strategies import herding as herding
    from ssl_diffusion.acquisition.strategies import information as information
    from ssl_diffusion.acquisition.strategies import uncertainty as uncertainty
    from ssl_diffusion.acquisition.strategies import value as value

# Imported on first use: the settings of a job name a strategy, and are read without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch_files": ["batch_figure"],
        "candidates": ["Candidates"],
        "forecast": ["Forecast", "forecast"],
        "query": ["QueryBatch", "choose", "query"],
        "registry": ["Choice", "Strategy", "get_strategy", "register_batch", "register_score", "strategies_frame"],
        "strategies": [
            "STRATEGIES",
            "boundary",
            "competence",
            "coverage",
            "dropout",
            "gradient",
            "herding",
            "information",
            "uncertainty",
            "value",
        ],
    },
)
