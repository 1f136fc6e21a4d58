"""scikit-activeml: its loops run these strategies, and its strategies run on this model. Needs `pip install 'ssld[activeml]'`.

from ssl_diffusion.acquisition.adapters.to_activeml import JointClassifier, JointStrategy

clf = JointClassifier(JointDiffusionClassifier(recipe="digits"), classes=range(10))
JointStrategy("counterfactual").query(X, y, clf.fit(X, y), fit_clf=False, batch_size=10)
skactiveml.pool.UncertaintySampling(method="margin_sampling").query(X, y, clf, fit_clf=False, batch_size=10)
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ssl_diffusion.acquisition.adapters.arrays import choose_rows
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.estimator import JointDiffusionClassifier

try:
    from skactiveml.base import SingleAnnotatorPoolQueryStrategy, SkactivemlClassifier
    from skactiveml.utils import is_labeled
except ImportError as error:
    raise SSLDError("this needs scikit-activeml: pip install 'ssld[activeml]'") from error

__all__ = ["JointClassifier", "JointStrategy"]

_IMAGES = {"allow_nd": True, "ensure_2d": False, "dtype": "numeric"}


class JointClassifier(SkactivemlClassifier):  # type: ignore[misc]
    """The estimator as a classifier of scikit-activeml; what has no label is learned from, too.

    Args:
        estimator: :class:`JointDiffusionClassifier`. None: one with its defaults.
        classes: all classes, as scikit-activeml wants them; those without a label get probability 0.
        missing_label: Value of y where no label is known.
        cost_matrix: Cost of each decision, see scikit-activeml.
        random_state: Random seed for ties between classes; the fit uses the estimator's.

    Attributes:
        estimator_: the fitted estimator; None if no sample had a label, then all classes are equally probable.
    """

    def __init__(
        self,
        estimator: JointDiffusionClassifier | None = None,
        classes: Any = None,
        missing_label: Any = np.nan,
        cost_matrix: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(classes=classes, missing_label=missing_label, cost_matrix=cost_matrix, random_state=random_state)
        self.estimator = estimator

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: Any = None) -> Self:
        """Fit to images and labels; raises :class:`ValueError` for sample weights, which the model has no use for."""
        if sample_weight is not None:
            raise ValueError("sample weights are not supported")
        values, codes, _ = self._validate_data(X, y, check_X_dict=_IMAGES)
        self.estimator_ = None
        if (codes >= 0).any():
            self.estimator_ = clone(JointDiffusionClassifier() if self.estimator is None else self.estimator).fit(values, codes)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities, float64 (n, K), in the order of `classes_`."""
        check_is_fitted(self, "classes_")
        k = len(self.classes_)
        if self.estimator_ is None:
            return np.full((len(np.asarray(X)), k), 1 / k)
        p = np.zeros((len(np.asarray(X)), k))
        p[:, self.estimator_.classes_] = self.estimator_.predict_proba(X)
        return p


class JointStrategy(SingleAnnotatorPoolQueryStrategy):  # type: ignore[misc]
    """A strategy of this package in the loops of scikit-activeml.

    Args:
        strategy: name, or "auto".
        power: draws with probability proportional to utility^power; for scores only.
        missing_label: Value of y where no label is known.
        random_state: Random seed.
    """

    def __init__(
        self, strategy: str = "auto", power: float | None = None, missing_label: Any = np.nan, random_state: Any = None
    ) -> None:
        super().__init__(missing_label=missing_label, random_state=random_state)
        self.strategy = strategy
        self.power = power

    def query(
        self,
        X: ArrayLike,
        y: ArrayLike,
        clf: JointClassifier,
        fit_clf: bool = True,
        candidates: Any = None,
        batch_size: int = 1,
        return_utilities: bool = False,
    ) -> NDArray[np.int64] | tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Choose samples.

        Args:
            X: images, (N, ...).
            y: labels, (N,), `missing_label` where there is none.
            clf: the classifier; it is not changed.
            fit_clf: fit a copy of it to X and y first; else it must be fitted.
            candidates: rows to choose among. None: all without label.
            batch_size: Number of samples to choose.
            return_utilities: Whether utilities are returned, too.

        Returns:
            Rows of X, (batch_size,); and with `return_utilities` the utilities, (batch_size, N), a row a choice, NaN for what
            was no candidate or was chosen before.

        Raises:
            SSLDError: if the classifier is another one, or has seen no label.
        """
        if not isinstance(clf, JointClassifier):
            raise SSLDError(f"this strategy looks into the model: wrap it in JointClassifier, not {type(clf).__name__}")
        values, labels, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, check_X_dict=_IMAGES
        )
        _, mapping = self._transform_candidates(candidates, values, labels, enforce_mapping=True)
        if fit_clf:
            clf = clone(clf).fit(values, labels)
        check_is_fitted(clf, "classes_")
        if clf.estimator_ is None:
            raise SSLDError("no sample has a label yet: query a run of `ssld fit --objective denoise-only` for the first ones")
        codes = np.full(len(values), -1)
        known = is_labeled(labels, missing_label=self.missing_label)
        codes[known] = clf._le.transform(labels[known])
        choice = choose_rows(
            clf.estimator_,
            values,
            codes,
            batch_size,
            self.strategy,
            candidates=mapping,
            power=self.power,
            random_state=int(self.random_state_.randint(2**31)),
        )
        if not return_utilities:
            return choice.picks
        utilities = np.repeat(choice.utilities[None], len(choice.picks), axis=0)
        for i, pick in enumerate(choice.picks):
            utilities[i + 1 :, pick] = np.nan
        return choice.picks, utilities
