r"""Pseudo-labels: the prediction for a weak view of an unlabeled image is the target for a strong view of it.

FixMatch (Sohn et al. 2020, arXiv 2001.07685) keeps the pseudo-labels whose probability exceeds a fixed threshold. Here the
threshold adapts, as in FreeMatch (Wang et al. 2022, arXiv 2205.07246, eqs. 5 to 8): a global part follows the mean
confidence, and classes that the model predicts more rarely have a lower one. Before that, the predictions are aligned to the
class frequencies of the labels (ReMixMatch, Berthelot et al. 2019, arXiv 1911.09785, sec. 3.1); without this, one class tends
to absorb another when there are few labels:

.. math::
    \tilde q \propto q \, \pi / \bar q, \qquad
    \tau_k = \tau \, \bar q_k / \max_j \bar q_j, \qquad
    L = \mathbb E \, [\max \tilde q \ge \tau_{\hat y}] \; CE(\mathrm{strong}, \hat y), \quad \hat y = \arg\max \tilde q

with :math:`\bar q` and :math:`\tau` moving averages of the predictions and of their confidence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Match", "MatchResult"]


@dataclass(frozen=True)
class MatchResult:
    """Result of one batch.

    Attributes:
        loss: Mean loss over all images of the batch, a scalar.
        confident: Whether the images passed the threshold, bool, (B,).
        pseudo_labels: Pseudo-labels of the images, int64, (B,).
    """

    loss: Tensor
    confident: Tensor
    pseudo_labels: Tensor


class Match(nn.Module):
    """The consistency loss and its moving averages, which are buffers and belong to a checkpoint.

    Args:
        n_classes: Number of classes K.
        frequencies: Class frequencies to align the predictions to, (K,), with sum 1; None leaves the predictions as they are.
        threshold: Fixed threshold in (0, 1], as in FixMatch; 0 adapts it.
        momentum: Momentum m of the moving averages per step. In the first 1 / (1 - m) steps they are means over all steps, so
            that a model that starts confident has a high threshold from its first step on.
    """

    confidence: Tensor
    marginal: Tensor
    steps: Tensor

    def __init__(
        self, n_classes: int, frequencies: Tensor | None = None, threshold: float = 0.0, momentum: float = 0.99
    ) -> None:
        super().__init__()
        self.frequencies, self.threshold, self.momentum = frequencies, threshold, momentum
        self.register_buffer("confidence", torch.tensor(1 / n_classes))
        self.register_buffer("marginal", torch.full((n_classes,), 1 / n_classes))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, weak: Tensor, strong: Tensor) -> MatchResult:
        """Loss of strong views under the pseudo-labels of weak views.

        Args:
            weak: Logits of the weak views, (B, K).
            strong: Logits of the strong views, (B, K).
        """
        q = weak.detach().float().softmax(dim=1)
        self.steps += 1
        self._follow("marginal", q.mean(dim=0))
        if self.frequencies is not None:
            q = q * (self.frequencies.to(q) / self.marginal.clamp(min=1e-6))
            q = q / q.sum(dim=1, keepdim=True)
        highest, pseudo_labels = q.max(dim=1)
        self._follow("confidence", highest.mean())
        confident = highest >= self._thresholds(pseudo_labels)
        losses = functional.cross_entropy(strong.float(), pseudo_labels, reduction="none")
        return MatchResult((losses * confident).mean(), confident, pseudo_labels)

    def _thresholds(self, pseudo_labels: Tensor) -> Tensor | float:
        if self.threshold:
            return self.threshold
        return self.confidence * (self.marginal / self.marginal.max())[pseudo_labels]

    def _follow(self, name: str, now: Tensor) -> None:
        """Move an average towards the value of this batch, averaged over the ranks."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            now = now.clone()
            torch.distributed.all_reduce(now)
            now = now / torch.distributed.get_world_size()
        getattr(self, name).lerp_(now, max(1 - self.momentum, 1 / float(self.steps)))
