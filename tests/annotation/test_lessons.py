"""What models learn from verdicts on counterfactuals: pictures beside the samples, kept by content, and what is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from support.annotation_jobs import make_job, truth
from support.commands import ok, ssld

from ssl_diffusion.annotation.loop.fits import _use_of_verdicts, fit_job
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.lessons import lessons_of
from ssl_diffusion.annotation.loop.model_file import current_model
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.store import class_changes
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.annotation.store.verdicts import Verdict, add_verdict
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import png_of
from ssl_diffusion.errors import RunError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.training.fit import resume_run
from ssl_diffusion.training.run_folder import RunFolder

PROBE = ("--objective", "probe", "--set", "pretraining.steps=2")


def gray(level: int) -> NDArray[np.uint8]:
    return np.full((1, 8, 8), level, dtype=np.uint8)


def say(
    job: Job, id_: str, verdict: Any, digest: str, *, by: str = "ann", target: str = "6", picture: bytes | None = None
) -> None:
    content = png_of(gray(int(digest, 16) % 256)) if picture is None else picture
    add_verdict(job.store, Verdict(id_, verdict, "4", target, "gone", content, digest), Actor(by))


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    made = make_job(tmp_path, digits_pool, tiny, "--n", 10, *PROBE)
    for k in range(40):
        made.label(f"{k:04d}.png", truth(digits_pool, f"{k:04d}.png"), "ann")
    return made


def test_true_false_and_none_of_these_teach_their_class(job: Job, digits_pool: Pool) -> None:
    say(job, "0001.png", "true", "0a")
    say(job, "0002.png", "false", "0b")
    say(job, "0003.png", "none", "0c")
    say(job, "0004.png", "true", "0d")
    say(job, "0004.png", "false", "0d", by="bob")
    say(job, "0060.png", "false", "0e")  # of an image without a label
    say(job, "0060.png", "true", "0f", picture=b"no picture")
    found, names = lessons_of(job), job.store.classes
    assert found.ids == ("verdict 0a", "verdict 0b")
    assert [names[k] for k in found.classes] == [
        "6",
        truth(digits_pool, "0002.png"),
    ]  # what it was changed to; what the image was labeled
    assert [int(image.max()) for image in found.images] == [10, 11]
    assert sorted(found.left_out.values()) == [1, 1, 1, 1]
    assert "people contradict each other" in str(found)
    job.store.add_classes(["None of these"])
    assert lessons_of(job).ids == ("verdict 0a", "verdict 0b", "verdict 0c")
    class_changes.merge(job.store, "6", "5", "ann")
    assert names[lessons_of(job).classes[0]] == "5"
    assert not len(lessons_of(job, "off"))


def test_a_fit_learns_them_without_a_new_denoiser_and_later_commands_read_the_run(job: Job, tmp_path: Path) -> None:
    fit_job(job)
    plain = current_model(job)
    assert plain is not None
    assert plain.verdicts is None
    for k in range(6):
        say(job, "0001.png", "true", f"1{k}")
    before = take_snapshot(job).classifier
    assert before is not None
    assert before.probe is None  # a model that was fitted without them is not asked again for their sake
    ok("loop", "fit", job.path, "--verdicts", "on")
    present = current_model(job)
    assert present is not None
    assert present.verdicts == lessons_of(job).digest
    run, again = load_run(job.path / "models" / plain.model), load_run(job.path / "models" / present.model)
    assert all((a == b).all() for a, b in zip(run.model.unet.parameters(), again.model.unet.parameters(), strict=True))
    shown = np.stack([gray(16 + k) for k in range(6)])
    p = [np.exp(each.logits(shown) - each.logits(shown).max(1, keepdims=True)) for each in (run, again)]
    six = again.classes.index("6")
    assert (p[1] / p[1].sum(1, keepdims=True))[:, six].min() > (p[0] / p[0].sum(1, keepdims=True))[:, six].max()
    table = pd.read_csv(again.path / "labeled.csv")
    assert table["role"].value_counts().to_dict() == {"train": 40, "extra": 6}
    assert len(pd.read_csv(f"{again.path}.csv")) == 90  # the samples, which have files
    ok("query", again.path, "--n", 3, "--strategy", "margin", "--out", tmp_path / "batch.csv")
    # New labels: the classifier is refitted to them and to the pictures.
    job.label("0050.png", "1", "ann")
    snapshot = take_snapshot(job)
    assert snapshot.classifier is not None
    assert snapshot.classifier.probe is not None
    logits = snapshot.classifier.probe.logits(_represented(again, shown))
    assert (logits.argmax(1) == 6).all()


def _represented(run: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    from ssl_diffusion.inference.predict import represent

    return represent(run.model, images)


def test_an_unfinished_run_with_them_is_continued_by_its_job_only(job: Job) -> None:
    say(job, "0001.png", "true", "10")
    name = fit_job(job, use_verdicts="on")
    folder = RunFolder(job.path / "models" / name)
    (job.path / "model.json").unlink()
    folder.metrics.unlink()
    with pytest.raises(RunError, match=r"1 images on which verdicts were given.*ssld loop fit"):
        resume_run(folder.path)
    assert fit_job(job, use_verdicts="on") == name
    (job.path / "model.json").unlink()
    assert fit_job(job) != name  # other pictures, another run


def test_words_that_are_no_choice_are_refused(job: Job) -> None:
    assert "--verdicts is on or off, not 'perhaps'" in ssld("loop", "fit", job.path, "--verdicts", "perhaps").stderr
    assert "--pretrain learns no labels" in ssld("loop", "fit", job.path, "--pretrain", "--verdicts", "on").stderr
    file = job.path / "job.toml"
    file.write_text(file.read_text().replace('verdicts = "off"', 'verdicts = "maybe"'))
    assert "verdicts" in ssld("loop", "fit", job.path).stderr


def test_a_backbone_that_reads_the_files_cannot_learn_small_pictures(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    say(job, "0001.png", "true", "10")
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fits.picture_fault", lambda job: "the backbone reads the image files")
    with pytest.raises(RunError, match="reads the image files: leave out --verdicts"):
        fit_job(job, use_verdicts="on")
    job.save_settings(job.settings.replace(verdicts="on"))
    assert _use_of_verdicts(job, None) == "off"
    monkeypatch.undo()
    assert _use_of_verdicts(job, None) == "on"
