"""`ssld predict`: classes of new images."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import Images

from .command import RUN, RunContext, command
from .options import SKIP_BAD, number

__all__ = ["predict"]


@command(RUN, threads=0)
def predict(
    context: RunContext,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("predictions.csv"),
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    batch_size: Annotated[int, number(Images, help="Images per batch.")] = 256,
) -> None:
    """Predict the classes of images and write a CSV file with id, label and probabilities."""
    from ssl_diffusion.inference.predict_files import predict_files

    output = context.output
    n, skipped = predict_files(context.run, images, out, skip_bad=skip_bad, batch_size=batch_size, progress=output.bars)
    text = f"{n} predictions in {out}"
    if skipped:
        text += f"\n{len(skipped)} unreadable images skipped: " + ", ".join(sample for sample, _ in skipped[:5])
    values = {"out": str(out), "predictions": n, "skipped": [{"id": i, "reason": reason} for i, reason in skipped]}
    output.result(values, text)
