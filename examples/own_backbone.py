"""A backbone of your own: features from patches that k-means learns from unlabeled images (Coates and Ng 2012).

Run it with `python examples/own_backbone.py`; it takes seconds. A network of yours, with weights from a file, is wrapped in
the same way. To offer it to others, put the class into a package of yours that names it as an entry point:

    [project.entry-points."ssld.backbones"]
    patches = "my_package.backbones"
"""

import hashlib
import tempfile

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ssl_diffusion.data import choose_labeled, load_dataset
from ssl_diffusion.inference import pool_features
from ssl_diffusion.models import Backbone, fit_images, load_backbone, register_backbone
from ssl_diffusion.testing import BackboneContract, check


@register_backbone("patches")
class Patches(Backbone):
    """How much of each of 64 learned patches is in each ninth of a gray image of 8 pixels; gradients run through it."""

    n_features = 64 * 9
    input_size = 8

    def __init__(self) -> None:
        super().__init__()
        images = torch.from_numpy(load_dataset("digits").images[:500]).float() / 127.5 - 1
        patches = nn.functional.unfold(images, 4).transpose(1, 2).reshape(-1, 16)[::5]
        centers = KMeans(64, n_init=1, random_state=0).fit(patches - patches.mean(dim=1, keepdim=True)).cluster_centers_
        centers /= np.linalg.norm(centers, axis=1, keepdims=True).clip(1e-6)
        self.register_buffer("kernels", torch.from_numpy(centers).float().view(64, 1, 4, 4))
        # Features are kept under the identity, so it must change when they do.
        self.identity = f"patches {hashlib.sha256(centers.round(3).tobytes()).hexdigest()[:16]}"

    def features(self, x: Tensor) -> Tensor:
        """Features of images in [-1, 1] of any size, gray or in color, (B, 576)."""
        x = fit_images(x.mean(dim=1, keepdim=True), size=8)
        found = nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), value=-1.0), self.get_buffer("kernels"))
        more = (found - found.mean(dim=1, keepdim=True)).relu()  # of a patch than of the average one
        return nn.functional.adaptive_avg_pool2d(more, 3).flatten(1)


# The contract: the same features in any company, frozen weights, gradients where they are announced. In a file of tests, pytest
# finds a class like this one by itself.
class TestPatches(BackboneContract):
    """Everything that reads features relies on this."""

    def make_backbone(self) -> Backbone:
        """Every call gives one with the same weights."""
        return Patches()


if __name__ == "__main__":
    print(f"the contract is kept: {check(TestPatches())} tests")

    pool = load_dataset("digits")
    z = pool_features(load_backbone("patches"), pool)
    known = pool.positions(choose_labeled(pool, 100, seed=0).train)
    for name, x in (("pixels", pool.images.reshape(len(pool), -1)), ("patches", z)):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x[known], pool.labels[known])
        print(f"{name}: {probe.score(x[pool.test], pool.labels[pool.test]):.1%} of the test digits with 100 labels")

    # Features from anywhere else need no class: a file of them by sample id is a backbone, too.
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/features.npz", ids=pool.ids, features=z)
        same = np.array_equal(pool_features(load_backbone(f"precomputed:{folder}/features.npz"), pool), z)
    print(f"features.npz has the same features: {same}")
