"""Whether a denoiser has learned enough to draw images: below that, samples and counterfactuals are noise, and are called so.

The measure is the error of the denoiser beside that of the best linear one, which knows the mean and the covariance of the
images and nothing else (:mod:`ssl_diffusion.inference.denoising`); a fit keeps it in its metrics.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ssl_diffusion.errors import RunError, StateError
from ssl_diffusion.inference.run import Run
from ssl_diffusion.training.run_folder import load_metrics

__all__ = ["COLOR_RATIO", "ENOUGH_IMAGES", "LARGEST_RATIO", "caution_of", "doubt_of", "stamp"]

LARGEST_RATIO = 0.85  # of the errors, for samples in which a person sees what they show (benchmarks/README.md)
# Of color photos no limit is known. At 0.75 (CIFAR-10) most show no object that one could name, though gray clothes that people
# recognise have the same ratios at the higher noise levels; this is somewhat below, and not measured.
COLOR_RATIO = 0.7
ENOUGH_IMAGES = 40_000
"""Images that a denoiser has to see until it draws some, in round numbers."""
_BAND = 22  # pixels


def doubt_of(run: Run, remedy: str = "fit again with more pretraining steps (--pretrain-steps) or --time") -> str:
    """Why images that a run draws would be noise, with advice, in one sentence; empty if they would not, or it is not known.

    Args:
        run: Fitted model; what its fit measured is read from its metrics.
        remedy: Advice; how long it takes is added where few images were seen.

    Example:
        >>> doubt_of(load_run("runs/digits-40-s0"))
        ''
    """
    if (measured := _measured(run)) is None or measured[0] <= LARGEST_RATIO:
        return ""
    ratio, seen, rate = measured
    advice = remedy
    if rate and seen < ENOUGH_IMAGES:
        advice += f": about {_duration((ENOUGH_IMAGES - seen) / rate)} more"
    return (
        f"what {run.path} draws is noise: its denoiser has seen {seen:,} images, and its error is {ratio:.2f} of that of a "
        f"linear filter (at most {LARGEST_RATIO} draws images); {advice}"
    )


def caution_of(run: Run) -> str:
    """What is to be kept in mind about images that a run of color photos draws, in one sentence; empty if there is nothing.

    Args:
        run: Fitted model; what its fit measured is read from its metrics.

    Example:
        >>> caution_of(load_run("runs/digits-40-s0"))
        ''
    """
    measured = _measured(run)
    if measured is None or run.image_shape[0] < 3 or not COLOR_RATIO < measured[0] <= LARGEST_RATIO:
        return ""
    return (
        f"what {run.path} draws may be the colors and textures of its photos, not yet their objects: the error of its denoiser "
        f"is {measured[0]:.2f} of that of a linear filter, and at 0.75 most samples of CIFAR-10 show nothing one could name"
    )


def _measured(run: Run) -> tuple[float, int, float] | None:
    """Ratio of the errors, images seen and images a second (0 if not known); None for an earlier version or too few images."""
    try:
        metrics = load_metrics(run.path)
        quality = metrics["denoiser"]
        ratio, seen = float(quality["ratio"]), int(quality["images_seen"])
        rate = quality.get("images_per_second") or metrics.get("images_per_second")  # earlier versions have only the latter
        return ratio, seen, float(rate or 0)
    except (RunError, StateError, KeyError, TypeError, ValueError):
        return None


def stamp(path: Path, text: str) -> None:
    """Write a text in a red band above a picture, cut to its width.

    Args:
        path: PNG file, which is replaced.
        text: Text of one line.
    """
    with Image.open(path) as file:
        picture = file.convert("RGB")
    made = Image.new("RGB", (picture.width, picture.height + _BAND), (178, 24, 43))
    made.paste(picture, (0, _BAND))
    ImageDraw.Draw(made).text((6, 4), text, fill="white", font=ImageFont.load_default(13))
    made.save(path)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
