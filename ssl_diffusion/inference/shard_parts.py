"""What a model makes of a pool in shards: one Parquet part for each shard, by sample id, in a folder.

A part is whole or absent, and its footer says of which content and by which model it was made, so that a run that was killed
goes on behind the last part, parts of shards that were moved are kept, and several processes may share the work. The folder is
complete when its index, :data:`INDEX`, is there. Memory is bounded by a batch.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.data.label_choice import label_name
from ssl_diffusion.data.shards.digests import splits_digest
from ssl_diffusion.data.shards.parquet import FACTS, need_pyarrow, parquet_writer
from ssl_diffusion.data.shards.source import ShardBatch, ShardSource
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.inference.backbone_features import pool_features
from ssl_diffusion.inference.predict import map_stream, probabilities, represented
from ssl_diffusion.inference.projection import DIMENSIONS, projection_matrix
from ssl_diffusion.inference.rows import FusedRows, Rows, RowsSource
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.outputs import place_fault, remove_left

__all__ = ["INDEX", "Kind", "PartFacts", "check_parts_folder", "part_facts", "part_name", "shard_rows", "write_part"]

Kind = Literal["embed", "predict"]
"""What is written: representations and class probabilities, or predicted classes and probabilities."""

INDEX = "index.json"
"""File that lists the parts of a folder, written last."""

T = TypeVar("T")

_ROWS = 8192  # of a row group


@dataclass(frozen=True)
class PartFacts:
    """What the footer of a part says.

    Attributes:
        kind: Kind of its columns.
        model: Digest of the weights, and the precision.
        shard: Digest of the shard.
        splits: Digest of the splits in the shard, which the columns repeat; "" without any.
        images: Number of rows.
        skipped: Images that were left out, as (place, reason).
    """

    kind: Kind
    model: str
    shard: str
    splits: str = ""
    images: int = 0
    skipped: tuple[tuple[str, str], ...] = ()


def part_name(stem: str, digest: str) -> str:
    """File name of the part of a shard.

    Args:
        stem: Name of the shard without ending.
        digest: Digest of the shard.

    Example:
        >>> part_name("shard-00001", "0123456789abcdef")
        'shard-00001-0123456789ab.parquet'
    """
    return f"{stem}-{digest[:12]}.parquet"


def part_facts(path: Path) -> PartFacts | None:
    """What the footer of a part says; None where there is no part, or a file of somebody else.

    Args:
        path: Part.
    """
    pyarrow = need_pyarrow("reading parts")
    if not path.is_file():
        return None
    try:
        said = json.loads((pyarrow.parquet.read_metadata(path).metadata or {}).get(FACTS, b"{}"))
        skipped = tuple((str(place), str(reason)) for place, reason in said["skipped"])
        return PartFacts(said["kind"], said["model"], said["shard"], said.get("splits", ""), said["images"], skipped)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def check_parts_folder(out: Path, kind: Kind) -> None:
    """Raise :class:`RunError` if parts cannot be written to a folder.

    Args:
        out: Folder to write; it may be missing, empty, or hold parts of the same kind.
        kind: Kind of the parts to write.
    """
    if (fault := place_fault(out)) is not None:
        raise RunError(f"{fault}; choose another --out")
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out} is a file, and of shards a folder is written: name one with --out")
    remove_left(out)
    for path in sorted(out.iterdir()):
        if path.name.startswith(".") or path.name == INDEX:
            continue
        facts = part_facts(path)
        if facts is None or facts.kind != kind:
            raise RunError(f"{out} holds {path.name}, which ssld {kind} did not write: choose another --out")


def write_part(
    run: Run,
    source: ShardSource,
    i: int,
    path: Path,
    kind: Kind,
    model: str,
    *,
    batch_size: int = 256,
    report: Callable[[int], None] | None = None,
) -> PartFacts:
    """Write the part of one shard, whole or not at all, and return what its footer says.

    Args:
        run: Fitted model.
        source: Shards of the shape that the model was made for.
        i: Number of the shard.
        path: Part to write.
        kind: Kind of part.
        model: Digest of the weights and the precision, for the footer.
        batch_size: Images in a batch.
        report: Function that is called with the number of images of every batch.

    Raises:
        DataError: If an image cannot be read and the source does not skip it, or the shard has changed.
        RunError: If the part cannot be written, as on a full disk.
    """
    pyarrow = need_pyarrow("writing Parquet")
    schema, function = _schema(run, kind), _Function(run, kind)
    skipped, n = list[tuple[str, str]](), 0
    waiting: list[Any] = []

    def batches() -> Iterator[tuple[ShardBatch, NDArray[np.uint8]]]:
        for batch, rows in _ahead(shard_rows(run, source, i, batch_size)):
            skipped.extend(batch.skipped)
            if len(batch.ids):
                function.rows = rows
                yield batch, batch.images

    with parquet_writer(path, schema, statistics=("id",)) as writer:
        splits = source.shards[i].texts("split") if kind == "embed" else []
        for batch, values in map_stream(run.model, function, batches(), precision=run.precision):
            waiting.append(pyarrow.table(_columns(run, kind, batch, splits, values), schema=schema))
            n += len(batch.ids)
            if sum(map(len, waiting)) >= _ROWS:
                writer.write_table(pyarrow.concat_tables(waiting))
                waiting.clear()
            if report is not None:
                report(len(batch.ids))
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting))
        facts = PartFacts(kind, model, source.shards[i].digest, splits_digest(splits), n, tuple(skipped))
        writer.add_key_value_metadata({FACTS.decode(): json.dumps(vars(facts))})
    return facts


def shard_rows(run: Run, source: ShardSource, i: int, batch_size: int) -> Iterator[tuple[ShardBatch, Rows]]:
    """The batches of a shard, and the same images as the model of a run reads them: with features where it has a backbone.

    Args:
        run: Fitted model.
        source: Shards of the shape that the model was made for.
        i: Number of the shard.
        batch_size: Images in a batch.

    Raises:
        DataError: If the backbone reads image files and the shards hold packed images.
    """
    batches = source.shard_batches(i, batch_size)
    if not isinstance(run.model, FusedDiffusion):
        for batch in batches:
            yield batch, batch.images
        return
    backbone = run.model.backbone
    large = _large_source(run, source)
    for batch in batches:
        images = batch.images
        if large is not None and len(batch.rows):
            images = large.at(batch.rows + source.starts[i])
        _, c, h, w = images.shape
        features = pool_features(backbone, RowsSource(images, batch.ids, (c, h, w))) if len(batch.ids) else None
        yield batch, batch.images if features is None else FusedRows(batch.images, features)


def _large_source(run: Run, source: ShardSource) -> ShardSource | None:
    """The shards at the size of a backbone that reads files; None for other backbones."""
    assert isinstance(run.model, FusedDiffusion)
    backbone = run.model.backbone
    if run.model.config.backbone.reads != "files":
        return None
    if source.shards[0].packed is not None:
        raise DataError(
            f"the backbone {backbone.identity} reads image files, and {source.shards[0].place.name} holds packed images: use "
            "Parquet or tar shards of the files themselves"
        )
    assert backbone.input_size is not None
    channels = 1 if run.image_shape[0] == 1 else 3
    return source.at_shape((channels, backbone.input_size, backbone.input_size))


class _Function:
    """Function of :func:`map_stream`: representations and probabilities, or logits, of the rows that it was told last."""

    def __init__(self, run: Run, kind: Kind) -> None:
        self._kind, self._classify = kind, bool(run.classes) and not run.multilabel
        self._matrix = projection_matrix(run.model.n_features) if kind == "embed" else None
        self._mixed: Tensor | None = None  # the matrix on the device of the model
        self.rows: Rows = np.empty((0, *run.image_shape), dtype=np.uint8)

    def __call__(self, model: JointDiffusion, x: Tensor, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        z = represented(model, x, self.rows, rows)
        if self._kind == "predict":
            return (model.classify_representation(z).float(),)
        p = (model.classify_representation(z).softmax(dim=1).float(),) if self._classify else ()
        if self._matrix is not None:
            if self._mixed is None:
                self._mixed = torch.from_numpy(self._matrix).to(x.device)
            z = z @ self._mixed
        return z.float(), *p


def _schema(run: Run, kind: Kind) -> Any:
    pyarrow = need_pyarrow("writing Parquet")
    vector = partial(pyarrow.list_, pyarrow.float32())
    fields = [("id", pyarrow.string())]
    if kind == "predict":
        fields += [("label", pyarrow.string()), ("probability", pyarrow.float32())]
        fields += [(f"p({name})", pyarrow.float32()) for name in run.classes]
    else:
        fields.append(("split", pyarrow.string()))
        fields.append(("embedding", vector(min(run.model.n_features, DIMENSIONS))))
        if run.classes and not run.multilabel:
            fields.append(("probabilities", vector(len(run.classes))))
    return pyarrow.schema(fields)


def _columns(
    run: Run, kind: Kind, batch: ShardBatch, splits: Sequence[str | None], values: tuple[NDArray[Any], ...]
) -> list[Any]:
    pyarrow = need_pyarrow("writing Parquet")
    names = pyarrow.array(batch.ids.tolist(), pyarrow.string())
    if kind == "embed":
        split = pyarrow.array([splits[row] for row in batch.rows.tolist()], pyarrow.string())
        return [names, split, *(pyarrow.FixedSizeListArray.from_arrays(v.ravel(), v.shape[1]) for v in values)]
    p = probabilities(values[0], run.multilabel)
    predicted = (p > 0.5).astype(np.int64) if run.multilabel else p.argmax(axis=1)
    labels = [label_name(label, run.classes) for label in predicted]
    return [names, pyarrow.array(labels), pyarrow.array(p.max(axis=1)), *map(pyarrow.array, np.ascontiguousarray(p.T))]


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Items of an iterator, the next one made in another thread while the caller uses this one."""
    end = object()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = executor.submit(next, items, end)
            yield cast(T, item)
