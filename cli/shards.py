"""What commands that read shards have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .command import RunContext
from .options import ShardOptions

__all__ = ["images_or_shards", "read_shards"]


def images_or_shards(given: Sequence[str]) -> tuple[list[Path], list[str]]:
    """What is given: image files and folders of them, or shards; one of both is empty.

    Raises:
        DataError: If it is both.
    """
    from ssl_diffusion.data.shards.places import is_sharded
    from ssl_diffusion.errors import DataError
    from ssl_diffusion.outputs import path_fault, shown_path

    shards = [text for text in given if is_sharded(text)]
    files = [text for text in given if text not in shards]
    if shards and files:
        raise DataError(f"{shown_path(shards[0])} names shards and {shown_path(files[0])} image files: read one kind at a time")
    paths = [Path(text) for text in files]
    for path in (*paths, *(Path(text) for text in shards if "://" not in text)):
        if (fault := path_fault(path)) is not None:
            raise DataError(fault)
    return paths, shards


def read_shards(
    context: RunContext,
    shards: Sequence[str],
    out: Path,
    kind: Literal["embed", "predict"],
    options: ShardOptions,
    skip_bad: bool,
    batch_size: int,
) -> None:
    """Write what a run makes of shards into a folder of parts, and say so."""
    from ssl_diffusion.data.shards.base import Columns
    from ssl_diffusion.inference.shard_passes import pass_over_shards, shards_for
    from ssl_diffusion.outputs import refuse_inputs

    run, output = context.run, context.output
    refuse_inputs(out, [Path(text) for text in shards if "://" not in text and Path(text).is_dir()])
    columns = Columns(options.id_column, options.image_column)
    source = shards_for(run, shards, columns=columns, skip_bad=skip_bad)
    done = pass_over_shards(
        run,
        source,
        shards,
        out,
        kind,
        batch_size=batch_size,
        engine="ray" if options.engine == "ray" else "local",
        address=options.address,
        workers=options.workers,
        start=options.ray if options.engine == "ray" else None,
        progress=output.bars,
    )
    what = "representations" if kind == "embed" else "predictions"
    text = f"{done.images:,} {what} in {len(done.parts)} parts in {out}"
    if done.kept:
        text += f" ({done.kept} were there already)"
    if done.skipped:
        text += f"\n{len(done.skipped)} unreadable places skipped: " + ", ".join(place for place, _ in done.skipped[:5])
    values = {"out": str(out), "n": done.images, "parts": [str(path) for path in done.parts], "kept": done.kept}
    output.result(values | {"skipped": [{"place": place, "reason": reason} for place, reason in done.skipped]}, text)
