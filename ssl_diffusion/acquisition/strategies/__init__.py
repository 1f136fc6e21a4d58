"""Acquisition strategies, a file for each family; importing it registers them."""

from ssl_diffusion.acquisition.strategies import boundary, coverage, dropout, gradient, herding, information, uncertainty

__all__ = ["boundary", "coverage", "dropout", "gradient", "herding", "information", "uncertainty"]
