"""Learning curves of others, from their raw results, to be shown beside those of a study.

Two forms are read: a CSV file with the columns `dataset`, `strategy`, `n_labeled`, `accuracy` and, if there are several trials,
`seed`; and the published experiments of scikit-activeml, one file a trial with the columns `step` and `accuracy` at
DATASET/MODEL/STRATEGY/BATCH/SEED.csv, singly or as a folder of them. After step i there, (i + 1) batches are labeled.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ssl_diffusion.errors import DataError

__all__ = ["beside", "read_others"]

_OWN = ("dataset", "strategy", "n_labeled", "accuracy")
_THEIRS = ("step", "accuracy")
_MOST_FILES = 20_000


def read_others(path: Path, dataset: str) -> pd.DataFrame:
    """Rounds of somebody else's strategies on the same data.

    Args:
        path: CSV file, or folder of files in scikit-activeml's form.
        dataset: Name of the data of the study; names are compared without case, hyphens and the like.

    Returns:
        Columns `strategy` (with the model in parentheses, where there is one), `seed`, `n_labeled` and `accuracy`, in [0, 1].

    Raises:
        DataError: if there is no such file, it cannot be read, has neither form, is about other data or another task, or has
            accuracies outside [0, 1] or two rows for one strategy, seed and number of labels.

    Example:
        >>> read_others(Path("others.csv"), "digits")  # doctest: +SKIP
    """
    files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} has no CSV files")
    if len(files) > _MOST_FILES:
        raise DataError(f"{path} has {len(files):,} CSV files: name the folder of one data set and model")
    table = pd.concat([_read(file, dataset) for file in files], ignore_index=True)
    if (double := table.duplicated(["strategy", "seed", "n_labeled"])).any():
        row = table[double].iloc[0]
        raise DataError(f"{path} has two rows for {row['strategy']}, seed {row['seed']}, {row['n_labeled']} labels")
    return table


def _read(file: Path, dataset: str) -> pd.DataFrame:
    if not file.is_file():
        raise DataError(f"no file {file}")
    try:
        table = pd.read_csv(file)
    except (ValueError, OSError) as error:  # UnicodeDecodeError and the errors of pandas' parser are ValueErrors
        raise DataError(f"{file} cannot be read as CSV ({error})") from error
    if set(_OWN) <= set(table):
        table = table.assign(seed=table.get("seed", 0))
        names, table = table["dataset"].unique().tolist(), table[["strategy", "seed", "n_labeled", "accuracy"]]
    elif set(_THEIRS) <= set(table):
        name, model, strategy, batch, seed = _parts_of(file)
        n = (table["step"] + 1) * batch
        names, table = (
            [name],
            pd.DataFrame({"strategy": f"{strategy} ({model})", "seed": seed, "n_labeled": n, "accuracy": table["accuracy"]}),
        )
    else:
        raise DataError(
            f"{file} has no learning curves of a classification task: it needs the columns {', '.join(_OWN)}, or "
            "step and accuracy"
        )
    if foreign := [str(name) for name in names if not _same(str(name), dataset)]:
        raise DataError(f"{file} has results on {foreign[0]!r}, and the study is about {dataset!r}: they cannot be compared")
    numbers = table[["seed", "n_labeled", "accuracy"]].apply(pd.to_numeric, errors="coerce")
    if table.empty or not np.isfinite(numbers.to_numpy()).all() or (numbers["n_labeled"] < 1).any():
        raise DataError(f"{file} has rows without a number of labels, a seed or an accuracy, or no rows")
    if not numbers["accuracy"].between(0, 1).all():
        raise DataError(f"{file} has accuracies outside 0 to 1: write 0.87 for 87 %")
    return pd.DataFrame(
        {
            "strategy": table["strategy"].astype(str),
            "seed": numbers["seed"].astype(int),
            "n_labeled": numbers["n_labeled"].astype(int),
            "accuracy": numbers["accuracy"].astype(float),
        }
    )


def _parts_of(file: Path) -> tuple[str, str, str, int, int]:
    """Data set, model, strategy, batch size and seed, from the path of a file in scikit-activeml's form."""
    parts = file.resolve().parts[-5:]
    if len(parts) < 5 or not parts[3].isdecimal() or not file.stem.isdecimal() or not int(parts[3]):
        raise DataError(
            f"{file} counts steps, and how many labels a step has is not in its path: keep it at "
            "DATASET/MODEL/STRATEGY/BATCH/SEED.csv"
        )
    return parts[0], parts[1], parts[2], int(parts[3]), int(file.stem)


def _same(name: str, dataset: str) -> bool:
    """Whether names are of the same data; behind an underscore a name may say what read it (CIFAR10_dinov2)."""
    ours = _plain(dataset)
    return ours in (_plain(name), _plain(name.partition("_")[0]))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def beside(rounds: pd.DataFrame, others: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """Mean accuracy of own and other strategies at the study's budgets, as far as both go.

    Args:
        rounds: Results of one way to refit.
        others: Results of others, see :func:`read_others`.
        strategies: Own strategies to show.

    Returns:
        One row a strategy: `strategy`, `n` (seeds) and a column for every budget of the study, with NaN where a curve does not
        reach; between numbers of labels it is linear in their logarithm.

    Raises:
        DataError: if the two have no range of labels in common.
    """
    budgets = sorted(set(rounds["n_labeled"]))
    if others["n_labeled"].max() < budgets[0] or others["n_labeled"].min() > budgets[-1]:
        low, high = others["n_labeled"].min(), others["n_labeled"].max()
        raise DataError(
            f"the results to show have {low:,} to {high:,} labels and the study {budgets[0]:,} to {budgets[-1]:,}: "
            "nothing to compare"
        )
    rows = []
    for table, names in ((rounds, strategies), (others, list(dict.fromkeys(others["strategy"])))):
        for name in names:
            mine = table[table["strategy"] == name]
            curve = mine.groupby("n_labeled")["accuracy"].mean()
            at = np.interp(np.log(budgets), np.log(curve.index), curve.to_numpy(), left=np.nan, right=np.nan)
            rows.append({"strategy": name, "n": mine["seed"].nunique(), **dict(zip(map(str, budgets), at, strict=True))})
    return pd.DataFrame(rows)
