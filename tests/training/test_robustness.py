"""Data as it is outside of benchmarks: classes that nobody labeled, wrong labels, pools of uneven classes."""

from dataclasses import replace

import numpy as np
import pytest

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.training.fit import fit_model
from ssl_diffusion.training.recipe import Recipe, load_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("digits").with_overrides(["pretraining.steps=300", "training.steps=150", "training.consistency=match"])


def accuracy(recipe: Recipe, pool: Pool, labeled: LabeledSet, classes: range = range(10)) -> float:
    """On the test images of some classes."""
    test = pool.test[np.isin(pool.labels[pool.test], classes)]
    logits = predict_logits(fit_model(recipe, pool, labeled).model(), pool.images[test])
    return float((logits.argmax(axis=1) == pool.labels[test]).mean())


def test_classes_that_only_the_unlabeled_images_have_do_not_spoil_the_others(recipe: Recipe, digits_pool: Pool) -> None:
    labeled = choose_labeled(digits_pool, 100, seed=0)
    positions = digits_pool.positions(labeled.train)
    known = LabeledSet(tuple(map(str, digits_pool.ids[positions[digits_pool.labels[positions] < 8]])))
    clean = accuracy(recipe, digits_pool.select(digits_pool.labels < 8), known, range(8))
    mixed = accuracy(recipe, digits_pool, known, range(8))
    assert clean > 0.95
    assert mixed > clean - 0.05


def test_a_tenth_of_the_labels_may_be_wrong(recipe: Recipe, digits_pool: Pool) -> None:
    labeled = choose_labeled(digits_pool, 100, seed=0)
    wrong = digits_pool.positions(labeled.train)[::10]
    labels = digits_pool.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 10
    assert accuracy(recipe, replace(digits_pool, labels=labels), labeled) > 0.88


def test_pseudo_labels_do_not_swallow_a_class_with_few_images(recipe: Recipe, digits_pool: Pool) -> None:
    """One class has a fifth of the images of the others, in the pool and among the labels."""
    ones = digits_pool.train[digits_pool.labels[digits_pool.train] == 1]
    gone = np.zeros(len(digits_pool), dtype=bool)
    gone[ones[len(ones) // 5 :]] = True
    pool = digits_pool.select(~gone)
    labeled = choose_labeled(pool, 120, seed=0, choice="uniform")
    matched = accuracy(recipe, pool, labeled, range(1, 2))
    plain = accuracy(recipe.with_setting("training.consistency", "none"), pool, labeled, range(1, 2))
    assert matched > plain - 0.1
