"""`ssld pack`: image files as Parquet shards."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import AtLeastOne, ImageSide

from .command import NOTHING, Context, command
from .options import IMAGE_ROOT, SKIP_BAD, number

__all__ = ["pack"]


@command(NOTHING)
def pack(
    context: Context,
    images: Annotated[Path, typer.Argument(help="Folder of images, or a CSV file that lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards.")] = Path("shards"),
    size: Annotated[
        int,
        number(ImageSide, help="Side of the squares in pixels; 0 keeps the most common size, -1 that up to 32, else 32."),
    ] = -1,
    color: Annotated[str, typer.Option(help="gray or rgb; files: gray if the files are, by their color mode.")] = "files",
    aspect: Annotated[
        str, typer.Option(help="Images of another aspect ratio: crop their middle, pad, squeeze, or auto (crop or pad).")
    ] = "auto",
    image_root: Annotated[Path | None, IMAGE_ROOT] = None,
    image_column: Annotated[str | None, typer.Option(help="CSV column with image paths.")] = None,
    label_column: Annotated[str | None, typer.Option(help="CSV column with labels.")] = None,
    per_shard: Annotated[
        int | None, number(AtLeastOne, "--per-shard", help="Images of a shard. Default: 64 MiB of pixels.")
    ] = None,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
) -> None:
    """Write images as Parquet shards, decoded once and for all; goes on where a run that was stopped ended."""
    from ssl_diffusion.data.listings import list_csv, list_folder
    from ssl_diffusion.data.loading import is_table
    from ssl_diffusion.data.settings import LARGEST_SIDE
    from ssl_diffusion.data.shards.pack import check_pack_folder, pack_shape
    from ssl_diffusion.data.shards.pack import pack as write_shards
    from ssl_diffusion.errors import RecipeError, nearest_names, shown

    for name, value, known in (
        ("--color", color, ("files", "gray", "rgb")),
        ("--aspect", aspect, ("auto", "crop", "pad", "squeeze")),
    ):
        if value not in known:
            raise RecipeError(f"{name} cannot be {shown(value)}; {nearest_names(value, known)}")
    table = is_table(images)
    if not table and (given := [f for f, v in (("root", image_root), ("column", image_column)) if v is not None]):
        raise RecipeError(f"--image-{given[0]} is for a CSV file that lists images: leave it out")
    if not table and label_column is not None:
        raise RecipeError("--label-column is for a CSV file that lists images: leave it out")
    output = context.output
    check_pack_folder(out, [images])
    if table:
        found = list_csv(images, image_column=image_column, label_column=label_column, root=image_root, skip_bad=skip_bad)
    else:
        found = list_folder(images)
    largest = LARGEST_SIDE if size < 0 else None
    shape, how, file_size = pack_shape(found, size=size if size > 0 else None, largest=largest, color=color, aspect=aspect)  # type: ignore[arg-type]
    done = write_shards(
        found,
        out,
        shape,
        aspect=how,
        file_size=file_size,
        per_shard=per_shard,
        skip_bad=skip_bad,
        inputs=[images],
        progress=output.bars,
    )
    text = f"{done.images:,} images of {' x '.join(map(str, shape))} in {len(done.shards)} shards in {out}"
    if done.kept:
        text += f" ({done.kept} were there already)"
    if done.skipped:
        text += f"\n{len(done.skipped)} unreadable images skipped: " + ", ".join(sample for sample, _ in done.skipped[:5])
    values = {"out": str(out), "images": done.images, "shards": [str(path) for path in done.shards], "kept": done.kept}
    values |= {"shape": list(shape), "skipped": [{"id": i, "reason": reason} for i, reason in done.skipped]}
    output.result(values, text)
