"""What every image source promises, as tests to inherit."""

import numpy as np

from ssl_diffusion.data.source import ImageSource
from ssl_diffusion.errors import DataError
from ssl_diffusion.testing.base import raises

__all__ = ["ImageSourceContract"]


class ImageSourceContract:
    """Tests of an :class:`~ssl_diffusion.data.ImageSource`; inherit them and say how one is made.

    Example:
        >>> class TestMySource(ImageSourceContract):
        ...     def make_source(self) -> ImageSource:
        ...         return MySource("shards/")  # at least three images, all different
    """

    def make_source(self) -> ImageSource:
        """A new source of three or more images, all different; every call gives the same ids and images."""
        raise NotImplementedError("say how a source is made: def make_source(self) -> ImageSource")

    def test_it_has_the_members_of_a_source(self) -> None:
        """`ids`, `image_shape`, `take`, `batches` and a length."""
        assert isinstance(self.make_source(), ImageSource), "a member of ImageSource is missing"

    def test_ids_are_distinct_and_stay_as_they_are(self) -> None:
        """One id an image, as text, in the same order whenever it is asked for."""
        source = self.make_source()
        ids = source.ids
        assert isinstance(ids, np.ndarray), "ids is not an array"
        assert ids.dtype.kind == "U", f"ids have the dtype {ids.dtype}, not text"
        assert ids.shape == (len(source),), f"{ids.shape} ids for {len(source)} images"
        assert len(ids) >= 3, "a contract about order needs three images or more"
        assert len(np.unique(ids)) == len(ids), "an id occurs twice"
        _drain(source)
        np.testing.assert_array_equal(source.ids, ids, "the ids changed while images were read")
        np.testing.assert_array_equal(self.make_source().ids, ids, "another source of the same images has other ids")

    def test_images_are_bytes_of_one_shape(self) -> None:
        """uint8 (n, C, H, W) with (C, H, W) as the source says."""
        source = self.make_source()
        images = source.take(source.ids)
        assert images.dtype == np.uint8, f"images are {images.dtype}, not uint8"
        assert images.shape == (len(source), *source.image_shape), f"images have shape {images.shape}"
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images), (
            "the images must differ for this contract"
        )

    def test_images_come_in_the_order_asked_for(self) -> None:
        """Backwards, some of them, one of them twice, one, none."""
        source = self.make_source()
        n = len(source)
        images = source.take(source.ids)
        for rows in (np.arange(n)[::-1], np.array([n - 1, 0]), np.array([1, 0, 1]), np.array([2])):
            found = source.take(source.ids[rows])
            np.testing.assert_array_equal(found, images[rows], f"take() of positions {rows.tolist()} gave other images")
        np.testing.assert_array_equal(source.take(str(sample) for sample in source.ids), images, "ids from a generator")
        assert source.take([]).shape == (0, *source.image_shape), "take([]) is not an empty array of images"

    def test_an_unknown_id_is_named(self) -> None:
        """A :class:`DataError` that says which."""
        source = self.make_source()
        with raises(DataError, "no such sample"):
            source.take([str(source.ids[0]), "no such sample"])

    def test_batches_are_all_images_in_order(self) -> None:
        """Whatever their size: none empty, none too large, every image once."""
        source = self.make_source()
        images = source.take(source.ids)
        for size in (1, 2, len(source) - 1, len(source), len(source) + 5):
            parts = list(source.batches(size))
            assert parts, f"batches({size}) gives nothing the second time"
            assert all(0 < len(ids) == len(part) <= size for ids, part in parts), f"batches({size}): a batch of another size"
            np.testing.assert_array_equal(np.concatenate([ids for ids, _ in parts]), source.ids, f"ids of batches({size})")
            together = np.concatenate([part for _, part in parts])
            assert together.dtype == np.uint8, f"batches({size}) gives {together.dtype}, not uint8"
            np.testing.assert_array_equal(together, images, f"images of batches({size})")

    def test_batches_may_be_read_side_by_side_and_again(self) -> None:
        """A second reader starts at the beginning and does not disturb the first."""
        source = self.make_source()
        first = source.batches(1)
        next(first)
        assert _drain(source) == len(source), "a second reader does not see all images"
        assert sum(len(ids) for ids, _ in first) == len(source) - 1, "a second reader disturbed the first"

    def test_batches_of_nothing_are_refused(self) -> None:
        """A :class:`DataError`, at once or with the first batch."""
        source = self.make_source()
        for size in (0, -1):
            with raises(DataError):
                list(source.batches(size))

    def test_what_is_read_belongs_to_the_reader(self) -> None:
        """Writing to images changes nothing in the source."""
        source = self.make_source()
        images = source.take(source.ids)
        for part in (source.take(source.ids), *(part for _, part in source.batches(2))):
            part[:] = 255 - part
        np.testing.assert_array_equal(source.take(source.ids), images, "writing to what was read changed the source")


def _drain(source: ImageSource) -> int:
    return sum(len(ids) for ids, _ in source.batches(2))
