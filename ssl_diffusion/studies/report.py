"""The report of a study: one HTML page that needs nothing else, its curves as PNG files, and its table as CSV."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import RootModel

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, RunError, StateError
from ssl_diffusion.inference.class_metrics import METRICS
from ssl_diffusion.settings import read_state
from ssl_diffusion.storage import atomic_write_text
from ssl_diffusion.studies import statistics
from ssl_diffusion.studies.attempts import StudyFolder
from ssl_diffusion.studies.figures import check_highlight, chosen_figure, curves_figure
from ssl_diffusion.studies.oracle import ORACLE
from ssl_diffusion.studies.others import beside, read_others
from ssl_diffusion.studies.scenario import judged_by
from ssl_diffusion.studies.settings import REFITS, StudySettings
from ssl_diffusion.studies.summary import sentences, summary
from ssl_diffusion.studies.trial import trials_of

__all__ = ["write_report"]

_PICTURED = 5  # strategies whose choices are shown beside the baseline's


def write_report(path: Path, cache_dir: Path | None = None, highlight: Sequence[str] = (), others: Path | None = None) -> Path:
    """Write `report.html`, `curves-REFIT.png` and `summary.csv` into a study folder, from the trials that are complete.

    Args:
        path: Study folder.
        cache_dir: Folder of named data sets, for the images.
        highlight: Strategies to highlight in the curves, beside the baseline, "auto" and the best.
        others: Results of others on the same data, to be shown beside those of the study
            (:func:`ssl_diffusion.studies.others.read_others`).

    Returns:
        Path of the page.

    Raises:
        RunError: if this is no study folder, or no trial is complete.
        SSLDError: if `highlight` names a strategy that the study does not have, or too many.
        DataError: if the results of others cannot be read, or are about something else.

    Example:
        >>> write_report(Path("study"), highlight=["margin"])  # doctest: +SKIP
        PosixPath('study/report.html')
    """
    folder = StudyFolder(path)
    settings = folder.settings()
    check_highlight(highlight, settings.strategies, settings.baseline)
    rounds, picks, missing = folder.results()
    if rounds.empty:
        raise RunError(f"no trial of {path} is complete: run it first, with ssld study {path} --resume")
    metric = METRICS[settings.recipe.training.metric]
    rounds = judged_by(rounds, settings.recipe.training.metric)
    if others is not None and metric != "accuracy":
        raise DataError(f"the study goes by {metric}, and results of others are accuracies: leave out --with")
    pool = load_pool(settings.recipe.data, cache_dir=cache_dir)
    theirs = None if others is None else read_others(others, pool.name)
    parts, tables = [], []
    for refit in settings.refits:
        mine = rounds[rounds["refit"] == refit]
        if mine.empty:
            continue
        complete = set(mine["strategy"])
        chosen = [name for name in highlight if name in complete]
        curves_figure(mine, settings.baseline, highlight=chosen, metric=metric).savefig(
            path / f"curves-{refit}.png", dpi=140, facecolor="white"
        )
        table = summary(mine, settings.baseline)
        tables.append(table.assign(refit=refit))
        parts.append(_part(refit, mine, picks[picks["refit"] == refit], table, settings, pool, chosen, theirs))
    pd.concat(tables).to_csv(path / "summary.csv", index=False)
    loader = jinja2.PackageLoader("ssl_diffusion", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("studies/report.html")
    seeds = rounds["seed"].nunique()
    atomic_write_text(
        path / "report.html",
        page.render(
            title=f"Label efficiency on {pool.name}",
            subtitle=f"{len(settings.strategies)} strategies, {settings.budgets[0]:,} to {settings.budgets[-1]:,} labels,"
            f" {seeds} paired seeds, {len(pool.test):,} test images{_scenario(settings)}",
            missing=[(trial.name, folder.failure(trial) or "not run yet") for trial in missing],
            total=len(trials_of(settings)),
            baseline=settings.baseline,
            metric=metric,
            largest=f"{settings.budgets[-1]:,}",
            min_seeds=statistics.MIN_SEEDS,
            parts=parts,
            versions=_versions(path),
            settings=settings.to_toml(),
        ),
    )
    return path / "report.html"


def _scenario(settings: StudySettings) -> str:
    """What is harder than in the data, in words."""
    said = []
    if settings.pool_size:
        said.append(f"labels can be asked of {settings.pool_size:,} images, drawn with the seed")
    if settings.foreign:
        said.append(f"images of {', '.join(settings.foreign)} are none of the classes")
    if settings.long_tail > 1:
        said.append(f"the largest class has {settings.long_tail:g} times the images of the smallest")
    if settings.label_noise:
        said.append(f"{100 * settings.label_noise:g} % of the labels are wrong")
    return "".join(f"; {text}" for text in said)


def _part(
    refit: str,
    rounds: pd.DataFrame,
    picks: pd.DataFrame,
    table: pd.DataFrame,
    settings: StudySettings,
    pool: Pool,
    highlight: Sequence[str],
    others: pd.DataFrame | None,
) -> dict[str, Any]:
    """What the page says of one way to refit."""
    baseline, metric = settings.baseline, METRICS[settings.recipe.training.metric]

    def curves(panel: str) -> dict[str, str]:
        return _both(lambda dark: curves_figure(rounds, baseline, (panel,), highlight=highlight, dark=dark, metric=metric))

    areas = statistics.areas(rounds)
    tested = len(areas) >= statistics.MIN_SEEDS and len(areas.columns) > 1
    return {
        "refit": refit,
        "what": REFITS[refit],
        "sentences": sentences(rounds, baseline, metric),
        "curves": [
            (panel, curves(panel)) for panel in ("accuracy", "difference") if panel == "accuracy" or "difference" in table
        ],
        "table": _shown(table),
        "matrix": _matrix(statistics.penalty_matrix(rounds)) if tested else None,
        "forecast": "" if "forecast" in table else "no forecast: it needs three budgets or more",
        "power": _power(areas, baseline) if baseline in areas and len(areas) > 1 and len(areas.columns) > 1 else None,
        "others": None if others is None else _beside(rounds, others, baseline, highlight, areas),
        "costs": _costs(rounds),
        "chosen": _chosen(picks, pool, baseline, areas),
    }


def _shown(table: pd.DataFrame) -> dict[str, Any]:
    """The summary with intervals and units, for reading."""
    budgets = [c for c in table.columns if c.isdecimal()]
    columns = ["strategy", "seeds", *(f"{int(b):,}" for b in budgets), "area"]
    compared = "difference" in table
    if compared:
        columns += ["difference", "p (Holm)", "labels", "saved"]
    if with_oracle := "gap" in table:
        columns.append("of the oracle's gap")
    if with_forecast := "forecast" in table:
        columns.append(f"{2 * int(budgets[-1]):,} expected")
    rows = []
    for r in table.to_dict("records"):
        row = [r["strategy"], int(r["n"]), *(f"{100 * r[b]:.1f}" for b in budgets), f"{100 * r['area']:.2f}"]
        if compared and np.isnan(r["difference"]):
            row += [""] * 4
        elif compared:
            interval = f" [{100 * r['low']:+.2f}, {100 * r['high']:+.2f}]" if np.isfinite(r["low"]) else ""
            saved = f"{100 * r['saving']:.0f} % [{_percent(r['saving_low'])}, {_percent(r['saving_high'])}]"
            row += [
                f"{100 * r['difference']:+.2f}{interval}",
                "" if np.isnan(r["p_holm"]) else f"{r['p_holm']:.2g}",
                f"{r['labels']:.0f}" if np.isfinite(r["labels"]) else "never",
                saved if np.isfinite(r["labels"]) else "",
            ]
        if with_oracle:
            closed = f"{_percent(r['gap'])} % [{_percent(r['gap_low'])}, {_percent(r['gap_high'])}]"
            row.append(closed if np.isfinite(r["gap"]) else "")
        if with_forecast:
            expected = f"{100 * r['forecast']:.1f} [{100 * r['forecast_low']:.1f}, {100 * r['forecast_high']:.1f}]"
            row.append(expected if np.isfinite(r["forecast"]) else "")
        rows.append(row)
    return {"columns": columns, "rows": rows}


def _beside(
    rounds: pd.DataFrame, others: pd.DataFrame, baseline: str, highlight: Sequence[str], areas: pd.DataFrame
) -> dict[str, Any]:
    """Curves and table of the study's strategies that stand out, and of those of others."""
    best = areas.drop(columns=ORACLE, errors="ignore").mean().idxmax()
    own = [name for name in dict.fromkeys((baseline, "auto", *highlight, str(best))) if name in areas]
    table = beside(rounds, others, own)
    within = others["n_labeled"].between(rounds["n_labeled"].min(), rounds["n_labeled"].max())
    both = pd.concat([rounds[rounds["strategy"].isin(own)], others[within]])
    named = [str(name) for name in others["strategy"].unique()][: max(0, 5 - len(own))]
    budgets = [c for c in table.columns if c.isdecimal()]
    rows = [
        [r["strategy"], int(r["n"]), *("" if np.isnan(r[b]) else f"{100 * r[b]:.1f}" for b in budgets)]
        for r in table.to_dict("records")
    ]
    return {
        "curves": _both(lambda dark: curves_figure(both, baseline, ("accuracy",), highlight=[*own, *named][:5], dark=dark)),
        "table": {"columns": ["strategy", "seeds", *(f"{int(b):,}" for b in budgets)], "rows": rows},
    }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f}" if np.isfinite(fraction) else "−∞"


def _matrix(matrix: pd.DataFrame) -> dict[str, Any]:
    values = matrix.to_numpy().clip(0, 1)
    return {
        "names": list(matrix.columns),
        "rows": [{"name": n, "cells": [float(v) for v in row]} for n, row in zip(matrix.index, values, strict=True)],
    }


def _power(areas: pd.DataFrame, baseline: str) -> dict[str, Any]:
    line = statistics.power_line(areas, baseline)
    rows = [
        [
            r.pop("strategy"),
            f"{100 * r.pop('deviation'):.2f}",
            *("" if v is None or pd.isna(v) else f"{int(v):,}" for v in r.values()),
        ]
        for r in line.to_dict("records")
    ]
    return {"columns": ["strategy", "spread, points", *line.columns[2:]], "rows": rows}


def _costs(rounds: pd.DataFrame) -> dict[str, Any]:
    rows, more = [], _extra(rounds)
    for strategy in dict.fromkeys(rounds["strategy"]):
        part = rounds[rounds["strategy"] == strategy]
        seeds = part["seed"].nunique()
        last = part[part["n_labeled"] == part["n_labeled"].max()]
        used = ", ".join(dict.fromkeys(part["used"]))
        first = part[part["n_labeled"] == part["n_labeled"].min()]
        rows.append(
            [
                strategy,
                used,
                f"{first['missing_classes'].mean():.1f}",
                f"{last['balance'].mean():.3f}",
                f"{part['query_seconds'].sum() / seeds:.1f}",
                f"{part['train_seconds'].sum() / seeds:.1f}",
                f"{100 * last['ece'].mean():.1f}",
                *(text(part) for text in more.values()),
            ]
        )
    columns = ["strategy", "chose by", "classes missing at first", "balance in the end", "choosing, s", "training, s", "ECE, %"]
    return {"columns": [*columns, *more], "rows": rows}


def _extra(rounds: pd.DataFrame) -> dict[str, Callable[[pd.DataFrame], str]]:
    """Columns of studies with foreign images or a long tail, and what they say of the rounds of a strategy."""
    budgets = sorted(set(rounds["n_labeled"]))
    found: dict[str, Callable[[pd.DataFrame], str]] = {}
    if "foreign" in rounds:
        third = budgets[min(2, len(budgets) - 1)]

        def wasted(part: pd.DataFrame) -> str:
            mean = part.groupby("n_labeled")["foreign"].mean()
            later = budgets[-1] - third
            return f"{100 * (mean[budgets[-1]] - mean[third]) / later:.1f}" if later else ""

        found["none of these, %"] = lambda part: f"{100 * _last(part)['foreign'].mean() / budgets[-1]:.1f}"
        found["after round 3, %"] = wasted
    if "macro_accuracy" in rounds:
        found["mean over classes, %"] = lambda part: f"{100 * _last(part)['macro_accuracy'].mean():.1f}"
        found["labels of rare classes"] = lambda part: f"{_last(part)['rare_labels'].mean():.1f}"
    return found


def _last(part: pd.DataFrame) -> pd.DataFrame:
    last: pd.DataFrame = part[part["n_labeled"] == part["n_labeled"].max()]
    return last


def _chosen(picks: pd.DataFrame, pool: Pool, baseline: str, areas: pd.DataFrame) -> list[dict[str, Any]]:
    """The choices of the first seed: of the baseline, and of the strategies with the best curves."""
    best = areas.drop(columns=baseline, errors="ignore").mean().sort_values(ascending=False).index[:_PICTURED]
    there = set(picks["strategy"])
    shown = []
    for strategy in [name for name in (baseline, *best) if name in there]:
        part = picks[picks["strategy"] == strategy]
        seed = part["seed"].min()
        one = part[part["seed"] == seed]
        images = _both(lambda dark, one=one: chosen_figure(one, pool, dark=dark), dpi=80, quality=60)  # type: ignore[misc]
        shown.append({"name": f"{strategy}, seed {seed}", "images": images})
    return shown


def _both(make: Any, dpi: int = 120, quality: int = 90) -> dict[str, str]:
    """A figure for light and for dark pages, as data URIs."""
    return {"light": _data_uri(make(False), dpi, quality), "dark": _data_uri(make(True), dpi, quality)}


def _data_uri(figure: Figure, dpi: int, quality: int) -> str:
    buffer = io.BytesIO()
    # A fifth of the size that PNG has, so that a report can be sent by mail.
    figure.savefig(buffer, dpi=dpi, format="webp", pil_kwargs={"quality": quality})
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _versions(path: Path) -> str:
    try:
        facts = read_state(path / "about.json", RootModel[dict[str, str | int | None]], remedy="")
    except StateError:
        return "unknown"
    return ", ".join(f"{name} {value}" for name, value in facts.root.items())
