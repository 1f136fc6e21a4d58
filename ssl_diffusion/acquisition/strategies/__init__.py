"""Acquisition strategies, a file for each family; importing it registers them."""

from ssl_diffusion.acquisition.strategies import boundary, coverage, gradient, uncertainty

__all__ = ["boundary", "coverage", "gradient", "uncertainty"]
