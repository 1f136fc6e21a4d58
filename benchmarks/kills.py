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
from collections.abc import Iterator, Mapping
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


def fit(work: Path, times: int) -> dict[str, object]:
    """Fits that are killed and resumed until they end, against one that was left alone."""
    arguments = ["--dataset", "digits", "--labeled", 20, "--checkpoint-every", 0, "--no-cache", *_SETTINGS]
    began = time.monotonic()
    ssld(work, "fit", *arguments, "--out", work / "whole")
    seconds, whole = time.monotonic() - began, _digest(work / "whole" / "model.safetensors")
    kills, runs, differ = 0, 0, 0
    waits = moments(0, 1.1 * seconds)
    while kills < times:
        out = work / f"run-{runs}"
        killed, _ = ssld(work, "fit", *arguments, "--out", out, kill_after=next(waits))
        kills += killed
        while killed and not (out / "metrics.json").exists():  # it may be killed when all is done
            begun = (out / "recipe.toml").exists()
            again = ["--resume", out] if begun else [*arguments, "--out", out, *(["--overwrite"] if out.exists() else [])]
            killed, _ = ssld(work, "fit", *again, kill_after=next(waits) if kills < times else None)
            kills += killed
        runs += 1
        differ += _digest(out / "model.safetensors") != whole
        print(f"{kills} kills, {runs} runs, {differ} differ", flush=True)
    return {
        "what": "fit",
        "kills": kills,
        "lost": differ,
        "note": f"{runs} runs, weights against a run left alone ({seconds:.0f} s)",
    }


def study(work: Path, times: int) -> dict[str, object]:
    """Studies that are killed and resumed until they end, against one that was left alone."""
    design = ["--recipe", "digits", "--strategies", "random,margin", "--budgets", "10,20", "--seeds", 4, *_SETTINGS]
    began = time.monotonic()
    ssld(work, "study", *design, "--out", work / "whole")
    seconds, whole = time.monotonic() - began, _rounds(work / "whole")
    kills, runs, differ = 0, 0, 0
    waits = moments(1, seconds)
    while kills < times:
        out = work / f"study-{runs}"
        killed, _ = ssld(work, "study", *design, "--out", out, kill_after=next(waits))
        kills += killed
        while killed:
            again = [out, "--resume"] if (out / "study.toml").exists() else [*design, "--out", out]
            killed, _ = ssld(work, "study", *again, kill_after=next(waits) if kills < times else None)
            kills += killed
        runs += 1
        differ += _rounds(out) != whole
        print(f"{kills} kills, {runs} studies, {differ} differ", flush=True)
    return {
        "what": "study",
        "kills": kills,
        "lost": differ,
        "note": f"{runs} studies of 8 trials against one left alone ({seconds:.0f} s)",
    }


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
