"""What the number of ancestral steps is worth, draw by draw: FD of samples of one run, as they are and thinned to the classes.

    python benchmarks/sampling_draws.py --draws 6            # rows that are there are not run again
    python benchmarks/sampling_draws.py --run runs/R
    python benchmarks/sampling_draws.py --table

1,000 samples a draw of the noise, against the training images, through the labels-only extractor, as in :mod:`sampling`.
`fd_thinned` is that of the largest part of the samples whose classes, by this classifier, are as frequent as those of the
training images: what is left when the proportions of the classes that happened to be drawn are taken out. Rows in
`results/sampling_draws.csv`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray
from sampling import sampled_run

from ssl_diffusion.generation.quality import compare_features
from ssl_diffusion.generation.quality_report import real_features
from ssl_diffusion.generation.sampling import sample_run

CSV = RESULTS / "sampling_draws.csv"
SAMPLED = (("ddpm", 250), ("ddpm", 1000), ("dpmpp", 18))
N = 1000


def thinned(classes: NDArray[np.int64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the largest part of the samples that has the wanted proportions of the classes, the first ones of each."""
    counts = np.bincount(classes, minlength=len(wanted))
    size = (counts / wanted).min()
    return np.sort(np.concatenate([np.flatnonzero(classes == k)[: int(size * share)] for k, share in enumerate(wanted)]))


def table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a sampler and number of steps: means and deviations over the draws."""
    rows = []
    for (sampler, steps), part in frame.groupby(["sampler", "steps"], sort=False):
        row: dict[str, Any] = {"sampler": sampler, "steps": steps, "draws": len(part)}
        for name in ("fd", "fd_thinned", "precision", "recall", "density", "coverage"):
            row[name] = f"{part[name].mean():.3f} ± {part[name].std():.3f}"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--run", type=Path, help="a finished run of digits, instead of that of sampling.py")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        run, pool, extractor = sampled_run("digits", arguments.run)
        assert extractor.classify is not None
        real = real_features(extractor, pool)
        wanted = np.bincount(pool.labels[pool.train], minlength=len(pool.classes)) / len(pool.train)
        for draw in range(arguments.draws):
            for sampler, steps in SAMPLED:
                key = {"sampler": sampler, "steps": steps, "draw": draw}
                if find_row(CSV, key) is not None:
                    continue
                images = sample_run(run, N, sampler=sampler, steps=steps, seed=draw)
                features = extractor.features(images)
                kept = thinned(extractor.classify(images).argmax(axis=1), wanted)
                scores = compare_features(real, features)
                row = key | {name: round(value, 5) for name, value in scores.items()}
                row |= {"kept": len(kept), "fd_thinned": round(compare_features(real, features[kept])["fd"], 5)}
                append_row(CSV, row | {"extractor": extractor.name} | provenance())
                print(row, file=sys.stderr, flush=True)
    print(markdown_table(table(pd.read_csv(CSV))))


if __name__ == "__main__":
    main()
