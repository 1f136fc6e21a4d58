"""Features by sample id keep the contract, whatever file they are in; bad files are named in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.backbones import contract_of

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError
from ssl_diffusion.inference import pool_features
from ssl_diffusion.models import (
    Backbone,
    PrecomputedBackbone,
    load_backbone,
)
from ssl_diffusion.testing import BackboneContract, check


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Features of the samples of the contract, and of one more."""
    path = tmp_path / "features.npz"
    z = np.random.default_rng(0).normal(size=(6, 4))
    np.savez(path, ids=["e", "d", "c", "b", "a", "other"], features=z)
    return path


class TestPrecomputed(BackboneContract):
    @pytest.fixture(autouse=True)
    def _features(self, features: Path) -> None:
        self.path = features

    def make_backbone(self) -> Backbone:
        return load_backbone(f"precomputed:{self.path}")


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "parquet", "lists.parquet"])
def test_features_are_found_by_id_in_any_file(kind: str, tmp_path: Path, small_pool: Pool) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(60)
    z = rng.normal(size=(60, 3)).astype(np.float32)
    ids = np.array([f"{i}" if i % 2 else f"NA,{i}" for i in range(60)])
    small_pool.ids = ids
    path = tmp_path / f"features.{kind}"
    frame = pd.DataFrame({"id": ids[order], **{f"f{j}": z[order, j] for j in range(3)}})
    options: dict[str, Any] = {}
    if kind == "npz":
        np.savez(path, ids=ids[order], features=z[order])
    elif kind == "npy":
        np.save(path, z[order])
        options = {"ids": ids[order]}
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        lists = pd.DataFrame({"embedding": list(z[order]), "id": ids[order]})
        (frame if kind == "parquet" else lists).to_parquet(path)
    backbone = PrecomputedBackbone(path, **options)
    assert (len(backbone), backbone.n_features) == (60, 3)
    np.testing.assert_allclose(pool_features(backbone, small_pool), z, rtol=1e-6)
    np.testing.assert_allclose(backbone.lookup(ids[[7, 3, 7]]), z[[7, 3, 7]], rtol=1e-6)
    assert backbone.lookup([]).shape == (0, 3)


def test_missing_samples_are_named(features: Path) -> None:
    with pytest.raises(DataError, match=r"features\.npz has no features of 2 of 3 samples, such as 'x'"):
        PrecomputedBackbone(features).lookup(["a", "x", "y"])


def csv(text: str) -> Any:
    return lambda path: path.with_suffix(".csv").write_text(text, encoding="utf-8") and path.with_suffix(".csv")


def npz(**arrays: Any) -> Any:
    def write(path: Path) -> Path:
        np.savez(path.with_suffix(".npz"), **arrays)
        return path.with_suffix(".npz")

    return write


def parquet(rows: list[Any]) -> Any:
    def write(path: Path) -> Path:
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        pd.DataFrame({"id": [f"s{i}" for i in range(len(rows))], "z": rows}).to_parquet(path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")

    return write


def text(suffix: str) -> Any:
    return lambda path: path.with_suffix(suffix).write_text("no array") and path.with_suffix(suffix)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path, "there are no features"),
        (text(".npz"), "cannot be read"),
        (text(".txt"), "read from .npz, .npy, .csv and .parquet files"),
        (npz(ids=["a", "b", "a"], features=np.eye(3)), "'a' occurs twice in .*, in rows 1 and 3"),
        (npz(ids=["a", "b"], features=np.eye(3)), "2 ids for 3 rows"),
        (npz(ids=["a", "b"], features=np.array([[1.0], [np.nan]])), "a feature of sample 'b' .* is missing or not finite"),
        (npz(ids=["a"], features=np.zeros((1, 2, 2))), r"float64 of shape \(1, 2, 2\), not numbers of shape"),
        (npz(ids=["a"], features=np.array([["x"]])), "<U1 of shape"),
        (npz(ids=["a"], features=np.zeros((1, 0))), r"of shape \(1, 0\)"),
        (npz(names=["a"], features=np.eye(1)), "must hold the arrays ids and features, and holds names, features"),
        (csv("name,f\na,1\n"), "has no column 'id'; its columns are name, f"),
        (csv("id,f,g\na,1,2\nb,,3\n"), "the column 'f' of .* holds something else than numbers, '' of sample 'b'"),
        (csv("id,f\na,1\nb,nan\n"), "is missing or not finite|something else than numbers"),
        (parquet([[1.0, 2.0], [3.0]]), "sample 's1' in .* has 1 features, and 's0' has 2"),
        (parquet([[1.0, 2.0], None]), "sample 's1' in .* has 0 features"),
    ],
)
def test_files_that_are_no_features_are_refused(write: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as error:
        PrecomputedBackbone(write(tmp_path / "z"))
    assert len(str(error.value).splitlines()) == 1


def test_ids_are_for_files_that_have_none(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has ids of its own"):
        PrecomputedBackbone(features, ids=["a"])
    np.save(tmp_path / "z.npy", np.eye(2))
    with pytest.raises(DataError, match="has no ids: give ids"):
        PrecomputedBackbone(tmp_path / "z.npy")
    ab, ba = (PrecomputedBackbone(tmp_path / "z.npy", ids=ids) for ids in ("ab", "ba"))
    assert ab.identity != ba.identity


class Lookup(PrecomputedBackbone):
    """Gives zeros for what it does not know."""

    def lookup(self, ids):  # type: ignore[no-untyped-def]
        known = [str(sample) in self._rows for sample in ids]
        z = np.zeros((len(ids), self.n_features), np.float32)
        z[known] = super().lookup([sample for sample, k in zip(ids, known, strict=True) if k])
        return z


def test_the_contract_notices_invented_features(features: Path) -> None:
    with pytest.raises(AssertionError, match="no SSLDError was raised about 'no such sample'"):
        check(contract_of(lambda: Lookup(features)))
