"""Selection at the size of a million images: seconds and memory of every strategy that works on representations alone.

    python benchmarks/selection_scale.py                   # rows that are there are not run again
    python benchmarks/selection_scale.py --table

Synthetic representations (500 Gaussian clusters in 512 dimensions) and class probabilities lie in memory-mapped files, as
after a query that has read a pool; every row is a process of its own on one thread that chooses 100 of N with 1,000 labeled.
`anonymous_mib` is the peak of what the process itself holds, beyond the mapped files, which the system may drop.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import RESULTS, append_row, find_row, markdown_table, provenance

CSV = RESULTS / "selection_scale.csv"
SIZES = (62_500, 125_000, 250_000, 500_000, 1_000_000)
STRATEGIES = ("random", "margin", "entropy", "badge", "coreset", "typiclust", "probcover")
FEATURES, CLASSES, CLUSTERS, LABELED, N = 512, 10, 500, 1000, 100


def make_files(folder: Path, n: int) -> None:
    """Representations of n candidates and the labeled ones, and probabilities."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CLUSTERS, FEATURES), dtype=np.float32) * 2
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=(n + LABELED, FEATURES))
    for i in range(0, len(x), 50_000):
        part = x[i : i + 50_000]
        part[:] = centers[rng.integers(CLUSTERS, size=len(part))] + rng.standard_normal(part.shape, dtype=np.float32)
    x.flush()
    np.save(folder / "p.npy", rng.dirichlet(np.full(CLASSES, 0.2), size=n).astype(np.float32))


def choose_one(folder: Path, strategy: str) -> None:
    """Time one selection; printed as JSON."""
    import torch

    from ssl_diffusion.acquisition import Candidates, choose

    torch.set_num_threads(1)
    x = np.load(folder / "x.npy", mmap_mode="r")
    n = len(x) - LABELED
    candidates = Candidates(x[:n], np.load(folder / "p.npy"), np.array(x[n:]), np.arange(LABELED) % CLASSES, CLASSES)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.02)

    before = anonymous()
    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    choose(strategy, candidates, N)
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    print(json.dumps({"seconds": round(seconds, 2), "anonymous_mib": round(peak[0] - before, 1)}))


def anonymous() -> float:
    """MiB of memory of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "STRATEGY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        choose_one(Path(arguments.one[0]), arguments.one[1])
        return
    for n in () if arguments.table else arguments.sizes:
        todo = [s for s in arguments.strategies if find_row(CSV, {"n": n, "strategy": s}) is None]
        if not todo:
            continue
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder), n)
            for strategy in todo:
                command = [sys.executable, __file__, "--one", folder, strategy]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row = {"n": n, "strategy": strategy, **json.loads(done.stdout.splitlines()[-1]), **provenance(), "threads": 1}
                append_row(CSV, row)
                print(row, file=sys.stderr, flush=True)
    frame = pd.read_csv(CSV)
    table = frame.pivot_table(index="strategy", columns="n", values="seconds").loc[lambda t: t.index.isin(STRATEGIES)]
    largest = frame[frame["n"] == frame["n"].max()].set_index("strategy")["anonymous_mib"]
    rows = [
        {"strategy": s, **{f"{n:,}": float(v) for n, v in table.loc[s].items()}, "MiB": float(largest.get(s, np.nan))}
        for s in STRATEGIES
        if s in table.index
    ]
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
