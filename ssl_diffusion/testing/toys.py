"""Models whose denoiser, classifier and boundary are known in closed form; they stand in for a JointDiffusion."""

import math

from torch import Tensor, nn

from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.noise import EDM

__all__ = ["GaussianDenoiser", "LinearModel"]


class GaussianDenoiser:
    """Exact denoiser of images ~ N(mean, basis diag(variances) basis^T); basis columns are orthonormal, (d, r)."""

    def __init__(self, mean: Tensor, basis: Tensor, variances: Tensor) -> None:
        self.mean, self.basis, self.variances = mean.flatten(), basis, variances

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Mean of the clean images given a noised one."""
        apart = x.flatten(1).to(self.mean) - self.mean
        shrunk = (apart @ self.basis) * (self.variances / (self.variances + sigma**2))
        return (self.mean + shrunk @ self.basis.T).view(x.shape).to(x.dtype)


class LinearModel(nn.Module):
    """Softmax regression on pixels in [-1, 1]; the representation is the image itself, flattened."""

    def __init__(self, weight: Tensor, bias: Tensor, shape: tuple[int, int, int], denoiser: GaussianDenoiser) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.denoiser, self.noise = denoiser, EDM()
        self.n_features = math.prod(shape)
        self.config = JointConfig(n_classes=len(bias), image_shape=shape)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See :meth:`JointDiffusion.denoise`."""
        return self.denoiser(x, float(sigma))

    def representation(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """The image itself, (n, C * H * W)."""
        return x.flatten(1)

    def classify_representation(self, z: Tensor) -> Tensor:
        """Logits, (n, K)."""
        return z @ self.weight.T + self.bias

    def classify(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Logits of images, (n, K)."""
        return self.classify_representation(self.representation(x, sigma))
