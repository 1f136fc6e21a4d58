"""A look at a query as a whole: where in the pool the chosen samples lie, and how utility is spread."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice
from ssl_diffusion.errors import SSLDError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MAPS", "Overview", "overview", "overview_figure", "places_of"]

MAPS = ("pca", "umap")
_SHOWN, _FITTED = 5000, 20_000


@dataclass(frozen=True)
class Overview:
    """A map in the plane, and utilities.

    Attributes:
        rest: places of at most 5,000 candidates that were not chosen, float32 (k, 2).
        labeled: places of the labeled samples, (m, 2).
        chosen: places of the chosen ones, (n, 2).
        utilities: Utilities of all candidates, (N,).
        chosen_utilities: Utilities of the chosen ones, (n,).
        method: "pca" or "umap".
    """

    rest: NDArray[np.float32]
    labeled: NDArray[np.float32]
    chosen: NDArray[np.float32]
    utilities: NDArray[np.float64]
    chosen_utilities: NDArray[np.float64]
    method: str


def overview(candidates: Candidates, choice: Choice, method: str = "pca") -> Overview:
    """Map representations to the plane.

    Args:
        candidates: Candidates that were chosen from.
        choice: Chosen samples.
        method: "pca", the first two principal components, or "umap" (McInnes et al. 2018, arXiv 1802.03426), an extra.

    Raises:
        SSLDError: if the method does not exist or umap-learn is not installed.
    """
    _check_method(method)
    x = candidates.x
    rng = np.random.default_rng(0)  # of its own: looking must not change what is chosen next
    rest = np.setdiff1d(rng.permutation(len(x))[:_SHOWN], choice.picks)
    parts = [x[rest], candidates.labeled_representation, x[choice.picks]]
    mapped = _pca(x[np.sort(rng.permutation(len(x))[:_FITTED])], parts) if method == "pca" else _umap(parts)
    others, labeled, chosen = mapped
    return Overview(others, labeled, chosen, choice.utilities, choice.utilities[choice.picks], method)


def places_of(x: NDArray[np.float32], method: str = "pca") -> NDArray[np.float32]:
    """Map a whole pool to the plane.

    Args:
        x: Representations, float32 (N, F).
        method: See :func:`overview`.

    Returns:
        Places, float32 (N, 2).

    Raises:
        SSLDError: See :func:`overview`.
    """
    _check_method(method)
    rng = np.random.default_rng(0)
    return (_pca(x[np.sort(rng.permutation(len(x))[:_FITTED])], [x]) if method == "pca" else _umap([x]))[0]


def _check_method(method: str) -> None:
    if method not in MAPS:
        raise SSLDError(f"a map is one of {', '.join(MAPS)}, not {method!r}")


def _pca(sample: NDArray[np.float32], parts: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    from sklearn.decomposition import PCA

    if len(sample) < 2:  # one candidate alone has its place, too
        return [np.zeros((len(part), 2), dtype=np.float32) for part in parts]
    dimensions = min(2, *sample.shape)
    pca = PCA(dimensions, svd_solver="full" if min(sample.shape) < 10 else "randomized", random_state=0).fit(sample)
    places = [pca.transform(part) if len(part) else np.zeros((0, dimensions)) for part in parts]
    return [np.pad(place, ((0, 0), (0, 2 - dimensions))).astype(np.float32) for place in places]


def _umap(parts: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise SSLDError("a UMAP needs umap-learn: pip install 'ssld[umap]'; --map pca needs nothing") from error
    together = np.concatenate(parts)
    if len(together) < 5:
        raise SSLDError(f"a UMAP needs five samples or more, here are {len(together)}: use --map pca")
    places = np.asarray(UMAP(n_neighbors=min(15, len(together) - 1), random_state=0, n_jobs=1).fit_transform(together))
    return np.split(places, np.cumsum([len(part) for part in parts])[:-1])


def overview_figure(seen: Overview, title: str = "") -> "Figure":
    """The map, with labeled, chosen and other samples, and the histogram of utilities."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 4.3), layout="constrained")
    plane, histogram = figure.subplots(1, 2, width_ratios=(1.35, 1))
    plane.scatter(*seen.rest.T, s=4, color="0.8", linewidths=0, label="rest of the pool")
    if len(seen.labeled):
        plane.scatter(*seen.labeled.T, s=14, color="tab:blue", linewidths=0, label="labeled")
    plane.scatter(*seen.chosen.T, s=22, color="#d1603d", edgecolors="white", linewidths=0.4, label="chosen")
    names = ("first principal component", "second") if seen.method == "pca" else ("UMAP 1", "UMAP 2")
    plane.set(xticks=[], yticks=[], xlabel=names[0], ylabel=names[1])
    plane.legend(frameon=False, fontsize=8, markerscale=1.3, loc="best")
    bins = np.histogram_bin_edges(seen.utilities, bins=40)
    histogram.hist(seen.utilities, bins=bins, color="0.75", label="all candidates")
    histogram.hist(seen.chosen_utilities, bins=bins, color="#d1603d", label="chosen")
    histogram.set(yscale="log", xlabel="utility (higher = label it sooner)", ylabel="samples")
    histogram.legend(frameon=False, fontsize=8)
    for axes in (plane, histogram):
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure
