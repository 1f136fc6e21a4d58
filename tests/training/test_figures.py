"""Pictures: what they show, and that they can be written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from support.canvas import assert_legible

from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.figures import calibration_figure, confusion_figure, history_figure, reconstruction_figure


def write(figure: Figure, path: Path) -> None:
    """Save a figure and check that the file is a picture that is not of one color."""
    figure.savefig(path, dpi=50)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(set(image.convert("L").tobytes())) > 10
    assert not pyplot.get_fignums()  # nothing is left in pyplot's global state


def history(phases: dict[str, list[str]]) -> pd.DataFrame:
    rows = []
    for phase, columns in phases.items():
        for step in (1, 2, 3):
            rows.append({"phase": phase, "step": step, "images_seen": 100 * step, **dict.fromkeys(columns, 1.0 / step)})
    return pd.DataFrame(rows)


def test_history_of_a_joint_run(tmp_path: Path) -> None:
    frame = history(
        {"pretraining": ["denoising_loss"], "training": ["denoising_loss", "classification_loss", "labeled_accuracy"]}
    )
    figure = history_figure(frame)
    denoising, classification, accuracy = figure.axes
    assert [axis.get_title(loc="left").split(" ")[0] for axis in figure.axes] == ["denoising", "classification", "accuracy"]
    assert [len(axis.lines) for axis in figure.axes] == [2, 1, 1]
    assert denoising.get_yscale() == "log"
    assert [text.get_text() for text in denoising.get_legend().get_texts()] == ["pretraining", "training"]
    # Training continues where pretraining ended on the axis of images seen, in thousands.
    np.testing.assert_allclose(denoising.lines[0].get_xdata(), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(denoising.lines[1].get_xdata(), [0.4, 0.5, 0.6])
    np.testing.assert_allclose(classification.lines[0].get_xdata(), [0.4, 0.5, 0.6])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    write(figure, tmp_path / "history.png")


@pytest.mark.parametrize(
    ("phases", "panels"),
    [
        ({"training": ["classification_loss", "labeled_accuracy"]}, ["classification", "accuracy"]),
        ({"pretraining": ["denoising_loss"]}, ["denoising"]),
        ({"training": ["classification_loss", "mask_rate"]}, ["classification", "pseudo-labels"]),
    ],
    ids=["labels-only", "denoise-only", "truth unknown"],
)
def test_history_shows_only_what_was_trained(tmp_path: Path, phases: dict[str, list[str]], panels: list[str]) -> None:
    figure = history_figure(history(phases))
    assert [axis.get_title(loc="left").split(" ")[0] for axis in figure.axes] == panels
    assert [len(axis.lines) for axis in figure.axes] == [1] * len(panels)
    write(figure, tmp_path / "history.png")


def test_history_tells_pseudo_labels_that_were_kept_from_those_that_were_right(tmp_path: Path) -> None:
    frame = history({"training": ["classification_loss", "mask_rate", "pseudo_label_accuracy"]})
    figure = history_figure(frame)
    panel = figure.axes[-1]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["kept", "of these right"]
    write(figure, tmp_path / "history.png")


def test_confusion_shows_counts_and_shares_of_the_true_class(tmp_path: Path) -> None:
    confusion = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    figure = confusion_figure(confusion, ("ant", "bee", "cat"), 0.65)
    axis = figure.axes[0]
    assert {(text.get_position(), text.get_text()) for text in axis.texts} == {
        ((0, 0), "8"),
        ((1, 0), "2"),
        ((1, 1), "5"),
        ((2, 1), "5"),
    }
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.8, 0.2, 0], [0, 0.5, 0.5], [0, 0, 0]])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ant", "bee", "cat"]
    assert axis.get_title(loc="left") == "test accuracy 65.0% of 20 images"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")
    write(figure, tmp_path / "confusion.png")


def test_confusion_of_many_classes_stays_readable() -> None:
    figure = confusion_figure(np.eye(100, dtype=np.int64), [f"class {k}" for k in range(100)], 1.0)
    assert not figure.axes[0].texts
    assert figure.get_size_inches().max() <= 12


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_reconstructions_show_every_image_at_every_level(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    unet = ModelSettings(channels=8, multipliers=(1, 2), blocks=1, groups=4)
    model = JointDiffusion(JointConfig(model=unet, image_shape=(channels, 6, 5), sigma_data=0.5)).train()
    images = np.random.default_rng(0).integers(0, 256, (3, channels, 6, 5), dtype=np.uint8)
    figure = reconstruction_figure(model, images, levels=(0.2, 1.0))
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        *("clean", "noised, σ = 0.2", "denoised", "noised, σ = 1", "denoised")
    ]
    assert axis.get_yticks().tolist() == [2.5, 9.5, 16.5, 23.5, 30.5]
    sheet = np.asarray(axis.images[0].get_array(), dtype=np.float64)

    def shown(row: int, column: int) -> np.ndarray:
        return sheet[7 * row : 7 * row + 6, 6 * column : 6 * column + 5]

    assert sheet.shape[:2] == (34, 17)
    assert (sheet[6::7] == 1).all()  # white between them
    assert (sheet[:, 5::6] == 1).all()
    for column in range(3):
        clean = images[column] / 255.0
        np.testing.assert_allclose(shown(0, column), clean[0] if channels < 3 else clean.transpose(1, 2, 0), atol=1e-6)
        # The same noise at every level, and a fresh denoiser that shrinks what it sees by c_skip = 0.25 / (0.25 + sigma^2).
        noised, denoised = 2 * shown(1, column) - 1, 2 * shown(2, column) - 1
        inside = np.abs(noised) < 0.99  # not clipped for display
        assert inside.any()
        np.testing.assert_allclose(denoised[inside], noised[inside] * 0.25 / 0.29, atol=1e-5)
        assert np.abs(shown(3, column) - shown(0, column)).mean() > np.abs(shown(1, column) - shown(0, column)).mean()
    assert model.training  # left as found
    assert_legible(figure)
    write(figure, tmp_path / "reconstructions.png")


def test_reconstructions_repeat() -> None:
    torch.manual_seed(0)
    model = JointDiffusion(
        JointConfig(model=ModelSettings(channels=8, multipliers=(1,), blocks=1, groups=4), image_shape=(1, 4, 4))
    )
    images = np.random.default_rng(0).integers(0, 256, (1, 1, 4, 4), dtype=np.uint8)
    first, again = (
        [np.asarray(axis.images[0].get_array()) for axis in reconstruction_figure(model, images, levels=(1.0,)).axes]
        for _ in range(2)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_calibration_shows_accuracy_against_confidence(tmp_path: Path) -> None:
    p = np.array([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2, dtype=np.float32)
    labels = np.array([0, 0, 0, 1, 1, 0])
    figure = calibration_figure(p, labels, bins=10)
    top, bottom = figure.axes
    diagonal, ours = top.lines
    np.testing.assert_allclose(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(ours.get_xdata(), [0.65, 0.95], rtol=1e-5)
    np.testing.assert_allclose(ours.get_ydata(), [0.5, 0.75])
    assert [bar.get_height() for bar in bottom.patches] == [0, 0, 0, 0, 0, 0, 2, 0, 0, 4]
    assert bottom.get_ylabel() == "images"
    write(figure, tmp_path / "calibration.png")


def test_calibration_of_multilabel_models_counts_decisions() -> None:
    p = np.array([[0.95, 0.05], [0.15, 0.95]], dtype=np.float32)
    figure = calibration_figure(p, np.array([[1, 0], [0, 0]]), bins=10)
    top, bottom = figure.axes
    assert sum(bar.get_height() for bar in bottom.patches) == 4
    assert bottom.get_ylabel() == "decisions"
    np.testing.assert_allclose(top.lines[1].get_ydata(), [1.0, 2 / 3])
