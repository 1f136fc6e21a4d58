"""`ssld predict`: classes of new images."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import Images

from .command import RUN, RunContext, command
from .options import SKIP_BAD, ShardOptions, number
from .shards import images_or_shards, read_shards

__all__ = ["predict"]


@command(RUN, threads=0)
def predict(
    context: RunContext,
    shards: ShardOptions,
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of them; or Parquet or tar shards.")],
    out: Annotated[
        Path | None,
        typer.Option(help="CSV file to write. Of shards a folder of parts. Default: predictions.csv, or predictions."),
    ] = None,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    batch_size: Annotated[int, number(Images, help="Images per batch.")] = 256,
) -> None:
    """Predict the classes of images and write a CSV file with id, label and probabilities; of shards a Parquet part each."""
    from ssl_diffusion.inference.predict_files import predict_files

    output = context.output
    paths, named = images_or_shards(images)
    shards.check(bool(named))
    if named:
        read_shards(context, named, out or Path("predictions"), "predict", shards, skip_bad, batch_size)
        return
    out = out or Path("predictions.csv")
    n, skipped = predict_files(context.run, paths, out, skip_bad=skip_bad, batch_size=batch_size, progress=output.bars)
    text = f"{n} predictions in {out}"
    if skipped:
        text += f"\n{len(skipped)} unreadable images skipped: " + ", ".join(sample for sample, _ in skipped[:5])
    values = {"out": str(out), "predictions": n, "skipped": [{"id": i, "reason": reason} for i, reason in skipped]}
    output.result(values, text)
