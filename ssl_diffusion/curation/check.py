"""All checks of a collection, their findings as tables, and what is left when findings are acted on."""

from collections.abc import Collection as Container
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.curation.classes import class_table, pair_table
from ssl_diffusion.curation.collection import Collection
from ssl_diffusion.curation.image_faults import image_faults
from ssl_diffusion.curation.label_issues import LabelIssues, judge_labels
from ssl_diffusion.curation.near_duplicates import Duplicates, find_duplicates
from ssl_diffusion.curation.outliers import Outliers, find_outliers
from ssl_diffusion.errors import DataError, SSLDError, nearest_names

__all__ = ["FIXES", "CheckResult", "check_collection", "fixed_labels"]

FIXES = ("labels", "duplicates", "outliers")
"""Kinds of findings that can be acted on without looking."""

_UNBALANCED = 10.0  # labels of the largest class for each of the smallest
_AMBIGUOUS = 0.1  # fraction of the samples of two classes


@dataclass(frozen=True)
class CheckResult:
    """Findings about a collection.

    Attributes:
        collection: Images that were checked.
        labeled: Positions of the labeled samples, int64 (n,).
        issues: Findings about their labels; None where they could not be judged.
        not_judged: Reason why labels could not be judged; empty if they were.
        duplicates: Copies.
        outliers: Foreign images.
        faults: Rows (fault, position, score, phrase), see :func:`~ssl_diffusion.curation.image_faults.image_faults`.
        classes: Result of :func:`~ssl_diffusion.curation.classes.class_table`; empty without labels.
        pairs: Result of :func:`~ssl_diffusion.curation.classes.pair_table`; empty where labels could not be judged.
    """

    collection: Collection
    labeled: NDArray[np.int64]
    issues: LabelIssues | None
    not_judged: str
    duplicates: Duplicates
    outliers: Outliers
    faults: list[tuple[str, int, float, str]]
    classes: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def wrong_labels(self) -> NDArray[np.int64]:
        """Positions of the samples whose labels are probably wrong, the most suspicious first, int64 (m,)."""
        if self.issues is None:
            return np.zeros(0, dtype=np.int64)
        ranked = self.issues.ranked
        return self.labeled[ranked[self.issues.flagged[ranked]]]

    @property
    def foreign(self) -> NDArray[np.int64]:
        """Positions of the foreign images, the most foreign first, int64 (m,)."""
        order = np.argsort(-self.outliers.score, kind="stable")
        return order[self.outliers.flagged[order]]

    @property
    def leaks(self) -> list[NDArray[np.int64]]:
        """Groups of copies of which some are in the test split and others are not."""
        is_test = self.collection.pool.is_test
        return [group for group in self.duplicates.groups if 0 < is_test[group].sum() < len(group)]

    @property
    def sentences(self) -> list[str]:
        """What was found, a sentence each."""
        pool, n = self.collection.pool, len(self.collection.pool)
        found = []
        if self.issues is not None:
            found.append(f"{len(self.wrong_labels)} of {len(self.labeled)} labels are probably wrong.")
        elif len(self.labeled):
            found.append(f"Labels were not judged: {self.not_judged}.")
        groups = self.duplicates.groups
        found.append(f"{sum(map(len, groups))} of {n} images are copies of each other, in {len(groups)} groups.")
        if leaks := self.leaks:
            found.append(f"LEAK: {len(leaks)} of these groups are in the test split and outside it.")
        found.append(f"{len(self.foreign)} images are foreign to the others.")
        odd = len({position for _, position, _, _ in self.faults})
        found.append(f"{odd} images are dark, bright, blurred, nearly empty, or of an odd size or aspect ratio.")
        if pool.skipped:
            n_bad = len(pool.skipped)
            found.append("1 file cannot be read." if n_bad == 1 else f"{n_bad} files cannot be read.")
        if len(self.classes):
            counts = self.classes["labels"]
            least = max(1, int(counts.min()))
            if counts.max() / least >= _UNBALANCED:
                large, small = (self.classes["class"][i] for i in (counts.argmax(), counts.argmin()))
                found.append(f"The classes are unbalanced: {counts.max()} labels of {large!r}, {counts.min()} of {small!r}.")
        for row in self.pairs[self.pairs["confused"] >= _AMBIGUOUS].head(3).itertuples():
            found.append(f"{row.first!r} and {row.second!r} are taken for each other in {row.confused:.0%} of their samples.")
        return found

    def tables(self) -> dict[str, pd.DataFrame]:
        """Findings by kind, a row each: label_issues, duplicates, outliers, image_faults, classes, pairs."""
        pool = self.collection.pool
        ids = pool.ids
        group = self.duplicates.group
        members = np.concatenate([np.zeros(0, dtype=np.int64), *self.duplicates.groups])
        leaking = np.isin(group, [int(group[leak[0]]) for leak in self.leaks])
        foreign = self.foreign
        return {
            "label_issues": self._label_table(),
            "duplicates": pd.DataFrame(
                {
                    "id": ids[members],
                    "group": ids[group[members]],
                    "copy": self.duplicates.surplus[members],
                    "split": np.where(pool.is_test[members], "test", "train"),
                    "label": [self.label_of(i) for i in members],
                    "leak": leaking[members],
                }
            ),
            "outliers": pd.DataFrame(
                {
                    "id": ids[foreign],
                    "ordinary": self.outliers.ordinary[foreign].round(4),
                    "distance": self.outliers.distance[foreign].round(2),
                    "kind": self.outliers.kind[foreign].round(2),
                    "denoising": self.outliers.denoising[foreign].round(2),
                    "detail": self.outliers.detail[foreign].round(2),
                    "label": [self.label_of(i) for i in foreign],
                }
            ),
            "image_faults": pd.DataFrame(
                [
                    *((str(ids[i]), fault, round(score, 3), text) for fault, i, score, text in self.faults),
                    *((sample, "unreadable", np.nan, reason) for sample, reason in pool.skipped),
                ],
                columns=["id", "fault", "score", "what"],
            ),
            "classes": self.classes,
            "pairs": self.pairs,
        }

    def _label_table(self) -> pd.DataFrame:
        """All judged labels by rank."""
        columns = ["id", "label", "suggested", "probability_wrong", "probably_wrong", "split"]
        if self.issues is None:
            return pd.DataFrame(columns=columns)
        pool, issues, ranked = self.collection.pool, self.issues, self.issues.ranked
        at = self.labeled[ranked]
        values = [
            pool.ids[at],
            [self.label_of(i) for i in at],
            [pool.classes[k] for k in issues.suggested[ranked]],
            issues.wrong[ranked].round(4),
            issues.flagged[ranked],
            np.where(pool.is_test[at], "test", "train"),
        ]
        return pd.DataFrame(dict(zip(columns, values, strict=True)))

    def label_of(self, position: int) -> str:
        """Label of a sample by its position; empty without one."""
        pool = self.collection.pool
        if pool.multilabel:
            return "|".join(name for name, flag in zip(pool.classes, pool.labels[position], strict=True) if flag > 0)
        label = int(pool.labels[position])
        return pool.classes[label] if label >= 0 else ""


def check_collection(collection: Collection, *, seed: int = 0) -> CheckResult:
    """Check a collection.

    Labels that cannot be judged, as those of one class cannot, leave the other checks as they are; the reason is kept.

    Args:
        collection: Images, labels and representations.
        seed: Random seed of the folds by which labels are judged.

    Raises:
        DataError: If a representation is not finite.

    Example:
        >>> result = check_collection(collect_photos(Path("photos")))  # doctest: +SKIP
        >>> print("\\n".join(result.sentences))  # doctest: +SKIP
    """
    pool, z = collection.pool, collection.z
    if not (finite := np.isfinite(z).all(axis=1)).all():
        raise DataError(f"the representation of {str(pool.ids[finite.argmin()])!r} is not finite: compute the features again")
    duplicates = find_duplicates(collection.seen.small, collection.seen.digests, z)
    single = None if pool.multilabel else pool.labels
    outliers = find_outliers(z, errors=collection.errors, images=pool.images, group=duplicates.group, labels=single)
    labeled, issues, why = np.flatnonzero(pool.has_label), None, ""
    classes, pairs = pd.DataFrame(), pd.DataFrame(columns=["first", "second", "swapped", "confused"])
    if pool.multilabel:
        why = "labels are judged where an image has one; these images have several"
    elif not len(labeled):
        why = "no image has a label: name a CSV file of labels with --labels, or put the images into a folder for each class"
    else:
        labels = pool.labels[labeled]
        try:
            issues = judge_labels(z[labeled], labels, len(pool.classes), groups=duplicates.group[labeled], seed=seed)
            pairs = pair_table(labels, pool.classes, issues)
        except DataError as error:
            why = str(error)
        classes = class_table(labels, pool.classes, pool.is_test[labeled], issues)
    faults = image_faults(collection.seen)
    return CheckResult(collection, labeled, issues, why, duplicates, outliers, faults, classes, pairs)


def fixed_labels(result: CheckResult, fixes: Container[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Labels after findings were acted on.

    Labels that are probably wrong become the suggested ones where these are probably right, and are emptied otherwise. Of
    copies one is kept, one of the test split where there is one, so that nothing leaks; where their labels differ, its label is
    emptied. Foreign images are left out.

    Args:
        result: Findings.
        fixes: Kinds of findings to act on, of :data:`FIXES`.

    Returns:
        Table with the columns path, label and split, which `ssld fit --data` reads, and the number of changes of each kind.

    Raises:
        SSLDError: If a kind does not exist, or labels are to be mended that could not be judged.

    Example:
        >>> table, changes = fixed_labels(result, ["labels", "duplicates"])  # doctest: +SKIP
    """
    for fix in fixes:
        if fix not in FIXES:
            raise SSLDError(f"--fix mends {', '.join(FIXES)}, not {fix!r}; {nearest_names(fix, FIXES)}")
    pool = result.collection.pool
    if "labels" in fixes and result.issues is None:
        raise SSLDError(f"--fix labels has nothing to go by: {result.not_judged}")
    names = np.array([result.label_of(i) for i in range(len(pool))], dtype=object)
    kept, changes = np.ones(len(pool), dtype=bool), dict.fromkeys((fix for fix in FIXES if fix in fixes), 0)
    if "labels" in fixes and (issues := result.issues) is not None:
        for i in np.flatnonzero(issues.flagged):
            better = int(issues.suggested[i])
            sure = issues.probabilities[i, better] > 0.5
            names[result.labeled[i]] = pool.classes[better] if sure else ""
        changes["labels"] = int(issues.flagged.sum())
    if "duplicates" in fixes:
        for group in result.duplicates.groups:
            keeper = group[np.argmax(pool.is_test[group])]
            given = {name for name in names[group] if name}
            names[keeper] = given.pop() if len(given) == 1 else ""
            kept[np.setdiff1d(group, keeper)] = False
            changes["duplicates"] += len(group) - 1
    if "outliers" in fixes:
        kept[result.foreign] = False
        changes["outliers"] = len(result.foreign)
    split = np.where(pool.is_test, "test", "train")
    return pd.DataFrame({"path": pool.ids[kept], "label": names[kept], "split": split[kept]}), changes
