"""Features that were computed elsewhere, by sample id, from a .npz, .npy, .csv or .parquet file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.errors import DataError, SSLDError, StateError
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.backbones.registry import register_backbone
from ssl_diffusion.models.backbones.weight_files import file_digest
from ssl_diffusion.storage import map_array

__all__ = ["PrecomputedBackbone"]

_BLOCK = 4096  # rows


@register_backbone("precomputed")
class PrecomputedBackbone(Backbone):
    """Features by sample id. No image is read, and no gradient runs through them.

    Args:
        path: File of features, one row a sample: .npz with the arrays `ids` (N,) and `features` (N, F); .csv or .parquet with a
            column of ids, and either one numeric column a feature or (parquet) one column of lists; .npy of shape (N, F).
        ids: Sample ids of the rows, for .npy files only, which have none.
        id_column: Name of the column of ids.

    Raises:
        DataError: If the file is missing, damaged or has another form; if an id occurs twice; or if a feature is missing or not
            finite.

    Example:
        >>> np.savez("features.npz", ids=["cat/1.jpg", "dog/2.jpg"], features=np.eye(2))
        >>> PrecomputedBackbone("features.npz").lookup(["dog/2.jpg"])
        array([[0., 1.]], dtype=float32)
    """

    differentiable = False
    by_id = True

    def __init__(self, path: str | Path, ids: Sequence[str] | None = None, id_column: str = "id") -> None:
        super().__init__()
        self._path = Path(path)
        names, features = _read(self._path, None if ids is None else [str(sample) for sample in ids], id_column)
        if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "fiu":
            raise DataError(f"features in {path} are {features.dtype} of shape {features.shape}, not numbers of shape (N, F)")
        if len(names) != len(features):
            raise DataError(f"{len(names)} ids for {len(features)} rows of features in {path}")
        self._rows: dict[str, int] = {}
        for i, sample in enumerate(names):
            if (first := self._rows.setdefault(sample, i)) != i:
                raise DataError(
                    f"sample {sample!r} occurs twice in {path}, in rows {first + 1} and {i + 1}: remove one of them"
                )
        for start in range(0, len(features), _BLOCK):
            bad = ~np.isfinite(features[start : start + _BLOCK]).all(axis=1)
            if bad.any():
                raise DataError(f"a feature of sample {names[start + int(bad.argmax())]!r} in {path} is missing or not finite")
        self._features = features
        self.n_features = features.shape[1]
        given = "" if ids is None else " " + hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        self.identity = f"precomputed {file_digest(self._path)}{given}"
        self.eval()

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.float32]:
        """Features of samples, float32 (n, F); raises :class:`DataError` naming the first sample that has none."""
        missing = [str(sample) for sample in ids if str(sample) not in self._rows]
        if missing:
            raise DataError(f"{self._path} has no features of {len(missing)} of {len(ids)} samples, such as {missing[0]!r}")
        rows = np.array([self._rows[str(sample)] for sample in ids], dtype=np.int64)
        return np.asarray(self._features[rows], dtype=np.float32)

    def embed(self, ids: Sequence[str] | NDArray[np.str_], images: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        """See :meth:`lookup`; images are ignored."""
        return self.lookup(ids)

    def features(self, x: Tensor) -> Tensor:
        """Raise :class:`SSLDError`: features are known for samples, and not for images."""
        raise SSLDError(
            f"the features in {self._path} are looked up by sample id: those of a new or changed image are not known, and no "
            "gradient runs through them"
        )


def _read(path: Path, ids: list[str] | None, id_column: str) -> tuple[list[str], NDArray[np.generic]]:
    """Ids and features of a file."""
    if not path.is_file():
        raise DataError(f"there are no features {path}")
    if ids is not None and path.suffix != ".npy":
        raise DataError(f"{path} has ids of its own: give ids for .npy files only")
    try:
        if path.suffix == ".npy":
            if ids is None:
                raise DataError(f"{path} has no ids: give ids, one a row, or save ids and features in an .npz file")
            return ids, map_array(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                if not {"ids", "features"} <= set(arrays.files):
                    raise DataError(f"{path} must hold the arrays ids and features, and holds {', '.join(arrays.files)}")
                return [str(sample) for sample in arrays["ids"].ravel()], arrays["features"]
        if path.suffix == ".csv":
            # Without default NA values, as a sample may be called "NA", and a missing feature must not become a number.
            frame = pd.read_csv(path, dtype={id_column: str}, keep_default_na=False)
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise DataError(f"features are read from .npz, .npy, .csv and .parquet files, not from {path}")
    except DataError:
        raise
    except StateError as error:
        raise DataError(f"{error}; save the features again") from None
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: pip install 'ssld[parquet]'") from error
    except Exception as error:  # numpy, pandas and pyarrow raise many kinds for damaged files
        reason = " ".join(str(error).split())[:200]
        if "pickle" in reason:  # whoever did what numpy advises would run the code in the file
            reason = "it is damaged, or holds Python objects, which are never loaded: save numbers and text"
        raise DataError(f"{path} cannot be read ({reason})") from None
    return _of_frame(path, frame, id_column)


def _of_frame(path: Path, frame: pd.DataFrame, id_column: str) -> tuple[list[str], NDArray[np.generic]]:
    """Ids and features of a table: one column of lists, or every other column a number."""
    if id_column not in frame.columns:
        raise DataError(f"{path} has no column {id_column!r}; its columns are {', '.join(map(str, frame.columns))}")
    ids = [str(sample) for sample in frame[id_column]]
    columns = [name for name in frame.columns if name != id_column]
    lists = [name for name in columns if len(frame) and isinstance(frame[name].iloc[0], list | tuple | np.ndarray)]
    if len(lists) == 1:
        rows = [np.asarray(row, dtype=np.float64) if row is not None else np.zeros(0) for row in frame[lists[0]]]
        for sample, row in zip(ids, rows, strict=True):
            if row.shape != rows[0].shape:
                raise DataError(f"sample {sample!r} in {path} has {row.size} features, and {ids[0]!r} has {rows[0].size}")
        return ids, np.stack(rows)
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            bad = pd.to_numeric(frame[name].astype(str), errors="coerce").isna().to_numpy()
            where = f", {frame[name].iloc[int(bad.argmax())]!r} of sample {ids[int(bad.argmax())]!r}" if bad.any() else ""
            raise DataError(f"the column {name!r} of {path} holds something else than numbers{where}")
    return ids, frame[columns].to_numpy(dtype=np.float64)
