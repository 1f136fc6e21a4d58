"""Acquisition strategies, a file for each family; importing it registers them."""

from ssl_diffusion.acquisition.registry import STRATEGIES
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
    "boundary",
    "competence",
    "coverage",
    "dropout",
    "gradient",
    "herding",
    "information",
    "uncertainty",
    "value",
]
