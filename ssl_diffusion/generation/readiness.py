"""Whether a denoiser has learned enough to draw images: below that, samples and counterfactuals are noise, and are called so.

The measure is the error of the denoiser beside that of the best linear one, which knows the mean and the covariance of the
images and nothing else (:mod:`ssl_diffusion.inference.denoising`); a fit keeps it in its metrics.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ssl_diffusion.errors import RunError, StateError
from ssl_diffusion.inference.run import Run
from ssl_diffusion.training.run_folder import load_metrics

__all__ = ["ENOUGH_IMAGES", "LARGEST_RATIO", "doubt_of", "stamp"]

LARGEST_RATIO = 0.85  # of the errors, for samples in which a person sees what they show (benchmarks/README.md)
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
    try:
        metrics = load_metrics(run.path)
        quality, rate = metrics["denoiser"], metrics.get("images_per_second")
        ratio, seen = float(quality["ratio"]), int(quality["images_seen"])
    except (RunError, StateError, KeyError, TypeError, ValueError):
        return ""  # a run of an earlier version, or of too few images
    if ratio <= LARGEST_RATIO:
        return ""
    advice = remedy
    if rate and seen < ENOUGH_IMAGES:
        advice += f": about {_duration((ENOUGH_IMAGES - seen) / float(rate))} more"
    return (
        f"what {run.path} draws is noise: its denoiser has seen {seen:,} images, and its error is {ratio:.2f} of that of a "
        f"linear filter (at most {LARGEST_RATIO} draws images); {advice}"
    )


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
