"""Pools in shards: images embedded and trained on a second, peak memory as the pool grows, and what a query of features takes.

    python benchmarks/large_pools.py --work /tmp/pools          # 20,000 to 200,000 images; features of 2 million
    python benchmarks/large_pools.py --work /tmp/pools --images 2000000 --sizes 200000 500000 1000000 2000000
    python benchmarks/large_pools.py --work /tmp/pools --train  # only training, of a pool in memory or mapped

Images are synthetic, 3 x 32 x 32, packed as `ssld pack` packs them, the network is a tiny one that has seen a few batches:
reading shards and writing parts take as long with any network. Features of the query are random, of the length that the
network has. Every figure is that of a process of its own, with one thread; seconds of the processor are given beside those of
the clock, since other programs change them less.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, markdown_table, provenance, write_csv

CSV, TRAINING = RESULTS / "large_pools.csv", RESULTS / "large_pools_training.csv"
SHAPE = (3, 32, 32)
PER_SHARD, GROUP, CLASSES = 10_000, 1_000, 10
STEPS, WHERE = 40, ("memory", "mapped")
STRATEGIES = ("margin", "margin:diverse", "badge", "typiclust", "uherding")


def make_shards(folder: Path, n: int, *, labeled: bool = True) -> None:
    """Write packed shards of smooth noise, once: each class has a pattern, and its name is there if `labeled`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ssl_diffusion.data.shards.parquet import FACTS

    folder.mkdir(parents=True, exist_ok=True)
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    n_bytes = int(np.prod(SHAPE))
    schema = pa.schema([("id", pa.string()), ("image", pa.binary(n_bytes)), ("label", pa.string()), ("split", pa.string())])
    for shard, start in enumerate(range(0, n, PER_SHARD)):
        path = folder / f"shard-{shard:05d}.parquet"
        if path.exists():
            continue
        rng, digest = np.random.default_rng(shard), hashlib.sha256()
        temporary = path.with_name(f".{path.name}")
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", write_statistics=["id"], write_page_checksum=True
        ) as writer:
            for first in range(start, min(start + PER_SHARD, n), GROUP):
                rows = range(first, min(first + GROUP, n))
                label = np.array(rows) % CLASSES
                noise = rng.integers(-40, 41, (len(rows), *SHAPE), dtype=np.int16)
                images = (patterns[label] + noise).clip(0, 255).astype(np.uint8)
                digest.update(images)
                columns = [
                    pa.array([f"{i:09d}" for i in rows]),
                    pa.Array.from_buffers(pa.binary(n_bytes), len(rows), [None, pa.py_buffer(images)]),
                    pa.array([str(k) if labeled else None for k in label], pa.string()),
                    pa.array(["train"] * len(rows)),
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
            facts = {"shape": SHAPE, "digest": digest.hexdigest(), "images": min(PER_SHARD, n - start)}
            writer.add_key_value_metadata({FACTS.decode(): json.dumps(facts)})
        os.replace(temporary, path)


def make_run(work: Path, shards: Path) -> Path:
    """A tiny network, fitted to the first shard for a few steps."""
    run = work / "run"
    if (run / "model.safetensors").exists():
        return run
    tiny = ("model.channels=8", "model.blocks=1", "model.decoder_blocks=1", "pretraining.steps=20", "training.steps=20")
    settings = [word for text in tiny for word in ("--set", text)]
    first = shards / "shard-00000.parquet"
    command = ["fit", "--data", first, "--labeled", "100", "--objective", "joint", "--no-cache", "--overwrite", "--out", run]
    subprocess.run([sys.executable, "-m", "ssl_diffusion.cli", *map(str, command), *settings, "--quiet"], check=True)
    return run


def make_features(folder: Path, run_path: Path, n: int) -> None:
    """Write features of a pool of n images as `ssld embed` writes them, once: clusters, and probabilities that fit them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy.special import softmax

    from ssl_diffusion.data.shards.parquet import FACTS
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.inference.shard_parts import INDEX
    from ssl_diffusion.inference.shard_passes import PartsIndex

    run = load_run(run_path, "cpu", "fp32")
    model = f"{run.digest()} {run.precision}"
    f, k, per_part = min(run.model.n_features, 512), len(run.classes), 40_000
    folder.mkdir(parents=True, exist_ok=True)
    centers = np.random.default_rng(0).standard_normal((200, f), dtype=np.float32)
    head = np.random.default_rng(1).standard_normal((f, k), dtype=np.float32) / np.float32(np.sqrt(f))
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),
            ("embedding", pa.list_(pa.float32(), f)),
            ("probabilities", pa.list_(pa.float32(), k)),
        ]
    )
    names = []
    for part, start in enumerate(range(0, n, per_part)):
        names.append(f"part-{part:05d}.parquet")
        path = folder / names[-1]
        if path.exists():
            continue
        rng, temporary = np.random.default_rng(part), folder / f".{names[-1]}"
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", write_statistics=["id"], write_page_checksum=True
        ) as writer:
            for first in range(start, min(start + per_part, n), 8192):
                rows = range(first, min(first + 8192, start + per_part, n))
                z = centers[rng.integers(0, len(centers), len(rows))] + rng.standard_normal((len(rows), f), dtype=np.float32)
                p = softmax(3 * z @ head, axis=1)
                vectors = [pa.FixedSizeListArray.from_arrays(v.ravel(), v.shape[1]) for v in (z, p)]
                ids = pa.array([f"f{i:09d}" for i in rows])
                writer.write_table(pa.table([ids, pa.array(["train"] * len(rows)), *vectors], schema=schema))
            facts = {"kind": "embed", "model": model, "shard": str(part), "images": min(per_part, n - start), "skipped": []}
            writer.add_key_value_metadata({FACTS.decode(): json.dumps(facts)})
        os.replace(temporary, path)
    index = PartsIndex("embed", model, run.classes, ("shards",), ("", ""), tuple(names), n)
    (folder / INDEX).write_text(json.dumps(vars(index)))


def embed(run_path: Path, shards: Path, n: int, out: Path) -> dict[str, Any]:
    """Embed the first n images; in a process of its own."""
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.inference.shard_passes import pass_over_shards, shards_for

    run = load_run(run_path, "cpu", "fp32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    given = [str(shards / f"shard-{{00000..{n // PER_SHARD - 1:05d}}}.parquet")]
    done = pass_over_shards(run, shards_for(run, given), given, out, "embed")
    assert done.images == n
    return measured("embed", n, begin, cpu) | {"mb_before": round(before / 1024)}


def ask(run_path: Path, features: Path, n: int, strategy: str) -> dict[str, Any]:
    """Choose 500 of n; in a process of its own."""
    from ssl_diffusion.acquisition.funnel import query_features
    from ssl_diffusion.inference.run import load_run

    run = load_run(run_path, "cpu", "fp32")
    begin, cpu = time.perf_counter(), time.process_time()
    assert len(query_features(run, features, 500, strategy)) == 500
    return measured(f"query --n 500, {strategy}", n, begin, cpu)


def train(shards: Path, n: int, where: str) -> dict[str, Any]:
    """Pretrain a tiny network on the first n images, held in memory or mapped from a file; in a process of its own."""
    from ssl_diffusion.data.loading import load_pool
    from ssl_diffusion.data.settings import DataSettings
    from ssl_diffusion.training.fit import fit_model
    from ssl_diffusion.training.recipe import load_recipe

    path = str(shards / f"shard-{{00000..{n // PER_SHARD - 1:05d}}}.parquet")
    begin = time.perf_counter()
    pool = load_pool(DataSettings(path=path, size=0), max_memory=0 if where == "mapped" else None)
    reading = time.perf_counter() - begin
    tiny = ["model.channels=8", "model.blocks=1", "model.decoder_blocks=1", f"pretraining.steps={STEPS}"]
    plain = ["training.objective=denoise-only", "augmentation.policy=photo", "augmentation.flip=on"]
    recipe = load_recipe("images").with_overrides([*tiny, *plain])
    fit_model(recipe, pool, None)  # the first one also warms up what is compiled and allocated
    begin, cpu = time.perf_counter(), time.process_time()
    fit_model(recipe, pool, None)
    row = measured(f"training, {where}", n, begin, cpu)
    seen = STEPS * recipe.pretraining.batch_size
    return row | {"images_per_cpu_second": round(seen / row["cpu_seconds"]), "reading_seconds": round(reading, 2)}


def measured(what: str, n: int, begin: float, cpu: float) -> dict[str, Any]:
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "what": what,
        "images": n,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "images_per_cpu_second": round(n / cpu_seconds),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def child(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards, features and the run")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 50_000, 100_000, 200_000])
    parser.add_argument("--features", type=int, default=2_000_000)
    parser.add_argument("--train", action="store_true", help="measure training only, and add its rows")
    arguments = parser.parse_args()
    work = arguments.work
    make_shards(work / "shards", arguments.images)
    if arguments.train:
        each = [child("train", "-", work / "shards", arguments.sizes[-1], where) for _ in range(3) for where in WHERE]
        write_csv(TRAINING, [row | provenance() for row in each])
        print(markdown_table(each))
        return
    run = make_run(work, work / "shards")
    rows = [child("embed", run, work / "shards", size, work / f"features-{size}") for size in arguments.sizes]
    make_features(work / "many", run, arguments.features)
    rows += [child("ask", run, work / "many", arguments.features, strategy) for strategy in STRATEGIES]
    about = provenance()
    write_csv(CSV, [row | about for row in rows])
    print(markdown_table([{key: row.get(key, "") for key in rows[0]} for row in rows]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "--child" in sys.argv:
        import torch

        torch.set_num_threads(1)
        what, run_, folder_, n_, last = sys.argv[2:7]
        if what == "embed":
            print(json.dumps(embed(Path(run_), Path(folder_), int(n_), Path(last))))
        elif what == "train":
            print(json.dumps(train(Path(folder_), int(n_), last)))
        else:
            print(json.dumps(ask(Path(run_), Path(folder_), int(n_), last)))
    else:
        main()
