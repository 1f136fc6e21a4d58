"""What is known of the published data sets without reading them: sizes, classes, licences, and the names of their files."""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["DATASETS", "LAYOUTS", "DatasetInfo", "Layout"]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Attributes:
        title: Name for text.
        size: height and width of its images in pixels.
        channels: 1 or 3.
        classes: names; labels index into them.
        n_train: labeled training images.
        n_test: test images.
        augmentation: name of the augmentation policy.
        download: Size of the download, as text.
        source: Origin and licence, as text.
        n_unlabeled: further training images without label.
    """

    title: str
    size: int
    channels: int
    classes: tuple[str, ...]
    n_train: int
    n_test: int
    augmentation: str
    download: str
    source: str
    n_unlabeled: int = 0


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster",
    "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter",
    "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon",
    "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
_FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        "Digits", 8, 1, _DIGITS, 1437, 360, "digits", "nothing (inside scikit-learn)",
        "Alpaydin and Kaynak 1998, UCI Machine Learning Repository; CC BY 4.0",
    ),
    "fashion-mnist": DatasetInfo(
        "Fashion-MNIST", 28, 1, _FASHION, 60_000, 10_000, "fashion", "31 MB",
        "Zalando Research 2017, github.com/zalandoresearch/fashion-mnist; MIT licence",
    ),
    "mnist": DatasetInfo(
        "MNIST", 28, 1, _DIGITS, 60_000, 10_000, "digits", "12 MB", "LeCun, Cortes and Burges 1998; CC BY-SA 3.0"
    ),
    "cifar10": DatasetInfo(
        "CIFAR-10", 32, 3, _CIFAR10, 50_000, 10_000, "photo", "170 MB",
        "Krizhevsky 2009, www.cs.toronto.edu; no licence stated"
    ),
    "cifar100": DatasetInfo(
        "CIFAR-100", 32, 3, _CIFAR100, 50_000, 10_000, "photo", "169 MB",
        "Krizhevsky 2009, www.cs.toronto.edu; no licence stated"
    ),
    "svhn": DatasetInfo(
        "SVHN", 32, 3, _DIGITS, 73_257, 26_032, "digits", "246 MB",
        "Netzer et al. 2011, ufldl.stanford.edu/housenumbers; non-commercial use only",
    ),
    "stl10": DatasetInfo(
        "STL-10", 96, 3, _STL10, 5_000, 8_000, "photo", "2.6 GB",
        "Coates, Lee and Ng 2011, ai.stanford.edu/~acoates/stl10; images from ImageNet, no licence stated", 100_000,
    ),
}  # fmt: skip


class Layout(NamedTuple):
    """How torchvision names a data set and its files.

    `files` lie in `folder`, relative to the data folder, and may come in `archive`, unpacked in the data folder. The four
    files of an idx set may be gzipped; see :mod:`ssl_diffusion.data.published.idx`.
    """

    torchvision: str
    folder: str
    files: tuple[str, ...]
    archive: str | None
    url: str
    idx: bool = False


LAYOUTS: dict[str, Layout] = {
    "fashion-mnist": Layout(
        "FashionMNIST", "FashionMNIST/raw", (), None, "fashion-mnist.s3-website.eu-central-1.amazonaws.com", idx=True
    ),
    "mnist": Layout("MNIST", "MNIST/raw", (), None, "ossci-datasets.s3.amazonaws.com", idx=True),
    "cifar10": Layout(
        "CIFAR10",
        "cifar-10-batches-py",
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
        "cifar-10-python.tar.gz",
        "www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": Layout(
        "CIFAR100",
        "cifar-100-python",
        ("train", "test", "meta"),
        "cifar-100-python.tar.gz",
        "www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": Layout("SVHN", "", ("train_32x32.mat", "test_32x32.mat"), None, "ufldl.stanford.edu/housenumbers"),
    "stl10": Layout(
        "STL10",
        "stl10_binary",
        ("train_X.bin", "train_y.bin", "unlabeled_X.bin", "test_X.bin", "test_y.bin"),
        "stl10_binary.tar.gz",
        "ai.stanford.edu/~acoates/stl10",
    ),
}
