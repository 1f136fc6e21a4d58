"""Do the measures of nearness to the boundary agree? Spearman correlations of margin, linear, DeepFool, counterfactual.

    python benchmarks/boundary_agreement.py --run digits 40 runs/A --run digits 100 runs/B --run fashion-mnist 4000 runs/C

For each finished run: its first 500 test images; distances to the runner-up class. Margins count as p1 - p2, so that all four
are small near the boundary. Writes the correlations and a scatter plot of ranks.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from scipy.stats import spearmanr

from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.boundary_distance import deepfool_distance, linear_distance
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.inference.run import load_run

CSV = RESULTS / "boundary_agreement.csv"
N = 500
MEASURES = ("margin", "linear", "deepfool", "counterfactual")


def distances(dataset: str, path: Path) -> dict[str, np.ndarray]:
    """All measures of the first test images, (N,) each, small near the boundary."""
    run, pool = load_run(path, "cpu", "fp32"), load_dataset(dataset)
    images = pool.images[pool.test[:N]]
    p = np.sort(run.predict_proba(images), axis=1)
    return {
        "margin": p[:, -1] - p[:, -2],
        "linear": linear_distance(run.model, images, "runner-up").distance_representation,
        "deepfool": deepfool_distance(run.model, images, "runner-up").distance_pixel,
        "counterfactual": explain(run.model, images, "runner-up").distance_pixel,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, action="append", metavar=("DATASET", "LABELS", "RUN"), default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    panels = {}
    for dataset, labels, path in arguments.run:
        key = {"dataset": dataset, "n_labeled": int(labels)}
        values = distances(dataset, Path(path))
        panels[f"{dataset}, {int(labels):,} labels"] = values
        if find_row(CSV, key) is None:
            correlations = {
                f"{a} / {b}": round(float(spearmanr(values[a], values[b])[0]), 3) for a, b in combinations(MEASURES, 2)
            }
            append_row(CSV, {**key, "n": len(values["margin"]), **correlations, **provenance()})
    if panels:
        picture(panels, RESULTS / "boundary_agreement.png")
    frame = pd.read_csv(CSV)
    print(markdown_table(frame[["dataset", "n_labeled", *(c for c in frame if " / " in c)]].to_dict("records")))


def picture(panels: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Rank by counterfactual distance against the rank by the others, a row a run."""
    from matplotlib.figure import Figure

    others = [m for m in MEASURES if m != "counterfactual"]
    figure = Figure(figsize=(3.0 * len(others), 2.9 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), len(others), squeeze=False)
    for axes, (title, values) in zip(rows, panels.items(), strict=True):
        ranks = {name: pd.Series(v).rank().to_numpy() for name, v in values.items()}
        for axis, other in zip(axes, others, strict=True):
            axis.scatter(ranks[other], ranks["counterfactual"], s=5, color="tab:blue", alpha=0.5, linewidths=0)
            rho = spearmanr(values[other], values["counterfactual"])[0]
            axis.set(xlabel=f"rank by {other}", title=f"{title}: {rho:.2f}", xticks=[], yticks=[])
            axis.title.set_fontsize(9)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("rank by counterfactual")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
