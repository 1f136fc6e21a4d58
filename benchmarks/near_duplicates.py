"""Copies that were planted among images, found by `ssld check` and by others.

    python benchmarks/near_duplicates.py --dataset cifar10 --cifar CIFAR --cache CACHE     # CIFAR-10 as JPEG files
    python benchmarks/near_duplicates.py --dataset fashion-mnist --run RUN --cache CACHE   # RUN: a fit of Fashion-MNIST
    python benchmarks/near_duplicates.py --speed --dataset cifar10 fashion-mnist --cifar CIFAR     # 60,000 images each
    python benchmarks/near_duplicates.py --look SHEETS ...                                 # pairs to be judged by eye

Of 10,000 training images 2 % are copied, a fifth of the copies each way: a crop of 75 to 95 % of the sides, JPEG of
quality 30, brightness times 0.6 to 0.8 or 1.2 to 1.4, a mirror image, and another size and back (0.5 to 0.8 or 1.3 to 2
times). Copies have the size of the images. The images have copies of their own: pairs of unplanted images that a method
finds (of many, some) were looked at, and results/near_duplicates_judged.csv says whether they show the same; pairs that
nobody judged count as wrong in the proportion of those of the method that were judged. `--development` takes test images and
other seeds.

Rivals, where they are installed: imagehash (pHash, dHash) and imagededup (pHash, dHash, aHash, wHash) by the Hamming
distance of their hashes, and the cosine of features, which is what imagededup's CNN goes by. The features are those that ours
reads too: of photos EfficientNet-Lite0's (for the cosine those of its last level), of Fashion-MNIST those of the run's model.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS, append_row, find_row, markdown_table, provenance
from numpy.typing import NDArray
from photo_data import BACKBONE, PhotoSet, photo_set
from PIL import Image, ImageEnhance

from ssl_diffusion.curation.image_faults import survey
from ssl_diffusion.curation.near_duplicates import find_duplicates
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.inference.backbone_features import feature_store, pool_features
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.rows import RowsSource
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.machine import source_commit
from ssl_diffusion.models.backbones.registry import load_backbone

CSV = RESULTS / "near_duplicates.csv"
SPEED = RESULTS / "near_duplicates_speed.csv"
JUDGED = RESULTS / "near_duplicates_judged.csv"
KINDS = ("crop", "JPEG", "brightness", "flip", "resize")
_IMAGES, _COPIES, _SHOWN = 10_000, 200, 60
_DISTANCES = (0, 2, 4, 6, 8, 10, 12)  # of hashes of 64 bits; 10 is imagededup's default
_COSINES = (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)  # 0.9 is imagededup's default
_ALL, _LAST = 2048, 1280  # features of the backbone, and those of its last level
COSINE = "cosine of features"

Pairs = NDArray[np.int64]  # (m, 2), the smaller number first, ascending


@dataclass(frozen=True)
class Planted:
    """Images, the last ones of which are copies.

    Attributes:
        images: uint8 (N + n, C, H, W).
        z: Features, float32 (N + n, F).
        original: Number of the original of each copy, (n,).
        kind: Number of the kind of each copy, (n,).
    """

    images: NDArray[np.uint8]
    z: NDArray[np.float32]
    original: NDArray[np.int64]
    kind: NDArray[np.int64]


def copied(image: NDArray[np.uint8], kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of an image of the same size, (C, H, W)."""
    picture = to_pil(image)
    w, h = picture.size
    if kind == "crop":
        scale = rng.uniform(0.75, 0.95)
        x, y = rng.uniform(0, (1 - scale) * w), rng.uniform(0, (1 - scale) * h)
        box = tuple(round(v) for v in (x, y, x + scale * w, y + scale * h))
        picture = picture.crop(box).resize((w, h), Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    elif kind == "JPEG":
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=30)
        picture = Image.open(buffer)
    elif kind == "brightness":
        factor = rng.uniform(0.6, 0.8) if rng.random() < 0.5 else rng.uniform(1.2, 1.4)
        picture = ImageEnhance.Brightness(picture).enhance(factor)
    elif kind == "flip":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        factor = rng.uniform(0.5, 0.8) if rng.random() < 0.5 else rng.uniform(1.3, 2)
        picture = picture.resize((round(factor * w), round(factor * h)), Image.Resampling.BICUBIC)
        picture = picture.resize((w, h), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def base(data: PhotoSet, *, development: bool) -> NDArray[np.int64]:
    """Positions of 10,000 images."""
    pool = data.pool
    return np.sort(np.random.default_rng(0).permutation(pool.test if development else pool.train)[:_IMAGES])


Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def features(images: NDArray[np.uint8], cache: Path) -> NDArray[np.float32]:
    """Features of the backbone, float32 (n, F); those that were read once are in the cache."""
    backbone = load_backbone(BACKBONE)
    source = RowsSource(images, np.arange(len(images)).astype(str), images.shape[1:])  # type: ignore[arg-type]
    return pool_features(backbone, source, store=feature_store(cache, backbone, source))


def features_by(run: Path | None, cache: Path) -> Features:
    """Features of the backbone, or of the model of a run."""
    if run is None:
        return lambda images: features(images, cache)
    model = load_run(run, "cpu", "fp32").model
    return lambda images: np.asarray(embed(model, images, classify=False, projected=False).representation)


def plant(images: NDArray[np.uint8], seed: int, seen_by: Features) -> Planted:
    rng = np.random.default_rng([seed, 7])
    original = rng.permutation(len(images))[:_COPIES]
    kind = np.arange(_COPIES) % len(KINDS)
    copies = np.stack([copied(images[i], KINDS[k], rng) for i, k in zip(original, kind, strict=True)])
    both = np.concatenate([images, copies])
    return Planted(both, seen_by(both), original, kind)


# -- methods: pairs with a nearness, the larger the nearer; those at a threshold are found --------------------------------


def ours(data: Planted) -> tuple[Pairs, NDArray[np.floating]]:
    seen = survey(data.images)
    found = find_duplicates(seen.small, seen.digests, data.z)
    return np.stack([np.minimum(found.first, found.second), np.maximum(found.first, found.second)], axis=1), found.agreement


def near_hashes(hashes: NDArray[np.uint64]) -> tuple[Pairs, NDArray[np.floating]]:
    """Pairs of hashes at most the largest distance apart, and minus their distances."""
    parts, distances = [], []
    for start in range(0, len(hashes), 512):
        distance = np.bitwise_count(hashes[start : start + 512, None] ^ hashes[None, start:])
        a, b = np.nonzero(distance <= _DISTANCES[-1])
        a, b = a[b > a], b[b > a]
        parts.append(np.stack([a, b], axis=1) + start)
        distances.append(distance[a, b])
    return np.concatenate(parts), -np.concatenate(distances).astype(float)


def near_features(z: NDArray[np.float32]) -> tuple[Pairs, NDArray[np.floating]]:
    x = z / np.linalg.norm(z, axis=1, keepdims=True)
    parts, cosines = [], []
    for start in range(0, len(x), 512):
        cosine = x[start : start + 512] @ x[start:].T
        a, b = np.nonzero(cosine >= _COSINES[0])
        a, b = a[b > a], b[b > a]
        parts.append(np.stack([a, b], axis=1) + start)
        cosines.append(cosine[a, b])
    return np.concatenate(parts), np.concatenate(cosines)


def hashers() -> Iterator[tuple[str, Callable[[Image.Image], int]]]:
    try:
        import imagehash
    except ImportError:
        print("imagehash is not installed: pip install imagehash", file=sys.stderr)
    else:
        yield "imagehash, pHash", lambda picture: int(str(imagehash.phash(picture)), 16)
        yield "imagehash, dHash", lambda picture: int(str(imagehash.dhash(picture)), 16)
    try:
        from imagededup.methods import AHash, DHash, PHash, WHash
    except ImportError:
        print("imagededup is not installed: pip install imagededup", file=sys.stderr)
        return
    for name, method in (("pHash", PHash), ("dHash", DHash), ("aHash", AHash), ("wHash", WHash)):
        hasher = method(verbose=False)
        yield (
            f"imagededup, {name}",
            lambda picture, hasher=hasher: int(hasher.encode_image(image_array=np.asarray(picture.convert("RGB"))), 16),
        )


def methods(data: Planted) -> Iterator[tuple[str, Pairs, NDArray[np.floating], tuple[float, ...]]]:
    """Name, pairs, their nearness, and the thresholds at which rows are written."""
    yield "ours", *ours(data), (0.0,)
    pictures = [to_pil(image) for image in data.images]
    for name, hasher in hashers():
        hashes = np.array([hasher(picture) for picture in pictures], dtype=np.uint64)
        yield name, *near_hashes(hashes), tuple(-float(d) for d in _DISTANCES)
    yield COSINE, *near_features(data.z[:, -_LAST:] if data.z.shape[1] == _ALL else data.z), _COSINES


# -- rows -----------------------------------------------------------------------------------------------------------------


def judged(dataset: str) -> dict[tuple[str, str], bool]:
    """Whether two images of a data set show the same, by their ids, as far as somebody looked."""
    if not JUDGED.exists():
        return {}
    frame = pd.read_csv(JUDGED, dtype=str)
    frame = frame[frame["dataset"] == dataset]
    return {(a, b): same == "1" for a, b, same in zip(frame["first"], frame["second"], frame["same"], strict=True)}


def some_of(pairs: Pairs) -> Pairs:
    """At most 60 of the pairs of unplanted images of a method."""
    return pairs[np.sort(np.random.default_rng(0).permutation(len(pairs))[:_SHOWN])]


def row_of(data: Planted, pairs: Pairs, ids: NDArray[np.str_], known: dict[tuple[str, str], bool]) -> dict[str, Any]:
    """Recall of each kind, precision, and the numbers that they are made of."""
    n, truth = len(ids), set(zip(data.original.tolist(), range(len(ids), len(data.images)), strict=True))
    found = set(map(tuple, pairs.tolist()))
    recalls = {}
    for k, name in enumerate(KINDS):
        mine = {(int(a), n + i) for i, (a, of) in enumerate(zip(data.original, data.kind, strict=True)) if of == k}
        recalls[f"recall_{name}"] = round(len(found & mine) / len(mine), 4)
    # What is said of an original holds for its copy: a pair of a copy and another image is one of its original and that image.
    others = [pair for pair in pairs.tolist() if tuple(pair) not in truth]
    place = np.concatenate([np.arange(n), data.original])
    verdicts = [known.get((str(ids[min(a, b)]), str(ids[max(a, b)]))) for a, b in place[others].tolist()] if others else []
    seen = [verdict for verdict in verdicts if verdict is not None]
    share = float(np.mean(seen)) if seen else 0.0
    same = round(sum(seen) + (len(verdicts) - len(seen)) * share)
    right = len(found & truth)
    wrong = len(found) - right - same
    facts = {"pairs": len(found), "planted": right, "others": len(verdicts), "judged": len(seen), "same": same}
    return {"recall": round(right / len(truth), 4), "precision": round((right + same) / max(1, right + same + wrong), 4)} | (
        recalls | facts
    )


def measure(data: PhotoSet, seed: int, seen_by: Features, *, development: bool, rivals: bool) -> None:
    key = {"dataset": data.name, "split": "test" if development else "train", "seed": seed}
    last = {"method": COSINE, "threshold": _COSINES[-1]} if rivals else {"method": "ours"}
    if find_row(CSV, key | last) is not None:
        return
    rows = base(data, development=development)
    planted, ids, known = plant(data.pool.images[rows], seed, seen_by), data.pool.ids[rows], judged(data.name)
    for name, pairs, nearness, thresholds in methods(planted) if rivals else [("ours", *ours(planted), (0.0,))]:
        for threshold in thresholds:
            if find_row(CSV, key | {"method": name, "threshold": threshold}) is None:
                row = row_of(planted, pairs[nearness >= threshold], ids, known)
                append_row(CSV, key | {"method": name, "threshold": threshold} | row | {"commit": source_commit() or "unknown"})


def look(data: PhotoSet, out: Path, seen_by: Features, *, development: bool) -> None:
    """Sheets of pairs of unplanted images that nobody judged, and a file to fill in."""
    from matplotlib.figure import Figure

    rows = base(data, development=development)
    images, ids = data.pool.images[rows], data.pool.ids[rows]
    nothing = Planted(images, seen_by(images), np.zeros(0, np.int64), np.zeros(0, np.int64))
    known, wanted = judged(data.name), set[tuple[int, int]]()
    for name, pairs, nearness, thresholds in methods(nothing):
        for threshold in thresholds:
            at = pairs[nearness >= threshold]
            some = at if name == "ours" else some_of(at)
            print(f"{name}, {threshold:g}: {len(at)} pairs")
            wanted |= {(a, b) for a, b in some.tolist() if (str(ids[a]), str(ids[b])) not in known}
    out.mkdir(parents=True, exist_ok=True)
    pairs = sorted(wanted)
    for start in range(0, len(pairs), 120):
        figure = Figure(figsize=(15, 14))
        for cell, (k, (a, b)) in zip(figure.subplots(10, 12).flat, enumerate(pairs[start : start + 120], start), strict=False):
            both = np.concatenate([images[a], np.full_like(images[a][..., :2], 255), images[b]], axis=-1)
            cell.imshow(to_pil(both), cmap="gray", vmin=0, vmax=255)
            cell.set_title(str(k), fontsize=8, pad=1)
        for cell in figure.axes:
            cell.axis("off")
        figure.subplots_adjust(0, 0, 1, 0.98, 0.05, 0.15)
        figure.savefig(out / f"{data.name}-{start:04d}.png", dpi=90)
    table = [(data.name, ids[a], ids[b], "") for a, b in pairs]
    pd.DataFrame(table, columns=["dataset", "first", "second", "same"]).to_csv(out / f"{data.name}.csv", index_label="number")


def speed(data: PhotoSet, limit: int, *, lite: bool) -> None:
    """Seconds of one core for images of the data set, by the features of the backbone or, as without one, by their pixels."""
    pool = data.pool.select(np.arange(len(data.pool)) < limit)
    images = np.asarray(pool.images[np.arange(len(pool))])
    z = data.features(np.arange(len(pool))) if lite else None
    began = time.process_time()
    seen = survey(images)
    looked = time.process_time()
    z = seen.small.reshape(len(images), -1).astype(np.float32) / np.float32(255) if z is None else z
    found = find_duplicates(seen.small, seen.digests, z)
    ended = time.process_time()
    facts = {
        "dataset": data.name,
        "images": len(pool),
        "representation": BACKBONE if lite else "pixels",
        "looking_s": round(looked - began, 1),
        "finding_s": round(ended - looked, 1),
    }
    append_row(SPEED, facts | {"groups": len(found.groups)} | provenance())


def table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over seeds: of each rival its default, where it has one, and what has the best F1 on these very images."""
    rows = []
    columns = ["recall", "precision", *(f"recall_{kind}" for kind in KINDS)]
    for (dataset, split, method), part in frame.groupby(["dataset", "split", "method"], sort=False):
        means = part.groupby("threshold")[columns].mean()
        f1 = 2 * means["recall"] * means["precision"] / (means["recall"] + means["precision"]).clip(lower=1e-9)
        default = {"imagededup": -10.0, "cosine": 0.9, "imagehash": 0.0}.get(str(method).partition(",")[0].partition(" ")[0])
        for threshold in dict.fromkeys(t for t in (default, f1.idxmax()) if t in means.index):
            at = "" if method == "ours" else f"{abs(threshold):g}" + (", best" if threshold == f1.idxmax() else ", default")
            row = {"data": f"{dataset}, {split}", "method": method, "threshold": at}
            rows.append(row | {name.removeprefix("recall_"): f"{100 * means.loc[threshold, name]:.1f}" for name in columns})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", choices=("cifar10", "fashion-mnist"), default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", type=Path, help="run folder of a fit of Fashion-MNIST, whose model sees its images")
    parser.add_argument("--development", action="store_true", help="test images, for trying things")
    parser.add_argument("--ours", action="store_true", help="leave out rivals")
    parser.add_argument("--look", type=Path, help="folder for sheets of pairs to be judged; nothing is measured")
    parser.add_argument("--speed", action="store_true", help="measure only the time of many images, by their pixels")
    parser.add_argument("--lite0", action="store_true", help="with --speed: by the features of EfficientNet-Lite0")
    parser.add_argument("--images", type=int, default=60_000, help="with --speed: at most as many images")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of features, see photos.py")
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/ of CIFAR-10 as image files")
    arguments = parser.parse_args()
    for name in arguments.dataset:
        data = photo_set(name, arguments.cache, arguments.cifar)
        if arguments.speed:
            speed(data, arguments.images, lite=arguments.lite0)
            continue
        seen_by = features_by(arguments.run if name == "fashion-mnist" else None, arguments.cache)
        if arguments.look is not None:
            look(data, arguments.look, seen_by, development=arguments.development)
            continue
        for seed in arguments.seeds:
            measure(
                data, seed + 100 * arguments.development, seen_by, development=arguments.development, rivals=not arguments.ours
            )
    if CSV.exists() and not arguments.speed:
        print(markdown_table(table(pd.read_csv(CSV))))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
