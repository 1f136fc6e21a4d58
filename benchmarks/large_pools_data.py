"""What large pools are measured on: packed shards of synthetic images, a small run, and features as `ssld embed` writes them.

Everything is written once, a file at a time, so that a run that was stopped goes on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SHAPE = (3, 32, 32)
PER_SHARD, GROUP, CLASSES = 10_000, 1_000, 10
PER_PART = 40_000


def make_shards(folder: Path, n: int, *, labeled: bool = True) -> None:
    """Write packed shards of smooth noise, once: each class has a pattern, and its name is there if `labeled`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ssl_diffusion.data.shards.digests import ContentDigest
    from ssl_diffusion.data.shards.parquet import FACTS

    folder.mkdir(parents=True, exist_ok=True)
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    n_bytes = int(np.prod(SHAPE))
    schema = pa.schema([("id", pa.string()), ("image", pa.binary(n_bytes)), ("label", pa.string()), ("split", pa.string())])
    for shard, start in enumerate(range(0, n, PER_SHARD)):
        path = folder / f"shard-{shard:05d}.parquet"
        if path.exists():
            continue
        rng, digest = np.random.default_rng(shard), ContentDigest(SHAPE)
        temporary = path.with_name(f".{path.name}")
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", write_statistics=["id"], write_page_checksum=True
        ) as writer:
            for first in range(start, min(start + PER_SHARD, n), GROUP):
                rows = range(first, min(first + GROUP, n))
                label = np.array(rows) % CLASSES
                noise = rng.integers(-40, 41, (len(rows), *SHAPE), dtype=np.int16)
                images = (patterns[label] + noise).clip(0, 255).astype(np.uint8)
                ids = [f"{i:09d}" for i in rows]
                digest.update(ids, images)
                columns = [
                    pa.array(ids),
                    pa.Array.from_buffers(pa.binary(n_bytes), len(rows), [None, pa.py_buffer(images)]),
                    pa.array([str(k) if labeled else None for k in label], pa.string()),
                    pa.array(["train"] * len(rows)),
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
            facts = {"shape": SHAPE, "digest": digest.hexdigest(), "images": min(PER_SHARD, n - start)}
            writer.add_key_value_metadata({FACTS.decode(): json.dumps(facts)})
        os.replace(temporary, path)


def make_jpeg_shards(folder: Path, packed: Path, n: int) -> None:
    """Write shards of JPEG files, once, of the first n images of packed shards."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(-(-n // PER_SHARD)):
        path = folder / f"shard-{shard:05d}.parquet"
        if path.exists():
            continue
        temporary = path.with_name(f".{path.name}")
        with pq.ParquetFile(packed / path.name) as file:
            schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.string()), ("split", pa.string())])
            with pq.ParquetWriter(temporary, schema, compression="none", write_page_checksum=True) as writer:
                for group in range(file.num_row_groups):
                    table, files = file.read_row_group(group), []
                    for pixels in table["image"].to_pylist():
                        buffer = io.BytesIO()
                        image = np.frombuffer(pixels, np.uint8).reshape(SHAPE).transpose(1, 2, 0)
                        Image.fromarray(image).save(buffer, "JPEG", quality=90)
                        files.append(buffer.getvalue())
                    columns = [table["id"], pa.array(files, pa.binary()), table["label"], table["split"]]
                    writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
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
    """Write features of a pool of n images as `ssld embed` writes them, once: clusters, and probabilities that fit them.

    Parts of more images that are there already stay; the index names those of the first n only.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy.special import softmax

    from ssl_diffusion.data.shards.parquet import FACTS
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.inference.shard_parts import INDEX
    from ssl_diffusion.inference.shard_passes import PartsIndex

    run = load_run(run_path, "cpu", "fp32")
    model = f"{run.digest()} {run.precision}"
    f, k = min(run.model.n_features, 512), len(run.classes)
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
    for part, start in enumerate(range(0, n, PER_PART)):
        names.append(f"part-{part:05d}.parquet")
        path = folder / names[-1]
        if path.exists():
            continue
        rng, temporary = np.random.default_rng(part), folder / f".{names[-1]}"
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", write_statistics=["id"], write_page_checksum=True
        ) as writer:
            for first in range(start, min(start + PER_PART, n), 8192):
                rows = range(first, min(first + 8192, start + PER_PART, n))
                z = centers[rng.integers(0, len(centers), len(rows))] + rng.standard_normal((len(rows), f), dtype=np.float32)
                p = softmax(3 * z @ head, axis=1)
                vectors = [pa.FixedSizeListArray.from_arrays(v.ravel(), v.shape[1]) for v in (z, p)]
                ids = pa.array([f"f{i:09d}" for i in rows])
                writer.write_table(pa.table([ids, pa.array(["train"] * len(rows)), *vectors], schema=schema))
            facts = {"kind": "embed", "model": model, "shard": str(part), "images": min(PER_PART, n - start), "skipped": []}
            writer.add_key_value_metadata({FACTS.decode(): json.dumps(facts)})
        os.replace(temporary, path)
    index = PartsIndex("embed", model, run.classes, ("shards",), ("", ""), tuple(names), n)
    (folder / INDEX).write_text(json.dumps(vars(index)))
