"""kill -9 of fits, studies and commands of the annotation loop at random moments: what is lost?

    python benchmarks/kills.py fit --times 20      # a fit that is killed and resumed against one that was left alone
    python benchmarks/kills.py study --times 10    # the same for the trials of a study
    python benchmarks/kills.py loop --times 20     # import, next and export, killed: all of a file's labels or none

Everything runs on digits with a tiny network, one thread, fp32, in a temporary folder; a row of the result goes to
`results/kills.csv`. The server is killed by `annotation.py kill`.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from common import RESULTS, append_row, provenance
from PIL import Image
from sklearn.datasets import load_digits

_TINY = {
    "model.channels": 8, "model.blocks": 1, "model.decoder_blocks": 1,
    "pretraining.steps": 120, "pretraining.batch_size": 16,
    "training.steps": 120, "training.batch_size": 16, "training.labeled_batch_size": 16,
    "compute.threads": 1, "compute.accelerator": "cpu", "compute.precision": "fp32",
}  # fmt: skip
_SETTINGS = [word for name, value in _TINY.items() for word in ("--set", f"{name}={json.dumps(value).strip(chr(34))}")]


def ssld(work: Path, *arguments: object, kill_after: float | None = None) -> tuple[bool, str]:
    """Run a command; whether it was killed, and what it printed."""
    environment = os.environ | {"SSLD_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "ssl_diffusion.cli", *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True, ""
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {process.returncode}:\n{output}")
    return False, output


def moments(seed: int, longest: float) -> Iterator[float]:
    """Seconds after which to kill: not before Python has started, as nothing could be lost then."""
    rng = np.random.default_rng(seed)
    while True:
        yield float(rng.uniform(0.2 * longest, longest))


def against_one_left_alone(
    work: Path,
    times: int,
    seed: int,
    start: Callable[[Path], list[object]],
    again: Callable[[Path], list[object] | None],
    found: Callable[[Path], str],
) -> tuple[int, str]:
    """Work that is killed and taken up again until it is done, against the same work that was left alone.

    Args:
        work: Folder for the outputs.
        times: Kills.
        seed: Random seed of the moments.
        start: Command that begins the work in a folder.
        again: Command that takes it up after a kill; None if there is nothing left to do.
        found: Result in a folder, as a text to compare.

    Returns:
        Number of outputs that differ, and a note.
    """
    began = time.monotonic()
    ssld(work, *start(work / "whole"))
    seconds, whole = time.monotonic() - began, found(work / "whole")
    kills, runs, differ = 0, 0, 0
    waits = moments(seed, 1.1 * seconds)
    while kills < times:
        out = work / f"out-{runs}"
        command: list[object] | None = start(out)
        while command is not None:
            killed, _ = ssld(work, *command, kill_after=next(waits) if kills < times else None)
            kills += killed
            command = again(out) if killed else None
        runs += 1
        differ += found(out) != whole
        print(f"{kills} kills, {runs} outputs, {differ} differ", flush=True)
    return differ, f"{runs} outputs against one left alone ({seconds:.0f} s)"


def fit(work: Path, times: int) -> dict[str, object]:
    """Fits that are killed and resumed until they end."""
    settings = ["--dataset", "digits", "--labeled", 20, "--checkpoint-every", 0, "--no-cache", *_SETTINGS]

    def start(out: Path) -> list[object]:
        return ["fit", *settings, "--out", out, *(["--overwrite"] if out.exists() else [])]

    def again(out: Path) -> list[object] | None:
        if (out / "metrics.json").exists():  # it may be killed when all is done
            return None
        return ["fit", "--resume", out] if (out / "recipe.toml").exists() else start(out)

    differ, note = against_one_left_alone(work, times, 0, start, again, lambda out: _digest(out / "model.safetensors"))
    return {"what": "fit", "kills": times, "lost": differ, "note": note}


def study(work: Path, times: int) -> dict[str, object]:
    """Studies that are killed and resumed until they end."""
    design = ["--recipe", "digits", "--strategies", "random,margin", "--budgets", "10,20", "--seeds", 4, *_SETTINGS]

    def start(out: Path) -> list[object]:
        return ["study", *design, "--out", out]

    def again(out: Path) -> list[object]:
        return ["study", out, "--resume"] if (out / "study.toml").exists() else start(out)

    differ, note = against_one_left_alone(work, times, 1, start, again, _rounds)
    return {"what": "study", "kills": times, "lost": differ, "note": note}


def loop(work: Path, times: int) -> dict[str, object]:
    """Imports, rounds and exports that are killed: a file's labels are all there or none, and those of before always."""
    data, (images, classes) = work / "photos", load_digits(return_X_y=True)
    data.mkdir()
    for i, row in enumerate(images[:400]):
        Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8)).save(data / f"{i:03d}.png")
    names = [str(k) for k in range(10)]
    ssld(work, "loop", "init", work / "job", "--data", data, "--classes", ",".join(names), "--quiet")
    told = {f"{i:03d}.png": names[classes[i]] for i in range(380, 400)}
    _write_labels(work / "labels.csv", told)
    ssld(work, "loop", "import", work / "job", work / "labels.csv", "--annotator", "benchmark")
    kills, lost, attempts, rng = 0, 0, 0, np.random.default_rng(2)
    seconds: dict[str, float] = {}  # of each command, when it is left alone
    while kills < times:
        kind = ("import", "next", "export")[attempts % 3]
        first = 20 * (attempts // 3) % 380
        part = range(first, first + 20)
        labels = {f"{i:03d}.png": names[classes[i]] for i in part}
        table = work / "labels.csv"
        _write_labels(table, labels)
        out = work / f"out-{attempts}.csv"
        commands = {
            "import": ["import", work / "job", table, "--annotator", "benchmark"],
            "next": ["next", work / "job", "--n", 5, "--strategy", "random", "--seed", attempts],
            "export": ["export", work / "job", "--format", "csv", "--out", out],
        }
        began, late = time.monotonic(), float(rng.uniform(0.6, 1.1))  # before that Python is still importing
        killed, _ = ssld(work, "loop", *commands[kind], kill_after=late * seconds[kind] if kind in seconds else None)
        seconds.setdefault(kind, time.monotonic() - began)
        kills, attempts = kills + killed, attempts + 1
        ssld(work, "loop", "export", work / "job", "--format", "csv", "--out", work / "now.csv", "--overwrite", "--quiet")
        now = pd.read_csv(work / "now.csv", dtype=str).set_index("id")["label"].to_dict()
        new = {sample: label for sample, label in now.items() if sample not in told}
        whole = not new or new == {sample: label for sample, label in labels.items() if sample not in told}
        lost += not whole or any(now.get(sample) != label for sample, label in told.items())
        if kind == "import" and not killed:
            lost += any(now.get(sample) != label for sample, label in labels.items())
        if kind == "export" and out.exists():
            lost += len(pd.read_csv(out, dtype=str)) != len(told)
        told = now
        print(f"{kills} kills, {attempts} commands, {len(told)} labels, {lost} wrong", flush=True)
    return {
        "what": "loop",
        "kills": kills,
        "lost": lost,
        "note": f"{attempts} commands (import, next, export), {len(told)} labels",
    }


def _write_labels(path: Path, labels: Mapping[str, str]) -> None:
    pd.DataFrame({"id": list(labels), "label": list(labels.values())}).to_csv(path, index=False)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rounds(folder: Path) -> str:
    """What a study found, without the times that it took."""
    tables = [pd.read_csv(path) for path in sorted(folder.rglob("rounds.csv"))]
    frame = pd.concat(tables, ignore_index=True)
    return str(frame[[c for c in frame if "second" not in c]].to_csv(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "study", "loop"])
    parser.add_argument("--times", type=int, default=20, help="kills")
    parser.add_argument("--out", type=Path, default=RESULTS / "kills.csv")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        row = {"fit": fit, "study": study, "loop": loop}[a.what](Path(folder), a.times)
    append_row(a.out, row | provenance())
    print(row)
    if row["lost"]:
        raise SystemExit(f"{row['lost']} differences")


if __name__ == "__main__":
    main()
