"""Draw the learning curves of the published studies again, from the tables in docs/reports.

    python benchmarks/study_figures.py

A table is a study's `summary.csv`, which has means over seeds: the pictures have no bands. Those of `ssld study`, from all
trials, do.
"""

from pathlib import Path

import pandas as pd

from ssl_diffusion.studies.figures import curves_figure

REPORTS = Path(__file__).resolve().parents[1] / "docs" / "reports"
HIGHLIGHT = {
    "cifar10-fused": ("bait", "uherding", "typiclust"),
    "cifar10-lite0": ("oracle", "bait", "uherding"),
    "cifar10-lite0-1000": ("bait", "uherding", "typiclust"),
    "digits-ceiling": ("oracle", "maxherding"),
    "fashion-4000": ("badge", "margin"),
    "fashion-ceiling": ("maxherding",),
    "fashion-probe": ("entropy",),
    "digits-probe": ("latent-mix", "margin:diverse", "entropy"),
}


def mean_rounds(summary: pd.DataFrame) -> pd.DataFrame:
    """A table of rounds of a single seed whose accuracies are the means of a study."""
    budgets = [column for column in summary if str(column).isdecimal()]
    rounds = summary.melt("strategy", budgets, "n_labeled", "accuracy")
    return rounds.assign(n_labeled=rounds["n_labeled"].astype(int), seed=0)


def main() -> None:
    for path in sorted(REPORTS.glob("*.csv")):
        figure = curves_figure(mean_rounds(pd.read_csv(path)), "random", highlight=HIGHLIGHT.get(path.stem, ()))
        figure.savefig(path.with_suffix(".png"), dpi=140, facecolor="white")


if __name__ == "__main__":
    main()
