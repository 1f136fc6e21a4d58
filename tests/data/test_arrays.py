import numpy as np
import pytest

from ssl_diffusion.data.arrays import encode_labels, find_image_shape, find_value_range, to_images


@pytest.mark.parametrize(
    ("shape", "given", "row_shape", "image_shape"),
    [
        ((5, 8, 9), None, (8, 9), (1, 8, 9)),
        ((5, 3, 8, 9), None, (3, 8, 9), (3, 8, 9)),
        ((5, 8, 9, 3), None, (8, 9, 3), (3, 8, 9)),
        ((5, 3, 8, 4), (3, 8, 4), (3, 8, 4), (3, 8, 4)),
        ((5, 72), (8, 9), (8, 9), (1, 8, 9)),
        ((5, 216), (3, 8, 9), (3, 8, 9), (3, 8, 9)),
        ((5, 216), (8, 9, 3), (8, 9, 3), (3, 8, 9)),
        ((5, 7), "row", (1, 1, 7), (1, 1, 7)),
    ],
)
def test_image_shape_of_every_layout(shape, given, row_shape, image_shape):
    assert find_image_shape(np.zeros(shape), given) == (row_shape, image_shape)


@pytest.mark.parametrize(
    ("shape", "given", "error", "message"),
    [
        ((5, 64), None, ValueError, r"flat rows of 64 values: give image_shape=\(c, h, w\)"),
        ((5, 3, 8, 4), None, ValueError, r"either end .* give image_shape=\(c, h, w\)"),
        ((5, 7, 8, 9), None, ValueError, "no channel axis"),
        ((5, 2, 3, 8, 9), None, ValueError, r"images must be \(n, h, w\)"),
        ((5, 64), (8, 9), ValueError, "rows of 64 values, but image_shape=.* has 72"),
        ((5, 64), (8,), ValueError, "image_shape must be"),
        ((5, 64), (8, 0), ValueError, "image_shape must be"),
        ((5, 64), 8, TypeError, "image_shape must be"),
        ((5, 64), "rows", ValueError, "image_shape must be"),
        ((5, 8, 8), "row", ValueError, "image_shape='row' takes flat rows"),
    ],
)
def test_image_shape_errors(shape, given, error, message):
    with pytest.raises(error, match=message):
        find_image_shape(np.zeros(shape), given)


def test_channel_order_of_flat_rows_follows_the_row_shape():
    first = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    last = np.moveaxis(first, 1, 3)
    for X, row_shape in [
        (first.reshape(2, -1), (3, 4, 5)),
        (last.reshape(2, -1), (4, 5, 3)),
        (first, (4, 5, 3)),
        (last, (3, 4, 5)),
    ]:
        np.testing.assert_array_equal(to_images(X, row_shape, (3, 4, 5), (0.0, 255.0)), first)


def test_bytes_in_order_are_not_copied():
    X = np.zeros((2, 3, 4, 5), dtype=np.uint8)
    assert np.shares_memory(to_images(X, (3, 4, 5), (3, 4, 5), (0.0, 255.0)), X)


def test_values_are_rounded_and_clipped():
    X = np.array([[-3.0, 0.0, 0.5, 1.0, 9.0]])
    images = to_images(X, (1, 1, 5), (1, 1, 5), (0.0, 1.0))
    assert images.dtype == np.uint8
    assert images.ravel().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("value", [0.0, 7.0, -1e30])
def test_constant_images_become_zero(value):
    X = np.full((2, 3), value)
    assert not to_images(X, (1, 1, 3), (1, 1, 3), find_value_range(X, "auto")).any()


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        ([3, -1, 1, 3], [1, 3], [1, -1, 0, 1]),
        ([1.0, -1.0, 0.0], [0, 1], [1, -1, 0]),
        (np.array(["b", "a", "b"]), ["a", "b"], [1, 0, 1]),
        (np.array(["b", -1, "a"], dtype=object), ["a", "b"], [1, -1, 0]),
        (np.array([5, -1, 2], dtype=object), [2, 5], [1, -1, 0]),
        ([True, False], [False, True], [1, 0]),
        (np.array([4, 9], dtype=np.uint8), [4, 9], [0, 1]),
    ],
)
def test_labels(y, classes, codes):
    found, positions = encode_labels(np.asarray(y))
    assert found.tolist() == classes
    assert positions.tolist() == codes
    assert positions.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([-1, -1], "no labels, every entry is -1: label samples of at least two classes"),
        ([2, -1, 2], "only one class: 2"),
        (["a", -1, "b"], "mark samples without label by the number -1, in an array of dtype object"),
        (np.array(["a", 2, "b"], dtype=object), "mixes strings"),
        (np.array(["a", None, "b"], dtype=object), "mixes strings"),
        ([0.5, 1.5, -1], "Unknown label type"),
    ],
)
def test_label_errors(y, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(np.asarray(y))
