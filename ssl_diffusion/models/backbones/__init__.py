"""Pretrained networks that contribute features, a file for each place that they come from; importing it registers them."""

from ssl_diffusion.models.backbones import precomputed, torchvision

__all__ = ["precomputed", "torchvision"]
