"""What every acquisition strategy promises, as tests to inherit."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import spearmanr

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.names import get_variant
from ssl_diffusion.acquisition.query import choose
from ssl_diffusion.acquisition.registry import Choice, Strategy
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.inference.projection import ProjectedRows
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.testing.base import raises, random_state
from ssl_diffusion.testing.toys import GaussianDenoiser, LinearModel

__all__ = ["StrategyContract", "known_distances", "noise_candidates"]

_SHAPE = (1, 3, 4)
_PIXELS = 12


class StrategyContract:
    """Tests of an acquisition strategy; inherit them and name it.

    Attributes:
        strategy: Name of a registered strategy, also with a variant ("margin:diverse"), or a strategy.
        prefers_the_boundary: Whether samples near the boundary between classes have the higher utilities. None: whether the
            strategy needs labels. Set it to False only for a strategy that needs a classifier to look for something else.

    Example:
        >>> class TestTail(StrategyContract):
        ...     strategy = "tail"
    """

    strategy: str | Strategy
    prefers_the_boundary: bool | None = None

    @property
    def described(self) -> Strategy:
        """The strategy itself."""
        return get_variant(self.strategy) if isinstance(self.strategy, str) else self.strategy

    def check_batch(self, n: int, m: int, seed: int, copies: float) -> None:
        """Check one batch: as many distinct candidates as asked for, in every run the same, and nothing else changed.

        Args:
            n: Batch size, at most 30.
            m: Number of labeled samples.
            seed: Random seed of the candidates and of the choice.
            copies: Fraction of the candidates that are copies of the first.
        """
        c = noise_candidates(30, m, seed, copies)
        before, state = _contents(c), random_state()
        choice = self._choose(c, n)
        _check_choice(choice, n, 30)
        for name, values in _contents(c).items():
            np.testing.assert_array_equal(values, before[name], f"the strategy changed {name}")
        assert random_state() == state, "the strategy draws from the global random state; candidates.rng is there for that"
        again = self._choose(noise_candidates(30, m, seed, copies), n)
        np.testing.assert_array_equal(again.picks, choice.picks, "the same seed gave another batch")
        np.testing.assert_array_equal(again.utilities, choice.utilities, "the same seed gave other utilities")

    def test_it_is_described(self) -> None:
        """Name, needs, cost, when to use it, reference; a score or a way to choose a batch."""
        s = self.described
        assert s.needs in ("images", "labels"), f"needs is {s.needs!r}"
        assert all(text.strip() for text in (s.name, s.cost, s.when, s.reference)), "a description is empty"
        assert (s.score is None) != (s.batch is None), "a strategy is either a score or a batch strategy"

    def test_a_batch_is_what_was_asked_for(self) -> None:
        """With few labels, many, none; with copies; of one sample."""
        for n, m, seed, copies in ((1, 0, 0, 0.0), (5, 4, 1, 0.0), (12, 5, 2, 0.3), (7, 1, 3, 1.0)):
            self.check_batch(n, m, seed, copies)

    def test_the_candidates_may_run_out(self) -> None:
        """A batch of all candidates, also of a single one."""
        for n_candidates, n in ((5, 5), (1, 1)):
            choice = self._choose(noise_candidates(n_candidates), n)
            assert sorted(choice.picks.tolist()) == list(range(n_candidates)), f"{n} of {n_candidates} are not all of them"

    def test_rows_may_be_computed_when_they_are_asked_for(self) -> None:
        """A representation that is not an array: `c.x` makes it one, `c.representation[rows]` takes rows of it."""
        c = noise_candidates(30)
        lazy = replace(noise_candidates(30), representation=ProjectedRows(c.x, np.arange(30)))
        np.testing.assert_array_equal(
            self._choose(lazy, 4).picks,
            self._choose(c, 4).picks,
            "a representation that is computed when asked for gave another batch",
        )

    def test_without_a_classifier_it_works_or_says_so(self) -> None:
        """A strategy that needs images only goes on; another one says that it needs a classifier."""
        c = noise_candidates(20, 0)
        blind = Candidates(c.representation, None, c.labeled_representation, c.labeled_classes, 0, np.random.default_rng(0))
        if self.described.needs == "images":
            _check_choice(self._choose(blind, 3), 3, 20)
        else:
            with raises(SSLDError, "needs a classifier"):
                self._choose(blind, 3)

    def test_without_images_it_works_or_says_so(self) -> None:
        """Where there are only representations, `images_of` raises the error that the user sees."""
        c = replace(noise_candidates(20), images=None, labeled_images=None, model=None)
        try:
            choice = self._choose(c, 3)
        except SSLDError as error:
            if "only representations" not in str(error):
                raise AssertionError(f"the error does not say that there are only representations: {error}") from error
        else:
            _check_choice(choice, 3, 20)

    def test_higher_utility_is_sooner(self) -> None:
        """What is chosen has, on the average, no lower utility than what is there."""
        chosen, there = [], []
        for seed in range(8):
            choice = self._choose(noise_candidates(40, 4, seed), 6)
            chosen.append(choice.utilities[choice.picks].mean())
            there.append(choice.utilities.mean())
        assert np.mean(chosen) >= np.mean(there) * (1 - 1e-9), "the chosen samples have lower utilities than the others"

    def test_what_is_near_the_boundary_comes_first(self) -> None:
        """With two classes and a linear boundary at known distances; see `prefers_the_boundary`."""
        s = self.described
        wanted = s.needs == "labels" if self.prefers_the_boundary is None else self.prefers_the_boundary
        if not wanted:
            return
        nearer = []
        for seed in range(3):
            c, distance = known_distances(60, seed)
            choice = self._choose(c, 6)
            looked_at = choice.utilities > choice.utilities.min()  # a shortlist leaves the others at the bottom
            correlation = float(spearmanr(choice.utilities[looked_at], distance[looked_at]).statistic)
            assert correlation < -0.5, f"utilities do not fall with the distance to the boundary (Spearman {correlation:.2f})"
            nearer.append(distance[choice.picks].mean() / distance.mean())
        assert np.mean(nearer) < 0.9, "the chosen samples are not nearer to the boundary than the others"

    def _choose(self, c: Candidates, n: int) -> Choice:
        return choose(self.strategy, c, n)


def noise_candidates(n: int = 40, m: int = 4, seed: int = 0, copies: float = 0.0) -> Candidates:
    """Images of noise, 1 x 3 x 4, of three classes, as a linear model sees them; the representation is the image.

    Args:
        n: Number of candidates.
        m: Number of labeled samples.
        seed: Random seed of the images and of the strategy.
        copies: Fraction of the candidates that are copies of the first.
    """
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng([seed, n])
    images = rng.integers(0, 256, (n + m, *_SHAPE), dtype=np.uint8)
    images[: int(copies * n)] = images[0]
    return _seen(torch.randn(3, _PIXELS, generator=generator), images, n, np.arange(m) % 3, seed)


def known_distances(n: int, seed: int = 0) -> tuple[Candidates, np.ndarray[Any, np.dtype[np.float64]]]:
    """Candidates of two classes that the first pixel decides, and their distances to the boundary.

    Args:
        n: Number of candidates.
        seed: Random seed of the images and of the strategy.

    Returns:
        Candidates, and the Euclidean distances between the images, in [-1, 1], and the boundary, float64 (n,).
    """
    rng = np.random.default_rng([seed, n, 2])
    images = rng.integers(0, 256, (n + 4, *_SHAPE), dtype=np.uint8)
    images[n:, 0, 0, 0] = (60, 200, 90, 170)
    weight = torch.zeros(2, _PIXELS)
    weight[0, 0], weight[1, 0] = -4.0, 4.0
    c = _seen(weight, images, n, np.array([0, 1, 0, 1]), seed)
    return c, np.abs(images[:n, 0, 0, 0].astype(np.float64) / 127.5 - 1)


def _seen(weight: torch.Tensor, images: np.ndarray[Any, np.dtype[np.uint8]], n: int, classes: Any, seed: int) -> Candidates:
    """Candidates, and labeled samples after them, through a linear model with these weights."""
    denoiser = GaussianDenoiser(torch.zeros(_PIXELS), torch.eye(_PIXELS), torch.ones(_PIXELS))
    model = LinearModel(weight, torch.zeros(len(weight)), _SHAPE, denoiser)
    x = torch.from_numpy(images).float() / 127.5 - 1
    with torch.no_grad():
        p = model.classify(x).softmax(dim=1).numpy()
    z = x.flatten(1).numpy()
    return Candidates(
        representation=z[:n],
        probabilities=p[:n],
        labeled_representation=z[n:],
        labeled_classes=np.asarray(classes, dtype=np.int64),
        n_classes=len(weight),
        rng=np.random.default_rng(seed),
        images=images[:n],
        labeled_images=images[n:],
        model=cast(JointDiffusion, model),
    )


def _check_choice(choice: Choice, n: int, n_candidates: int) -> None:
    picks = choice.picks
    assert len(set(picks.tolist())) == n, f"{len(set(picks.tolist()))} distinct samples, {n} were asked for"
    assert all(0 <= i < n_candidates for i in picks.tolist()), "a pick is no candidate"
    assert choice.utilities.shape == (n_candidates,), f"{choice.utilities.shape} utilities of {n_candidates} candidates"
    assert np.isfinite(choice.utilities).all(), "a utility is not finite"
    assert choice.probabilities.shape == (n,), f"{choice.probabilities.shape} probabilities of {n} picks"
    assert ((choice.probabilities > 0) & (choice.probabilities <= 1 + 1e-9)).all(), "a probability is not in (0, 1]"
    assert len(choice.notes) in (0, n), f"{len(choice.notes)} notes about {n} picks"


def _contents(c: Candidates) -> dict[str, np.ndarray[Any, Any]]:
    """Copies of everything that a strategy sees and must leave alone."""
    assert c.model is not None
    assert c.images is not None
    assert c.labeled_images is not None
    weights = {f"the model's {name}": value.detach().numpy().copy() for name, value in c.model.state_dict().items()}
    return {
        "the representation": c.x.copy(),
        "the class probabilities": c.p.copy(),
        "the labeled representation": c.labeled_representation.copy(),
        "the labeled classes": c.labeled_classes.copy(),
        "the images": c.images[np.arange(len(c))].copy(),
        "the labeled images": c.labeled_images.copy(),
        "the model's mode": np.array(c.model.training),
        **weights,
    }
