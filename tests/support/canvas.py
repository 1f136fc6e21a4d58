"""Where the texts and images of a figure are drawn."""

from typing import TypeVar

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.transforms import Bbox

__all__ = ["assert_legible"]

T = TypeVar("T", bound=Artist)


def assert_legible(figure: Figure) -> None:
    """Check that every text and image lies inside the canvas, and that no text lies over another text or an image."""
    figure.canvas.draw()
    texts = [(text, text.get_window_extent()) for text in _parts(figure, Text) if _is_shown(figure, text)]
    images = [image.get_window_extent() for image in _parts(figure, AxesImage)]
    assert texts
    width, height = figure.bbox.size
    for box in [*(box for _, box in texts), *images]:
        assert -0.5 <= box.x0 < box.x1 <= width + 0.5, (box, figure.bbox)
        assert -0.5 <= box.y0 < box.y1 <= height + 0.5, (box, figure.bbox)
    for n, (text, box) in enumerate(texts):
        inner = Bbox([[box.x0 + 0.5, box.y0 + 0.5], [box.x1 - 0.5, box.y1 - 0.5]])
        over = [other.get_text() for other, place in texts[:n] if inner.overlaps(place)]
        assert not over, f"{text.get_text()!r} lies over {over}"
        assert not any(inner.overlaps(image) for image in images), f"{text.get_text()!r} lies over an image"


def _parts(figure: Figure, kind: type[T]) -> list[T]:
    return [part for part in figure.findobj(kind) if isinstance(part, kind)]


def _is_shown(figure: Figure, text: Text) -> bool:
    axes = text.axes
    return bool(text.get_text().strip()) and text.get_visible() and (axes is None or axes.axison or text in axes.texts)
