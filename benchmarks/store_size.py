"""The store of an annotation job with up to ten million samples: seconds and memory of what people wait for.

    python benchmarks/store_size.py --work FOLDER          # 10^5, 10^6 and 10^7 ids; rows go to results/store_size.csv

A process of its own fills a SQLite store with ids like those of shards, another opens it, reads all ids, which happens once in
a server, and gives labels one after the other, as the page does, each with the counts that it shows.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import RESULTS, append_row, find_row, high_water, provenance

from ssl_diffusion.annotation.store import Actor, Store, queries

CSV = RESULTS / "store_size.csv"
LABELS = 50


def fill(path: Path, n: int) -> dict[str, float]:
    """Fill a store."""
    began = time.perf_counter()
    store = Store(f"sqlite:///{path}")
    store.add_samples([f"{i // 20_000:05}/{i:09}.jpg" for i in range(n)])
    store.add_classes(["cat", "dog"])
    store.close()
    return {"fill_s": time.perf_counter() - began}


def use(path: Path, n: int) -> dict[str, float]:
    """Open a store, and label some of its samples."""
    began = time.perf_counter()
    store = Store(f"sqlite:///{path}", exists=True)
    opened = time.perf_counter() - began
    ids = store.ids
    assert len(ids) == n
    read = time.perf_counter() - began - opened
    seconds, by = [], Actor("somebody", "benchmark")
    for position in np.random.default_rng(0).permutation(n)[:LABELS].tolist():
        began = time.perf_counter()
        store.label(str(ids[position]), "cat", by)
        queries.counts(store)
        seconds.append(time.perf_counter() - began)
    assert queries.counts(store)["labeled"] == LABELS
    store.close()
    return {"open_s": opened, "read_ids_s": read, "label_ms": 1000 * float(np.median(seconds))}


def main() -> None:
    """Fill in the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the stores, which are removed again")
    parser.add_argument("--ids", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--step", choices=("fill", "use"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        (n,) = args.ids
        facts = {"fill": fill, "use": use}[args.step](args.work, n)
        print(json.dumps(facts | {f"{args.step}_mib": high_water(os.getpid()) / 2**20}))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    for n in args.ids:
        if find_row(CSV, {"ids": n}) is not None:
            continue
        path, row = args.work / f"{n}.sqlite", {"ids": n}
        for step in ("fill", "use"):
            command = [sys.executable, __file__, "--work", str(path), "--ids", str(n), "--step", step]
            row |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        row["store_mib"] = path.stat().st_size / 2**20
        for left in args.work.glob(f"{path.name}*"):
            left.unlink()
        append_row(CSV, {k: v if k == "ids" else round(v, 2) for k, v in row.items()} | provenance())
        print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
