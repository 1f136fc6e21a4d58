"""What is left of a change: the smallest fraction of it, in the fewest places, that still reaches the target.

Changes are undone patch by patch. Patches fade into their surroundings, by a Hann window as wide as a patch: what stays has no
square edges. The fringes that fade below a few gray levels are cut off, for nobody sees them and the class does not need them.
In small images patches are single pixels, which stay or go as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.models.pixels import rounded

__all__ = ["CHECKS", "blended", "loosened", "patch_side", "reverted"]

Flips = Callable[[Tensor], Tensor]
"""Function from images (B, C, H, W) to whether they reach the target, bool (B,)."""

CHECKS = 12  # as many fractions as change the rounding of some value
_ROOM = 1.5  # factor of a change before parts of it are undone
_FAINT = 4 * 2 / 255  # largest change of a pixel, in units of the model, that is undone as faint: four gray levels


def blended(x: Tensor, change: Tensor, flips: Flips, checks: int = CHECKS) -> Tensor:
    """The smallest fraction of a change that reaches the target.

    Args:
        x: Images before the change, (B, C, H, W), in [-1, 1].
        change: Change that reaches the target, (B, C, H, W).
        flips: Whether images reach it.
        checks: Number of fractions that are tried.

    Returns:
        Change to images of 8 bits, (B, C, H, W).
    """
    fraction = _bisect(lambda a: x + a[:, None, None, None] * change, flips, len(x), x.device, checks)
    return rounded(x + fraction[:, None, None, None] * change) - x


def loosened(x: Tensor, change: Tensor, whole: Tensor, flips: Flips) -> Tensor:
    """A change with some room before it loses the target, so that parts of it can be left out.

    Args:
        x: Images before the change, (B, C, H, W), in [-1, 1].
        change: Smallest fraction of `whole` that reaches the target, (B, C, H, W).
        whole: Change that it is a fraction of, (B, C, H, W).
        flips: Whether images reach the target.

    Returns:
        Larger change, but not above the whole, that reaches the target, (B, C, H, W).
    """
    larger = torch.where((_ROOM * change).abs() < whole.abs(), _ROOM * change, whole)
    reaches = flips(x + larger)
    return torch.where(reaches[:, None, None, None], larger, change)


def reverted(x: Tensor, change: Tensor, gradient: Tensor, flips: Flips) -> Tensor:
    """The change without the patches of smallest effect, as many as can be left out without losing the target.

    Args:
        x: Images before the change, (B, C, H, W), in [-1, 1].
        change: Change that reaches the target, (B, C, H, W).
        gradient: Gradient of the margin of the target at the changed images, (B, C, H, W).
        flips: Whether images reach it.

    Returns:
        Change, (B, C, H, W).
    """
    side, (height, width) = patch_side(tuple(x.shape[1:])), x.shape[2:]
    # First-order effect of each patch, with its fringes, on the margin of the target; the larger, the more it is needed.
    with torch.enable_grad():
        patches = x.new_zeros(len(x), 1, -(-height // side), -(-width // side)).requires_grad_()
        first_order = (gradient * change).sum(dim=1, keepdim=True)
        (effect,) = torch.autograd.grad((_spread(patches, side, height, width) * first_order).sum(), patches)
    changed = functional.max_pool2d(change.abs().amax(dim=1, keepdim=True), side, ceil_mode=True) > 0
    rank = torch.where(changed, effect, -torch.inf).flatten(1).argsort(dim=1).argsort(dim=1).view_as(effect)
    size, faint = rank[0].numel(), _FAINT if side > 1 else 0.0

    def kept(a: Tensor) -> Tensor:  # the patches that stay, as a fraction of all patches of the image
        stay = (rank >= ((1 - a) * size)[:, None, None, None].round()).float()
        faded = change * _spread(stay, side, height, width)
        seen = (faded.abs().amax(dim=1, keepdim=True) > faint) | (a == 1)[:, None, None, None]
        return x + faded * seen

    return kept(_bisect(kept, flips, len(x), x.device, max(1, size.bit_length()))) - x


def _spread(patches: Tensor, side: int, height: int, width: int) -> Tensor:
    """Values of patches, (B, 1, h, w), as a smooth mask, (B, 1, height, width)."""
    mask = patches.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)[..., :height, :width]
    if (taps := side | 1) == 1:
        return mask
    window = torch.hann_window(taps + 2, periodic=False, device=patches.device)[1:-1]
    window = (window / window.sum()).view(1, 1, -1)
    padded = functional.pad(mask, (taps // 2,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, window[:, :, None]), window[..., None])


def _bisect(make: Callable[[Tensor], Tensor], flips: Flips, n: int, device: torch.device, checks: int) -> Tensor:
    """The smallest fraction (up to 2^-checks) whose image reaches the target; that of 1 is known to."""
    low, high = torch.zeros(n, device=device), torch.ones(n, device=device)
    for _ in range(checks):
        middle = (low + high) / 2
        flipped = flips(make(middle))
        low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
    return high


def patch_side(shape: tuple[int, ...]) -> int:
    """Side of the patches in which changes of images (C, H, W) are undone, and counted as redundant, in pixels.

    A seventh of the shorter side: 4 pixels of 28 or 32, single pixels below 14.
    """
    return max(1, min(shape[1:]) // 7)
