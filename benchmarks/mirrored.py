"""Does a probe on a backbone gain by mirrored views? Solar cells, which have no up and down, on their training split only.

    python benchmarks/mirrored.py --cache photos-cache/
    python benchmarks/mirrored.py --table

EfficientNet-Lite0 reads each cell as it is, mirrored left to right, upside down, and turned by half. Probes are fitted to
the labeled cells as they are, to all four views of them, or to the mean of the views, and predict from one view or by the
mean of the logits of four. One row a number of labels, variant and seed in `results/mirrored.csv`; the cells of the training
split without a label measure, for settings are chosen by this. Seeds are from 100: those of `photos.py` are others.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray
from photo_data import BACKBONE, PhotoSet, photo_set
from sklearn.metrics import balanced_accuracy_score

from ssl_diffusion.inference.backbone_features import backbone_reads, pool_features, pool_source
from ssl_diffusion.inference.rows import RowsSource
from ssl_diffusion.models import load_backbone
from ssl_diffusion.models.probe import LinearProbe, fit_probe

CSV = RESULTS / "mirrored.csv"
VIEWS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "left-right": lambda x: x[..., ::-1],
    "upside-down": lambda x: x[..., ::-1, :],
    "half a turn": lambda x: x[..., ::-1, ::-1],
}
AT_ONCE = 256  # cells
TEST = 20  # cells of a grade that are left without a label, where there are so few


def view_features(data: PhotoSet) -> list[NDArray[np.float32]]:
    """Features (n, F) of the training cells as they are and of each view, kept in the cache folder."""
    pool, backbone = data.pool, load_backbone(BACKBONE)
    source = pool_source(backbone, pool, pool.train, backbone_reads(backbone, pool))
    ids, found = pool.ids[pool.train], [data.features(pool.train)]
    for name, mirrored in VIEWS.items():
        path = data.cache / "views" / f"{data.name} {name}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            parts = []
            for some in (ids[i : i + AT_ONCE] for i in range(0, len(ids), AT_ONCE)):
                images = np.ascontiguousarray(mirrored(source.take(some)))
                parts.append(pool_features(backbone, RowsSource(images, some, images.shape[1:])))
            np.save(path, np.concatenate(parts))
        found.append(np.load(path))
    return found


def labeled_cells(y: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many cells of each grade, as far as there are enough; others make up the number."""
    each, grades = n // 4, [rng.permutation(np.flatnonzero(y == grade)) for grade in range(4)]
    known = np.concatenate([rows[: each if len(rows) > each + TEST else len(rows) // 2] for rows in grades])
    others = rng.permutation(np.setdiff1d(np.arange(len(y)), known))
    return np.concatenate([known, others[: n - len(known)]])


def trial(views: list[NDArray[np.float32]], y: NDArray[np.int64], n: int, seed: int) -> dict[str, dict[str, float]]:
    """Accuracies of all variants with the same labels."""
    rng = np.random.default_rng(seed)
    known = labeled_cells(y, n, rng)
    rest, some = np.setdiff1d(np.arange(len(y)), known), rng.permutation(len(y))[:1000]
    mean = np.mean(views, axis=0)

    def scored(probe: LinearProbe, read: list[NDArray[np.float32]]) -> dict[str, float]:
        predicted = np.mean([probe.logits(z[rest]) for z in read], axis=0).argmax(axis=1)
        accuracy = float((predicted == y[rest]).mean())
        return {"accuracy": round(accuracy, 4), "balanced": round(float(balanced_accuracy_score(y[rest], predicted)), 4)}

    plain = fit_probe(views[0][known], y[known], views[0][some], 4, seed=seed)
    of_mean = fit_probe(mean[known], y[known], mean[some], 4, seed=seed)
    all_known, all_y = np.concatenate([z[known] for z in views]), np.tile(y[known], len(views))
    found = {
        "as they are": scored(plain, views[:1]),
        "as they are, 4 views read": scored(plain, views),
        "mean of the views": scored(of_mean, [mean]),
    }
    for words, c in (("", plain.inverse_penalty), (", a quarter of C", plain.inverse_penalty / len(views))):
        probe = fit_probe(all_known, all_y, views[0][some], 4, seed=seed, inverse_penalty=c)  # folds would share a cell
        found |= {
            f"fitted to 4 views{words}": scored(probe, views[:1]),
            f"fitted to 4 views{words}, 4 read": scored(probe, views),
        }
    return found


def table() -> list[dict[str, Any]]:
    """Means over seeds, and the gain over cells as they are with its standard error."""
    frame, rows = pd.read_csv(CSV), []
    for (n, variant), group in frame.groupby(["labels", "variant"], sort=False):
        plain = frame[(frame["labels"] == n) & (frame["variant"] == "as they are")].set_index("seed")
        row = {"labels": n, "probe": variant, "seeds": len(group)}
        for what in ("accuracy", "balanced"):
            gain = 100 * (group.set_index("seed")[what] - plain[what])
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            row |= {what: 100 * group[what].mean(), f"gain, {what}": f"{gain.mean():+.1f} ± {error:.1f}"}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="Cache folder, which photos.py shares")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(100, 110)))
    parser.add_argument("--table", action="store_true", help="Only print the table")
    args = parser.parse_args()
    if not args.table:
        if args.cache is None:
            parser.error("--cache says where the features are kept")
        facts, data = provenance(), photo_set("elpv", args.cache, None)
        views, y = view_features(data), data.pool.labels[data.pool.train]
        for n in args.labels:
            for seed in args.seeds:
                key = {"labels": n, "seed": seed}
                if find_row(CSV, key | {"variant": "as they are"}) is None:
                    for variant, row in trial(views, y, n, seed).items():
                        append_row(CSV, key | {"variant": variant} | row | facts)
    print(markdown_table(table()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
