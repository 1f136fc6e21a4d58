"""Pools in shards: images embedded a second and peak memory as the pool grows, and what a query of stored features takes.

    python benchmarks/large_pools.py --work /tmp/pools   # embeds 0.2 to 2 million images; queries 0.5 and 2 million features
    python benchmarks/large_pools.py --work /tmp/pools --sizes 20000 50000 --features 50000 --rows /tmp/small.csv

Images are synthetic, 3 x 32 x 32, packed as `ssld pack` packs them, the network is a tiny one that has seen a few batches:
reading shards and writing parts take as long with any network. Features of the query are random, of the length that the
network has. Every figure is that of a process of its own, with one thread; seconds of the processor are given beside those of
the clock, since other programs change them less. A row is written when it is measured, and not measured again.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from common import RESULTS, append_row, find_row, markdown_table, provenance
from large_pools_data import PER_SHARD, make_features, make_run, make_shards

CSV = RESULTS / "large_pools.csv"
STRATEGIES = ("margin", "margin:diverse", "badge", "typiclust", "uherding")


def embed(run_path: Path, shards: Path, n: int, out: Path) -> dict[str, Any]:
    """Embed the first n images; in a process of its own."""
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.inference.shard_passes import pass_over_shards, shards_for

    run = load_run(run_path, "cpu", "fp32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    given = [str(shards / f"shard-{{00000..{n // PER_SHARD - 1:05d}}}.parquet")]
    done = pass_over_shards(run, shards_for(run, given), given, out, "embed")
    assert done.images == n
    return measured(n, begin, cpu, before)


def ask(run_path: Path, features: Path, n: int, strategy: str) -> dict[str, Any]:
    """Choose 500 of n; in a process of its own."""
    from ssl_diffusion.acquisition.funnel import query_features
    from ssl_diffusion.inference.run import load_run

    run = load_run(run_path, "cpu", "fp32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    assert len(query_features(run, features, 500, strategy)) == 500
    return measured(n, begin, cpu, before)


def measured(n: int, begin: float, cpu: float, before: int) -> dict[str, Any]:
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "images_per_second": round(n / seconds),
        "images_per_cpu_second": round(n / cpu_seconds),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "mb_before": round(before / 1024),
    }


def child(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards, features and the run")
    parser.add_argument("--sizes", type=int, nargs="*", default=[200_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--features", type=int, nargs="*", default=[500_000, 2_000_000])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--rows", type=Path, default=CSV, help="file of rows")
    arguments = parser.parse_args()
    work = arguments.work
    make_shards(work / "shards", max([PER_SHARD, *arguments.sizes]))
    run = make_run(work, work / "shards")

    def add(what: str, n: int, *job: object) -> None:
        key = {"what": what, "images": n}
        if find_row(arguments.rows, key) is None:
            append_row(arguments.rows, key | child(*job) | provenance())

    for size in arguments.sizes:
        out = work / "features"
        shutil.rmtree(out, ignore_errors=True)  # of a pass that was stopped, whose time would be that of what was left
        add("embed", size, "embed", run, work / "shards", size, out)
        shutil.rmtree(out, ignore_errors=True)
    for n in arguments.features:
        make_features(work / "many", run, n)
        for strategy in arguments.strategies:
            add(f"query --n 500, {strategy}", n, "ask", run, work / "many", n, strategy)
    print(markdown_table([dict(row) for row in pd.read_csv(arguments.rows).to_dict("records")]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "--child" in sys.argv:
        import torch

        torch.set_num_threads(1)
        what, run_, folder_, n_, last = sys.argv[2:7]
        made = (
            embed(Path(run_), Path(folder_), int(n_), Path(last))
            if what == "embed"
            else ask(Path(run_), Path(folder_), int(n_), last)
        )
        print(json.dumps(made))
    else:
        main()
