"""Image files become Parquet shards of packed pixels: every image is decoded once and for all.

A shard has the columns id, image (uint8 (C, H, W), as binaries of one size), label and split. Its footer holds the shape,
a digest of ids and pixels, and a key of the files that it was made from, by which a later run knows it again.
Shards are written one by one, each whole or not at all, so that a run that was killed goes on behind the last one.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_diffusion.data.decoding import Aspect, Header, read_header
from ssl_diffusion.data.images import iter_image_batches
from ssl_diffusion.data.listings import Listing, Sample
from ssl_diffusion.data.shapes import chosen_aspect, common_shape, common_size
from ssl_diffusion.data.shards.digests import ContentDigest
from ssl_diffusion.data.shards.parquet import FACTS, need_pyarrow, parquet_writer
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.outputs import place_fault, refuse_inputs, remove_left
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["Packed", "check_pack_folder", "pack", "pack_shape"]

_NAME = "shard-{:05d}.parquet"
_OURS = re.compile(r"shard-\d{5,}\.parquet")
_SHARD, _GROUP = 2**26, 2**22  # bytes of pixels
_MOST_ROWS = 2**16
_LOOKED_AT = 1000  # files that say which shape all get
_VERSION = 1


@dataclass
class Packed:
    """What :func:`pack` did.

    Attributes:
        shards: Shards that are there now, in their order.
        images: Number of images in them.
        kept: Number of shards that were there already.
        image_shape: (C, H, W) of every image.
        skipped: (id, reason) of files that were left out.
    """

    shards: list[Path] = field(default_factory=list)
    images: int = 0
    kept: int = 0
    image_shape: tuple[int, int, int] = (0, 0, 0)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def pack_shape(
    listing: Listing,
    *,
    size: int | None,
    largest: int | None,
    color: Literal["files", "gray", "rgb"],
    aspect: Aspect | Literal["auto"],
) -> tuple[tuple[int, int, int], Aspect, tuple[int, int]]:
    """Shape, treatment of other aspect ratios, and most common size, from the headers of at most 1,000 files.

    Args:
        listing: Image files.
        size: Side of the squares in pixels; None takes the most common size.
        largest: Side of the squares that take the place of a most common size which is higher or wider.
        color: "gray" or "rgb"; "files" takes gray if all files looked at are, by their color mode.
        aspect: Treatment of images with another aspect ratio; "auto" chooses between "crop" and "pad".

    Raises:
        DataError: If none of these files is an image.

    Example:
        >>> pack_shape(list_folder(Path("photos")), size=64, largest=None, color="rgb", aspect="crop")  # doctest: +SKIP
        ((3, 64, 64), 'crop', (480, 640))
    """
    looked = [read_header(path) for path in listing.paths[:: -(-len(listing.paths) // _LOOKED_AT)]]
    headers = [found for found in looked if isinstance(found, Header)]
    if not headers:
        reason = next(found for found in looked if isinstance(found, str))
        raise DataError(f"none of the {len(looked)} images looked at can be read: {listing.ids[0]}: {reason}, for one")
    shape = common_shape(headers, size, largest, {"gray": 1, "rgb": 3}.get(color))
    return shape, chosen_aspect(headers, shape) if aspect == "auto" else aspect, common_size(headers)


def check_pack_folder(out: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise :class:`RunError` if shards cannot be written to a folder.

    Args:
        out: Folder to write; it may be missing, empty, or hold shards that :func:`pack` wrote.
        inputs: Files and folders that are read.
    """
    if (fault := place_fault(out)) is not None:
        raise RunError(f"{fault}; choose another --out")
    refuse_inputs(out, inputs)
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out} is a file; --out names a folder")
    remove_left(out)
    foreign = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".") and not _is_packed(entry))
    if foreign:
        raise RunError(f"{out} holds files that ssld pack did not write ({foreign[0]}, for one): choose another --out")


def pack(
    listing: Listing,
    out: Path,
    image_shape: tuple[int, int, int],
    *,
    aspect: Aspect = "squeeze",
    file_size: tuple[int, int] | None = None,
    per_shard: int | None = None,
    skip_bad: bool = False,
    inputs: Sequence[Path] = (),
    progress: ProgressCallback | None = None,
) -> Packed:
    """Write image files as Parquet shards; those that are there already, of the same files, are left as they are.

    Args:
        listing: Image files with their labels.
        out: Folder of the shards, `shard-00000.parquet` and so on.
        image_shape: (C, H, W) that every image is converted to; C is 1 or 3.
        aspect: Treatment of images with another aspect ratio.
        file_size: Most common (height, width) of the files, for whoever reads the shards.
        per_shard: Images of a shard; None takes 64 MiB of pixels.
        skip_bad: Whether files that cannot be read are left out; otherwise they are errors.
        inputs: Files and folders that are read; the shards may not lie in them.
        progress: Callback for the number of images packed.

    Raises:
        DataError: If pyarrow is missing, or a file cannot be read and `skip_bad` is off, or none can be.
        RunError: If a shard cannot be written, as on a full disk; shards before it stay.

    Example:
        >>> packed = pack(list_folder(Path("photos")), Path("shards"), (3, 64, 64))  # doctest: +SKIP
    """
    need_pyarrow("packing images")
    check_pack_folder(out, inputs)
    n_bytes = int(np.prod(image_shape))
    per_shard = per_shard or min(max(1, _SHARD // n_bytes), _MOST_ROWS)
    done = Packed(image_shape=image_shape)
    for number, start in enumerate(range(0, len(listing.ids), per_shard)):
        rows = slice(start, start + per_shard)
        part = Listing(listing.ids[rows], listing.paths[rows], listing.samples[rows])
        path = out / _NAME.format(number)
        key = _key(part, image_shape, aspect, skip_bad)
        facts = _facts(path)
        if facts.get("key") != key:
            facts = _write(part, path, image_shape, aspect, file_size, key, skip_bad)
        else:
            done.kept += 1
        done.shards.append(path)
        done.images += facts["images"]
        done.skipped += [(sample, reason) for sample, reason in facts["skipped"]]
        if progress is not None:
            progress(ProgressUpdate("packing images", min(start + per_shard, len(listing.ids)), len(listing.ids)))
    if not done.images:
        sample, reason = done.skipped[0]
        raise DataError(f"none of the {len(listing.ids)} images can be read: {sample}: {reason}, for one")
    for path in out.iterdir():  # of an earlier run on more files
        if _OURS.fullmatch(path.name) and path not in done.shards and _facts(path):
            with suppress(OSError):
                path.unlink()
    return done


def _write(
    part: Listing,
    path: Path,
    image_shape: tuple[int, int, int],
    aspect: Aspect,
    file_size: tuple[int, int] | None,
    key: str,
    skip_bad: bool,
) -> dict[str, Any]:
    """Write one shard and return what its footer says."""
    pyarrow = need_pyarrow("packing images")
    n_bytes = int(np.prod(image_shape))
    rows = max(1, min(_MOST_ROWS, _GROUP // n_bytes))
    fields = [
        ("id", pyarrow.string()),
        ("image", pyarrow.binary(n_bytes)),
        ("label", pyarrow.string()),
        ("split", pyarrow.string()),
    ]
    schema = pyarrow.schema(fields)
    known = dict(zip(part.ids, part.samples, strict=True))
    digest, skipped, n = ContentDigest(image_shape), list[tuple[str, str]](), 0
    with parquet_writer(path, schema, statistics=("id", "label", "split")) as writer:
        for batch in iter_image_batches(part.paths, image_shape, rows, skip_bad, ids=part.ids, aspect=aspect):
            skipped += batch.skipped
            if not batch.ids:
                continue
            digest.update(batch.ids, batch.images)
            buffers = [None, pyarrow.py_buffer(np.ascontiguousarray(batch.images))]
            columns = [
                pyarrow.array(batch.ids, pyarrow.string()),
                pyarrow.Array.from_buffers(pyarrow.binary(n_bytes), len(batch.ids), buffers),
                pyarrow.array([_label(known[sample]) for sample in batch.ids], pyarrow.string()),
                pyarrow.array(["test" if known[sample].is_test else "train" for sample in batch.ids], pyarrow.string()),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=rows)
            n += len(batch.ids)
        facts = {
            "version": _VERSION,
            "shape": list(image_shape),
            "images": n,
            "digest": digest.hexdigest(),
            "key": key,
            "aspect": aspect,
            "file_size": file_size,
            "skipped": skipped,
        }
        writer.add_key_value_metadata({FACTS.decode(): json.dumps(facts)})
    return facts


def _label(sample: Sample) -> str | None:
    return next(iter(sample.labels)) if sample.labels else None


def _key(part: Listing, image_shape: tuple[int, int, int], aspect: Aspect, skip_bad: bool) -> str:
    """What a shard is made from: settings, ids, labels, and sizes and times of the files."""
    files = []
    for path in part.paths:
        try:
            found = os.stat(path)
            files.append([found.st_size, found.st_mtime_ns])
        except OSError:
            files.append([])
    samples = [[_label(sample), sample.is_test] for sample in part.samples]
    said = json.dumps([_VERSION, image_shape, aspect, skip_bad, part.ids, samples, files])
    return hashlib.sha256(said.encode()).hexdigest()


def _facts(path: Path) -> dict[str, Any]:
    """What the footer of a shard says; empty where there is none, or one that :func:`pack` did not write."""
    pyarrow = need_pyarrow("packing images")
    if not path.is_file():
        return {}
    try:
        footer = pyarrow.parquet.read_metadata(path).metadata or {}
        facts = json.loads(footer.get(FACTS, b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and {"key", "images", "skipped"} <= facts.keys() else {}


def _is_packed(path: Path) -> bool:
    return bool(_OURS.fullmatch(path.name)) and bool(_facts(path))
