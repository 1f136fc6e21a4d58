"""Which labels a run may use: the labeled budget, and the test split."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, StateError
from ssl_diffusion.storage import atomic_write_text, read_regular

__all__ = ["LabeledSet", "choose_labeled", "hold_out_test", "label_name"]


@dataclass(frozen=True)
class LabeledSet:
    """The labels a run may use: ids whose labels train the head, and ids whose labels only validate.

    Both count as labeled budget. The file form (`labeled.csv`) has the columns id, label, role; the label is the
    class name, or names joined by "|" for multi-label data.

    Beside them the head may learn images that are no samples (`Pool.extra`), which do not count. They have the role "extra",
    and are passed over where the pool is read without them, as later commands do.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def fitted(self) -> tuple[str, ...]:
        """Ids of all images whose labels train the head."""
        return self.train + self.extra

    def identity(self) -> dict[str, tuple[str, ...]]:
        """Plain values that tell whether two sets are the same."""
        return {"train": self.train, "val": self.val, **({"extra": self.extra} if self.extra else {})}

    def __len__(self) -> int:
        return len(self.train) + len(self.val)

    def digest(self) -> str:
        """Digest of the samples, without the extra images, which other commands do not have; 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps({"train": self.train, "val": self.val}).encode()).hexdigest()

    def save(self, path: Path, pool: Pool) -> None:
        """Write `labeled.csv`, atomically.

        Args:
            path: File to write.
            pool: Pool that the samples belong to.

        Raises:
            RunError: If the file cannot be written.
        """
        import pandas as pd

        ids = [*self.train, *self.val, *self.extra]
        labels = [_label_name(pool, i) for i in pool.positions(ids)]
        roles = ["train"] * len(self.train) + ["val"] * len(self.val) + ["extra"] * len(self.extra)
        # pandas leaves a carriage return unquoted, and would take it for the end of a line when it reads.
        unsafe = any("\r" in text for text in [*ids, *labels])
        frame = pd.DataFrame({"id": ids, "label": labels, "role": roles})
        atomic_write_text(path, frame.to_csv(index=False, quoting=csv.QUOTE_ALL if unsafe else csv.QUOTE_MINIMAL))

    @classmethod
    def load(cls, path: Path, pool: Pool) -> "LabeledSet":
        """Read `labeled.csv` and check it against the pool; raises :class:`DataError` on the first difference.

        Images of the role "extra" are left out where the pool has none.

        Args:
            path: File to read.
            pool: Pool that the samples belong to.
        """
        import pandas as pd

        try:
            frame = pd.read_csv(io.BytesIO(read_regular(path, largest=2**32)), dtype=str, keep_default_na=False)
        except StateError as error:
            raise DataError(str(error)) from None
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
        if list(frame.columns) != ["id", "label", "role"]:
            raise DataError(f"{path} must have exactly the columns id, label, role")
        if (twice := frame["id"].duplicated()).any():
            raise DataError(f"{path} lists sample {frame['id'][twice].iloc[0]!r} twice")
        if not (known := frame["role"].isin(["train", "val", "extra"])).all():
            raise DataError(f"{path}: a role is train, val or extra, not {frame['role'][~known].iloc[0]!r}")
        if pool.extra is None:
            frame = frame[frame["role"] != "extra"]
        try:
            positions = pool.positions(frame["id"])
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        for sample, label, i in zip(frame["id"], frame["label"], positions, strict=True):
            if _label_name(pool, i) != label:
                raise DataError(
                    f"{path}: sample {sample!r} was labeled {label!r} but the pool now says {_label_name(pool, i)!r}"
                )
        roles = frame["role"]
        return cls(*(tuple(frame["id"][roles == role]) for role in ("train", "val", "extra")))


def choose_labeled(
    pool: Pool,
    budget: int | None,
    *,
    seed: int,
    choice: str = "balanced",
    val_fraction: float = 0.0,
    allow_missing_classes: bool = False,
) -> LabeledSet:
    """Choose which known labels of the training split a run may use.

    The choice for one seed is nested: a smaller budget is a subset of a larger one.

    Args:
        pool: Pool to choose from; samples with a known label outside the test split are eligible, and its extra images are all
            taken.
        budget: Number of labels, validation included; None takes every known label.
        seed: Random seed.
        choice: Way to choose: "balanced" takes the same number from every class as far as it has them (single-label data);
            "uniform" draws from all labels alike.
        val_fraction: Fraction of the budget whose labels only validate, in [0, 1).
        allow_missing_classes: Whether a class may have no training label.

    Raises:
        DataError: if the budget is larger than the number of labels, or a class would be without one.

    Example:
        >>> len(choose_labeled(load_dataset("digits"), 40, seed=0).train)
        40
    """
    eligible = pool.train[pool.has_label[pool.train]]
    if budget is None:
        budget = len(eligible)
    if budget > len(eligible):
        raise DataError(
            f"a budget of {budget} labels is larger than the {len(eligible)} labeled training images of {pool.name!r}"
        )
    if budget < 1:
        raise DataError("without labels only the denoiser can be trained: use --objective denoise-only, or --labeled 1 or more")
    if not 0 <= val_fraction < 1:
        raise DataError(f"the validation fraction must be in [0, 1), not {val_fraction}")
    n_classes = len(pool.classes)
    if not pool.multilabel and budget < n_classes and not allow_missing_classes:
        raise DataError(f"a budget of {budget} labels cannot cover {n_classes} classes; use at least {n_classes}")
    rng = np.random.default_rng(seed)
    if choice == "balanced" and not pool.multilabel:
        order = _balanced_order(pool.labels[eligible], rng)
    elif choice in ("balanced", "uniform"):
        order = rng.permutation(len(eligible))
    else:
        raise DataError(f"the labeled budget is chosen 'balanced' or 'uniform', not {choice!r}")
    chosen = eligible[order[:budget]]
    n_val = round(budget * val_fraction)
    train, val = chosen[: budget - n_val], chosen[budget - n_val :]
    if len(train) < 1:
        raise DataError(f"a validation fraction of {val_fraction} leaves no label of {budget} for training")
    if not pool.multilabel and not allow_missing_classes:
        missing = sorted(set(range(n_classes)) - set(pool.labels[train].tolist()))
        if missing:
            names = ", ".join(repr(pool.classes[k]) for k in missing)
            raise DataError(
                f"no training label for class {names}: raise --labeled, use --choice balanced, or add --allow-missing-classes"
            )
    extra = np.zeros(0, dtype=np.int64) if pool.extra is None else np.flatnonzero(pool.extra)
    return LabeledSet(*(tuple(map(str, pool.ids[np.sort(rows)])) for rows in (train, val, extra)))


def hold_out_test(pool: Pool, fraction: float, *, seed: int = 0) -> None:
    """Move labeled samples to the test split (in place), each by a hash of its id.

    Whether a sample is held out depends on its id, the fraction and the seed only: images that are added or removed later move
    no other one between training and test. The price is that the split is as even as independent draws are.

    Args:
        pool: Pool without a test split.
        fraction: Probability of a labeled sample to be held out, in (0, 1).
        seed: Seed of the hash.

    Raises:
        DataError: If the pool has a test split already, or no labeled image would be left on one of the sides.

    Example:
        >>> pool = load_folder("photos")  # doctest: +SKIP
        >>> hold_out_test(pool, 0.2)  # doctest: +SKIP
    """
    if pool.is_test.any():
        raise DataError(f"{pool.name!r} has a test split of {pool.is_test.sum()} images; leave out --test-fraction")
    eligible = np.flatnonzero(pool.has_label)
    drawn = np.array([_uniform(seed, str(sample)) for sample in pool.ids[eligible]])
    chosen = eligible[drawn < fraction]
    if not 0 < len(chosen) < len(eligible):
        raise DataError(f"a test fraction of {fraction} takes {len(chosen)} of {len(eligible)} labeled images")
    pool.is_test[chosen] = True
    if not pool.multilabel:
        without = sorted(set(pool.labels[eligible].tolist()) - set(pool.labels[chosen].tolist()))
        if without:
            names = ", ".join(pool.classes[k] for k in without)
            pool.notes.append(f"the test split has no image of {names}: raise the test fraction to measure all classes")


def _uniform(seed: int, sample: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments, on every machine."""
    digest = hashlib.sha256(f"{seed}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def _balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions in an order that deals the classes in turn; a class that runs out is passed over."""
    classes = rng.permutation(np.unique(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    seat = np.empty(len(labels), dtype=np.int64)
    for position, k in enumerate(classes):
        members = np.flatnonzero(labels == k)
        turn[rng.permutation(members)] = np.arange(len(members))
        seat[members] = position
    return np.lexsort((seat, turn))


def _label_name(pool: Pool, position: int) -> str:
    return label_name(pool.labels[position], pool.classes)


def label_name(label: NDArray[np.int64] | np.int64, classes: Sequence[str]) -> str:
    r"""A label as text: the class name; for a multi-label row the names joined by "|"; "" for an unknown label.

    In joined names a "|" that belongs to a name is written "\|", and a backslash "\\", so that the classes "a" and "b" together
    differ from a class "a|b".

    Example:
        >>> label_name(np.array([1, 0, 1]), ("cat", "dog", "black|white"))
        'cat|black\\|white'
    """
    if np.ndim(label) == 0:
        return classes[int(label)] if int(label) >= 0 else ""
    row = np.asarray(label)
    return "|".join(_escaped(name) for name, present in zip(classes, row, strict=True) if present == 1)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("|", "\\|")
