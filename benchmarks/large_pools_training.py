"""Training speed of a pool in memory, in a mapped file that the page cache holds, in one of which nothing is in memory, and of
a stream out of the shards.

    python benchmarks/large_pools_training.py --work /tmp/pools --images 2000000

A tiny network pretrains on shards as `ssld fit` reads them; with a larger one the ways differ less. "mapped" is the file that
`ssld fit` maps above --max-memory, read once before, as it is where memory has room for the file. "mapped, dropped" is the
same after madvise and posix_fadvise(DONTNEED) before every round: each image of the round comes from the disk, as with a pool
far larger than memory; "not asked for" does so without asking the kernel for the images of the next step. All ways take turns
in one process, with one thread. Steps are timed, from the end of the first one on; `read_mb` is what the process read from the
disk meanwhile. The last row is of a process with the dropped file alone, for its memory: `anon_mb` is what the kernel cannot
take back. What a fit looks at once, 10,000 images for the scale of the pixels, is looked at before.

    python benchmarks/large_pools_training.py --work /tmp/pools --images 100000 --stream

compares memory with a stream (`ssld fit --stream 8192`), whose images another process decodes
(results/large_pools_stream.csv); with --jpeg out of shards of JPEG files, quality 90, instead of packed pixels
(results/large_pools_stream_jpeg.csv). More steps are timed, so that images come from several buffers. Where that process has no
core of its own, it takes its time from the one that trains: `decoding_cpu_s` is that of its whole life, its start and the
buffers before and after the timed steps included. "Alone" is one way in a process of its own, for its memory;
`decoding_peak_mb` is that of the process that decodes, looked at there only.
"""

import argparse
import json
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from common import RESULTS, append_row, find_row, high_water, markdown_table, provenance
from large_pools_data import PER_SHARD, make_jpeg_shards, make_shards

CSV, STREAM_CSV = RESULTS / "large_pools_training.csv", RESULTS / "large_pools_stream.csv"
JPEG_CSV = RESULTS / "large_pools_stream_jpeg.csv"
STREAM, BUFFER, STREAMED = ("memory", "stream"), 8_192, 200
WAYS = ("memory", "mapped", "mapped, dropped", "mapped, dropped, not asked for")
STEPS, ROUNDS = 100, 3


def drop(images: Any) -> None:
    """Remove the pages of a mapped array from this process and from the page cache."""
    images.flush()
    images._mmap.madvise(mmap.MADV_DONTNEED)
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder that is listed
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.endswith(" (deleted)") or "/ssld-" in target:
                os.posix_fadvise(int(name), 0, 0, os.POSIX_FADV_DONTNEED)


def facts_of_process() -> tuple[int, int]:
    """Bytes that this process has read from the disk, and bytes of its memory that no file is behind."""
    read = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes"))
    anon = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(read.split()[1]), int(anon.split()[1]) * 1024


def train(shards: Path, n: int, ways: Sequence[str], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Pretrain on the first n images in each way in turn, `rounds` times so many steps; in a process of its own."""
    from ssl_diffusion.data.loading import load_pool
    from ssl_diffusion.data.pool import Pool
    from ssl_diffusion.data.settings import DataSettings
    from ssl_diffusion.progress import ProgressUpdate
    from ssl_diffusion.training import batches
    from ssl_diffusion.training.fit import FitOptions, fit_model
    from ssl_diffusion.training.recipe import load_recipe

    path = str(shards / f"shard-{{00000..{n // PER_SHARD - 1:05d}}}.parquet")
    pools, reading = {}, {}
    for where in {way.partition(",")[0] for way in ways}:
        begin = time.perf_counter()
        settings = DataSettings(path=path, size=0, stream=BUFFER if where == "stream" else 0)
        pools[where] = load_pool(settings, max_memory=0 if where == "mapped" else None)
        reading[where] = time.perf_counter() - begin
    tiny = ["model.channels=8", "model.blocks=1", "model.decoder_blocks=1", f"pretraining.steps={steps}"]
    plain = ["training.objective=denoise-only", "augmentation.policy=photo", "augmentation.flip=on"]
    recipe = load_recipe("images").with_overrides([*tiny, *plain])
    streamed = BUFFER if ways[0] == "stream" else 0
    once = recipe.with_setting("pretraining.steps", 10).with_setting("data.stream", streamed)
    fit_model(once, pools[ways[0].partition(",")[0]], None)  # what is allocated once
    sigma, ask = next(iter(pools.values())).sigma_data(), batches.read_ahead
    Pool.sigma_data = lambda self: sigma  # type: ignore[method-assign]
    rows = []
    began: list[tuple[int, int, float, float]] = []

    seen_at, decoding = 0.0, 0  # of the processes that decode: when their memory was looked at, and how much it was

    def note(update: ProgressUpdate) -> None:
        nonlocal seen_at, decoding
        if len(ways) == 1 and time.perf_counter() > seen_at + 1:
            seen_at = time.perf_counter()
            decoding = max([decoding, *(high_water(child.pid) for child in psutil.Process().children())])
        if not began:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            began.append((facts_of_process()[0], faults, time.perf_counter(), time.process_time()))

    for number in range(rounds):
        for way in ways:
            pool = pools[way.partition(",")[0]]
            if way == "mapped":
                pool.images.max()
            elif way not in STREAM:
                drop(pool.images)
            batches.read_ahead = ask if not way.endswith("not asked for") else lambda *_: False
            began.clear()
            others = resource.getrusage(resource.RUSAGE_CHILDREN)
            asked = recipe.with_setting("data.stream", BUFFER if way == "stream" else 0)
            fit_model(asked, pool, None, options=FitOptions(progress=note))
            before, faults, begin, cpu = began[0]
            seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
            read, anon = facts_of_process()
            seen = (steps - 1) * recipe.pretraining.batch_size
            used = resource.getrusage(resource.RUSAGE_SELF)
            rows.append(
                {
                    "what": f"training, {way}" + ("" if len(ways) > 1 else ", alone"),
                    "images": n,
                    "round": number,
                    "seconds": round(seconds, 2),
                    "cpu_seconds": round(cpu_seconds, 2),
                    "images_per_second": round(seen / seconds),
                    "images_per_cpu_second": round(seen / cpu_seconds),
                    "read_mb": round((read - before) / 1e6, 1),
                    "major_faults": used.ru_majflt - faults,
                    "peak_mb": round(used.ru_maxrss / 1024),
                    "anon_mb": round(anon / 2**20),
                    "reading_seconds": round(reading[way.partition(",")[0]], 2),
                }
            )
            if steps == STREAMED:
                now = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent = now.ru_utime + now.ru_stime - others.ru_utime - others.ru_stime
                rows[-1] |= {"decoding_cpu_s": round(spent, 2), "decoding_peak_mb": round(decoding / 2**20)}
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def child(*arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards; the mapped file lies in $TMPDIR")
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--stream", action="store_true", help="compare memory with a stream alone")
    parser.add_argument("--jpeg", action="store_true", help="with --stream: shards of JPEG files")
    parser.add_argument("--rows", type=Path, help="file of rows; default: that of the results")
    arguments = parser.parse_args()
    shards, n = arguments.work / "shards", arguments.images
    make_shards(shards, n)
    streams = [(STREAM, ROUNDS, "stream"), *(((way,), 1, f"{way}, alone") for way in STREAM)]
    wanted = streams if arguments.stream else [(WAYS, ROUNDS, WAYS[-1]), (WAYS[2:3], 1, f"{WAYS[2]}, alone")]
    path = arguments.rows or ((JPEG_CSV if arguments.jpeg else STREAM_CSV) if arguments.stream else CSV)
    if arguments.jpeg:
        make_jpeg_shards(arguments.work / "jpeg", shards, n)
        shards = arguments.work / "jpeg"
    for ways, rounds, last in wanted:
        if find_row(path, {"what": f"training, {last}", "images": n, "round": rounds - 1}) is None:
            for row in child(shards, n, json.dumps(ways), rounds, STREAMED if arguments.stream else STEPS):
                append_row(path, row | provenance())
    print(markdown_table([dict(row) for row in pd.read_csv(path).to_dict("records")]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "--child" in sys.argv:
        import torch

        torch.set_num_threads(1)
        shards_, n_, ways_, rounds_, steps_ = sys.argv[2:7]
        print(json.dumps(train(Path(shards_), int(n_), json.loads(ways_), int(rounds_), int(steps_))))
    else:
        main()
