"""What a job says of its model by the figure that it goes by, on the labels of its audit."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from support.annotation_jobs import make_job, truth
from support.commands import ok

from ssl_diffusion.annotation.loop.accuracy import audit_figure, majority_accuracy
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.loop.status import status_of
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool


def test_the_figure_of_a_job_is_measured_beside_the_accuracy(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 40, "--audit", 20, "--set", "training.metric=balanced-accuracy")
    ids = [*job.store.ids[job.store.of_role("pool")][:40], *job.store.ids[job.store.of_role("audit")]]
    job.store.apply([Action("label", id_, Actor("ann"), truth(digits_pool, id_)) for id_ in ids])
    found = status_of(job)
    snapshot = take_snapshot(job)
    positions, labels = snapshot.state.labels_of("audit")
    assert snapshot.classifier is not None
    said = snapshot.classifier.probabilities(positions).argmax(axis=1)
    assert found.audit_metric is not None
    assert found.audit is not None
    assert found.audit_metric.accuracy == pytest.approx(balanced_accuracy_score(labels, said))
    assert found.audit_metric.low <= found.audit_metric.accuracy <= found.audit_metric.high
    assert (found.audit_metric.figure, found.audit.figure) == ("balanced accuracy", "accuracy")
    assert found.audit.accuracy == (said == labels).mean()
    assert found.audit_majority == np.bincount(labels).max() / len(labels)
    printed = ok("loop", "status", job.path).stdout
    assert f"balanced accuracy {found.audit_metric.accuracy:.1%} (95 % interval" in printed
    assert f"baseline        {found.audit_majority:.1%}" in printed


def test_labels_of_one_class_have_no_auroc_and_a_baseline_all_the_same() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
    assert audit_figure("auroc", p, np.array([0, 0])) is None
    assert majority_accuracy(np.array([0, 0])) == 1
    found = audit_figure("macro-f1", p, np.array([0, 0]))
    assert found is not None
    assert (found.n, found.figure) == (2, "macro F1")
    assert found.accuracy == pytest.approx(1 / 3)  # 2/3 of the class that occurs, none of the one that is only predicted
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
