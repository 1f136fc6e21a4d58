"""Foreign images stand out, copies do not hide them, and each fault of an image file is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ssl_diffusion.curation import find_outliers
from ssl_diffusion.curation.image_faults import image_faults, survey
from ssl_diffusion.errors import DataError


def test_images_far_from_all_others_are_foreign() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, 12)).astype(np.float32)
    z[[3, 90]] += 40 * rng.standard_normal((2, 12)).astype(np.float32)
    found = find_outliers(z)
    assert set(np.argsort(-found.score)[:2]) == {3, 90}
    assert found.flagged[[3, 90]].all()
    assert found.flagged.mean() < 0.02
    assert not found.denoising.any()


def test_copies_of_a_foreign_image_do_not_hide_it() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 12)).astype(np.float32)
    z[:8] = 30  # the same foreign image eight times
    group = np.concatenate([np.zeros(8, dtype=np.int64), np.arange(8, 300)])
    assert not find_outliers(z).flagged[:8].any()
    assert find_outliers(z, group=group).flagged[:8].all()


@pytest.mark.parametrize("several", [6, 12, 24])
def test_foreign_images_of_one_kind_do_not_hide_one_another(several: int) -> None:
    rng = np.random.default_rng(several)
    z = rng.standard_normal((1000, 64)).astype(np.float32)
    z[:several] = 1.5 * rng.standard_normal(64) + 0.5 * z[:several]
    found = find_outliers(z)
    assert found.flagged[:several].all()
    assert found.flagged[several:].sum() <= several
    assert set(np.argsort(-found.score)[:several]) == set(range(several))
    assert found.kind[:several].min() > found.kind[several:].max()


def test_a_small_class_of_its_own_is_not_foreign() -> None:
    rng = np.random.default_rng(4)
    z = rng.standard_normal((1000, 64)).astype(np.float32)
    z[:12] = 1.5 * rng.standard_normal(64) + 0.5 * z[:12]
    labels = rng.integers(1, 5, 1000)
    labels[500:] = -1
    assert find_outliers(z, labels=labels).flagged[:12].all()  # they have the labels of all the others
    labels[:12] = 0
    assert not find_outliers(z, labels=labels).flagged[:12].any()
    labels[500:540] = 0
    assert find_outliers(z, labels=labels).flagged[:12].all()  # most of their class look otherwise


def test_what_the_denoiser_restores_badly_is_foreign() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 12)).astype(np.float32)
    errors = np.exp(0.1 * rng.standard_normal((2, 300))).astype(np.float32)
    errors[:, 5] *= 4
    found = find_outliers(z, errors=errors)
    assert (int(found.score.argmax()), bool(found.flagged[5])) == (5, True)
    assert found.ordinary[5] < 0.01 < found.ordinary[6]
    assert found.denoising[5] > 5 > found.distance[5]


def test_a_measure_with_a_heavy_tail_keeps_silent_beside_one_that_is_sure() -> None:
    rng = np.random.default_rng(1)
    z = rng.standard_normal((1000, 12)).astype(np.float32)
    foreign = np.arange(1000) < 10
    z[foreign] += 6 * rng.standard_normal((10, 12)).astype(np.float32)
    errors = np.exp(rng.standard_t(2, (1, 1000))).astype(np.float32)  # large ones are quite ordinary
    with_errors, without = find_outliers(z, errors=errors), find_outliers(z)
    assert with_errors.denoising[~foreign].max() > with_errors.distance[foreign].max()
    assert set(np.argsort(-without.score)[:10]) == set(np.flatnonzero(foreign))
    assert np.isin(np.argsort(-with_errors.score)[:10], np.flatnonzero(foreign)).sum() >= 9
    assert (with_errors.flagged & ~foreign).sum() <= 3


def test_nothing_is_foreign_where_nothing_is_odd() -> None:
    rng = np.random.default_rng(2)
    z = rng.standard_normal((2000, 8)).astype(np.float32)
    errors = np.exp(0.3 * rng.standard_normal((1, 2000))).astype(np.float32)
    images = rng.integers(0, 256, (2000, 1, 8, 8), dtype=np.uint8)
    assert find_outliers(z, errors=errors, images=images).flagged.sum() <= 2


def test_rich_detail_explains_a_large_error_and_little_detail_does_not() -> None:
    rng = np.random.default_rng(3)
    z = rng.standard_normal((1000, 8)).astype(np.float32)
    contrast = rng.uniform(5, 60, 1000)
    images = np.clip(128 + contrast[:, None, None, None] * rng.standard_normal((1000, 1, 12, 12)), 0, 255).astype(np.uint8)
    errors = (1e-4 * contrast**2 * np.exp(0.05 * rng.standard_normal(1000))).astype(np.float32)[None]
    plain = int(contrast.argmin())
    errors[0, plain] = np.median(errors)  # as much as of other images, but not of such a plain one
    found = find_outliers(z, errors=errors, images=images)
    assert (int(found.score.argmax()), bool(found.flagged[plain])) == (plain, True)
    assert found.flagged.sum() <= 3
    assert not find_outliers(z, errors=errors).flagged[plain]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_images_have_scores(n: int) -> None:
    errors, images = np.full((1, n), 0.1, dtype=np.float32), np.zeros((n, 3, 1, 4), dtype=np.uint8)
    found = find_outliers(np.ones((n, 4), dtype=np.float32), errors=errors, images=images)
    assert np.isfinite(found.score).all()
    assert ((found.ordinary >= 0) & (found.ordinary <= 1)).all()


def test_faults_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {
        f"{i}.png": Image.fromarray(np.clip(rng.normal(rng.uniform(90, 150), 50, (40, 40)), 0, 255).astype(np.uint8)).convert(
            "RGB"
        )
        for i in range(20)
    }
    first = images["0.png"]
    images |= {
        "dark": Image.fromarray((np.asarray(first) // 6).astype(np.uint8)),
        "bright": Image.fromarray((np.asarray(first) // 6 + 210).astype(np.uint8)),
        "low information": Image.new("RGB", (40, 40), (90, 120, 30)),
        "blurred": images["1.png"].filter(ImageFilter.GaussianBlur(5)).point(lambda v: max(0, min(255, (v - 120) * 6 + 120))),
        "odd size": images["2.png"].resize((200, 200), Image.Resampling.NEAREST),
        "odd aspect": images["3.png"].resize((120, 40), Image.Resampling.NEAREST),
    }
    files = []
    for name, image in images.items():
        files.append(tmp_path / f"{name}.png")
        image.save(files[-1])
    found = image_faults(survey(np.zeros((len(files), 3, 8, 8), np.uint8), files))
    named = {(fault, files[i].stem) for fault, i, _, _ in found}
    assert named >= {(fault, fault) for fault in list(images)[20:]}
    assert not {stem for _, stem in named} & {f"{i}.png" for i in range(20)}
    assert all(score > 0 and text for _, _, score, text in found)


def test_a_file_that_has_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read: file not found"):
        survey(np.zeros((1, 3, 8, 8), np.uint8), [tmp_path / "gone.png"])
