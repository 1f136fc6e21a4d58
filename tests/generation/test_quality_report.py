"""`ssld evaluate --generation`: features of a classifier that is not the model's own, and what is cached of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import CPU, ok, refused

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError
from ssl_diffusion.generation.extractors import Extractor, extractor_of_run, inception_extractor, labels_only_extractor
from ssl_diffusion.generation.quality_report import evaluate_generation, real_features
from ssl_diffusion.inference.run import load_run

GENERATION = ["--generation", "--n", "20", *CPU]


def test_the_report_names_its_features_and_is_repeatable(tiny_run: Path, tmp_path: Path) -> None:
    one = json.loads(ok("evaluate", tiny_run, *GENERATION, "--out", tmp_path / "g", "--json").stdout)
    two = json.loads(ok("evaluate", tiny_run, *GENERATION, "--json").stdout)
    assert one == two
    assert one["extractor"].startswith("labels-only-")
    assert one["n"] == 20
    assert one["n_real"] == 1437
    measures = {"fd", "kid", "precision", "recall", "density", "coverage", "guided_fd", "class_hit"}
    assert measures <= set(one)
    assert {p.name for p in (tmp_path / "g").iterdir()} == {"generation.csv", "samples.png", ".ssld-outputs.json"}
    assert pd.read_csv(tmp_path / "g" / "generation.csv")["fd"][0] == pytest.approx(one["fd"])


def test_a_run_without_labels_needs_an_extractor_and_has_no_classes_to_hit(unlabeled_run: Path, tiny_run: Path) -> None:
    assert "name a run with classes with --extractor" in refused("evaluate", unlabeled_run, *GENERATION)
    values = json.loads(ok("evaluate", unlabeled_run, *GENERATION, "--extractor", tiny_run, "--json").stdout)
    assert values["extractor"].startswith("classifier-")
    assert "class_hit" not in values


def test_the_extractor_is_not_the_model_itself(tiny_run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    extractor = labels_only_extractor(run, digits_pool, tmp_path)
    again = labels_only_extractor(run, digits_pool, tmp_path)
    assert extractor.name == again.name != extractor_of_run(run).name
    (kept,) = (tmp_path / "extractors").iterdir()
    features = extractor.features(digits_pool.images[:7])
    assert features.shape == (7, sum(run.model.unet.last_channels))
    kept.write_bytes(b"damaged")
    assert labels_only_extractor(run, digits_pool, tmp_path).name == extractor.name


def test_real_features_are_kept_by_content(digits_pool: Pool, tmp_path: Path) -> None:
    calls = []

    def features(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return images.reshape(len(images), -1)[:, :5].astype(np.float32)

    one = real_features(Extractor("a-1", features), digits_pool, tmp_path)
    two = real_features(Extractor("a-1", features), digits_pool, tmp_path)
    np.testing.assert_array_equal(one, two)
    assert calls == [1437]
    real_features(Extractor("a-2", features), digits_pool, tmp_path)
    assert calls == [1437, 1437]


def test_the_judge_sees_guided_samples_of_every_class(tiny_run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    def pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, ::9].astype(np.float32) / 255

    def always_three(images: np.ndarray) -> np.ndarray:
        return np.tile(np.eye(10, dtype=np.float32)[3], (len(images), 1))

    report = evaluate_generation(
        load_run(tiny_run, "cpu", "fp32"), digits_pool, Extractor("p", pixels, always_three), n=20, cache_dir=tmp_path
    )
    assert report.metrics["class_hit"] == pytest.approx(0.1)
    assert report.images.shape == (20, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--generation", "--data", "photos"], "leave out --data"),
        (["--extractor", "other"], "are used only with --generation"),
        (["--generation", "--extractor", "a", "--inception", "b"], "give only one of them"),
        (["--generation", "--extractor", "missing"], "no run folder missing"),
        (["--generation", "--inception", "missing.pth"], "missing.pth"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny_run: Path, arguments: list[str], said: str) -> None:
    assert said in refused("evaluate", tiny_run, *arguments, *CPU)


@pytest.mark.slow
def test_only_inception_features_may_be_called_fid(
    tiny_run: Path, digits_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed")
    network = module.FeatureExtractorInceptionV3

    class Fresh(network):  # type: ignore[misc, valid-type]
        def load_state_dict(self, *_: object) -> None:
            """Stay as it was made: the published weights would be downloaded."""

    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
    torch.save(Fresh("inception", ["2048"]).state_dict(), tmp_path / "weights.pth")
    extractor = inception_extractor(tmp_path / "weights.pth")
    assert extractor.name.startswith("inception-")
    few = Pool(
        "few", digits_pool.images[:12], digits_pool.ids[:12], digits_pool.labels[:12], digits_pool.classes, np.zeros(12, bool)
    )
    report = evaluate_generation(load_run(tiny_run, "cpu", "fp32"), few, extractor, n=10, cache_dir=tmp_path)
    assert "fid" in report.metrics
    assert "fd" not in report.metrics
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(RunError, match="does not hold the weights"):
        inception_extractor(tmp_path / "bad.pth")
