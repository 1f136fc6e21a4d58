"""`ssld query` and `ssld strategies`: what to label next."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import AtLeastOne, Strength

from .command import NOTHING, RUN, Context, RunContext, command
from .options import OverwriteOption, SeedOption, number

__all__ = ["query", "strategies"]


@command(RUN, threads=0)
def query(
    context: RunContext,
    n: Annotated[int, number(AtLeastOne, "--n", help="Number of samples to choose.")] = 100,
    strategy: Annotated[
        str, typer.Option(help="auto, or a strategy listed by `ssld strategies`, also as NAME:VARIANT.")
    ] = "auto",
    power: Annotated[
        float | None,
        number(
            Strength,
            help="Exponent: sample in proportion to utility^power instead of taking the largest (scoring strategies only).",
        ),
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Folder that `ssld embed` wrote of shards. Default: the images of the run.")
    ] = None,
    candidates: Annotated[
        int | None,
        number(AtLeastOne, help="With --pool: samples that a cheap score leaves for the strategy. Default: 50,000."),
    ] = None,
    labeled: Annotated[
        Path | None, typer.Option(help="CSV file with a column id: samples labeled since the fit, besides the run's own.")
    ] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Choose only one of several identical images.")] = False,
    seed: SeedOption = 0,
    keep_scores: Annotated[
        bool, typer.Option("--keep-scores/--no-scores", help="Cache encoder outputs in the run folder.")
    ] = True,
    out: Annotated[Path, typer.Option(help="File to write (a folder with --format folder).")] = Path("batch.csv"),
    form: Annotated[str, typer.Option("--format", help="csv, json, folder or label-studio.")] = "csv",
    picture: Annotated[
        bool, typer.Option("--picture", help="Also draw the chosen samples, and a map of where they lie in the pool.")
    ] = False,
    map_by: Annotated[str, typer.Option("--map", help="Projection of the map: pca or umap.")] = "pca",
    overwrite: OverwriteOption = False,
) -> None:
    """Choose the unlabeled samples that are most worth labeling next."""
    from ssl_diffusion.acquisition import query as choose_batch
    from ssl_diffusion.acquisition.batch_files import batch_figure, check_place, write_batch
    from ssl_diffusion.acquisition.funnel import CANDIDATES, batch_pool, query_features
    from ssl_diffusion.acquisition.pool_map import overview_figure
    from ssl_diffusion.data.tables import read_table
    from ssl_diffusion.errors import SSLDError
    from ssl_diffusion.outputs import check_output_file, output_file
    from ssl_diffusion.training.data_changes import load_run_pool
    from ssl_diffusion.training.run_folder import RunFolder, run_inputs

    if pool is not None:
        for flag, given in (("--picture", picture), ("--dedupe", dedupe), ("--no-scores", not keep_scores)):
            if given:
                raise SSLDError(f"{flag} is for the images of the run, not for --pool: leave it out")
    elif candidates is not None:
        raise SSLDError("--candidates has no effect without --pool: leave it out")
    if map_by != "pca" and not picture:
        raise SSLDError("--map has no effect without --picture: leave it out, or add --picture")
    run, output = context.run, context.output
    inputs = run_inputs(run)
    pictures = [out.with_name(f"{out.stem}.png"), out.with_name(f"{out.stem}-map.png")] if picture else []
    check_place(out, form, overwrite, inputs)
    for path in pictures:
        check_output_file(path, overwrite=overwrite, inputs=inputs)
    if pool is not None:
        since = read_table(labeled).column("id") if labeled is not None else None
        wanted = candidates or CANDIDATES
        batch = query_features(
            run,
            pool,
            n,
            strategy,
            labeled=since,
            power=power,
            candidates=wanted,
            random_state=seed,
            progress=output.bars,
        )
        chosen = batch_pool(run, pool, batch.ids) if form in ("folder", "label-studio") else None
        write_batch(batch, chosen, out, form, overwrite, inputs)
        text = f"{batch.reason}\n{len(batch)} samples in {out}"
        values = {"out": str(out), "strategy": batch.strategy, "reason": batch.reason, "ids": batch.ids.tolist()}
        output.result(values, text)
        return
    images = load_run_pool(run, progress=output.bars)
    known = None
    if labeled is not None:
        own = RunFolder(run.path).labeled(images)
        known = [*read_table(labeled).column("id"), *(own.train + own.val if own is not None else ())]
    batch = choose_batch(
        run,
        images,
        n,
        strategy,
        labeled=known,
        power=power,
        dedupe=dedupe,
        random_state=seed,
        keep_scores=keep_scores,
        map_by=map_by if picture else None,
        progress=output.bars,
    )
    write_batch(batch, images, out, form, overwrite, inputs)
    text = f"{batch.reason}\n{len(batch)} samples in {out}"
    values = {"out": str(out), "strategy": batch.strategy, "reason": batch.reason, "ids": batch.ids.tolist()}
    if picture:
        assert batch.overview is not None
        figures = [batch_figure(batch, images, run), overview_figure(batch.overview, batch.reason)]
        for path, figure in zip(pictures, figures, strict=True):
            with output_file(path, overwrite=overwrite, inputs=inputs) as temporary:
                figure.savefig(temporary, dpi=110)
        text += f"\npictures: {pictures[0]}, {pictures[1]}"
        values |= {"picture": str(pictures[0]), "map": str(pictures[1])}
    output.result(values, text)


@command(NOTHING)
def strategies(context: Context) -> None:
    """List the acquisition strategies: what they need and cost, when to use them, and their sources."""
    from ssl_diffusion.acquisition.names import AUTO_RULE, VARIANTS
    from ssl_diffusion.acquisition.registry import PLUGINS, strategy_rows
    from ssl_diffusion.machine import load_plugins

    rows = strategy_rows()
    lines = ["auto  (what it takes, by what strategies see)", *(f"    {line}" for line in AUTO_RULE), ""]
    for row in rows:
        needs = "needs no labels" if row["needs"] == "images" else "needs a classifier"
        lines += [f"{row['name']}  ({needs}; {row['cost']})", f"    {row['when']}", f"    {row['reference']}"]
    variants = {name: words for name, (words, _) in VARIANTS.items()}
    lines += ["", "variants, as in margin:diverse:", *(f"    {name}: {words}" for name, words in variants.items())]
    broken = dict(load_plugins(PLUGINS))
    lines += [f"\nnot loaded: {sentence}" for sentence in broken.values()]
    context.output.result({"strategies": rows, "variants": variants, "broken": broken}, "\n".join(lines))
