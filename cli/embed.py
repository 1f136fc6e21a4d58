"""`ssld embed`: representations of images, for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import Images

from .command import RUN, RunContext, command
from .options import SKIP_BAD, ShardOptions, number
from .shards import images_or_shards, read_shards

__all__ = ["embed"]


@command(RUN, threads=0)
def embed(
    context: RunContext,
    shards: ShardOptions,
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Image files, or folders of them; or Parquet or tar shards. Default: the images of the run."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .npz, .csv or .parquet. Of shards a folder of parts. Default: embeddings.npz, or features."
        ),
    ] = None,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    batch_size: Annotated[int, number(Images, help="Images per batch.")] = 256,
) -> None:
    """Write the representation of each image by its id; `ssld fit --features FILE` reads it back.

    Of shards a part each is written, with class probabilities; `ssld query --pool` chooses from them.
    """
    from ssl_diffusion.errors import DataError
    from ssl_diffusion.inference.embedding_files import check_embedding_file, embed_files, write_embeddings
    from ssl_diffusion.inference.predict import represent
    from ssl_diffusion.inference.run_rows import pool_rows
    from ssl_diffusion.training.data_changes import load_run_pool
    from ssl_diffusion.training.run_folder import run_inputs

    run, output = context.run, context.output
    paths, named = images_or_shards(images or [])
    shards.check(bool(named))
    if named:
        read_shards(context, named, out or Path("features"), "embed", shards, skip_bad, batch_size)
        return
    out = out or Path("embeddings.npz")
    inputs = [*run_inputs(run), *paths]
    check_embedding_file(out, inputs)
    skipped: list[tuple[str, str]] = []
    if paths:
        ids, z, skipped = embed_files(run, paths, skip_bad=skip_bad, batch_size=batch_size, progress=output.bars)
    else:
        pool = load_run_pool(run, progress=output.bars)
        if pool.image_shape != run.image_shape:
            raise DataError(f"images have shape {pool.image_shape}, but {run.path} was made for {run.image_shape}")
        rows = pool_rows(run, pool, progress=output.bars)
        ids = pool.ids.tolist()
        z = represent(run.model, rows, precision=run.precision, batch_size=batch_size, progress=output.bars)
    write_embeddings(ids, z, out, inputs)
    text = f"{len(ids)} representations of {z.shape[1]} features in {out}"
    if skipped:
        text += f"\n{len(skipped)} unreadable images skipped: " + ", ".join(sample for sample, _ in skipped[:5])
    values = {"out": str(out), "n": len(ids), "features": z.shape[1]}
    output.result(values | {"skipped": [{"id": i, "reason": reason} for i, reason in skipped]}, text)
