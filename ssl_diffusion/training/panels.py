"""Many small images and their texts on one panel: a matplotlib panel for each would take far longer to draw.

Margins are measured, not laid out: a layout of matplotlib forgets texts beside a panel that keeps its images' proportions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

__all__ = ["fitted", "inch_panel", "place_image", "sheet_figure", "show_image", "text_width", "wrapped"]

_MARGIN, _GAP, _POINT = 0.06, 0.06, 1 / 72


def sheet_figure(
    images: NDArray[np.float32],
    per_row: int,
    side: float,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    points: float = 8,
) -> Figure:
    """Images side by side in rows on white, with names beside the rows and above the columns.

    Args:
        images: Images, float32, (n, C, H, W), shown as if clipped to [-1, 1].
        per_row: Images in a row; the last row may have fewer.
        side: Longer side of an image, in inches.
        rows: Names of the rows; may be empty.
        columns: Names of the columns; may be empty.
        points: Font size of the names.
    """
    h, w = images.shape[2:]
    sheet, gap = _sheet(images, per_row), _pixels_between(h)
    inner_h, inner_w = (pixels * side / max(h, w) for pixels in sheet.shape[1:])
    figure = Figure()
    FigureCanvasAgg(figure)
    left = _MARGIN + (_GAP + max(text_width(figure, name, points) for name in rows) if rows else 0)
    top = _MARGIN + (_GAP + 1.4 * points * _POINT if columns else 0)
    width, height = left + inner_w + _MARGIN, top + inner_h + _MARGIN
    figure.set_size_inches(width, height)
    axis = figure.add_axes((left / width, _MARGIN / height, inner_w / width, inner_h / height))
    show_image(axis, sheet)
    axis.set_aspect("auto")  # the panel has the proportions of the sheet
    axis.tick_params(length=0, pad=_GAP / _POINT, top=False, bottom=False, labeltop=True, labelbottom=False)
    if rows:
        middles = [i * (h + gap) + (h - 1) / 2 for i in range(len(rows))]
        axis.set_yticks(middles, rows, fontsize=points, parse_math=False)
    if columns:
        middles = [j * (w + gap) + (w - 1) / 2 for j in range(len(columns))]
        axis.set_xticks(middles, columns, fontsize=points, parse_math=False)
    return figure


def _sheet(images: NDArray[np.float32], per_row: int) -> NDArray[np.float32]:
    """Images side by side in rows on white, as one image (C, height, width)."""
    n, c, h, w = images.shape
    gap, n_rows = _pixels_between(h), -(-n // per_row)
    sheet = np.ones((c, n_rows * (h + gap) - gap, per_row * (w + gap) - gap), dtype=np.float32)
    for i, image in enumerate(images):
        y, x = (i // per_row) * (h + gap), (i % per_row) * (w + gap)
        sheet[:, y : y + h, x : x + w] = image
    return sheet


def _pixels_between(height: int) -> int:
    """Pixels between images of this height on a sheet."""
    return max(1, height // 14)


def show_image(axis: Axes, image: NDArray[np.float32]) -> None:
    """Draw a float image (C, H, W) in [-1, 1] on matplotlib axes, without ticks or frame."""
    pixels = np.clip((image + 1) / 2, 0, 1)
    if pixels.shape[0] in (1, 2):
        axis.imshow(pixels[0], cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(pixels.transpose(1, 2, 0))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def inch_panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches, and a panel that covers it, in inches from its upper left corner."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    return figure, axis


def place_image(
    axis: Axes, pixels: NDArray[Any], left: float, top: float, side: float, *, cmap: str = "gray", reach: float = 0.0
) -> None:
    """Draw an image in the middle of a square of an :func:`inch_panel`, in its own proportions.

    Args:
        axis: The panel.
        pixels: Image, uint8, (C, H, W), of which the first channel is shown if there are fewer than three; or numbers to color,
            float32, (H, W).
        left: Left end of the square, in inches.
        top: Upper end of the square, in inches.
        side: Side of the square, in inches.
        cmap: Color map of images of one channel and of numbers.
        reach: Number at the ends of the color map, for numbers.
    """
    limits = axis.get_xlim(), axis.get_ylim()
    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) < 3 else pixels.transpose(1, 2, 0)
    low, high = (-reach, reach) if reach else (0, 255)
    height, width = (size * side / max(pixels.shape[:2]) for size in pixels.shape[:2])
    x, y = left + (side - width) / 2, top + (side - height) / 2
    axis.imshow(pixels, cmap=cmap, vmin=low, vmax=high, extent=(x, x + width, y + height, y), aspect="auto")
    axis.set(xlim=limits[0], ylim=limits[1])  # which every image changes to its own


def text_width(figure: Figure, text: str, points: float) -> float:
    """Width of a text in inches."""
    drawn = Text(text=text, fontsize=points, figure=figure, parse_math=False)
    return float(drawn.get_window_extent().width / figure.dpi)


def fitted(figure: Figure, text: str, points: float, inches: float, *, end: bool = False) -> str:
    """The text, or as much of it as fits beside "…".

    Args:
        figure: Figure of the text.
        text: One line.
        points: Font size.
        inches: Width that the text may have.
        end: Whether the end is kept, by which ids and paths differ, instead of the beginning.
    """
    if text_width(figure, text, points) <= inches:
        return text

    def cut(kept: int) -> str:
        return "…" + text[len(text) - kept :] if end else text[:kept] + "…"

    low, high = 0, len(text)  # characters that fit, and that do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if text_width(figure, cut(middle), points) <= inches else (low, middle)
    return cut(low)


def wrapped(figure: Figure, text: str, points: float, inches: float) -> str:
    """The text in lines of at most this width; a word that is too long for a line is cut by :func:`fitted`."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(figure, longer, points) <= inches:
            lines[-1] = longer
        else:
            lines.append(fitted(figure, word, points, inches))
    return "\n".join(lines)
