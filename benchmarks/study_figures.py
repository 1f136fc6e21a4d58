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
    "cifar10-lite0": ("oracle", "bait", "uherding"),
    "cifar10-lite0-1000": ("bait", "uherding", "typiclust"),
    "digits-ceiling": ("oracle", "maxherding"),
    "fashion-ceiling": ("maxherding",),
    "fashion-probe": ("entropy",),
    "digits-probe": ("latent-mix", "margin:diverse", "entropy"),
}
# Where the others have so few of the seeds that their means lie apart from the random ones they began with.
ONLY = {"fashion-4000": ("random", "auto")}


def mean_rounds(summary: pd.DataFrame) -> pd.DataFrame:
    """A table of rounds of a single seed whose accuracies are the means of a study."""
    budgets = [column for column in summary if str(column).isdecimal()]
    rounds = summary.melt("strategy", budgets, "n_labeled", "accuracy")
    return rounds.assign(n_labeled=rounds["n_labeled"].astype(int), seed=0)


def main() -> None:
    for path in sorted(REPORTS.glob("*.csv")):
        table = pd.read_csv(path)
        rounds = mean_rounds(table[table["strategy"].isin(ONLY.get(path.stem, table["strategy"]))])
        figure = curves_figure(rounds, "random", highlight=HIGHLIGHT.get(path.stem, ()))
        figure.savefig(path.with_suffix(".png"), dpi=140, facecolor="white")


if __name__ == "__main__":
    main()
