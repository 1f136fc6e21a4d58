"""Pretrained networks that contribute features, a file for each place that they come from; importing it registers them."""

from ssl_diffusion.models.backbones import efficientnet_lite, exported, precomputed, timm, torchvision

__all__ = ["efficientnet_lite", "exported", "precomputed", "timm", "torchvision"]
