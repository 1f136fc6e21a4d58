"""A model reads all shards of a pool, each into a part of its own: here, or on Ray."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssl_diffusion.data.shards.digests import splits_digest
from ssl_diffusion.data.shards.places import located
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, RunError, StateError
from ssl_diffusion.inference.engines.ray import parts_on_ray
from ssl_diffusion.inference.engines.ray_start import RayStart
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.shard_parts import (
    INDEX,
    Kind,
    PartFacts,
    check_parts_folder,
    part_facts,
    part_name,
    write_part,
)
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.storage import atomic_write_text, read_regular

__all__ = ["PartsIndex", "Pass", "pass_over_shards", "read_index", "shards_for"]


@dataclass
class Pass:
    """What a pass over shards did.

    Attributes:
        images: Number of images in all parts.
        parts: Parts, in the order of the shards.
        kept: Number of parts that were there already.
        skipped: Images that were left out, as (place, reason).
    """

    images: int = 0
    parts: list[Path] = field(default_factory=list)
    kept: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class PartsIndex:
    """What the index of a folder of parts says.

    Attributes:
        kind: Kind of the parts.
        model: Digest of the weights and the precision.
        classes: Names of the classes in the order of the probabilities.
        shards: Folders, patterns or URLs that the shards were named by.
        columns: Names of the columns of ids and of images, "" where they are the usual ones.
        parts: Names of the parts.
        images: Number of rows of all parts.
    """

    kind: Kind
    model: str
    classes: tuple[str, ...]
    shards: tuple[str, ...]
    columns: tuple[str, str]
    parts: tuple[str, ...]
    images: int


def shards_for(run: Run, shards: Sequence[str], **options: Any) -> ShardSource:
    """Shards of images as the model of a run reads them.

    Args:
        run: Fitted model.
        shards: Folders, patterns or URLs.
        options: Options of :class:`ShardSource`, but the shape and the treatment of other aspect ratios.

    Raises:
        DataError: As :class:`ShardSource`.
    """
    return ShardSource(list(shards), run.image_shape, aspect=run.aspect, **options)


def pass_over_shards(
    run: Run,
    source: ShardSource,
    shards: Sequence[str],
    out: Path,
    kind: Kind,
    *,
    batch_size: int = 256,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    start: RayStart | None = None,
    progress: ProgressCallback | None = None,
) -> Pass:
    """Write a part for each shard into a folder; parts that are there already, by this model, are kept.

    Args:
        run: Fitted model.
        source: Shards, see :func:`shards_for`.
        shards: Names that they were given by, for the index.
        out: Folder of the parts.
        kind: "embed" for representations, projected to 512 features where there are more, and class probabilities; "predict"
            for predicted classes and probabilities.
        batch_size: Images in a batch.
        engine: "local" reads one shard after the other here; "ray" many at once, on this machine or a cluster.
        address: Address of a Ray cluster; None starts Ray here.
        workers: Number of Ray's actors; None for one a processor core or accelerator, as Ray finds them.
        start: Ray that was started for this address and these workers before; it is stopped when the shards are read.
        progress: Callback for the number of images read.

    Raises:
        DataError: If an image cannot be read and the source does not skip it, or an id occurs twice.
        RunError: If the model has no classes and is to predict, a part cannot be written, or Ray gives up.
        SSLDError: If the engine is Ray and it is not installed.

    Example:
        >>> source = shards_for(run, ["shards/*.parquet"])  # doctest: +SKIP
        >>> done = pass_over_shards(run, source, ["shards/*.parquet"], Path("features"), "embed")  # doctest: +SKIP
    """
    if kind == "predict" and not run.classes:
        raise RunError(f"{run.path} was trained without labels and cannot predict; fit with --labeled")
    check_parts_folder(out, kind)
    source.check_distinct()
    model = f"{run.digest()} {run.precision}"
    done = Pass(skipped=list(source.skipped))
    names = [part_name(shard.place.stem, shard.digest) for shard in source.shards]
    found: dict[int, PartFacts] = {}
    for i, name in enumerate(names):
        facts = part_facts(out / name)
        if facts is None or (facts.model, facts.shard) != (model, source.shards[i].digest):
            continue
        if facts.skipped and not source.skip_bad:
            continue  # is an error this time
        if kind == "embed" and facts.splits != splits_digest(source.shards[i].texts("split")):
            continue  # images are the same, and others of them are in the test split
        found[i] = facts
    done.kept = len(found)
    todo = [i for i in range(len(names)) if i not in found]
    if todo:
        with suppress(FileNotFoundError):
            (out / INDEX).unlink()
    read = sum(len(source.shards[i]) for i in found)

    def report(n: int) -> None:
        nonlocal read
        read += n
        if progress is not None:
            progress(ProgressUpdate("reading shards", min(read, len(source)), len(source)))

    if engine == "ray" and todo:
        cluster: dict[str, Any] = {"address": address, "workers": workers, "start": start}
        for i, facts in parts_on_ray(run, source, todo, out, kind, model, batch_size=batch_size, **cluster):
            found[i] = facts
            report(facts.images)
    else:
        for i in todo:
            found[i] = write_part(run, source, i, out / names[i], kind, model, batch_size=batch_size, report=report)
    for i in range(len(names)):
        done.skipped += found[i].skipped
        done.images += found[i].images
        done.parts.append(out / names[i])
    if not done.images:
        place, reason = done.skipped[0]
        raise DataError(f"none of the {len(source):,} images can be read: {place}: {reason}, for one")
    for path in out.glob("*.parquet"):  # of shards that are gone, or of another model
        if path not in done.parts:
            path.unlink(missing_ok=True)
    index = PartsIndex(
        kind,
        model,
        run.classes,
        tuple(map(located, shards)),
        (source.columns.ids, source.columns.images),
        tuple(names),
        done.images,
    )
    atomic_write_text(out / INDEX, json.dumps(vars(index), indent=1) + "\n")
    return done


def read_index(folder: Path, kind: Kind) -> PartsIndex:
    """The index of a folder of parts.

    Args:
        folder: Folder that :func:`pass_over_shards` wrote.
        kind: Kind that its parts should have.

    Raises:
        RunError: If there is none, it is damaged, or it belongs to parts of another kind.
    """
    path = folder / INDEX
    if not path.is_file():
        why = "is not finished" if folder.is_dir() and any(folder.glob("*.parquet")) else "holds no representations"
        raise RunError(f"{folder} {why}: run ssld {kind} RUN SHARDS --out {folder}")
    try:
        said = json.loads(read_regular(path))
        index = PartsIndex(
            said["kind"],
            said["model"],
            tuple(map(str, said["classes"])),
            tuple(map(str, said["shards"])),
            (str(said["columns"][0]), str(said["columns"][1])),
            tuple(map(str, said["parts"])),
            int(said["images"]),
        )
    except (ValueError, LookupError, TypeError, StateError) as error:
        raise RunError(f"{path} is damaged: run ssld {kind} again, which keeps the parts that are there") from error
    if index.kind != kind:
        raise RunError(f"{folder} was written by ssld {index.kind}, not by ssld {kind}")
    return index
