"""How often the forecast's 80 % interval holds the accuracy with twice the labels, on studies that its prior was not fitted to.

    python benchmarks/forecast.py            # coverage, study by study; writes results/forecast.csv
    python benchmarks/forecast.py --prior    # the prior fitted to all studies, which the package has

Curves: single trials of studies (`results/study_rounds.csv`), of `results/label_efficiency.csv` and of `results/photos.csv`,
and means over seeds of the published studies (`docs/reports`). For every curve and every round from the third on the forecast
is for the next round that was measured, if it has 1.9 to 2.6 times the labels. The prior is fitted by the likelihood of such
forecasts, every study weighing the same. The oracle, which knows the test labels, is no curve to forecast.
"""

import argparse
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from common import RESULTS, provenance, write_csv
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize

from ssl_diffusion.acquisition.forecast import FEWEST_ROUNDS, LearningCurvePrior, forecast, predictive

REPORTS = Path(__file__).resolve().parents[1] / "docs" / "reports"
RATIO = (1.9, 2.6)


def curves() -> pd.DataFrame:
    """All committed curves: study, kind, curve, n_labeled, accuracy, trials."""
    parts = []
    single = pd.read_csv(RESULTS / "study_rounds.csv")
    single["curve"] = single["strategy"] + " " + single["seed"].astype(str)
    parts.append(single.assign(trials=1, kind="trial"))
    for name in ("label_efficiency", "photos"):
        table = pd.read_csv(RESULTS / f"{name}.csv").rename(columns={"test_accuracy": "accuracy"})
        table["curve"] = table["method"] + " " + table["seed"].astype(str)
        parts.append(table.assign(study=name + " " + table["dataset"], trials=1, kind="trial"))
    for path in sorted(REPORTS.glob("*.csv")):
        table = pd.read_csv(path)
        budgets = [c for c in table if str(c).isdecimal()]
        if "strategy" in table and budgets:
            mean = table.melt(["strategy", "n"], budgets, "n_labeled", "accuracy").rename(columns={"n": "trials"})
            study = path.stem.removesuffix("-1000")  # the same trials, some of them longer
            parts.append(mean.assign(study=study, curve=mean["strategy"], kind="mean"))
    every = pd.concat(parts, ignore_index=True)
    every["n_labeled"] = every["n_labeled"].astype(int)
    return every[~every["curve"].str.startswith("oracle")].dropna(subset=["accuracy"])


Case = tuple[str, str, NDArray[np.float64], NDArray[np.float64], int]


def cases(every: pd.DataFrame) -> list[Case]:
    """What can be forecast and checked: study, kind, numbers of labels, accuracies, trials; the last round is the target."""
    found: list[Case] = []
    for (study, kind, _), part in every.groupby(["study", "kind", "curve"], sort=False):
        part = part.sort_values("n_labeled").drop_duplicates("n_labeled")
        n, a = part["n_labeled"].to_numpy(float), part["accuracy"].to_numpy(float)
        for k, (before, after) in enumerate(pairwise(n)):
            if k + 1 >= FEWEST_ROUNDS and RATIO[0] <= after / before <= RATIO[1]:
                found.append((str(study), str(kind), n[: k + 2], a[: k + 2], int(part["trials"].iloc[0])))
    return found


def fitted(some: list[Case]) -> LearningCurvePrior:
    """The prior under which the forecasts of these curves are most probable."""
    studies = pd.Series([f"{c[0]} {c[1]}" for c in some])
    weight = 1 / studies.map(studies.value_counts()).to_numpy()

    groups = []  # of as many rounds
    for length in sorted({len(c[2]) for c in some}):
        rows = np.array([i for i, c in enumerate(some) if len(c[2]) == length])
        each = [some[i] for i in rows]
        at, a = np.log2(np.stack([c[2] for c in each])), np.stack([c[3] for c in each])
        groups.append((rows, at, a, np.array([c[4] for c in each])))

    def prior(x: NDArray[np.float64]) -> LearningCurvePrior:
        return LearningCurvePrior(float(x[0]), *np.exp(x[1:]).tolist())

    def loss(x: NDArray[np.float64]) -> float:
        total = 0.0
        for rows, at, a, trials in groups:
            mean, variance, freedom = predictive(at[:, :-1], a[:, :-1], at[:, -1], trials, prior(x))
            p = a[:, -1].clip(1e-3, 1 - 1e-3)
            total -= float(weight[rows] @ stats.t.logpdf(np.log(p / (1 - p)), freedom, mean, np.sqrt(variance)))
        return total + 0.05 * float(np.square(x - start).sum())  # keeps apart what the curves cannot tell apart

    start = np.array([0.6, *np.log([0.3, 0.2, 0.3, 0.1, 0.05, 0.05, 5])])
    x = minimize(loss, start, method="L-BFGS-B", bounds=[(-1, 2)] + [(-7, 3.5)] * 7, options={"maxiter": 60}).x
    return prior(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", action="store_true")
    if parser.parse_args().prior:
        print(fitted(cases(curves())))
        return
    every = cases(curves())
    rows = []
    for study in dict.fromkeys(c[0] for c in every):
        prior = fitted([c for c in every if c[0] != study])
        mine = [c for c in every if c[0] == study]
        held = [forecast(n[:-1], a[:-1], int(n[-1] - n[-2]), trials=t, prior=prior) for _, _, n, a, t in mine]
        inside = np.array([f.low <= c[3][-1] <= f.high for f, c in zip(held, mine, strict=True)])
        error = np.array([f.accuracy - c[3][-1] for f, c in zip(held, mine, strict=True)])
        width = np.array([f.high - f.low for f in held])
        rows.append(
            {
                "study": study,
                "kind": "/".join(dict.fromkeys(c[1] for c in mine)),
                "forecasts": len(mine),
                "inside": int(inside.sum()),
                "coverage": round(float(inside.mean()), 4),
                "mean_width": round(float(width.mean()), 4),
                "mean_error": round(float(error.mean()), 4),
                "mean_absolute_error": round(float(np.abs(error).mean()), 4),
                "prior": " ".join(f"{v:.4g}" for v in astuple(prior)),
            }
        )
        print(rows[-1], flush=True)
    total = {"study": "all", "forecasts": sum(r["forecasts"] for r in rows), "inside": sum(r["inside"] for r in rows)}
    total["coverage"] = round(total["inside"] / total["forecasts"], 4)
    print(total, "mean of the studies", np.mean([r["coverage"] for r in rows]).round(3))
    where = provenance()
    write_csv(RESULTS / "forecast.csv", [r | where for r in [*rows, total]])


if __name__ == "__main__":
    main()
