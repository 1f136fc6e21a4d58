"""A strategy of your own: uncertain samples first, and among those the classes of which there are few labels.

Run it with `python examples/own_strategy.py`; it takes a few seconds. To use it as `ssld query --strategy rare-margin`, put the
function into a package of yours that names it as an entry point:

    [project.entry-points."ssld.strategies"]
    rare-margin = "my_package.strategies"
"""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion import JointDiffusionClassifier
from ssl_diffusion.acquisition import Candidates, register_score
from ssl_diffusion.acquisition.adapters.arrays import choose_rows
from ssl_diffusion.data import load_dataset
from ssl_diffusion.testing import StrategyContract, check


# A score gives every candidate a number; how a batch is made of it (the best, diverse ones, a draw) is not its business.
@register_score(
    "rare-margin",
    needs="labels",  # "images" if it works without a classifier
    cost="one encoder pass over the pool",
    when="classes of which there are few labels",
    reference="this example",
)
def rare_margin(c: Candidates) -> NDArray[np.float64]:
    """1 - (p of the most probable class - p of the runner-up), times up to two where the predicted class has few labels."""
    two = np.sort(c.p, axis=1)[:, -2:].astype(np.float64)
    labels = np.bincount(c.labeled_classes, minlength=c.n_classes)
    rarity = 1 / (1 + labels)  # from 1, where a class has no label, to 0
    return (1 - (two[:, 1] - two[:, 0])) * (1 + rarity[c.p.argmax(axis=1)])


# The contract: distinct picks, finite utilities, same seed same batch, nothing changed, the boundary first. In a file of tests,
# pytest finds a class like this one by itself.
class TestRareMargin(StrategyContract):
    """Everything that `ssld query`, studies and annotation jobs rely on."""

    strategy = "rare-margin"


if __name__ == "__main__":
    print(f"the contract is kept: {check(TestRareMargin())} tests")

    # Of the digits 0 to 4 there are 12 labels each, of the others 3.
    pool = load_dataset("digits")
    y = np.full(len(pool), -1)
    for digit in range(10):
        y[np.flatnonzero(pool.labels == digit)[: 12 if digit < 5 else 3]] = digit
    small = {"model.channels": 8, "model.blocks": 1}  # a small model and few steps, for an example that takes seconds
    clf = JointDiffusionClassifier(recipe="digits", objective="probe", pretrain_steps=10, settings=small, random_state=0)
    clf.fit(pool.images, y)

    for name in ("margin", "rare-margin", "rare-margin:diverse"):
        chosen = pool.labels[choose_rows(clf, pool.images, y, 20, name).picks]
        print(f"{name}: {np.mean(chosen >= 5):.0%} of 20 new labels are of the digits with few")
