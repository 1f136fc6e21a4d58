r"""Classes of different sizes: weights in the loss, and thresholds after the fit.

With :math:`n_k` of :math:`n` labels of class k and K classes that occur, balanced weights are :math:`n / (K n_k)`, so that
every class weighs the same; in multi-label data the answer "yes" of a class weighs :math:`(n - n_k) / n_k` times as much as
"no".

Balanced thresholds leave the fit as it is and take the classes' frequencies out of its logits,
:math:`z_k - \log(K n_k / n)`, or :math:`z_k - \log(n_k / (n - n_k))` in multi-label data (logit adjustment; Menon et al. 2021,
arXiv 2007.07314): the least balanced error where the probabilities are right. Afterwards they are those of a population in
which all classes are as frequent.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.training.result import Fitted

__all__ = ["balanced_weights", "threshold_shift", "with_balanced_thresholds"]


def balanced_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Weights of the classes, float32 (K,), with which every class that occurs weighs the same; 1 for others.

    Args:
        labels: Classes, int64 (n,), or 0/1 for every class, float32 (n, K), for multi-label data.
        n_classes: Number of classes K.

    Example:
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), 2).tolist()
        [0.6666666865348816, 2.0]
    """
    n = len(labels)
    if labels.ndim == 2:
        positive = labels.sum(dim=0)
        return torch.where((positive > 0) & (positive < n), (n - positive) / positive.clamp(min=1), torch.ones(n_classes))
    counts = torch.bincount(labels, minlength=n_classes).float()
    return torch.where(counts > 0, n / (counts.clamp(min=1) * (counts > 0).sum()), torch.ones(n_classes))


def threshold_shift(labels: Tensor, n_classes: int) -> Tensor:
    """What balanced thresholds add to the logits, float32 (K,): logarithms of the balanced weights, 0 for those without labels.

    Args:
        labels: Classes as :func:`balanced_weights` takes them.
        n_classes: Number of classes K.
    """
    return balanced_weights(labels, n_classes).log()


def with_balanced_thresholds(fitted: Fitted, pool: Pool, labeled: LabeledSet) -> Fitted:
    """A fitted model whose logits name rare classes more often.

    Args:
        fitted: Fitted model with a head.
        pool: Images.
        labeled: Labels that it was fitted to.
    """
    labels = torch.from_numpy(np.asarray(pool.labels[pool.positions(labeled.train)]))
    shift = threshold_shift(labels.float() if labels.ndim == 2 else labels, len(pool.classes))

    def shifted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        biases = sorted(name for name in weights if name.startswith("head.") and name.endswith(".bias"))
        return weights | {name: weights[name] + shift.to(weights[name]) for name in biases[-1:]}

    return replace(fitted, ema=shifted(fitted.ema), raw=shifted(fitted.raw))
