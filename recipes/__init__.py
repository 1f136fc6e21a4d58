"""Recipes that come with the package; see ssl_diffusion.training.recipe."""
