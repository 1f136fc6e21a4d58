"""`ssld check`: what is wrong with images and labels."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_diffusion.settings import Count

from .command import NOTHING, Context, command
from .options import (
    ACCELERATOR,
    BACKBONE,
    CACHE_DIR,
    FEATURES,
    IMAGE_ROOT,
    PRECISION,
    OverwriteOption,
    SeedOption,
    backbone_name,
    number,
)

__all__ = ["check"]


@command(NOTHING, threads=0)
def check(
    context: Context,
    data: Annotated[str, typer.Argument(help="Run folder, job folder, folder of images, CSV file that lists them, or shards.")],
    labels: Annotated[
        Path | None, typer.Option(help="CSV file with the columns id and label, instead of the labels that are there.")
    ] = None,
    backbone: Annotated[str | None, BACKBONE] = None,
    features: Annotated[Path | None, FEATURES] = None,
    image_root: Annotated[Path | None, IMAGE_ROOT] = None,
    noise_levels: Annotated[
        int, number(Count, help="Noise levels, up to 4, at which the denoiser of a run is asked for foreign images.")
    ] = 1,
    pair_pictures: Annotated[
        int, number(Count, help="Most confused pairs of classes for which the model of a run draws what tells them apart.")
    ] = 2,
    fix: Annotated[
        list[str] | None,
        typer.Option(help="Also write labels.csv without these findings: labels, duplicates or outliers. May be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("check"),
    overwrite: OverwriteOption = False,
    seed: SeedOption = 0,
    cache_dir: Annotated[Path | None, CACHE_DIR] = None,
    accelerator: Annotated[str, ACCELERATOR] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
) -> None:
    """Find wrong labels, copies, leaks into the test split, foreign images and image faults, and write a page about them.

    Shards are read from end to end, and compared with the digests in their footers.
    """
    from ssl_diffusion.data.loading import check_there
    from ssl_diffusion.data.settings import DataSettings
    from ssl_diffusion.errors import DataError, SSLDError, nearest_names
    from ssl_diffusion.outputs import path_fault

    folder, is_url = Path(data), "://" in data  # of which Path would make a path here
    if not is_url and (fault := path_fault(folder)) is not None:
        raise DataError(fault)
    check_there(DataSettings(path=data))  # a wrong path is an error before torch is imported
    from ssl_diffusion.curation.check import FIXES, check_collection, fixed_labels
    from ssl_diffusion.curation.collection import collect_photos, collect_run
    from ssl_diffusion.curation.page import write_check
    from ssl_diffusion.curation.pair_pictures import draw_pairs
    from ssl_diffusion.data.shards.places import is_sharded
    from ssl_diffusion.data.shards.source import ShardSource
    from ssl_diffusion.data.shards.verifying import verify_shards
    from ssl_diffusion.inference.run import load_run
    from ssl_diffusion.outputs import check_output_folder
    from ssl_diffusion.storage import default_cache_dir
    from ssl_diffusion.training.run_folder import run_inputs

    for name in fix or ():
        if name not in FIXES:
            raise SSLDError(f"--fix mends {', '.join(FIXES)}; {nearest_names(name, FIXES)}")
    if noise_levels > 4:
        raise SSLDError(f"a denoiser is asked at no more than 4 noise levels, not {noise_levels}")
    network, verified = backbone_name(backbone, features), ""
    output, is_run, is_job = context.output, (folder / "recipe.toml").exists(), (folder / "job.toml").exists()
    if (is_run or is_job) and (network not in (None, "auto") or image_root is not None):
        what = "run" if is_run else "job"
        raise SSLDError(f"a {what} has its own representation and images: leave out --backbone, --features and --image-root")
    inputs = [] if is_run or is_job or is_url else [folder]
    inputs += [path for path in (labels, image_root) if path is not None]
    if is_job:
        from ssl_diffusion.annotation.loop.job import open_job
        from ssl_diffusion.annotation.loop.job_check import collect_job

        if labels is not None:
            raise SSLDError("a job has labels of its own: leave out --labels, or import them with: ssld loop import")
        job = open_job(folder)
        inputs += job.inputs
        check_output_folder(out, overwrite=overwrite, inputs=inputs)
        collection = collect_job(job, levels=noise_levels, progress=output.bars)
    elif is_run:
        run = load_run(folder, accelerator, precision)
        inputs += run_inputs(run)
        check_output_folder(out, overwrite=overwrite, inputs=inputs)
        collection = collect_run(run, labels, levels=noise_levels, progress=output.bars)
    else:
        check_output_folder(out, overwrite=overwrite, inputs=inputs)
        collection = collect_photos(
            data,
            labels,
            backbone=network,
            image_root=image_root,
            cache_dir=cache_dir or default_cache_dir(),
            progress=output.bars,
        )
        if is_sharded(data):
            source = ShardSource(data, skip_bad=True)
            n = verify_shards(source, progress=output.bars)
            verified = f"{n} of {len(source.shards)} shards hold what their footers say."
    result = check_collection(collection, seed=seed)
    fixed, changes = fixed_labels(result, fix) if fix else (None, {})
    pictures = draw_pairs(result, pair_pictures, seed=seed, progress=output.bars)
    findings = None
    if is_job:
        from ssl_diffusion.annotation.loop.job_check import findings_of

        findings = findings_of(result)
    files = write_check(result, out, fixed=fixed, findings=findings, pictures=pictures, overwrite=overwrite, inputs=inputs)
    lines = result.sentences + ([verified] if verified else [])
    if findings is not None:
        from ssl_diffusion.annotation.loop.suspicious import queue_findings

        queued = queue_findings(job, findings)
        lines.append(f"{queued} new findings wait on the page, under Suspicious: ssld loop serve {data}")
    if result.not_judged:
        lines.append(f"Labels were not judged: {result.not_judged}.")
    lines += [f"--fix {name}: {n} changes" for name, n in changes.items()]
    if fixed is not None:
        lines.append(f"{len(fixed)} samples in {out / 'labels.csv'}")
    lines.append(f"page: {out / 'index.html'}")
    values = {
        "out": str(out),
        "files": files,
        "images": len(collection.pool),
        "labels": len(result.labeled),
        "label_issues": len(result.wrong_labels) if result.issues is not None else None,
        "not_judged": result.not_judged or None,
        "duplicate_groups": len(result.duplicates.groups),
        "leaks": len(result.leaks),
        "outliers": len(result.foreign),
        "pair_pictures": sum(bool(picture.png) for picture in pictures),
        "image_faults": len({i for _, i, _, _ in result.faults}),
        "unreadable": len(collection.pool.skipped),
        "changes": changes,
    }
    output.result(values, "\n".join(lines))
