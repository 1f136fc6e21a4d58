"""Tar shards read by ssld, webdataset and litdata: all images once, and a hundred by their ids.

    pip install --target /tmp/readers --no-deps webdataset braceexpand litdata lightning-utilities obstore tifffile boto3
    PYTHONPATH=/tmp/readers python benchmarks/shard_readers.py --work /tmp/readers-data

20,000 JPEG files of 3 x 32 x 32 in ten tar shards. Everyone decodes with Pillow, in one process with one thread, and reads from
the page cache. webdataset finds an image by reading from the front, so that one is asked for, in the middle of the pool; the
wheel of 1.0.2 lacks `wids`, with which earlier ones found images by number. litdata reads a format of its own, into which the
tar files are converted first, and knows images by number, so that their order must be kept elsewhere. Rounds are interleaved.
"""

import argparse
import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, append_row, find_row, markdown_table, provenance
from PIL import Image

CSV = RESULTS / "shard_readers.csv"
N, PER_SHARD, ASKED, ROUNDS = 20_000, 2_000, 100, 3


def make_tars(folder: Path) -> None:
    """Write JPEG files of ten patterns under noise into tar shards, once."""
    patterns = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, N, PER_SHARD):
        path = folder / f"{start // PER_SHARD:03d}.tar"
        if path.exists():
            continue
        with tarfile.open(path.with_suffix(".tmp"), "w") as archive:
            for i in range(start, start + PER_SHARD):
                noise = np.random.default_rng(i).integers(-40, 41, (32, 32, 3))
                buffer = io.BytesIO()
                Image.fromarray((patterns[i % 10] + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
                member = tarfile.TarInfo(f"{i:06d}.jpg")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)
        path.with_suffix(".tmp").rename(path)


def asked_for(number: int) -> list[int]:
    """Numbers of the images that a round asks for."""
    return np.random.default_rng(number).integers(0, N, ASKED).tolist()


def of_ssld(tars: Path) -> dict[str, Callable[[int], int]]:
    from ssl_diffusion.data.shards.source import ShardSource

    def opened() -> ShardSource:
        return ShardSource(f"{tars}/*.tar", (3, 32, 32))

    source = opened()
    return {
        "opening": lambda _: len(opened().ids),
        "all images": lambda _: sum(len(images) for _, images in source.batches(256)),
        "images by id": lambda number: len(source.take([f"{i:06d}" for i in asked_for(number)])),
    }


def of_webdataset(tars: Path) -> dict[str, Callable[[int], int]]:
    import webdataset

    def samples() -> Any:
        return webdataset.WebDataset(f"{tars}/{{000..{N // PER_SHARD - 1:03d}}}.tar", shardshuffle=False)

    return {
        "all images": lambda _: sum(len(np.asarray(image)) > 0 for (image,) in samples().decode("pil").to_tuple("jpg")),
        "one image by id": lambda _: next(1 for sample in samples() if sample["__key__"] == f"{N // 2:06d}"),
    }


def of_litdata(tars: Path) -> dict[str, Callable[[int], int]]:
    import litdata
    from litdata.streaming.writer import BinaryWriter

    folder = tars.with_name("litdata")

    def convert(_: int = 0) -> int:
        writer = BinaryWriter(str(folder), chunk_bytes="64MB")
        n = 0
        for path in sorted(tars.glob("*.tar")):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    writer[n] = {"id": member.name[:-4], "jpg": file.read() if file else b""}
                    n += 1
        writer.done()
        writer.merge()
        return n

    if not (folder / "index.json").exists():
        convert()
    data = litdata.StreamingDataset(str(folder))

    def decoded(sample: dict[str, Any]) -> bool:
        return len(np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))) > 0

    return {
        "all images": lambda _: sum(decoded(sample) for sample in data),
        "images by number": lambda number: sum(decoded(data[i]) for i in asked_for(number)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards")
    tars = parser.parse_args().work / "tars"
    make_tars(tars)
    readers = {"ssld": of_ssld(tars), "webdataset": of_webdataset(tars), "litdata": of_litdata(tars)}
    rows = []
    for number in range(ROUNDS):
        for name, tasks in readers.items():
            for task, function in tasks.items():
                key = {"reader": name, "task": task, "round": number}
                if (row := find_row(CSV, key)) is None:
                    begin, cpu = time.perf_counter(), time.process_time()
                    images = function(number)
                    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
                    row = key | {"images": images, "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
                    append_row(CSV, row | provenance())
                rows.append({column: row[column] for column in (*key, "images", "seconds", "cpu_seconds")})
    print(markdown_table(rows))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
