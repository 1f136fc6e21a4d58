"""`ssld embed` on Ray with two actors against two local processes that share the same shards, in turn.

    python benchmarks/large_pools_ray.py --work /tmp/pools --images 500000

Local: each process reads half of the shards into a folder of its own, as docs/how-to/large-pools.md says. Ray: one command,
`--engine ray --workers 2`. Both are whole commands on the cores that they are given, Ray's start included. Processor seconds
are those of all processes of a command. Ids and features of both are compared in the end.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from common import RESULTS, append_row, find_row, markdown_table, provenance
from large_pools_data import PER_SHARD, make_run, make_shards

CSV = RESULTS / "large_pools_ray.csv"
WORKERS, ROUNDS = 2, 3


def commands(run: Path, shards: Path, n: int, out: Path, way: str) -> list[list[str]]:
    """The commands of a way, which run at once."""
    last, half = n // PER_SHARD - 1, n // PER_SHARD // WORKERS
    embed = [sys.executable, "-m", "ssl_diffusion.cli", "embed", str(run)]
    if way == "ray":
        pattern = str(shards / f"shard-{{00000..{last:05d}}}.parquet")
        return [[*embed, pattern, "--out", str(out / "all"), "--engine", "ray", "--workers", str(WORKERS), "--quiet"]]
    bounds = [(0, half - 1), (half, last)]
    patterns = [str(shards / f"shard-{{{first:05d}..{end:05d}}}.parquet") for first, end in bounds]
    return [[*embed, pattern, "--out", str(out / str(i)), "--quiet"] for i, pattern in enumerate(patterns)]


def measure(run: Path, shards: Path, n: int, out: Path, way: str) -> dict[str, Any]:
    """Run the commands of a way into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    others, begin = os.getloadavg()[0], time.perf_counter()
    spent = dict[tuple[int, float], float]()
    # What this process has bound its own threads to would bind those of all commands to one core.
    free = {name: value for name, value in os.environ.items() if name not in ("OMP_PROC_BIND", "OMP_PLACES")}
    started = [psutil.Popen(command, env={**free, "OMP_NUM_THREADS": "1"}) for command in commands(run, shards, n, out, way)]
    while any(process.poll() is None for process in started):
        for process in started:
            with suppress(psutil.Error):
                for each in [process, *process.children(recursive=True)]:
                    with suppress(psutil.Error):
                        spent[each.pid, each.create_time()] = sum(each.cpu_times()[:2])
        time.sleep(0.1)
    if any(process.returncode for process in started):
        raise SystemExit(f"ssld embed ({way}) failed")
    seconds, cpu_seconds = time.perf_counter() - begin, sum(spent.values())
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "images_per_second": round(n / seconds),
        "images_per_cpu_second": round(n / cpu_seconds),
        "load_before": round(others, 2),
    }


def parts(folder: Path) -> Iterator[tuple[list[str], np.ndarray[Any, Any]]]:
    """Ids and features of all parts, in the order of their names."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("*/*.parquet"), key=lambda path: path.name):
        table = pq.read_table(path, columns=["id", "embedding"]).combine_chunks()
        yield table["id"].to_pylist(), table["embedding"].chunk(0).flatten().to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and the run")
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--rows", type=Path, default=CSV, help="file of rows")
    arguments = parser.parse_args()
    work, n = arguments.work, arguments.images
    make_shards(work / "shards", n)
    run = make_run(work, work / "shards")
    for number in range(ROUNDS):
        for way in ("local", "ray"):
            key = {"engine": way, "images": n, "round": number}
            if find_row(arguments.rows, key) is None:
                append_row(arguments.rows, key | measure(run, work / "shards", n, work / way, way) | provenance())
    largest = 0.0
    for (ids, z), (others, other) in zip(parts(work / "local"), parts(work / "ray"), strict=True):
        assert ids == others
        largest = max(largest, float(np.abs(z - other).max()))
    rows = pd.read_csv(arguments.rows)
    rows = rows[rows["images"] == n]
    print(markdown_table([dict(row) for row in rows.to_dict("records")]))
    for column in ("seconds", "cpu_seconds"):
        local, ray = (statistics.median(rows[rows["engine"] == way][column]) for way in ("local", "ray"))
        print(f"{column}: {ray / local - 1:+.1%} on Ray (medians)")
    print(f"same ids; largest difference of a feature {largest:.2g}")


if __name__ == "__main__":
    main()
