"""Results of others beside a study: both forms are read, what is about something else is refused in one sentence."""

from pathlib import Path

import pandas as pd
import pytest
from support.commands import ok, refused
from support.made_up_studies import BUDGETS

from ssl_diffusion.errors import DataError
from ssl_diffusion.studies import StudyFolder
from ssl_diffusion.studies.others import beside, read_others


def table(**columns: object) -> pd.DataFrame:
    """Three rounds of a rival."""
    rounds = {"dataset": "Digits", "strategy": "rival", "n_labeled": [10, 25, 40], "accuracy": [0.55, 0.7, 0.75]}
    return pd.DataFrame(rounds | columns)


def published(folder: Path, name: str = "digits", strategy: str = "Badge", batch: int = 10) -> Path:
    """Two trials in scikit-activeml's form."""
    for seed in range(2):
        place = folder / name / "LogisticRegression" / strategy / str(batch) / f"{seed}.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        trial = {"step": range(4), "accuracy": [0.5, 0.6, 0.7, 0.8 + 0.1 * seed], "auroc": 0.9, "time": 1.0}
        pd.DataFrame(trial).to_csv(place, index=False)
    return folder / name


def test_both_forms_are_read(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "others.csv", index=False)
    own = read_others(tmp_path / "others.csv", "digits")
    assert own["n_labeled"].tolist() == [10, 25, 40]
    assert own["seed"].tolist() == [0, 0, 0]
    theirs = read_others(published(tmp_path, "digits_dinov2"), "digits")
    assert theirs["strategy"].unique().tolist() == ["Badge (LogisticRegression)"]
    assert theirs[theirs["seed"] == 1]["n_labeled"].tolist() == [10, 20, 30, 40]


def test_means_are_at_the_study_s_budgets(study: StudyFolder, tmp_path: Path) -> None:
    rounds = study.results()[0]
    found = beside(rounds, read_others(published(tmp_path), "digits"), ["random"]).set_index("strategy")
    assert found.loc["Badge (LogisticRegression)", "40"] == pytest.approx(0.85)
    assert found.loc["Badge (LogisticRegression)", "n"] == 2
    own = rounds[(rounds["strategy"] == "random") & (rounds["n_labeled"] == 20)]["accuracy"].mean()
    assert found.loc["random", "20"] == pytest.approx(own)
    short = beside(rounds, table(n_labeled=[5, 10, 30]).assign(seed=0), []).iloc[0]
    assert short["10"] == pytest.approx(0.7)
    assert pd.isna(short["40"])


def test_the_report_shows_them(study: StudyFolder, tmp_path: Path) -> None:
    ok("study", "report", study.path, "--with", published(tmp_path))
    page = (study.path / "report.html").read_text(encoding="utf-8")
    assert "Beside the results of others" in page
    assert "Badge (LogisticRegression)" in page
    assert "Badge" not in (study.path / "summary.csv").read_text(encoding="utf-8")
    ok("study", "report", study.path)
    assert "Beside the results of others" not in (study.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"dataset": "letter"}, "results on 'letter', and the study is about 'digits'"),
        ({"accuracy": [55, 70, 75]}, "write 0.87 for 87 %"),
        ({"accuracy": [0.5, None, 0.7]}, "rows without"),
        ({"accuracy": ["a", "b", "c"]}, "rows without"),
        ({"n_labeled": [0, 10, 20]}, "rows without"),
        ({"n_labeled": [10, 10, 20]}, "two rows for rival, seed 0, 10 labels"),
        ({"n_labeled": [1000, 2000, 3000]}, "1,000 to 3,000 labels and the study 10 to 40"),
    ],
)
def test_what_cannot_be_compared(study: StudyFolder, tmp_path: Path, columns: dict[str, object], words: str) -> None:
    table(**columns).to_csv(tmp_path / "others.csv", index=False)
    assert words in refused("study", "report", study.path, "--with", tmp_path / "others.csv")


def test_files_of_another_form(tmp_path: Path) -> None:
    regression = tmp_path / "regression.csv"
    pd.DataFrame({"dataset": ["digits"], "strategy": ["a"], "n_labeled": [10], "mse": [0.1]}).to_csv(regression, index=False)
    with pytest.raises(DataError, match="no learning curves of a classification task"):
        read_others(regression, "digits")
    steps = tmp_path / "steps.csv"
    pd.DataFrame({"step": [0], "accuracy": [0.5]}).to_csv(steps, index=False)
    with pytest.raises(DataError, match="how many labels a step has is not in its path"):
        read_others(steps, "digits")
    steps.write_bytes(b"\xff\xfe\x00,\x00\n\x00")
    with pytest.raises(DataError, match=r"cannot be read as CSV|no learning curves"):
        read_others(steps, "digits")
    with pytest.raises(DataError, match="no file"):
        read_others(tmp_path / "missing.csv", "digits")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no CSV files"):
        read_others(tmp_path / "empty", "digits")


def test_only_reports_show_results_of_others(tmp_path: Path) -> None:
    assert "ssld study report FOLDER --with FILE" in refused("study", "--out", tmp_path / "s", "--with", tmp_path / "o.csv")
    assert BUDGETS == (10, 20, 40)
