"""`ssld query` and `ssld strategies`: what to label next."""

from pathlib import Path
from typing import Annotated

import typer
from ssl_diffusion.cli.output import AcceleratorOption, JsonOption, Output, PrecisionOption, QuietOption, ThreadsOption

__all__ = ["query", "strategies"]


def query(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    n: Annotated[int, typer.Option("--n", help="Samples to choose.", min=1)] = 100,
    strategy: Annotated[str, typer.Option(help="auto, or one of `ssld strategies`, also as NAME:VARIANT.")] = "auto",
    power: Annotated[
        float | None, typer.Option(help="Draw in proportion to utility^power instead of taking the best (scores only).", min=0)
    ] = None,
    labeled: Annotated[
        Path | None, typer.Option(help="CSV file with a column id: samples labeled since, besides those of the run.")
    ] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Of equal images choose only one.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of all chance.", min=0)] = 0,
    keep_scores: Annotated[
        bool,
        typer.Option("--keep-scores/--no-scores", help="Keep what the encoder says in the run folder, for later."),
    ] = True,
    out: Annotated[Path, typer.Option(help="File to write (a folder with --format folder).")] = Path("batch.csv"),
    form: Annotated[str, typer.Option("--format", help="csv, json, folder or label-studio.")] = "csv",
    picture: Annotated[bool, typer.Option("--picture", help="Also pictures: what was chosen, and where in the pool.")] = False,
    map_by: Annotated[str, typer.Option("--map", help="Map of the picture: pca or umap.")] = "pca",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a batch that is there.")] = False,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose the unlabeled samples that are worth a label next."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.machine import bind_threads

        bind_threads(threads)
        from ssl_diffusion.acquisition import query as choose_batch
        from ssl_diffusion.acquisition.export import batch_figure, check_place, write_batch
        from ssl_diffusion.acquisition.pool_map import overview_figure
        from ssl_diffusion.data.tables import read_table
        from ssl_diffusion.inference.run import load_run
        from ssl_diffusion.outputs import check_output_file, output_file
        from ssl_diffusion.training.run_folder import RunFolder, run_inputs
        from ssl_diffusion.training.run_pool import load_run_pool

        model = load_run(run, accelerator, precision)
        folder, inputs = RunFolder(run), run_inputs(model)
        pictures = [out.with_name(f"{out.stem}.png"), out.with_name(f"{out.stem}-map.png")] if picture else []
        check_place(out, form, overwrite, inputs)
        for path in pictures:
            check_output_file(path, overwrite=overwrite, inputs=inputs)
        pool = load_run_pool(model, progress=output.bars)
        known = None
        if labeled is not None:
            own = folder.labeled(pool)
            known = [*read_table(labeled).column("id"), *(own.train + own.val if own is not None else ())]
        batch = choose_batch(
            model,
            pool,
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
        write_batch(batch, pool, out, form, overwrite, inputs)
        text = f"{batch.reason}\n{len(batch)} samples in {out}"
        values = {"out": str(out), "strategy": batch.strategy, "reason": batch.reason, "ids": batch.ids.tolist()}
        if picture:
            assert batch.overview is not None
            figures = [batch_figure(batch, pool, model), overview_figure(batch.overview, batch.reason)]
            for path, figure in zip(pictures, figures, strict=True):
                with output_file(path, overwrite=overwrite, inputs=inputs) as temporary:
                    figure.savefig(temporary, dpi=110)
            text += f"\npictures: {pictures[0]}, {pictures[1]}"
            values |= {"picture": str(pictures[0]), "map": str(pictures[1])}
        output.result(values, text)


def strategies(as_json: JsonOption = False) -> None:
    """List the acquisition strategies: what they need and cost, when to use them, where they are from."""
    output = Output(as_json, quiet=True)
    with output.running():
        from ssl_diffusion.acquisition import strategies_frame
        from ssl_diffusion.acquisition.names import VARIANTS
        from ssl_diffusion.acquisition.registry import PLUGINS
        from ssl_diffusion.machine import load_plugins

        frame = strategies_frame()
        rows = frame.to_dict(orient="records")
        lines = [
            "auto: typiclust below two labels a class, then counterfactual; margin:diverse for batches above 250",
            "",
        ]
        for row in rows:
            needs = "no labels needed" if row["needs"] == "images" else "needs a classifier"
            lines += [f"{row['name']}  ({needs}; {row['cost']})", f"    {row['when']}", f"    {row['reference']}"]
        lines += ["", "variants, as in margin:diverse:", *(f"    {name}: {words}" for name, (words, _) in VARIANTS.items())]
        variants = {name: words for name, (words, _) in VARIANTS.items()}
        broken = dict(load_plugins(PLUGINS))
        lines += [f"\nnot loaded: {sentence}" for sentence in broken.values()]
        output.result({"strategies": rows, "variants": variants, "broken": broken}, "\n".join(lines))
