"""`ssld study`: strategies x budgets x seeds, paired."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from ssl_diffusion.settings import Devices, Trials

from .command import NOTHING, Context, command
from .options import BACKBONE, CACHE_DIR, DATASET, FEATURES, METRIC, SETTINGS, backbone_name, given_options, number
from .output import Output

if TYPE_CHECKING:
    from ssl_diffusion.studies import StudyFolder
    from ssl_diffusion.studies.settings import StudySettings

__all__ = ["study"]

_OF_REPORTS = ("--cache-dir", "--highlight", "--with")


@dataclass(frozen=True)
class DesignOptions:
    """What is compared with what."""

    panel: ClassVar[str] = "Design"

    dataset: Annotated[str | None, DATASET] = None
    recipe: Annotated[str | None, typer.Option(help="Recipe name, or a TOML file, which may have a section \\[study].")] = None
    strategies: Annotated[
        str | None, typer.Option(help="Strategies, comma-separated; see `ssld strategies`. Default: random,auto.")
    ] = None
    budgets: Annotated[
        str | None, typer.Option(help="Increasing numbers of labels, comma-separated. Default: 10,20,40,80,160.")
    ] = None
    seeds: Annotated[int | None, number(Trials, help="Trials of each strategy. Default: 10.")] = None
    refits: Annotated[
        str | None,
        typer.Option("--refit", help="Ways to refit, comma-separated: probe (default), warm, scratch, self-training."),
    ] = None
    cold_start: Annotated[
        bool | None,
        typer.Option(
            "--cold-start/--same-start",
            help="Whether strategies that need no labels choose the starting set themselves (default), or all start alike.",
        ),
    ] = None
    backbone: Annotated[str | None, BACKBONE] = None
    features: Annotated[Path | None, FEATURES] = None
    metric: Annotated[str | None, METRIC] = None
    baseline: Annotated[str | None, typer.Option(help="Strategy that the others are compared with. Default: random.")] = None
    overrides: Annotated[list[str] | None, SETTINGS] = None

    def settings(self, *, resume: bool) -> "StudySettings | None":
        """Settings of the study; None resumes with those of the folder."""
        from ssl_diffusion.studies.settings import StudySettings, load_study
        from ssl_diffusion.training.recipe import load_recipe, recipe_for

        if resume and not given_options(self):
            return None
        if self.recipe is not None and self.recipe.endswith(".toml"):
            study = load_study(Path(self.recipe))
        else:
            own = recipe_for("fashion-mnist" if self.dataset is None else self.dataset)
            study = StudySettings(recipe=load_recipe(own if self.recipe is None else self.recipe))
        recipe = study.recipe
        if self.dataset is not None:
            recipe = recipe.with_setting("data.dataset", self.dataset, "--dataset")
        if (named := backbone_name(self.backbone, self.features)) is not None:
            recipe = recipe.with_setting("backbone.name", named, "--backbone")
        if self.metric is not None:
            recipe = recipe.with_setting("training.metric", self.metric, "--metric")
        return study.replace(
            recipe=recipe.with_overrides(self.overrides or []),
            strategies=study.strategies if self.strategies is None else _words(self.strategies),
            budgets=study.budgets if self.budgets is None else _numbers(self.budgets),
            seeds=study.seeds if self.seeds is None else self.seeds,
            refits=study.refits if self.refits is None else _words(self.refits),
            cold_start=study.cold_start if self.cold_start is None else self.cold_start,
            baseline=study.baseline if self.baseline is None else self.baseline,
        )


@dataclass(frozen=True)
class ExecutionOptions:
    """Where a study is kept, how it runs, and what its report shows."""

    panel: ClassVar[str] = "Execution"

    out: Annotated[Path | None, typer.Option(help="Study folder to create.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Resume the study in FOLDER.")] = False
    workers: Annotated[int, number(Devices, help="Worker processes.")] = 1
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local"
    address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster. Default: start one on this machine.")
    ] = None
    cache_dir: Annotated[Path | None, CACHE_DIR] = None
    highlight: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Strategies to color in the report's curves, besides the baseline, auto and the best."
        ),
    ] = None
    others: Annotated[
        Path | None,
        typer.Option(
            "--with",
            help="Results of others on the same data to show beside the study's in its report: a CSV file with the columns "
            "dataset, strategy, n_labeled, accuracy, seed, or a folder of scikit-activeml's experiments.",
        ),
    ] = None


@command(NOTHING)
def study(
    context: Context,
    design: DesignOptions,
    execution: ExecutionOptions,
    words: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[report] [FOLDER]", help="Study folder to resume, or to write the report of again."),
    ] = None,
) -> None:
    """Measure how many labels an acquisition strategy saves: learning curves of paired trials."""
    from ssl_diffusion.errors import RecipeError
    from ssl_diffusion.studies import StudyFolder

    cache_dir = execution.cache_dir
    only_report, place = _place(words or [], execution.out, execution.resume)
    highlight = _words(execution.highlight or "")
    if only_report:
        if idle := [flag for flag in given_options(design) + given_options(execution) if flag not in _OF_REPORTS]:
            raise RecipeError(f"{idle[0]} has no effect on the report of a study that has been run: leave it out")
        StudyFolder(place).settings()  # a wrong folder is an error before figures and statistics are imported
        from ssl_diffusion.studies.report import write_report

        written = write_report(place, cache_dir, highlight, execution.others)
        context.output.result({"out": str(place), "report": str(written)}, f"report in {written}")
        return
    if execution.others is not None:
        raise RecipeError("--with is for the report of a study that has been run: ssld study report FOLDER --with FILE")
    settings = design.settings(resume=execution.resume)
    from ssl_diffusion.studies import run_study
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions

    if highlight:  # a misspelled name is refused before the study runs, not after
        from ssl_diffusion.studies.figures import check_highlight

        planned = settings or StudyFolder(place).settings()
        check_highlight(highlight, planned.strategies, planned.baseline)
    cache = DenoiserCache(cache_dir) if cache_dir is not None else None
    done = run_study(
        settings,
        place,
        resume=execution.resume,
        workers=execution.workers,
        engine=execution.engine,
        address=execution.address,
        options=FitOptions(cache=cache, cache_dir=cache_dir, progress=context.output.bars),
    )
    _print_result(done, cache_dir, highlight, context.output)


def _print_result(done: "StudyFolder", cache_dir: Path | None, highlight: tuple[str, ...], output: Output) -> None:
    """Write the report of a study that has results, and print its summary."""
    from ssl_diffusion.inference.class_metrics import METRICS
    from ssl_diffusion.studies.report import write_report
    from ssl_diffusion.studies.scenario import judged_by
    from ssl_diffusion.studies.summary import sentences, summary

    rounds, _, missing = done.results()
    settings = done.settings()
    metric = settings.recipe.training.metric
    rounds = judged_by(rounds, metric) if len(rounds) else rounds
    lines: list[str] = []
    summaries: dict[str, Any] = {}
    for refit in settings.refits if len(rounds) else ():
        part = rounds[rounds["refit"] == refit]
        if part.empty:
            continue
        summaries[refit] = summary(part, settings.baseline).to_dict("records")
        lines += [f"{refit}:", *(f"  {line}" for line in sentences(part, settings.baseline, METRICS[metric])), ""]
    if missing:
        lines.append(f"{len(missing)} trials are missing:")
        lines += [f"  {trial.name}: {done.failure(trial) or 'not run'}" for trial in missing]
    page = write_report(done.path, cache_dir, highlight) if len(rounds) else None
    lines.append(f"study in {done.path}" + (f", report in {page}" if page else ""))
    values = {"out": str(done.path), "report": str(page), "missing": [t.name for t in missing], "summary": summaries}
    output.result(values, "\n".join(lines))


def _place(words: list[Path], out: Path | None, resume: bool) -> tuple[bool, Path]:
    """Whether only the report is to be written, and the study folder."""
    from ssl_diffusion.errors import RecipeError

    if len(words) == 2 and str(words[0]) == "report" and out is None:
        return True, words[1]
    if len(words) > 1 or (words and out is not None):
        raise RecipeError(
            "give one study folder: --out FOLDER for a new study, FOLDER --resume to resume one, report FOLDER for its report"
        )
    if not words and out is None:
        raise RecipeError("no study folder: give --out FOLDER for a new study")
    if words and not resume:
        raise RecipeError(
            f"what is to be done with {words[0]}? --out {words[0]} makes a new study there, {words[0]} --resume resumes the "
            f"one that is there, report {words[0]} writes its report"
        )
    return False, out or words[0]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    from ssl_diffusion.errors import RecipeError

    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise RecipeError(f"budgets are whole numbers, comma-separated, not {text!r}") from None
