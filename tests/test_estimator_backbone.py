"""The estimator with a backbone."""

import pickle
from typing import Any

import numpy as np
import pytest
from support.backbones import Quadrants

from ssl_diffusion import JointDiffusionClassifier

NETWORK = {"model.channels": 8, "model.multipliers": [1], "model.blocks": 1, "model.stem": 1, "model.groups": 4}


def tiny(**parameters: Any) -> JointDiffusionClassifier:
    """An estimator that fits in a fraction of a second."""
    sizes = {"max_steps": 3, "batch_size": 4, "labeled_batch_size": 8, "settings": NETWORK}
    return JointDiffusionClassifier(**sizes, accelerator="cpu", precision="fp32", random_state=0, **parameters)


def test_a_backbone_joins_the_probe() -> None:
    """It is said what was chosen, kept in pickles by its name only, and refused where it cannot be read."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (24, 3, 6, 5), dtype=np.uint8), np.arange(24) % 3 - 1
    X[y == 1] //= 2
    assert Quadrants.identity == "quadrants 24px"
    clf = tiny(objective="probe", backbone="quadrants", pretrain_steps=2).fit(X, y)
    assert (clf.backbone_["identity"], clf.backbone_["reads"]) == (Quadrants.identity, "images")
    assert clf.transform(X).shape[1] == clf.model_.denoiser_features + 12
    data = pickle.dumps(clf)
    assert len(data) < 2 * len(pickle.dumps(tiny(objective="probe", pretrain_steps=2).fit(X, y)))
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(X), clf.predict_proba(X))
    joint = tiny(backbone="quadrants", pretrain_steps=2).fit(X, y)
    assert joint.n_iter_ == 3
    assert joint.transform(X).shape == clf.transform(X).shape
    with pytest.raises(ValueError, match="the objective 'labels-only' does not read a backbone yet"):
        tiny(objective="labels-only", backbone="quadrants").fit(X, y)
    with pytest.raises(ValueError, match="images in X have none: name a network"):
        tiny(objective="probe", backbone="precomputed:f.npz", pretrain_steps=2).fit(X, y)
