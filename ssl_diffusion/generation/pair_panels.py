"""The panels of a pair of an image and a target class: what was found, and words where nothing was."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.generation.strips import GAIN, SOURCE, TARGET, Panel, difference

__all__ = ["FAINT", "Picture", "on_the_fence", "pair_panels"]

Picture = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""A changed image, uint8 (C, H, W), and its class probabilities, float32 (K,)."""

FAINT = 12  # largest change of a pixel, in gray levels of 255, that nobody sees, and that is pale six-fold
_NOTHING = 236  # gray of a panel without an image


def pair_panels(
    original: NDArray[np.uint8], pictures: Sequence[Picture | None], classes: Sequence[str], source: int, target: int
) -> list[Panel]:
    """Original, boundary, what is surely of the target class, and the difference of the last one to the original.

    What was not reached is never shown: an empty panel says so, and the difference is that of the boundary.

    Args:
        original: Image, uint8 (C, H, W).
        pictures: Counterfactuals from the boundary to the surest; None in the place of one that was not reached.
        classes: Class names, (K,).
        source: Predicted class of the original.
        target: Class to reach.

    Returns:
        Panels, two more than pictures.

    Example:
        >>> [panel.caption for panel in pair_panels(image, [edge, None], ("four", "six"), 0, 1)]  # doctest: +SKIP
        ['four', 'six 0.52', 'no sure six found', 'change × 6']
    """
    name, panels, last = classes[target], [Panel(original, classes[source], SOURCE)], original
    for i, picture in enumerate(pictures):
        if picture is None:
            missing = f"no sure {name} found" if i else f"no {name} found"
            panels.append(Panel(np.full_like(original, _NOTHING), missing, TARGET))
            continue
        last, p = picture
        panels.append(Panel(last, f"{name} {p[target]:.2f}", TARGET))
    return [*panels, Panel(difference(original, last), f"change × {GAIN}")]


def on_the_fence(original: NDArray[np.uint8], changed: NDArray[np.uint8]) -> bool:
    """Whether a change to another class is one that nobody sees.

    Args:
        original: Image, uint8 (C, H, W).
        changed: The image after the change, uint8 (C, H, W).

    Example:
        >>> image = np.full((1, 4, 4), 99, dtype=np.uint8)
        >>> on_the_fence(image, image + 3), on_the_fence(image, image + 40)
        (True, False)
    """
    return bool(np.abs(changed.astype(np.int16) - original.astype(np.int16)).max() <= FAINT)
