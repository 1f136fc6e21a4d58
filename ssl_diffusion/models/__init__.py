"""Networks and their formulas: noise, U-Net, the joint model, the probe, weights on disk."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.models.backbones.base import Backbone as Backbone
    from ssl_diffusion.models.backbones.base import fit_images as fit_images
    from ssl_diffusion.models.backbones.description import BackboneDescription as BackboneDescription
    from ssl_diffusion.models.backbones.description import describe_backbone as describe_backbone
    from ssl_diffusion.models.backbones.efficientnet_lite import EfficientNetLite0 as EfficientNetLite0
    from ssl_diffusion.models.backbones.exported import ExportedBackbone as ExportedBackbone
    from ssl_diffusion.models.backbones.precomputed import PrecomputedBackbone as PrecomputedBackbone
    from ssl_diffusion.models.backbones.registry import backbone_argument as backbone_argument
    from ssl_diffusion.models.backbones.registry import backbone_fault as backbone_fault
    from ssl_diffusion.models.backbones.registry import backbone_names as backbone_names
    from ssl_diffusion.models.backbones.registry import load_backbone as load_backbone
    from ssl_diffusion.models.backbones.registry import register_backbone as register_backbone
    from ssl_diffusion.models.backbones.timm import TimmBackbone as TimmBackbone
    from ssl_diffusion.models.backbones.torchvision import TorchvisionBackbone as TorchvisionBackbone
    from ssl_diffusion.models.build import build_model as build_model
    from ssl_diffusion.models.build import count_parameters as count_parameters
    from ssl_diffusion.models.joint import JointConfig as JointConfig
    from ssl_diffusion.models.joint import JointDiffusion as JointDiffusion
    from ssl_diffusion.models.noise import DDPM as DDPM
    from ssl_diffusion.models.noise import EDM as EDM
    from ssl_diffusion.models.noise import Coefficients as Coefficients
    from ssl_diffusion.models.noise import Parameterisation as Parameterisation
    from ssl_diffusion.models.noise import target as target
    from ssl_diffusion.models.packing import packed as packed
    from ssl_diffusion.models.probe import LinearProbe as LinearProbe
    from ssl_diffusion.models.probe import fit_probe as fit_probe
    from ssl_diffusion.models.probe import reference_sample as reference_sample
    from ssl_diffusion.models.settings import ModelSettings as ModelSettings
    from ssl_diffusion.models.unet import Features as Features
    from ssl_diffusion.models.unet import UNet as UNet
    from ssl_diffusion.models.unet import sinusoidal_embedding as sinusoidal_embedding
    from ssl_diffusion.models.weights import load_tensors as load_tensors
    from ssl_diffusion.models.weights import prefixed as prefixed
    from ssl_diffusion.models.weights import read_metadata as read_metadata
    from ssl_diffusion.models.weights import save_tensors as save_tensors
    from ssl_diffusion.models.weights import with_prefix as with_prefix

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "backbones.base": ["Backbone", "fit_images"],
        "backbones.registry": [
            "backbone_argument",
            "backbone_fault",
            "backbone_names",
            "load_backbone",
            "register_backbone",
        ],
        "backbones.description": ["BackboneDescription", "describe_backbone"],
        "backbones.efficientnet_lite": ["EfficientNetLite0"],
        "backbones.exported": ["ExportedBackbone"],
        "backbones.precomputed": ["PrecomputedBackbone"],
        "backbones.timm": ["TimmBackbone"],
        "backbones.torchvision": ["TorchvisionBackbone"],
        "noise": ["Coefficients", "DDPM", "EDM", "Parameterisation", "target"],
        "unet": ["Features", "UNet", "sinusoidal_embedding"],
        "joint": ["JointConfig", "JointDiffusion"],
        "packing": ["packed"],
        "probe": ["LinearProbe", "fit_probe", "reference_sample"],
        "settings": ["ModelSettings"],
        "build": ["build_model", "count_parameters"],
        "weights": ["load_tensors", "prefixed", "read_metadata", "save_tensors", "with_prefix"],
    },
)
