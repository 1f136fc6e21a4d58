"""Acquisition: which samples to label next.

:func:`query` runs one of :data:`STRATEGIES` on what a model makes of the unlabeled samples of a pool. One file a family:
`uncertainty`, `boundary`, `coverage`, `competence`, `gradient`, `herding`, `information`, `value`, `dropout`; importing this
package registers all.
"""

from ssl_diffusion.acquisition.batch_files import batch_figure
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.forecast import Forecast, forecast
from ssl_diffusion.acquisition.query import QueryBatch, choose, query
from ssl_diffusion.acquisition.registry import (
    STRATEGIES,
    Choice,
    Strategy,
    get_strategy,
    register_batch,
    register_score,
    strategies_frame,
)
from ssl_diffusion.acquisition.strategies import (
    boundary,
    competence,
    coverage,
    dropout,
    gradient,
    herding,
    information,
    uncertainty,
    value,
)

__all__ = [
    "STRATEGIES",
    "Candidates",
    "Choice",
    "Forecast",
    "QueryBatch",
    "Strategy",
    "batch_figure",
    "boundary",
    "choose",
    "competence",
    "coverage",
    "dropout",
    "forecast",
    "get_strategy",
    "gradient",
    "herding",
    "information",
    "query",
    "register_batch",
    "register_score",
    "strategies_frame",
    "uncertainty",
    "value",
]
