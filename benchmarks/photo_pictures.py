"""Pictures from what :mod:`photo_denoisers` and :mod:`photo_samples` leave in their folders.

    python benchmarks/photo_pictures.py counterfactuals "runs/photo_denoisers/... joint explain.npz" --out FILE.png
    python benchmarks/photo_pictures.py counterfactuals ... --photos 54 142 100 8 --columns 2 --zoom 5 --out FILE.png
    python benchmarks/photo_pictures.py samples "runs/photo_samples/ten classes-1.5.npz" ... --out FILE.png

`counterfactuals`: original, counterfactual and the difference six-fold around gray; above them the class, the target and what
the judge sees, in red where that is not the target. Without --photos the first ones, none left out. `samples`: of each file its
title and two rows of guided samples in the order in which they came.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RED = (170, 0, 0)
FACTOR = 6.0  # of differences
LINE = 21  # pixels, of a line of text
GAP, APART = 3, 18  # pixels between the pictures of a photo, and between photos
ROWS = 2  # of the samples of a file


def enlarged(image: NDArray[np.uint8], zoom: int) -> Image.Image:
    """A picture of an image, uint8 (3, H, W), each pixel a square."""
    return Image.fromarray(image.transpose(1, 2, 0).repeat(zoom, axis=0).repeat(zoom, axis=1))


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """That of matplotlib, which has arrows and is the same everywhere."""
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 15)


def counterfactuals(file: Path, photos: list[int] | None, columns: int, zoom: int) -> Image.Image:
    """Triples of original, counterfactual and difference."""
    with np.load(file) as found:
        original, changed, judge = found["original"], found["changed"], found["judge"]
        source, target, success = (found[name] for name in ("source", "target", "success"))
        classes = found["classes"]
    shown = list(range(min(24, len(original)))) if photos is None else photos
    side = zoom * original.shape[-1]
    width, height = 3 * side + 2 * GAP, side + LINE + 5
    lines = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (width + APART) - APART, lines * height), "white")
    draw, letters = ImageDraw.Draw(sheet), font()
    for n, i in enumerate(shown):
        x, y = (n % columns) * (width + APART), (n // columns) * height
        change = changed[i].astype(np.float64) - original[i]
        difference = np.clip(127.5 + FACTOR / 2 * change, 0, 255).astype(np.uint8)
        wanted = classes[target[i]]
        for j, image in enumerate((original[i], changed[i], difference) if success[i] else (original[i],)):
            sheet.paste(enlarged(image, zoom), (x + j * (side + GAP), y + LINE))
        told = f"{classes[source[i]]} → {wanted}; " + (f"judge: {judge[i]}" if success[i] else "not found")
        draw.text((x, y + 1), told, fill="black" if success[i] and judge[i] == wanted else RED, font=letters)
    return sheet


def samples(files: list[Path], zoom: int) -> Image.Image:
    """Guided samples, with ten classes one of each in a row, and otherwise twelve in a row."""
    parts = []
    for file in files:
        with np.load(file) as found:
            images, classes = found["guided"], [str(name) for name in found["classes"]]
            columns = len(classes) if len(classes) > 6 else 12
            order = f"columns: {classes[0]} ... {classes[-1]}" if columns == len(classes) else f"{', '.join(classes)} in turn"
            parts.append((f"{found['title']} ({order})", columns, images[: ROWS * columns]))
    cell, letters = zoom * parts[0][2].shape[-1] + GAP, font()
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(max(columns * cell, int(measure.textlength(title, letters)) + 4) for title, columns, _ in parts)
    sheet = Image.new("RGB", (width, len(parts) * (LINE + 1 + ROWS * cell)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for title, columns, images in parts:
        draw.text((0, top + 2), title, fill="black", font=letters)
        top += LINE + 1
        for i, image in enumerate(images):
            sheet.paste(enlarged(image, zoom), (i % columns * cell, top + i // columns * cell))
        top += ROWS * cell
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("counterfactuals", "samples"))
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE.npz", help="one file of counterfactuals, or several of samples"
    )
    parser.add_argument("--photos", nargs="+", type=int, help="which of the file, from 0; the first 24, if it is not given")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--zoom", type=int, help="3 for counterfactuals and 2 for samples, if it is not given")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.what == "counterfactuals":
        if len(args.files) > 1:
            parser.error("counterfactuals are those of one file")
        sheet = counterfactuals(args.files[0], args.photos, args.columns, args.zoom or 3)
    else:
        sheet = samples(args.files, args.zoom or 2)
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
