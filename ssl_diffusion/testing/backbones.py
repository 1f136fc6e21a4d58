"""What every backbone promises, as tests to inherit."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.inference.backbone_features import pool_features
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.pixels import to_floats
from ssl_diffusion.testing.base import raises, random_state

__all__ = ["BackboneContract"]


class BackboneContract:
    """Tests of a :class:`~ssl_diffusion.models.Backbone`; inherit them and say how one is made.

    Attributes:
        sample_ids: Four or more ids that a backbone has features of, where it looks them up by id.

    Example:
        >>> class TestMyBackbone(BackboneContract):
        ...     def make_backbone(self) -> Backbone:
        ...         return MyBackbone("weights.safetensors")
    """

    sample_ids: tuple[str, ...] = ("a", "b", "c", "d", "e")

    def make_backbone(self) -> Backbone:
        """A new backbone; every call gives one with the same weights."""
        raise NotImplementedError("say how a backbone is made: def make_backbone(self) -> Backbone")

    def images(self, channels: int = 3, height: int = 20, width: int = 17) -> NDArray[np.uint8]:
        """Images of noise, one for every id, uint8 (n, C, H, W)."""
        shape = (len(self.sample_ids), channels, height, width)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def test_it_says_what_it_is(self) -> None:
        """Identity, number of features, input size, and what it can do."""
        b = self.make_backbone()
        assert isinstance(b, Backbone), "it does not inherit from Backbone"
        assert isinstance(b.identity, str), "identity is not text"
        assert b.identity.strip(), "identity is empty"
        assert len(b.identity.splitlines()) == 1, "identity is not one line"
        assert isinstance(b.n_features, int), "n_features is not a whole number"
        assert b.n_features > 0, f"n_features is {b.n_features}"
        assert b.input_size is None or b.input_size > 0, f"input_size is {b.input_size}"
        assert isinstance(b.differentiable, bool), "differentiable is neither True nor False"
        assert isinstance(b.by_id, bool), "by_id is neither True nor False"
        assert not (b.by_id and b.differentiable), "no gradient runs through features that are looked up by id"

    def test_it_is_frozen(self) -> None:
        """No parameter would be trained: `self.requires_grad_(False)`."""
        trained = [name for name, p in self.make_backbone().named_parameters() if p.requires_grad]
        assert not trained, f"{len(trained)} parameters are not frozen, such as {trained[0]}"

    def test_features_are_as_many_as_it_says(self) -> None:
        """float32 (n, F), finite, another row for another image."""
        b = self.make_backbone()
        z = b.embed(self.sample_ids, self.images())
        assert z.dtype == np.float32, f"features are {z.dtype}, not float32"
        assert z.shape == (len(self.sample_ids), b.n_features), f"{z.shape} features, {b.n_features} an image were announced"
        assert np.isfinite(z).all(), "a feature is not finite"
        assert len(np.unique(z, axis=0)) == len(z), "different images have the same features"

    def test_the_same_weights_give_the_same_features(self) -> None:
        """Of another object, of the same one a second time, and under the same identity."""
        one, two = self.make_backbone(), self.make_backbone()
        assert one.identity == two.identity, "the same backbone, made again, has another identity"
        z = one.embed(self.sample_ids, self.images())
        np.testing.assert_array_equal(one.embed(self.sample_ids, self.images()), z, "a second time the features are others")
        np.testing.assert_allclose(two.embed(self.sample_ids, self.images()), z, rtol=1e-4, atol=1e-5)

    def test_features_do_not_depend_on_company_or_order(self) -> None:
        """Those of an image alone are those that it has in a batch."""
        b = self.make_backbone()
        images = self.images()
        z = b.embed(self.sample_ids, images)
        back = b.embed(self.sample_ids[::-1], images[::-1])
        alone = np.concatenate([b.embed(self.sample_ids[i : i + 1], images[i : i + 1]) for i in range(len(images))])
        tolerance: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4 * float(np.abs(z).max())}
        np.testing.assert_allclose(back[::-1], z, err_msg="the order changes features", **tolerance)
        np.testing.assert_allclose(alone, z, err_msg="the other images of a batch change features", **tolerance)

    def test_it_is_never_in_training_mode(self) -> None:
        """Neither by itself nor as part of a model that is trained, so that reading images moves no batch normalisation."""
        b = self.make_backbone()
        parent = nn.ModuleList([b]).train()
        assert not b.training, "train() of a model that it is part of puts it in training mode: inherit train()"
        weights = {name: value.clone() for name, value in b.state_dict().items()}
        if not b.by_id:
            x = to_floats(self.images(), torch.device("cpu"))
            with torch.no_grad():
                z = b.features(x)
                torch.testing.assert_close(b.features(x), z, msg="a second time features are others while a model is trained")
        for name, value in parent[0].state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0, msg=f"{name} changed while a model was trained")

    def test_nothing_else_changes(self) -> None:
        """Images, weights and the global random state are as they were."""
        b = self.make_backbone()
        images = self.images()
        weights = {name: value.clone() for name, value in b.state_dict().items()}
        state = random_state()
        b.embed(self.sample_ids, images)
        assert random_state() == state, "it draws from the global random state"
        np.testing.assert_array_equal(images, self.images(), "it writes to the images")
        for name, value in b.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0, msg=f"{name} changed while images were read")

    def test_images_may_have_another_size_and_no_color(self) -> None:
        """Gray images, and images that are smaller or larger than the input size (`fit_images`)."""
        b = self.make_backbone()
        if b.by_id:
            return
        for shape in ((1, 20, 17), (3, 9, 31), (3, 40, 40)):
            z = b.embed(self.sample_ids, self.images(*shape))
            assert z.shape == (len(self.sample_ids), b.n_features), f"images of shape {shape} have {z.shape} features"
            assert np.isfinite(z).all(), f"a feature of images of shape {shape} is not finite"

    def test_gradients_run_through_it_if_it_says_so(self) -> None:
        """From the features to the images; where features are looked up by id, :meth:`features` says that it cannot."""
        b = self.make_backbone()
        x = to_floats(self.images(), torch.device("cpu"))
        if b.by_id:
            with raises(SSLDError, "by sample id"):
                b.features(x)
        elif b.differentiable:
            x.requires_grad_()
            z = b.features(x)
            assert z.requires_grad, "no gradient arrives at the images: set differentiable = False"
            (gradient,) = torch.autograd.grad(z.square().sum(), x)
            assert torch.isfinite(gradient).all(), "a gradient is not finite"
            assert (gradient.flatten(1).abs().amax(dim=1) > 0).all(), "an image has no gradient: set differentiable = False"

    def test_a_sample_without_features_is_named(self) -> None:
        """Where features are looked up by id."""
        b = self.make_backbone()
        if b.by_id:
            with raises(SSLDError, "no such sample"):
                b.embed([self.sample_ids[0], "no such sample"], None)
        else:
            with raises(SSLDError, b.identity):
                b.embed(self.sample_ids, None)

    def test_a_source_of_images_is_read_in_its_order(self) -> None:
        """`pool_features` gives a row for every id."""
        b = self.make_backbone()
        source = _Images(self.sample_ids, self.images())
        z = pool_features(b, source, batch_size=2)
        tolerance: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4 * float(np.abs(z).max())}
        np.testing.assert_allclose(z, b.embed(self.sample_ids, self.images()), **tolerance)


class _Images:
    """A small source of images."""

    image_shape = (3, 20, 17)

    def __init__(self, ids: tuple[str, ...], images: NDArray[np.uint8]) -> None:
        self.ids: NDArray[np.str_] = np.array(ids)
        self._images = images

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: Any) -> NDArray[np.uint8]:
        return self._images[[self.ids.tolist().index(sample) for sample in ids]]

    def batches(self, size: int) -> Any:
        return ((self.ids[i : i + size], self._images[i : i + size]) for i in range(0, len(self), size))
