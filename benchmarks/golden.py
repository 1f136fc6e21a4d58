"""Digests of what the program produces, to show that a change which should change nothing did not.

Everything goes through the `ssld` command, in this process, and what it writes is read as any other program would: weights
from safetensors, tables from CSV and JSON, images as decoded pixels. No module of the package is imported, so the script runs
unchanged on a tree whose modules have moved. Training is in fp32 on one thread of the processor, on digits, with a network
and numbers of steps so small that the figures mean nothing; every number counts to its last bit.

A digest is the SHA-256 of exact bytes. Left out are times, commit and versions; the temporary folder is written as WORK.
Digests depend on the processor's instruction set (torch and BLAS choose their kernels by it) and on the versions of torch,
NumPy and scikit-learn: compare only what was computed on the same machine and in the same environment.

`--out FILE` writes the digests, with commit, versions and processor; `--check FILE` computes them again, names those that
differ and exits with code 1 if any does.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and NumPy are imported
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import contextlib
import csv
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import RESULTS
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

# Settings of every fit, also those of the study and of the annotation job.
TINY = (
    "model.channels=8",
    "model.blocks=1",
    "model.decoder_blocks=1",
    "pretraining.steps=30",
    "pretraining.batch_size=16",
    "training.steps=40",
    "training.batch_size=16",
    "training.labeled_batch_size=16",
    "training.keep=trained",  # after so few steps the probe is better
    "compute.accelerator=cpu",
    "compute.precision=fp32",
    "compute.threads=1",
)
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
CPU = ("--accelerator", "cpu", "--precision", "fp32", "--threads", "1")

FITS = {
    "joint": (),
    "match": ("--consistency", "match"),
    "probe": ("--objective", "probe"),
    "labels-only": ("--objective", "labels-only"),
    "denoise-only": ("--objective", "denoise-only"),
}
SAMPLERS = ("heun", "dpmpp", "ddim", "ddpm")
EXPORTS = {
    "csv": "labels.csv",
    "jsonl": "labels.jsonl",
    "coco": "coco.json",
    "folder": "folder",
    "label-studio": "label-studio.json",
    "prodigy": "prodigy.jsonl",
}
# Keys of JSON objects and columns of tables that differ from one time to the next.
CHANGING = {
    *("seconds", "seconds_alone", "images_per_second", "train_seconds", "query_seconds", "labels_per_hour"),
    *("versions", "commit", "began", "process"),
    "doubt",  # it names a time to train, from the speed of the fit
}


class Golden:
    """Runs commands in a folder and collects digests.

    Args:
        work: Folder for everything that is written; it must be empty.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.digests: dict[str, str] = {}
        (script,) = entry_points(group="console_scripts", name="ssld")
        self._run: Callable[[], None] = script.load()

    def ssld(self, *arguments: object) -> dict[str, Any]:
        """Run a command; returns what it prints with --json. Exits with its messages if it fails."""
        words = [*map(str, arguments), "--json"]
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        with patch.object(sys, "argv", ["ssld", *words]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                self._run()
            except SystemExit as ended:
                code = ended.code
        if code:
            raise SystemExit(f"ssld {' '.join(words)} ended with exit code {code}:\n{err.getvalue()}")
        values: dict[str, Any] = json.loads(out.getvalue())
        return values

    def add(self, name: str, parts: Iterable[bytes]) -> None:
        """Keep the digest of byte strings; their lengths count, too."""
        assert name not in self.digests, name
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        self.digests[name] = digest.hexdigest()

    def add_text(self, name: str, text: str) -> None:
        """Keep the digest of a text, the temporary folder left out."""
        self.add(name, [text.replace(str(self.work), "WORK").encode()])

    def add_json(self, name: str, values: Any) -> None:
        """Keep the digest of a JSON value without what changes."""
        self.add_text(name, json.dumps(_lasting(values), sort_keys=True))

    def add_table(self, name: str, path: Path) -> None:
        """Keep the digest of a CSV file without the columns that change; columns in order, numbers as they are written."""
        with path.open(newline="", encoding="utf-8") as file:
            self.add_json(name, [list(_lasting(row).items()) for row in csv.DictReader(file)])

    def add_weights(self, name: str, path: Path) -> None:
        """Keep one digest for each group of tensors (ema, raw): names, types, shapes and bytes, sorted by name."""
        tensors = load_file(path)
        for group in sorted({key.partition(".")[0] for key in tensors}):
            chosen = sorted(key for key in tensors if key.partition(".")[0] == group)
            self.add(f"{name} / {group}", (part for key in chosen for part in (key.encode(), *_array(tensors[key]))))

    def add_images(self, name: str, folder: Path, table: str) -> None:
        """Keep the digests of a table and of the pixels of the images in its column `file`."""
        self.add_table(f"{name} / table", folder / table)
        with (folder / table).open(newline="", encoding="utf-8") as file:
            files = [folder / row["file"] for row in csv.DictReader(file) if row["file"]]
        self.add(f"{name} / pixels", (part for path in files for part in _pixels(path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--out", type=Path, default=RESULTS / "golden.json", help="JSON file to write")
    what.add_argument("--check", type=Path, metavar="FILE", help="compare with the digests of this file")
    arguments = parser.parse_args()
    expected = json.loads(arguments.check.read_text(encoding="utf-8")) if arguments.check else None
    facts, digests = compute()
    if expected is None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**facts, "digests": digests}, indent=2) + "\n", encoding="utf-8")
        print(f"{len(digests)} digests in {arguments.out}")
        return
    lines = differences(expected["digests"], digests)
    for key in ("processor", "instructions", "versions"):
        if expected[key] != facts[key]:
            print(f"{key}: {expected[key]} then, {facts[key]} now; digests may differ for that alone")
    print("\n".join([*lines, f"{len(lines)} of {len(expected['digests'].keys() | digests.keys())} digests differ"]))
    sys.exit(1 if lines else 0)


def compute() -> tuple[dict[str, Any], dict[str, str]]:
    """Where the digests come from, and the digests by name."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        cache = {"SSLD_CACHE": str(work / "cache"), "XDG_CACHE_HOME": str(work / "cache")}
        with patch.dict(os.environ, cache), contextlib.chdir(work):
            golden = Golden(work)
            machine = golden.ssld("doctor", "--quiet")
            for part in (fits, queries, study, generated, predictions, annotation):
                began = time.monotonic()
                part(golden)
                print(f"{part.__name__:<12} {time.monotonic() - began:6.1f} s", file=sys.stderr)
    facts = {key: machine[key] for key in ("commit", "processor", "versions")}
    return facts | {"instructions": torch.backends.cpu.get_cpu_capability()}, golden.digests


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """A line for each name whose digest is another one, is missing or is new."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            lines.append(f"missing  {name}")
        elif name not in expected:
            lines.append(f"new      {name}")
        elif expected[name] != found[name]:
            lines.append(f"differs  {name}")
    return lines


# ---- what is computed; later parts read the runs of earlier ones


def fits(golden: Golden) -> None:
    """A run of each objective with 40 labels; only the first finds no denoiser in the cache."""
    for name, options in FITS.items():
        run = golden.work / name
        facts = golden.ssld("fit", "--dataset", "digits", "--labeled", 40, "--out", run, *options, *SETTINGS, "--quiet")
        golden.add_json(f"fit {name} / metrics", facts)
        golden.add_weights(f"fit {name}", run / "model.safetensors")
        golden.add_table(f"fit {name} / history", run / "history.csv")
        golden.add_text(f"fit {name} / recipe", (run / "recipe.toml").read_text(encoding="utf-8"))
        golden.add_json(f"fit {name} / pool", json.loads((run / "pool.json").read_text(encoding="utf-8")))
        if (run / "labeled.csv").exists():
            golden.add_table(f"fit {name} / labels", run / "labeled.csv")


def queries(golden: Golden) -> None:
    """Ten samples by every strategy and some variants; then one batch in the other formats, and a query that stores nothing."""
    known = golden.ssld("strategies")
    # Not the prose about them, which may name modules.
    golden.add_json("strategies", [[(row["name"], row["needs"]) for row in known["strategies"]], list(known["variants"])])
    variants = [f"margin:{name}" for name in known["variants"]]
    for strategy in [*(row["name"] for row in known["strategies"]), "auto", *variants]:
        out = golden.work / f"{strategy.replace(':', '-')}.csv"
        _query(golden, "joint", strategy, out)
        golden.add_table(f"query {strategy}", out)
    _query(golden, "joint", "margin", golden.work / "not-stored.csv", "--no-scores")
    golden.add_table("query margin, nothing stored", golden.work / "not-stored.csv")
    for strategy in ("margin", "counterfactual"):
        _query(golden, "probe", strategy, golden.work / f"probe-{strategy}.csv")
        golden.add_table(f"query {strategy}, run probe", golden.work / f"probe-{strategy}.csv")
    _query(golden, "denoise-only", "typiclust", golden.work / "unlabeled.csv")
    golden.add_table("query typiclust, run denoise-only", golden.work / "unlabeled.csv")
    _query(golden, "joint", "margin", golden.work / "batch.json", "--format", "json")
    golden.add_json("query margin, json", json.loads((golden.work / "batch.json").read_text(encoding="utf-8")))
    _query(golden, "joint", "margin", golden.work / "batch", "--format", "folder")
    golden.add_images("query margin, folder", golden.work / "batch", "batch.csv")


def study(golden: Golden) -> None:
    """Two strategies, two seeds, refits by a probe."""
    out = golden.work / "study"
    what = ("--dataset", "digits", "--strategies", "random,margin", "--budgets", "10,20,30", "--seeds", 2, "--refit", "probe")
    facts = golden.ssld("study", *what, "--out", out, "--cache-dir", golden.work / "cache", *SETTINGS, "--quiet")
    golden.add_json("study / summary", facts)
    for name in ("rounds", "picks", "summary"):
        golden.add_table(f"study / {name}.csv", out / f"{name}.csv")


def generated(golden: Golden) -> None:
    """Ten counterfactuals, and eight samples of each sampler and kind of guidance."""
    run = golden.work / "joint"
    with (golden.work / "random.csv").open(newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in islice(csv.DictReader(file), 10)]
    chosen = [word for id_ in ids for word in ("--id", id_)]
    facts = golden.ssld("explain", run, *chosen, "--out", golden.work / "explained", *CPU, "--quiet")
    golden.add_json("explain / distances", facts)
    golden.add_images("explain", golden.work / "explained", "counterfactuals.csv")
    ways: dict[str, Sequence[object]] = {f"sample {name}": ("--sampler", name) for name in SAMPLERS}
    ways |= {f"sample guided by {kind}": ("--class", "3", "--guidance", kind) for kind in ("estimate", "representation")}
    for name, options in ways.items():
        out = golden.work / name.replace(" ", "-")
        golden.ssld("sample", run, "--n", 8, "--out", out, *options, *CPU, "--quiet")
        golden.add_images(name, out, "samples.csv")


def predictions(golden: Golden) -> None:
    """Classes of images in a folder, and evaluations: on the test split, on a folder, and of samples."""
    flat, sorted_ = golden.work / "photos", golden.work / "photos-by-class"
    write_digits(flat, sorted_, 120)
    for name in ("joint", "probe"):
        run = golden.work / name
        golden.ssld("predict", run, flat, "--out", golden.work / "predictions.csv", *CPU, "--quiet")
        golden.add_table(f"predict {name}", golden.work / "predictions.csv")
        golden.add_json(f"evaluate {name}", golden.ssld("evaluate", run, *CPU, "--quiet"))
        golden.add_json(f"evaluate {name} on a folder", golden.ssld("evaluate", run, "--data", sorted_, *CPU, "--quiet"))
    options = ("--generation", "--n", 50, "--extractor", golden.work / "labels-only", *CPU, "--quiet")
    golden.add_json("evaluate samples", golden.ssld("evaluate", golden.work / "joint", *options))


def annotation(golden: Golden) -> None:
    """A job that wants two votes a sample: rounds before and after a fit, imports of all kinds, and every export."""
    job, truth = golden.work / "job", load_digits().target[:120]
    what = ("--data", golden.work / "photos", "--classes", ",".join("0123456789"), "--size", 8, "--recipe", "digits")
    golden.ssld("loop", "init", job, *what, "--agreement", 2, "--audit", 10, *SETTINGS, "--quiet")
    golden.add_json("loop next, no model", golden.ssld("loop", "next", job, "--n", 10, "--quiet"))
    ada = [{"id": f"{i:04d}.png", "label": str(truth[i]), "annotator": "ada"} for i in range(90)]
    ben = [dict(row, annotator="ben") for row in ada[:80]]
    for i in (3, 14, 25):  # of two opinions
        ben[i]["label"] = str((truth[i] + 1) % 10)
    _write_csv(golden.work / "ada.csv", ada)
    (golden.work / "ben.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ben), encoding="utf-8")
    skips = [{"answer": "ignore", "meta": {"id": f"{i:04d}.png"}} for i in range(100, 105)]
    (golden.work / "skips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in skips), encoding="utf-8")
    _write_csv(golden.work / "settled.csv", [ada[3], *({"id": f"{i:04d}.png", "label": str(truth[i])} for i in (105, 106))])
    skippers = [("skips.jsonl", "--annotator", who) for who in ("cy", "dee")]
    for name, *options in (("ada.csv",), ("ben.jsonl",), *skippers, ("settled.csv", "--final")):
        said = golden.ssld("loop", "import", job, golden.work / name, *options, "--quiet")
        golden.add_json(" ".join(["loop import", name, *options]), said)
    for form, name in EXPORTS.items():
        out = golden.work / "exports" / name
        golden.ssld("loop", "export", job, "--format", form, "--out", out, "--quiet")
        if form == "folder":
            golden.add_images("loop export folder", out, "labels.csv")
        else:
            golden.add_text(f"loop export {form}", out.read_text(encoding="utf-8"))
    for form in ("csv", "jsonl"):
        out = golden.work / "exports" / f"all.{form}"
        golden.ssld("loop", "export", job, "--format", form, "--status", "all", "--out", out, "--quiet")
        golden.add_text(f"loop export {form}, all", out.read_text(encoding="utf-8"))
    golden.add_json(
        "loop fit", golden.ssld("loop", "fit", job, "--threads", 1, "--cache-dir", golden.work / "cache", "--quiet")
    )
    for strategy in ("margin", "margin:sampled", "auto"):
        out = golden.work / f"round-{strategy.replace(':', '-')}.csv"
        made = golden.ssld("loop", "next", job, "--n", 10, "--strategy", strategy, "--out", out, "--quiet")
        golden.add_json(f"loop next {strategy}", made)
        golden.add_table(f"loop next {strategy} / batch", out)
    golden.add_json("loop status", golden.ssld("loop", "status", job, "--quiet"))


# ---- files


def write_digits(flat: Path, by_class: Path, n: int) -> None:
    """Write digits as PNG files, into one folder and into a folder a class; one in ten is three times as wide and high."""
    data = load_digits()
    for i, (pixels, label) in enumerate(zip(data.images[:n], data.target, strict=False)):
        image = (pixels * 15).astype(np.uint8)
        if i % 10 == 9:
            image = np.kron(image, np.ones((3, 3), dtype=np.uint8))
        for folder in (flat, by_class / str(label)):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:04d}.png")


def _query(golden: Golden, run: str, strategy: str, out: Path, *options: str) -> None:
    arguments = ("--n", 10, "--strategy", strategy, "--out", out, *options, *CPU, "--quiet")
    golden.ssld("query", golden.work / run, *arguments)


def _write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _lasting(value: Any) -> Any:
    """A JSON value without the keys that change."""
    if isinstance(value, dict):
        return {key: _lasting(each) for key, each in value.items() if key not in CHANGING}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def _array(values: np.ndarray) -> Iterator[bytes]:
    yield f"{values.dtype.str} {values.shape}".encode()
    yield np.ascontiguousarray(values).tobytes()


def _pixels(path: Path) -> Iterator[bytes]:
    with Image.open(path) as image:
        yield image.mode.encode()
        yield from _array(np.asarray(image))


if __name__ == "__main__":
    main()
