"""`ssld embed`: representations of images, for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import Images

from .command import RUN, RunContext, command
from .options import SKIP_BAD, number

__all__ = ["embed"]


@command(RUN, threads=0)
def embed(
    context: RunContext,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of them. Default: the images of the run.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write: .npz, .csv or .parquet.")] = Path("embeddings.npz"),
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    batch_size: Annotated[int, number(Images, help="Images per batch.")] = 256,
) -> None:
    """Write the representation of each image by its id; `ssld fit --features FILE` reads it back."""
    from ssl_diffusion.errors import DataError
    from ssl_diffusion.inference.embedding_files import check_embedding_file, embed_files, write_embeddings
    from ssl_diffusion.inference.predict import represent
    from ssl_diffusion.inference.run_rows import pool_rows
    from ssl_diffusion.training.data_changes import load_run_pool
    from ssl_diffusion.training.run_folder import run_inputs

    run, output = context.run, context.output
    inputs = [*run_inputs(run), *(images or ())]
    check_embedding_file(out, inputs)
    skipped: list[tuple[str, str]] = []
    if images:
        ids, z, skipped = embed_files(run, images, skip_bad=skip_bad, batch_size=batch_size, progress=output.bars)
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
