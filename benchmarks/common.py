"""What the benchmarks share: where a figure comes from, tables, and the cost of a child process.

Import this module before anything binds threads: it remembers the environment and the cores of a fresh process, which
children are given back (a parent with bound threads would otherwise hand them its one core).
"""

import csv
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

RESULTS = Path(__file__).resolve().parent / "results"

_ENVIRONMENT = dict(os.environ)
_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def provenance() -> dict[str, Any]:
    """Columns that say where a figure comes from: threads, torch version, processor, commit."""
    import torch

    from ssl_diffusion.machine import describe_machine, source_commit

    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": describe_machine().processor,
        "commit": source_commit() or "unknown",
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Columns "median", "min" and "max" of one figure's rounds."""
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round; what slows down a whole round cancels."""
    return round(statistics.median(a / b for a, b in zip(values, base, strict=True)), 3)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], append: bool = False) -> None:
    """Write rows as CSV; the columns are those of all rows in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    header = not (append and path.exists())
    if not header:
        with path.open(newline="", encoding="utf-8") as file:
            if next(csv.reader(file), []) != columns:
                raise SystemExit(f"{path} has other columns; move it away")
    with path.open("w" if header else "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)


def find_row(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first row of a CSV file whose columns have these values; None if there is none, or no file."""
    if not path.exists():
        return None
    frame = pd.read_csv(path)
    found = frame[(frame[list(key)] == pd.Series(dict(key))).all(axis=1)]
    return None if found.empty else {str(name): value for name, value in found.iloc[0].to_dict().items()}


def figures_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file without the columns of :func:`provenance`; values that are missing are empty."""
    frame = pd.read_csv(path).drop(columns=list(provenance()))
    return [{str(k): v for k, v in row.items()} for row in frame.astype(object).fillna("").to_dict("records")]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV file that several processes may be adding to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pd.DataFrame([row]).to_csv(file, index=False, header=os.fstat(file.fileno()).st_size == 0)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, numbers to the right, two decimals below 100 and none above."""
    columns = list(rows[0])
    numeric = [all(isinstance(row[c], int | float) for row in rows) for c in columns]
    lines = [columns, ["---:" if n else "---" for n in numeric], *([_cell(row[c]) for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True)
class ChildCost:
    """What a child process cost.

    `peak_mib` is the kernel's own high-water mark of the process (None where there is no /proc); `peak_tree_mib` the largest
    sum of the resident sizes of the process and its descendants at any poll (pages that they share count for each).
    """

    seconds: float
    peak_mib: float | None
    peak_tree_mib: float


def run_measured(command: Sequence[str], interval: float = 0.05) -> ChildCost:
    """Run a command to its end, polling its memory every `interval` seconds; exits with its last lines if it fails.

    The rusage of a terminated child is not used: Linux counts the parent's own size into it.
    """
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(command, env=_ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
        if _CORES is not None:
            os.sched_setaffinity(process.pid, _CORES)
        root = psutil.Process(process.pid)
        high, tree = 0.0, 0.0
        while process.poll() is None:
            high, tree = max(high, high_water(process.pid)), max(tree, _tree_bytes(root))
            time.sleep(interval)
        seconds = time.monotonic() - began
        if process.returncode:
            output.seek(0)
            tail = output.read().decode(errors="replace").splitlines()[-15:]
            raise SystemExit("\n".join([f"{' '.join(command)} ended with exit code {process.returncode}:", *tail]))
    return ChildCost(round(seconds, 2), round(high / 2**20, 1) if high else None, round(tree / 2**20, 1))


def _tree_bytes(root: psutil.Process) -> int:
    total = 0
    try:
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def high_water(pid: int) -> int:
    """Largest resident size of a process so far, in bytes; 0 where there is no /proc, or the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def ssld() -> str:
    """The `ssld` of this Python environment."""
    program = Path(sys.executable).with_name("ssld")
    return str(program) if program.exists() else "ssld"


def ssld_json(*arguments: str | Path) -> dict[str, Any]:
    """What a command of `ssld` prints with --json; exits with its last lines if it fails."""
    done = subprocess.run([ssld(), *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ssld {' '.join(map(str, arguments))}:\n{done.stderr[-2000:]}")
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed
