"""Counterfactuals of photos through a pretrained network: how many arrive, and whether another network sees their class.

    python benchmarks/counterfactual_photos.py --cifar CIFAR --run RUN      # RUN: a fit to 2,000 of these photos, see README
    python benchmarks/counterfactual_photos.py --table

CIFAR is a folder with train/ and test/ of CIFAR-10 as image files. The first --images test photos that the run classifies
correctly get the counterfactual of their runner-up class that `ssld explain` writes, at the boundary and with a probability of
at least 0.9; what is judged are the saved 8-bit pictures. Judges share nothing with the explained model: a convolutional
network that is fitted to all training photos of the folder with their labels, logistic regression on histograms of oriented
gradients (HOG) and the five nearest neighbors in them; the control is such a network of random weights. `noise` are random
changes as large as ours, of the same images: what a judge sees there is no explanation. Two rows a confidence in
`results/counterfactual_photos.csv`; photos, counterfactuals and what the network sees in the folder of --out, as .npz, of which
photo_pictures.py makes pictures.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, append_row, markdown_table, provenance
from numpy.typing import NDArray
from photo_data import hog
from photo_judge import EPOCHS, Judge, fitted, judged_by, network
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.generation.explanations import write_explanations
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.training.data_changes import load_run_pool

CSV = RESULTS / "counterfactual_photos.csv"
KNOWN = 5000  # training photos that the simple judges know


def make_judges(pool: Pool, epochs: int) -> dict[str, Judge]:
    """Judges by name, from a pool whose training photos have their labels."""
    labels, n = pool.labels[pool.train], len(pool.classes)
    some = np.random.default_rng(0).permutation(len(pool.train))[:KNOWN]
    z = hog(pool.images[pool.train[some]])
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300)).fit(z, labels[some])
    neighbors = KNeighborsClassifier(5).fit(z, labels[some])
    return {
        "network": judged_by(fitted(pool.images[pool.train], labels, n, epochs)),
        "logistic": lambda images: logistic.predict(hog(images)),
        "neighbors": lambda images: neighbors.predict(hog(images)),
        "random": judged_by(network(n, 1)),
    }


def read(folder: Path, names: "pd.Series[str]") -> NDArray[np.uint8]:
    """Saved pictures, uint8 (n, 3, H, W)."""
    return np.stack([np.asarray(Image.open(folder / name).convert("RGB")).transpose(2, 0, 1) for name in names])


def noise_like(images: NDArray[np.uint8], changed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images with white noise of the size, in root mean square, of the change."""
    change = changed.astype(np.float32) - images
    size = np.sqrt((change**2).mean(axis=(1, 2, 3), keepdims=True))
    noisy = images + size * np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
    return noisy.round().clip(0, 255).astype(np.uint8)


def explained(run: Run, pool: Pool, images: int) -> NDArray[np.int64]:
    """Positions of the first test photos that are classified correctly."""
    test = pool.test[np.random.default_rng(0).permutation(len(pool.test))]
    rows = test[: 4 * images]
    return rows[run.predict_proba(pool_rows(run, pool, rows)).argmax(axis=1) == pool.labels[rows]][:images]


def measure(
    run: Run, pool: Pool, positions: NDArray[np.int64], judges: dict[str, Judge], confidence: float, out: Path
) -> list[dict[str, Any]]:
    """Rows of the counterfactuals with a confidence, and of noise of their size."""
    ids = pool.ids[positions].tolist()
    began = time.monotonic()
    table, result = write_explanations(run, pool, ids, out, confidence=confidence, overwrite=True)
    seconds = time.monotonic() - began
    arrived = (result.success & table["verified"].to_numpy()) if "verified" in table else result.success
    saved = table[arrived].reset_index(drop=True)
    originals, changed = pool.images[positions[arrived]], read(out, saved["file"])
    wanted = saved["target"].map({name: k for k, name in enumerate(pool.classes)}).to_numpy()
    rms = np.sqrt(((changed.astype(np.float64) - originals) ** 2).mean(axis=(1, 2, 3))) / 255
    facts = {
        "valid": round(float(arrived.mean()), 4),
        "rms": round(float(np.median(rms)), 4),
        "evaluations": round(float(result.network_evaluations.mean()), 1),
        "seconds_per_image": round(seconds / len(ids), 2),
    }
    network_sees = judges["network"](changed)
    np.savez_compressed(
        out.with_name(f"{out.name}.npz"),
        ids=saved["id"].to_numpy(str),
        original=originals,
        changed=changed,
        success=np.ones(len(saved), bool),
        source=result.source[arrived],
        target=result.target[arrived],
        judge=np.array(pool.classes)[network_sees],
        classes=np.array(pool.classes),
    )
    truth, kinds = pool.labels[positions[arrived]], {"counterfactual": changed, "noise": noise_like(originals, changed)}
    clean = {f"{name}_clean": _share(judge(originals) == truth) for name, judge in judges.items()}
    return [
        {"kind": kind, "confidence": confidence, "n": len(ids)}
        | (facts if kind == "counterfactual" else dict.fromkeys(facts, ""))
        | {name: _share(judge(seen) == wanted) for name, judge in judges.items()}
        | clean
        for kind, seen in kinds.items()
    ]


def _share(true: NDArray[np.bool_]) -> float:
    return round(float(true.mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the judge")
    parser.add_argument("--out", type=Path, help="folder that keeps the pictures and the files of arrays")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        run, all_photos = load_run(args.run), load_pool(DataSettings(path=str(args.cifar)))
        judges = make_judges(all_photos, args.epochs)
        tested = all_photos.test
        truth = all_photos.labels[tested]
        print({name: _share(judge(all_photos.images[tested]) == truth) for name, judge in judges.items()}, file=sys.stderr)
        pool = load_run_pool(run)
        positions = explained(run, pool, args.images)
        with tempfile.TemporaryDirectory() as folder:
            for confidence in (0.0, 0.9):
                out = (args.out or Path(folder)) / f"p{confidence}"
                out.parent.mkdir(parents=True, exist_ok=True)
                for row in measure(run, pool, positions, judges, confidence, out):
                    append_row(CSV, row | {"judge_training_photos": len(all_photos.train)} | provenance())
                    print(row, file=sys.stderr, flush=True)
    print(markdown_table(pd.read_csv(CSV).fillna("").to_dict("records")))


if __name__ == "__main__":
    main()
