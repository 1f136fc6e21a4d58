"""Weak and strong views of images, on tensors in [0, 1]; all random numbers come from the generator that is passed in.

Photometric operations assume and keep [0, 1]; images are scaled to [-1, 1] only afterwards (the official code augments
images in [-1, 1] with operations that clip at 0, so that most training images lose their dark half).

A policy belongs to a kind of data: digits and letters are never mirrored, photos are. Geometric operations are combined into
one affine map per image, with one interpolation.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["POLICIES", "Augmentation", "augment", "mirror", "policy"]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random operations; zero switches one off.

    Args:
        flip:       whether images are mirrored left-right with probability 1/2
        rotate:     largest rotation, in degrees
        scale:      largest relative zoom, in or out
        shift:      largest translation, as a fraction of the image side
        brightness: largest change of brightness, added
        contrast:   largest relative change of contrast around the image's mean
        saturation: largest relative change of saturation (colour images)
        cutout:     side of the erased square, as a fraction of the image side; filled with the image's mean
    """

    flip: bool = False
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0


# For each kind of data a weak view, which never changes the class, and a strong one.
POLICIES: dict[str, dict[str, Augmentation]] = {
    "none": {"weak": Augmentation(), "strong": Augmentation()},
    "digits": {
        "weak": Augmentation(shift=0.08),
        "strong": Augmentation(rotate=12, scale=0.12, shift=0.12, brightness=0.1, contrast=0.3),
    },
    "fashion": {
        "weak": Augmentation(flip=True, shift=0.07),
        "strong": Augmentation(flip=True, rotate=10, scale=0.12, shift=0.1, brightness=0.15, contrast=0.3, cutout=0.3),
    },
    "photo": {
        "weak": Augmentation(flip=True, shift=0.12),
        "strong": Augmentation(
            flip=True, rotate=12, scale=0.2, shift=0.15, brightness=0.2, contrast=0.4, saturation=0.5, cutout=0.4
        ),
    },
}


def policy(name: str, strength: str, flip: bool | None = None) -> Augmentation:
    """The augmentation of a kind of data.

    Args:
        name: Key of :data:`POLICIES`.
        strength: Strength of the view: "weak", "strong" or "none".
        flip: Whether images are mirrored; None leaves that to the policy.
    """
    chosen = Augmentation() if strength == "none" else POLICIES[name][strength]
    return chosen if flip is None else replace(chosen, flip=flip)


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image, (B, C, H, W), left-right with probability 1/2; values may have any range."""
    flip = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)


def augment(images: Tensor, a: Augmentation, generator: torch.Generator) -> Tensor:
    """Random views of images.

    Args:
        images: Images, float, (B, C, H, W), in [0, 1].
        a: Ranges of the operations.
        generator: Random generator; random numbers are drawn on its device.

    Returns:
        Views, float, (B, C, H, W), in [0, 1].
    """
    if a.flip:
        images = mirror(images, generator)
    if a.rotate or a.scale or a.shift:
        images = _affine(images, a, generator)
    if a.brightness or a.contrast or a.saturation:
        images = _photometric(images, a, generator)
    if a.cutout:
        images = _cutout(images, a.cutout, generator)
    return images


def _uniform(n: int, columns: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform random numbers in [-1, 1], (columns, n)."""
    return (torch.rand(columns, n, generator=generator, device=generator.device) * 2 - 1).to(device)


def _affine(images: Tensor, a: Augmentation, generator: torch.Generator) -> Tensor:
    n, _, h, w = images.shape
    angle, zoom, dx, dy = _uniform(n, 4, generator, images.device)
    angle = angle * math.radians(a.rotate)
    zoom = torch.exp(zoom * math.log1p(a.scale))
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # The grid is in units of half an image side, so the rotation of a non-square image needs its aspect ratio.
    rows = [cos, -sin * h / w, 2 * a.shift * dx, sin * w / h, cos, 2 * a.shift * dy]
    theta = torch.stack(rows, dim=1).view(n, 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    views: Tensor = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return views.clamp(0, 1)


def _photometric(images: Tensor, a: Augmentation, generator: torch.Generator) -> Tensor:
    brightness, contrast, saturation = _uniform(len(images), 3, generator, images.device)[:, :, None, None, None]
    if a.saturation and images.shape[1] == 3:
        gray = images.mean(dim=1, keepdim=True)
        images = gray + (images - gray) * (1 + a.saturation * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    changed: Tensor = mean + (images - mean) * (1 + a.contrast * contrast) + a.brightness * brightness
    return changed.clamp(0, 1)


def _cutout(images: Tensor, side: float, generator: torch.Generator) -> Tensor:
    n, _, h, w = images.shape
    y, x = _uniform(n, 2, generator, images.device)
    rows = torch.arange(h, device=images.device)[None] + 0.5
    columns = torch.arange(w, device=images.device)[None] + 0.5
    inside_rows = (rows - (y[:, None] + 1) / 2 * h).abs() < side * h / 2
    inside_columns = (columns - (x[:, None] + 1) / 2 * w).abs() < side * w / 2
    erased = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    return torch.where(erased, images.mean(dim=(2, 3), keepdim=True), images)
