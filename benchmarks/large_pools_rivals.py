"""Where baal and scikit-activeml stop: 500 of 0.2 to 2 million samples by their own strategies, from features as we query.

    pip install --target /tmp/baal --no-deps baal structlog tqdm torchmetrics
    PYTHONPATH=/tmp/baal python benchmarks/large_pools_rivals.py --work /tmp/pools

Features, of 512 dimensions, and probabilities are read into arrays first, as these libraries want them; only choosing is
timed, which favours them. Heuristics of baal know probabilities only; for BatchBALD they are drawn 20 times, with noise on
the logits. The classifier of scikit-activeml is a logistic regression fitted beforehand to 100 labels. A contestant that takes
more than --seconds of the processor or --gib of memory (or leaves less than a GiB of the machine's) is stopped, and not asked
for larger pools.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from common import RESULTS, append_row, find_row, high_water, markdown_table, provenance
from large_pools_data import PER_PART, make_features, make_run
from numpy.typing import NDArray

CSV = RESULTS / "large_pools_rivals.csv"
CONTESTANTS = (
    "baal, margin",
    "baal, BatchBALD",
    "scikit-activeml, margin",
    "scikit-activeml, Badge",
    "scikit-activeml, TypiClust",
)
N, LABELED, DRAWS = 500, 100, 20


def read(features: Path, n: int, *, representation: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features, (n, F), without them (n, 0), and probabilities, (n, K), of the first n samples."""
    import pyarrow.parquet as pq

    names = ["probabilities", "embedding"] if representation else ["probabilities"]
    found: dict[str, Any] = {}
    for part in range(-(-n // PER_PART)):
        with pq.ParquetFile(features / f"part-{part:05d}.parquet") as file:
            start = part * PER_PART
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=names, use_threads=False).combine_chunks()
                stop = min(start + len(table), n)
                for name in names:
                    column = table[name].chunk(0)
                    values = column.flatten().to_numpy().reshape(len(column), -1)
                    if name not in found:
                        found[name] = np.empty((n, values.shape[1]), np.float32)
                    found[name][start:stop] = values[: max(stop - start, 0)]
                start = stop
    return found.get("embedding", np.zeros((n, 0), np.float32)), found["probabilities"]


def choose(name: str, z: NDArray[np.float32], p: NDArray[np.float32]) -> NDArray[np.int64]:
    """Let a contestant choose N samples; timed by the caller from the first line on stdout."""
    library, _, strategy = name.partition(", ")
    if library == "baal":
        from baal.active.heuristics import BatchBALD, Margin

        if strategy == "BatchBALD":
            rng = np.random.default_rng(0)
            noisy = np.log(p + 1e-9)[:, :, None] + rng.standard_normal((*p.shape, DRAWS), dtype=np.float32)
            drawn = np.exp(noisy - noisy.max(axis=1, keepdims=True))
            given, heuristic = drawn / drawn.sum(axis=1, keepdims=True), BatchBALD(N)
        else:
            given, heuristic = p, Margin()
        start()
        return np.asarray(heuristic(given))[:N]
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import Badge, TypiClust, UncertaintySampling
    from sklearn.linear_model import LogisticRegression

    y = np.full(len(p), np.nan)
    y[:LABELED] = p[:LABELED].argmax(axis=1)
    classifier = SklearnClassifier(LogisticRegression(max_iter=300), classes=list(range(p.shape[1])))
    classifier.fit(z[:LABELED], y[:LABELED])
    start()
    if strategy == "TypiClust":
        return np.asarray(TypiClust(random_state=0).query(z, y, batch_size=N))
    query = UncertaintySampling(method="margin_sampling", random_state=0) if strategy == "margin" else Badge(random_state=0)
    return np.asarray(query.query(z, y, classifier, fit_clf=False, batch_size=N))


def start() -> None:
    """Say that preparations are over."""
    print("begin", flush=True)


def contest(name: str, features: Path, n: int, seconds: float, gib: float) -> dict[str, Any]:
    """Run a contestant in a process of its own, stopped when it takes too much."""
    command = [sys.executable, __file__, "--child", name, str(features), str(n)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if line.strip() != "begin":
        raise SystemExit(f"{name} did not begin")
    watched, began = psutil.Process(process.pid), time.perf_counter()
    used = sum(watched.cpu_times()[:2])
    spent, peak, outcome = 0.0, 0, "chosen"
    while process.poll() is None:
        try:
            spent = sum(watched.cpu_times()[:2]) - used
        except psutil.Error:
            break
        peak = max(peak, high_water(process.pid))
        if spent > seconds or peak > gib * 2**30 or psutil.virtual_memory().available < 2**30:
            outcome = f"stopped after {seconds:.0f} s" if spent > seconds else "stopped: out of memory"
            process.kill()
            break
        time.sleep(0.1)
    process.wait()
    if outcome == "chosen" and process.returncode:
        outcome = "failed: out of memory" if process.returncode == 3 else f"ended with status {process.returncode}"
    row = {"outcome": outcome, "seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(spent, 1)}
    return row | {"peak_mb": round(peak / 2**20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that benchmarks/large_pools.py has filled")
    parser.add_argument("--sizes", type=int, nargs="+", default=[200_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS)
    parser.add_argument("--seconds", type=float, default=300.0, help="most seconds of the processor")
    parser.add_argument("--gib", type=float, default=20.0, help="most GiB of memory")
    parser.add_argument("--rows", type=Path, default=CSV, help="file of rows")
    arguments = parser.parse_args()
    features = arguments.work / "many"
    make_features(features, make_run(arguments.work, arguments.work / "shards"), max(arguments.sizes))
    for name in arguments.contestants:
        for n in sorted(arguments.sizes):
            row = find_row(arguments.rows, {"contestant": name, "images": n})
            if row is None:
                row = contest(name, features, n, arguments.seconds, arguments.gib)
                append_row(arguments.rows, {"contestant": name, "images": n} | row | provenance())
            if row["outcome"] != "chosen":
                break
    print(markdown_table([dict(row) for row in pd.read_csv(arguments.rows).to_dict("records")]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "--child" in sys.argv:
        name_, features_, n_ = sys.argv[2:5]
        try:
            z_, p_ = read(Path(features_), int(n_), representation=not name_.startswith("baal"))
            chosen = choose(name_, z_, p_)
        except MemoryError as error:
            print(error, file=sys.stderr)
            raise SystemExit(3) from error
        assert len(set(chosen.tolist())) == N
        print(json.dumps(chosen[:5].tolist()))
    else:
        main()
