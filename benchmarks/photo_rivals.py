"""What a user with photos and few labels would try first: the rivals of :mod:`photos`, on the labels that `ssld fit` would use.

Each takes the inputs of training images, their classes (-1: not known, where it sees such images), the inputs of the test
images, the number of classes and a seed, and returns class probabilities of the test images, (n, K).
"""

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from baselines import Array, Labels, graph_learning, label_spreading, self_training
from numpy.typing import NDArray
from photo_data import BACKBONE
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.backbones.registry import load_backbone
from ssl_diffusion.models.pixels import to_floats

__all__ = ["RIVALS"]

Rival = Callable[[Array, Labels, Array, int, int], Array]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse ones, C
FINE_TUNING_SECONDS = 100.0


def logistic_regression(standardised: bool) -> Rival:
    """scikit-learn's logistic regression, C by the likelihood of up to 5 folds, on inputs as they are or standardised.

    Fewer labels than features are turned into the space that they span, which changes nothing but the time.
    """

    def run(train: Array, y: Labels, test: Array, n_classes: int, seed: int) -> Array:
        folds = min(5, int(np.bincount(y, minlength=n_classes).min()))
        search = LogisticRegressionCV(
            Cs=PENALTIES,
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            scoring="neg_log_loss",
            max_iter=300,
            tol=1e-3,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        )
        steps = [*([StandardScaler()] if standardised else []), *([PCA()] if len(train) < train.shape[1] else [])]
        model = make_pipeline(*steps, search)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest penalties, which then lose
            model.fit(train, y)
        return np.asarray(model.predict_proba(test))

    return run


def fine_tuning(seconds: float = FINE_TUNING_SECONDS, learning_rate: float = 1e-4) -> Rival:
    """All of EfficientNet-Lite0 on the labels alone, for so many CPU seconds: AdamW on batches of 16 with random flips, a
    learning rate that falls as a cosine, batch normalisation as ImageNet left it; the head starts at logistic regression."""

    def run(train: NDArray[np.uint8], y: Labels, test: NDArray[np.uint8], n_classes: int, seed: int) -> Array:
        generator = torch.Generator().manual_seed(seed)
        backbone = load_backbone(BACKBONE)
        classes = torch.from_numpy(y)
        began = time.process_time()
        head = _start(_embed(backbone, train), y)
        backbone.requires_grad_(True)
        groups = [
            {"params": list(backbone.parameters()), "lr": learning_rate},
            {"params": list(head.parameters()), "lr": 10 * learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
        rates = [group["lr"] for group in optimizer.param_groups]
        while (done := (time.process_time() - began) / seconds) < 1:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 + np.cos(np.pi * done)) / 2
            chosen = torch.randint(len(train), (16,), generator=generator)
            x = to_floats(train[chosen.numpy()], torch.device("cpu"))
            flipped = torch.rand(len(x), generator=generator) < 0.5
            x[flipped] = x[flipped].flip(-1)
            loss = functional.cross_entropy(head(backbone.features(x)), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        backbone.requires_grad_(False)
        with torch.inference_mode():
            return head(torch.from_numpy(_embed(backbone, test))).softmax(dim=1).numpy()

    return run


def _embed(backbone: Backbone, images: NDArray[np.uint8], batch: int = 16) -> Array:
    parts = (images[start : start + batch] for start in range(0, len(images), batch))
    return np.concatenate([backbone.embed([""] * len(part), part) for part in parts])


def _start(z: Array, y: Labels) -> nn.Linear:
    model = LogisticRegression(C=0.1, max_iter=300, tol=1e-3).fit(z, y)
    head = nn.Linear(z.shape[1], len(model.classes_))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(model.coef_))
        head.bias.copy_(torch.from_numpy(model.intercept_))
    return head


# name: (method, what it reads, whether it sees the training images without a label)
RIVALS: dict[str, tuple[Rival, str, bool]] = {
    "pixels, logistic regression": (logistic_regression(standardised=False), "pixels", False),
    "HOG, logistic regression": (logistic_regression(standardised=False), "HOG", False),
    "Lite0, logistic regression": (logistic_regression(standardised=False), "features", False),
    "Lite0, logistic regression, standardised": (logistic_regression(standardised=True), "features", False),
    "Lite0 of all levels, logistic regression, standardised": (
        logistic_regression(standardised=True),
        "features of all levels",
        False,
    ),
    "Lite0, LabelSpreading": (label_spreading, "feature components", True),
    "Lite0, SelfTraining": (self_training, "feature components", True),
    "Lite0, Laplace": (graph_learning("laplace"), "feature components", True),
    "Lite0, Poisson": (graph_learning("poisson"), "feature components", True),
    "Lite0, fine-tuned": (fine_tuning(), "images", False),
}
