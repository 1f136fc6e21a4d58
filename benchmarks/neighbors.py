r"""Nearest neighbors at a million vectors: exact search, faiss and hnswlib, one thread each.

    python benchmarks/neighbors.py --work /tmp/neighbors --cifar CIFAR     # makes the vectors, and every row that is missing
    python benchmarks/neighbors.py --work /tmp/neighbors --cifar CIFAR --copies    # what `ssld check` makes of it
    python benchmarks/neighbors.py --table

Vectors: `photos`, the images of CIFAR-10 (`--cifar`, a folder of image files), each some 20 times, rotated, scaled, shifted,
mirrored, with other brightness and noise, as a small denoiser of CIFAR-10 represents them, projected to 512 numbers as all
strategies read them; `condensed`, the 64 principal components of these in which `ssld check` looks for copies; and `clusters`,
200 normal distributions of 512 independent numbers, which are what an index finds hardest. Queries are 10,000 further vectors
of the same kind.

Each row is a process of its own; `queries_s` is the time of 10,000 queries, of exact search five times that of 2,000.
`recall` is that of the 20 nearest of 1,000 queries among the vectors that the index holds. An index that is not built after
`--limit` seconds of the processor is measured with the vectors that it has by then.

With `--copies`, pictures are mixtures of two photos of CIFAR-10 each, so that no two are alike; 1 % of them have a planted
copy, made as in :mod:`near_duplicates`, and :func:`ssl_diffusion.curation.find_duplicates` looks for it, with every pair
compared and with an index.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, append_row, figures_of, find_row, high_water, markdown_table, provenance
from near_duplicates import KINDS, copied
from numpy.typing import NDArray
from torch.nn import functional

from ssl_diffusion.curation.held_out import condensed
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.settings import DataSettings

CSV = RESULTS / "neighbors.csv"
COPIES = RESULTS / "neighbors_copies.csv"
K, QUERIES, EXACT, JUDGED, SINGLE = 20, 10_000, 2_000, 1_000, 50
METHODS = ("torch", "scikit-learn", "faiss IVF", "faiss HNSW", "hnswlib")
VECTORS = ("photos", "condensed", "clusters")
LINKS, BUILDING, SEARCHING = 16, 40, 64  # of the graphs: links of a vector, candidates while building and while searching
_AT_ONCE = 10_000

Vectors = NDArray[np.float32]


# -- vectors --------------------------------------------------------------------------------------------------------------


def photos(cifar: Path) -> NDArray[np.uint8]:
    return np.asarray(load_pool(DataSettings(path=str(cifar))).images)


def jittered(images: NDArray[np.uint8], n: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """n changed images, 10,000 at a time."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(len(x)).uniform_(low, high, generator=generator)

    for start in range(0, n, _AT_ONCE):
        at = np.arange(start, min(start + _AT_ONCE, n)) % len(images)
        x = torch.from_numpy(images[at]).float()
        angle, scale = uniform(-0.3, 0.3), uniform(0.75, 1.05)
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        cos, sin, dx, dy = scale * angle.cos(), scale * angle.sin(), uniform(-0.2, 0.2), uniform(-0.2, 0.2)
        theta = torch.stack([torch.stack([mirror * cos, -sin, dx], 1), torch.stack([mirror * sin, cos, dy], 1)], 1)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
        x = x * uniform(0.7, 1.3)[:, None, None, None] + uniform(-20, 20)[:, None, None, None]
        x = x + 4 * torch.randn(x.shape, generator=generator)
        yield x.clamp(0, 255).byte().numpy()


def make_run(work: Path, cifar: Path) -> Path:
    """A small denoiser of CIFAR-10."""
    run = work / "run"
    if not (run / "model.safetensors").exists():
        tiny = ("model.channels=8", "model.blocks=1", "model.decoder_blocks=1", "pretraining.steps=400", "training.steps=50")
        words = [word for text in tiny for word in ("--set", text)]
        command = ["fit", "--data", cifar, "--labeled", "1000", "--objective", "joint", "--backbone", "none", "--no-cache"]
        command += ["--overwrite", "--out", run, *words, "--quiet"]
        subprocess.run([sys.executable, "-m", "ssl_diffusion.cli", *map(str, command)], check=True)
    return run


def make_vectors(work: Path, cifar: Path, n: int) -> None:
    """Write n vectors of each kind, and 10,000 queries after them, once."""
    from ssl_diffusion.inference.embedding import embed
    from ssl_diffusion.inference.projection import project
    from ssl_diffusion.inference.run import load_run

    total = n + QUERIES
    if not (path := vectors_path(work, "photos", n)).exists():
        model = load_run(make_run(work, cifar), "cpu", "fp32").model
        out = np.lib.format.open_memmap(path.with_suffix(".part"), mode="w+", dtype=np.float32, shape=(total, 512))
        done = 0
        for images in jittered(photos(cifar), total, seed=0):
            z = np.asarray(embed(model, images, classify=False, projected=False).representation)
            out[done : done + len(z)] = project(z)
            done += len(z)
        out.flush()
        os.replace(path.with_suffix(".part"), path)
    if not (path := vectors_path(work, "condensed", n)).exists():
        x = condensed(np.load(vectors_path(work, "photos", n), mmap_mode="r"))[:, :64]  # type: ignore[arg-type]
        x -= x.mean(axis=0)
        save(path, x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
    if not (path := vectors_path(work, "clusters", n)).exists():
        rng = np.random.default_rng(0)
        centers = rng.standard_normal((200, 512), dtype=np.float32)
        out = np.lib.format.open_memmap(path.with_suffix(".part"), mode="w+", dtype=np.float32, shape=(total, 512))
        for start in range(0, total, _AT_ONCE):
            part = out[start : start + _AT_ONCE]
            part[:] = centers[rng.integers(0, 200, len(part))] + rng.standard_normal(part.shape, dtype=np.float32)
        out.flush()
        os.replace(path.with_suffix(".part"), path)


def vectors_path(work: Path, name: str, n: int) -> Path:
    return work / f"{name}-{n}.npy"


def save(path: Path, x: Vectors) -> None:
    with path.with_suffix(".part").open("wb") as file:
        np.save(file, x.astype(np.float32))
    os.replace(path.with_suffix(".part"), path)


# -- contestants: built from vectors, asked for the numbers of the 20 nearest ---------------------------------------------


class Exact:
    """Distances to all vectors, in portions of both, by torch."""

    def __init__(self, x: Vectors, limit: float) -> None:
        self.x, self.n = torch.from_numpy(x), len(x)
        self.squares = self.x.square().sum(dim=1)

    def nearest(self, queries: Vectors) -> NDArray[np.int64]:
        found = []
        for q in torch.from_numpy(queries).split(1000):
            best, numbers = torch.empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.int64)
            for start in range(0, self.n, 50_000):
                rows = self.x[start : start + 50_000]
                near = (self.squares[start : start + 50_000] - 2 * q @ rows.T).topk(K, largest=False)
                best, at = torch.cat([best, near.values], 1).topk(min(K, best.shape[1] + K), largest=False)
                numbers = torch.cat([numbers, near.indices + start], 1).gather(1, at)
            found.append(numbers)
        return torch.cat(found).numpy()


class Sklearn:
    def __init__(self, x: Vectors, limit: float) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.n, self.index = len(x), NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x)

    def nearest(self, queries: Vectors) -> NDArray[np.int64]:
        return np.asarray(self.index.kneighbors(queries, return_distance=False))


class FaissCells:
    """Cells of k-means; the nearest `probes` of them are searched."""

    probes = 16

    def __init__(self, x: Vectors, limit: float) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        n_cells = int(2 ** np.floor(np.log2(2 * np.sqrt(len(x)))))
        self.n = len(x)
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(x.shape[1]), x.shape[1], n_cells)
        self.index.cp.niter, self.index.cp.max_points_per_centroid = 10, 50
        self.index.train(x)
        for start in range(0, len(x), _AT_ONCE):
            self.index.add(x[start : start + _AT_ONCE])

    def nearest(self, queries: Vectors) -> NDArray[np.int64]:
        self.index.nprobe = self.probes
        return np.asarray(self.index.search(queries, K)[1])


class FaissGraph:
    def __init__(self, x: Vectors, limit: float) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.IndexHNSWFlat(x.shape[1], LINKS)
        self.index.hnsw.efConstruction, self.index.hnsw.efSearch = BUILDING, SEARCHING
        began = time.process_time()
        for start in range(0, len(x), _AT_ONCE):
            self.index.add(x[start : start + _AT_ONCE])
            if time.process_time() - began > limit:
                break
        self.n = int(self.index.ntotal)

    def nearest(self, queries: Vectors) -> NDArray[np.int64]:
        return np.asarray(self.index.search(queries, K)[1])


class Hnswlib:
    def __init__(self, x: Vectors, limit: float) -> None:
        import hnswlib

        self.index = hnswlib.Index("l2", x.shape[1])
        self.index.init_index(len(x), M=LINKS, ef_construction=BUILDING)
        self.index.set_num_threads(1)
        self.index.set_ef(SEARCHING)
        began = time.process_time()
        for start in range(0, len(x), _AT_ONCE):
            self.index.add_items(x[start : start + _AT_ONCE])
            if time.process_time() - began > limit:
                break
        self.n = int(self.index.get_current_count())

    def nearest(self, queries: Vectors) -> NDArray[np.int64]:
        return np.asarray(self.index.knn_query(queries, K)[0]).astype(np.int64)


CONTESTANTS: dict[str, Any] = dict(zip(METHODS, (Exact, Sklearn, FaissCells, FaissGraph, Hnswlib), strict=True))


def measure(work: Path, name: str, n: int, method: str, limit: float) -> dict[str, Any]:
    """One contestant, in this process."""
    every = np.load(vectors_path(work, name, n))
    x, queries = every[:n], every[n:]
    before = high_water(os.getpid())
    wall, began = time.monotonic(), time.process_time()
    index = CONTESTANTS[method](x, limit)
    built, waited = time.process_time() - began, time.monotonic() - wall
    facts: dict[str, Any] = {"held": index.n, "build_cpu_s": round(built, 1), "build_s": round(waited, 1)}
    each = []
    for i in range(SINGLE):
        began = time.process_time()
        index.nearest(queries[i : i + 1])
        each.append(1000 * (time.process_time() - began))
    facts["one_query_cpu_ms"] = round(statistics.median(each), 2)
    asked = queries[:EXACT] if method in METHODS[:2] else queries
    wall, began = time.monotonic(), time.process_time()
    found = index.nearest(asked)
    spent, waited = (QUERIES / len(asked) * t for t in (time.process_time() - began, time.monotonic() - wall))
    facts |= {"queries_cpu_s": round(spent, 2), "queries_s": round(waited, 2)}
    facts |= {"vectors_mb": round(every.nbytes / 1e6), "beside_mb": round((high_water(os.getpid()) - before) / 1e6)}
    truth = Exact(x[: index.n], limit).nearest(queries[:JUDGED])
    facts["recall"] = recall(found, truth)
    if method == "faiss IVF":
        index.probes = 64
        began = time.process_time()
        facts["recall_64_cells"] = recall(index.nearest(queries[:JUDGED]), truth)
        facts["queries_64_cells_cpu_s"] = round((time.process_time() - began) * QUERIES / JUDGED, 2)
    else:
        facts |= {"recall_64_cells": None, "queries_64_cells_cpu_s": None}
    return facts


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return round(float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=False)])), 4)


# -- copies among pictures ------------------------------------------------------------------------------------------------


def mixtures(images: NDArray[np.uint8], n: int, n_copies: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """n pictures of two photos each, copies of the first n_copies of a permutation after them, and their originals."""
    rng = np.random.default_rng(0)
    made = np.empty((n + n_copies, *images.shape[1:]), dtype=np.uint8)
    for start in range(0, n, _AT_ONCE):
        a, b = rng.integers(0, len(images), (2, min(_AT_ONCE, n - start)))
        share = rng.uniform(0.35, 0.65, (len(a), 1, 1, 1)).astype(np.float32)
        second = images[b][..., ::-1]
        made[start : start + len(a)] = (share * images[a] + (1 - share) * second).astype(np.uint8)
    original = rng.permutation(n)[:n_copies]
    for i, of in enumerate(original):
        made[n + i] = copied(made[of], KINDS[i % len(KINDS)], rng)
    return made, original


def look_for_copies(work: Path, cifar: Path, n: int, approximate: bool) -> dict[str, Any]:
    """What is found of the planted copies, in this process."""
    from ssl_diffusion.curation.image_faults import survey
    from ssl_diffusion.curation.near_duplicates import find_duplicates
    from ssl_diffusion.inference.embedding import embed
    from ssl_diffusion.inference.projection import project
    from ssl_diffusion.inference.run import load_run

    images, original = mixtures(photos(cifar), n, n // 100)
    model = load_run(make_run(work, cifar), "cpu", "fp32").model
    z = np.empty((len(images), 512), dtype=np.float32)
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        z[start : start + len(part)] = project(np.asarray(embed(model, part, classify=False, projected=False).representation))
    seen = survey(images)
    del images
    before = high_water(os.getpid())
    began, wall = time.process_time(), time.monotonic()
    found = find_duplicates(seen.small, seen.digests, z, approximate=approximate)
    spent, waited = time.process_time() - began, time.monotonic() - wall
    right = found.group[n:] == found.group[original]
    kinds = {kind: round(float(right[k :: len(KINDS)].mean()), 4) for k, kind in enumerate(KINDS)}
    return {
        "finding_cpu_s": round(spent, 1),
        "finding_s": round(waited, 1),
        "before_mb": round(before / 1e6),
        "peak_mb": round(high_water(os.getpid()) / 1e6),
        "pairs": len(found.first),
        "recall": round(float(right.mean()), 4),
        **{f"recall_{kind}": value for kind, value in kinds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of vectors")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10 as image files")
    parser.add_argument("--n", type=int, nargs="+", default=[1_000_000], help="numbers of vectors, or of pictures")
    parser.add_argument("--vectors", nargs="+", choices=VECTORS, default=VECTORS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--limit", type=float, default=300, help="seconds of the processor for building a graph")
    parser.add_argument("--copies", action="store_true", help="look for planted copies instead, with an index")
    parser.add_argument("--exact", action="store_true", help="with --copies: compare every pair")
    parser.add_argument("--row", action="store_true", help="write the one row that is asked for, in this process")
    parser.add_argument("--table", action="store_true", help="only print the rows that are there")
    arguments = parser.parse_args()
    if arguments.table:
        for path in (CSV, COPIES):
            if path.exists():
                print(markdown_table(figures_of(path)), end="\n\n")
        return
    if arguments.work is None or arguments.cifar is None:
        parser.error("--work and --cifar are needed to measure")
    arguments.work.mkdir(parents=True, exist_ok=True)
    for n in arguments.n:
        if arguments.copies:
            key = {"pictures": n, "candidates": "every pair" if arguments.exact else "index"}
            if find_row(COPIES, key) is None:
                found = look_for_copies(arguments.work, arguments.cifar, n, not arguments.exact)
                append_row(COPIES, key | found | provenance())
            continue
        make_vectors(arguments.work, arguments.cifar, n)
        for name in arguments.vectors:
            for method in arguments.methods:
                if (package := method.partition(" ")[0]) in ("faiss", "hnswlib") and find_spec(package) is None:
                    print(f"{package} is not installed: pip install {package.replace('faiss', 'faiss-cpu')}", file=sys.stderr)
                    continue
                key = {"vectors": name, "n": n, "method": method}
                if find_row(CSV, key) is not None:
                    continue
                if arguments.row:
                    append_row(CSV, key | measure(arguments.work, name, n, method, arguments.limit) | provenance())
                    continue
                words = ["--work", arguments.work, "--cifar", arguments.cifar, "--n", n, "--vectors", name, "--methods", method]
                command = [sys.executable, __file__, *map(str, words), "--limit", str(arguments.limit), "--row"]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
