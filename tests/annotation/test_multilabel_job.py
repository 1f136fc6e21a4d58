"""Multi-label jobs by the command line: from images of two digits to rounds, fits, figures, and a table for `ssld fit`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import ok, refused
from support.sets import CLASSES, answer_sets, make_sets_job, pictures, write_sets

from ssl_diffusion.acquisition.independent import two_sided
from ssl_diffusion.annotation.files.imports import import_labels
from ssl_diffusion.annotation.loop.class_sets import by_class, macro_f1
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.job_check import collect_job
from ssl_diffusion.annotation.loop.model_file import teaches
from ssl_diffusion.annotation.loop.pool_map import map_points
from ssl_diffusion.annotation.loop.pool_view import PoolView
from ssl_diffusion.annotation.loop.search import search
from ssl_diffusion.annotation.loop.several_jobs import overview
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.store import class_changes, queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, Interrupted
from ssl_diffusion.inference.class_metrics import bootstrap_intervals, class_metrics
from ssl_diffusion.inference.run import load_run

ANN = Actor("ann")


def test_the_figure_of_a_job_is_measured_beside_the_macro_f1(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    metric = "training.metric=average-precision"
    job, truth = make_sets_job(tmp_path, digits_pool, tiny, "--audit", 12, "--n", 30, "--set", metric)
    for _ in range(2):
        answer_sets(job, truth)
    snapshot = take_snapshot(job)
    positions, labels = snapshot.state.labels_of("audit")
    assert snapshot.classifier is not None
    expected = class_metrics(snapshot.classifier.probabilities(positions), labels)
    status = json.loads(ok("loop", "status", job.path, "--json").stdout)
    assert (status["audit"]["figure"], status["audit_metric"]["figure"]) == ("macro F1", "average precision")
    assert status["audit_metric"]["accuracy"] == pytest.approx(expected["average_precision"])
    assert status["audit_majority"] is None  # no accuracy is shown, which it could stand beside


def test_from_labels_to_a_fit_a_round_and_a_table_that_fit_reads(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny, "--audit", 12, "--n", 30)
    for _ in range(2):
        answer_sets(job, truth)
    ok("loop", "fit", job.path)
    status = json.loads(ok("loop", "status", job.path, "--json").stdout)
    positions, _ = queries.labels(job.store)
    given = [truth[id_] for id_ in job.store.ids[positions].tolist()]
    assert status["labels"] == {name: sum(name in names for names in given) for name in CLASSES}
    assert status["without_class"] == sum(not names for names in given) > 0
    assert (status["audit"]["figure"], status["audit"]["n"], status["new_labels"]) == ("macro F1", 12, 0)
    assert set(status["audit_by_class"]) == set(CLASSES)
    assert status["audit"]["low"] <= status["audit"]["accuracy"] <= status["audit"]["high"]
    assert (status["audit_metric"], status["audit_majority"]) == (None, None)  # the job goes by what is measured anyway
    said = ok("loop", "status", job.path).stdout
    assert "macro F1" in said
    assert "baseline" not in said
    assert "F1 by class" in said
    assert "mean AP" in said
    assert f"none of them {status['without_class']}" in said
    assert overview(job).figure == "macro F1"

    chosen = json.loads(ok("loop", "next", job.path, "--n", 5, "--strategy", "margin", "--json").stdout)
    table = pd.read_csv(job.path / "batches" / "round-003.csv")
    classifier = take_snapshot(job).classifier
    assert classifier is not None
    p = classifier.probabilities(job.store.positions(chosen["ids"]))
    assert table["prediction"].tolist() == [
        ", ".join(name for name, value in zip(CLASSES, row, strict=True) if value > 0.5) or "none of the classes" for row in p
    ]
    everything = classifier.probabilities(np.setdiff1d(job.store.of_role("pool"), queries.touched(job.store)))
    assert two_sided(p)[:, 0].max() <= np.sort(two_sided(everything)[:, 0])[4] + 1e-6  # the least sure ones

    ok("loop", "export", job.path, "--out", tmp_path / "labels.csv")
    written = pd.read_csv(tmp_path / "labels.csv").set_index("id")
    assert {id_: tuple(name for name in CLASSES if row[name]) for id_, row in written.iterrows()} == {
        id_: truth[id_] for id_ in written.index
    }
    words = ["--data", tmp_path / "labels.csv", "--image-root", tmp_path / "photos", "--image-column", "id"]
    words += ["--label-columns", ",".join(CLASSES), "--objective", "probe", "--set", "model.stem=1", "--out", tmp_path / "run"]
    ok("fit", *words, *tiny)
    first, second = (
        pd.read_csv(folder / "labeled.csv", keep_default_na=False).set_index("id")["label"]
        for folder in (job.path / "models" / "001", tmp_path / "run")
    )
    assert len(first) >= 40
    assert first.to_dict() == second.loc[first.index].to_dict()
    again, _ = make_sets_job(tmp_path / "again", digits_pool, tiny)
    ok("loop", "import", again.path, tmp_path / "labels.csv")
    assert [each.tolist() for each in queries.labels(again.store)] == [each.tolist() for each in queries.labels(job.store)]


def test_a_joint_fit_learns_sets_and_labels_after_it_are_learned_by_a_probe(
    tmp_path: Path, digits_pool: Pool, tiny: list[str]
) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny, "--n", 30, "--set", "training.objective=joint", "--pretrain")
    ids = answer_sets(job, truth)
    ok("loop", "fit", job.path)
    snapshot = take_snapshot(job)
    assert snapshot.model is not None
    assert snapshot.model.run is not None
    assert snapshot.model.run.multilabel
    assert snapshot.classifier is not None
    assert snapshot.classifier.probe is None
    open_ = np.arange(len(job.store.ids))
    assert snapshot.classifier.probabilities(open_) == pytest.approx(snapshot.model.run.predict_proba(job.images), abs=0.01)
    job.label(ids[0], ["two"] if truth[ids[0]] != ("two",) else [])
    snapshot = take_snapshot(job)
    assert snapshot.classifier is not None
    assert snapshot.classifier.probe is not None
    assert snapshot.classifier.probabilities(open_).sum(axis=1).max() > 1.01  # classes are independent
    table = write_sets(tmp_path / "photos" / "all.csv", truth)
    pd.read_csv(table).rename(columns={"id": "path"}).to_csv(table, index=False)
    assert "macro F1" in ok("evaluate", job.path / "models" / "001", "--data", table).stdout


def test_a_class_that_ends_in_the_middle(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny, "--n", 40)
    answer_sets(job, truth)
    ok("loop", "fit", job.path)
    class_changes.merge(job.store, "two", "one", "ann")
    class_changes.remove(job.store, "zero", "ann")
    job.store.add_classes(["hat"])
    snapshot = take_snapshot(job)
    assert snapshot.classifier is not None
    p = snapshot.classifier.probabilities(np.arange(len(job.store.ids)))
    assert p.shape == (80, 4)
    assert (p[:, [0, 2]] == 0).all()
    ok("loop", "fit", job.path)
    status = job.status()
    expected = sum("one" in truth[id_] or "two" in truth[id_] for id_ in job.store.ids[queries.labels(job.store)[0]].tolist())
    assert status.labels == {"one": expected, "hat": 0}
    assert status.new_labels == 0


def test_an_interrupted_fit_is_resumed_unless_there_is_another_class(
    tmp_path: Path, digits_pool: Pool, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny, "--n", 20, "--set", "training.objective=joint")
    answer_sets(job, truth)

    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted("stopped")

    for expected in ("001", "002"):
        with monkeypatch.context() as patch:
            for phase in ("pretraining", "objective_fits"):
                patch.setattr(f"ssl_diffusion.training.{phase}.train", interrupted)
            with pytest.raises(Interrupted):
                job.fit()
        if expected == "002":
            job.store.add_classes(["hat"])  # of which the labels say something, too
            expected = "003"
        assert job.fit() == expected
        job.label(next(id_ for id_ in truth if id_ not in {row["id"] for row in queries.listing(job.store)}), [])
    run = load_run(job.path / "models" / "003")
    assert run.classes == (*CLASSES, "hat")


def test_what_the_pool_says_of_sets(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny, "--n", 40)
    answer_sets(job, truth)
    snapshot, view = take_snapshot(job), PoolView(job)
    view.use(snapshot.model, snapshot.classifier)
    known = job.store.ids[queries.labels(job.store)[0]].tolist()
    assert job.store.ids[search(job, view, "class:zero")].tolist() == [id_ for id_ in known if "zero" in truth[id_]]
    p = view.probabilities()
    assert p is not None
    assert search(job, view, "predicted:zero").tolist() == np.flatnonzero(p[:, 0] > 0.5).tolist()
    wrong = [id_ for id_ in known if {*truth[id_]} != {n for n, v in zip(CLASSES, p[job.store.positions([id_])[0]], strict=True) if v > 0.5}]  # fmt: skip  # noqa: E501
    assert job.store.ids[search(job, view, "is:wrong")].tolist() == wrong
    points = map_points(job, view)
    assert points is not None
    assert points.names == (*CLASSES, "none of the classes", "several classes")
    for id_, number in zip(job.store.ids.tolist(), points.label.tolist(), strict=True):
        expected = truth[id_][0] if len(truth[id_]) == 1 else points.names[3 + bool(truth[id_])]
        assert number == (points.names.index(expected) if id_ in known else -1)
    collection = collect_job(job)
    assert collection.pool.multilabel
    assert int(collection.pool.has_label.sum()) == len(known)


def test_sets_in_the_data_are_imported(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    truth = pictures(tmp_path / "photos", digits_pool, 20)
    some = dict(list(truth.items())[:12])
    table = write_sets(tmp_path / "photos" / "labels.csv", some)
    pd.read_csv(table).rename(columns={"id": "path"}).to_csv(table, index=False)
    words = ["--data", table, *tiny]
    ok("loop", "init", tmp_path / "job", *words, "--multilabel", "--set", "data.label_columns=zero,one,two")
    job = open_job(tmp_path / "job")
    assert {row["id"]: row["label"] for row in queries.listing(job.store)} == some
    said = refused("loop", "init", tmp_path / "other", *words, "--set", "data.label_columns=zero,one,two")
    assert "add --multilabel" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folders", "classes"], "sub-folders give one class to an image"),
        (["--set", "training.consistency=match"], "pseudo-labels"),
    ],
)
def test_what_cannot_be_multilabel(tmp_path: Path, digits_pool: Pool, tiny: list[str], words: list[str], said: str) -> None:
    pictures(tmp_path / "photos", digits_pool, 4)
    common = ["loop", "init", tmp_path / "job", "--data", tmp_path / "photos", "--classes", "a,b", *tiny, "--multilabel"]
    assert said in refused(*common, *words)
    assert not (tmp_path / "job").exists()


def test_one_label_an_image_is_no_set(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny)
    pd.DataFrame({"path": list(truth), "label": ["zero"] * len(truth)}).to_csv(tmp_path / "photos" / "one.csv", index=False)
    said = refused("loop", "init", tmp_path / "other", "--data", tmp_path / "photos" / "one.csv", "--multilabel", *tiny)
    assert "one label an image" in said
    assert "data.label_columns=cat,dog" in said
    said = refused("loop", "import", job.path, tmp_path / "photos" / "one.csv")
    assert "columns of 0 and 1 zero, one, two" in said
    said = refused("loop", "init", job.path, "--data", tmp_path / "photos", "--multilabel", *tiny)
    assert "holds a job" in said
    assert queries.listing(job.store) == []


def test_a_fit_needs_a_class_that_some_have_and_others_not(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny)
    for id_ in list(truth)[:3]:
        job.label(id_, ["zero"])
    assert "a class that some labeled samples have" in refused("loop", "fit", job.path)
    assert "a class that some labeled samples have" in job.status().no_fit
    assert "margin needs a classifier" in refused("loop", "next", job.path, "--strategy", "margin")
    job.label(list(truth)[3], [])
    assert job.status().no_fit == ""
    assert "badge is for images with one class" in refused("loop", "next", job.path, "--strategy", "badge")
    assert "no counterfactuals" in refused("loop", "fit", job.path, "--verdicts", "on")
    class_changes.rename(job.store, "one", "Split", "ann")
    assert "a column 'split'" in refused("loop", "fit", job.path)


def test_teaches() -> None:
    assert not teaches(np.zeros(0, np.int64))
    assert not teaches(np.zeros((0, 3), np.int64))
    assert not teaches(np.array([[1, 0], [1, 0]]))
    assert teaches(np.array([[1, 0], [1, 1]]))


def test_macro_f1_is_that_of_evaluate() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (60, 4))
    p = np.clip(0.35 * labels + 0.65 * rng.random((60, 4)), 0, 1).astype(np.float32)
    found = macro_f1(p, labels)
    assert found is not None
    assert found.accuracy == pytest.approx(class_metrics(p, labels)["macro_f1"])
    low, high = bootstrap_intervals(p, labels)["macro_f1"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    rows = by_class(p, labels, ("a", "b", "c", "d"))
    assert np.mean([row["f1"] for row in rows.values()]) == pytest.approx(found.accuracy)
    assert rows["a"]["n"] == labels[:, 0].sum()
    assert macro_f1(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int64)) is None


def test_tables_that_are_no_sets(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, truth = make_sets_job(tmp_path, digits_pool, tiny)
    ids = list(truth)[:3]
    table = tmp_path / "labels.csv"

    def tried(text: str, name: str = "labels.csv") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as error:
            import_labels(job, tmp_path / name)
        assert queries.listing(job.store) == []
        return str(error.value)

    assert "columns of 0 and 1 two" in tried(f"id,zero,one\n{ids[0]},0,1\n")
    assert "must hold 0, 1 or nothing" in tried(f"id,zero,one,two\n{ids[0]},0,1,yes\n")
    assert "'hat' is no class of the job" in tried(f"id,zero,one,two,hat\n{ids[0]},0,1,0,1\n")
    assert "not in the job" in tried("id,zero,one,two\nx.png,0,1,0\n")
    assert "contradicts itself" in tried(f"id,zero,one,two\n{ids[0]},0,1,0\n{ids[0]},0,1,1\n")
    assert "named twice" in tried(json.dumps({"id": ids[0], "label": ["one", "one"]}), "labels.jsonl")
    assert "valid list" in tried(json.dumps({"id": ids[0], "label": "one"}), "labels.jsonl")
    table.write_text(f"id,zero,one,two,width\n{ids[0]},0,1,0,640\n{ids[1]},,,,1\n{ids[2]},0,0,0,640\n", encoding="utf-8")
    import_labels(job, table)
    assert {row["id"]: row["label"] for row in queries.listing(job.store)} == {ids[0]: ("one",), ids[2]: ()}


def test_labels_by_python(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job: Job = make_sets_job(tmp_path, digits_pool, tiny)[0]
    first = str(job.store.ids[0])
    assert job.label(first, ("two", "zero")).label == (0, 2)
    with pytest.raises(DataError, match="a set of classes"):
        job.label(first, "zero")
