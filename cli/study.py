"""`ssld study`: strategies x budgets x seeds, paired."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ssl_diffusion.cli.output import JsonOption, Output, QuietOption

if TYPE_CHECKING:
    from ssl_diffusion.studies.settings import StudySettings

__all__ = ["study"]

_WHAT, _HOW = "What is studied", "How it runs"


def study(
    words: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[report] [FOLDER]", help="Study folder: to go on with (--resume), or to report on again."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Named data set; see `ssld datasets`.", rich_help_panel=_WHAT)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe name, or a TOML file that may have a section \\[study].", rich_help_panel=_WHAT),
    ] = None,
    strategies: Annotated[
        str | None, typer.Option(help="Comma-separated; see `ssld strategies`. Default: random,auto.", rich_help_panel=_WHAT)
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help="Numbers of labels, comma-separated. Default: 10,20,40,80,160.", rich_help_panel=_WHAT)
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Trials of each strategy. Default: 10.", rich_help_panel=_WHAT)] = None,
    refits: Annotated[
        str | None,
        typer.Option("--refit", help="probe (default), warm, scratch, self-training; comma-separated.", rich_help_panel=_WHAT),
    ] = None,
    cold_start: Annotated[
        bool | None,
        typer.Option(
            "--cold-start/--same-start",
            help="Strategies that need no labels choose the starting set themselves (default), or all start alike.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="What others are compared with.", rich_help_panel=_WHAT)] = None,
    highlight: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Strategies to color in the report's curves, beside the baseline, auto and the best.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the recipe: section.name=value.", rich_help_panel=_WHAT),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Study folder to make.", rich_help_panel=_HOW)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study.", rich_help_panel=_HOW)] = False,
    workers: Annotated[int, typer.Option(help="Processes of this machine.", rich_help_panel=_HOW)] = 1,
    engine: Annotated[str, typer.Option(help="local or ray.", rich_help_panel=_HOW)] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster that runs already.", rich_help_panel=_HOW)] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where denoisers and data are kept.", rich_help_panel=_HOW)] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how many labels an acquisition strategy saves: learning curves of paired trials."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.studies import StudyFolder, run_study
        from ssl_diffusion.studies.figures import check_highlight
        from ssl_diffusion.studies.report import write_report
        from ssl_diffusion.studies.summary import sentences, summary
        from ssl_diffusion.training.fit import FitOptions

        only_report, place = _place(words or [], out)
        colored = _words(highlight) or ()
        if only_report:
            written = write_report(place, cache_dir, colored)
            output.result({"out": str(place), "report": str(written)}, f"report in {written}")
            return
        asked = {
            "strategies": _words(strategies),
            "budgets": _numbers(budgets),
            "seeds": seeds,
            "refits": _words(refits),
            "cold_start": cold_start,
            "baseline": baseline,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        new = bool(dataset or recipe or given or overrides)
        settings = _settings(dataset, recipe, given, overrides or []) if new or not resume else None
        if colored:  # a misspelled name is refused before the study runs, not after
            studied = settings or StudyFolder(place).settings()
            check_highlight(colored, studied.strategies, studied.baseline)
        kept = FitOptions(cache=_cache(cache_dir), cache_dir=cache_dir, progress=output.bars)
        study = run_study(settings, place, resume=resume, workers=workers, engine=engine, address=address, options=kept)
        rounds, _, missing = study.results()
        lines: list[str] = []
        summaries: dict[str, Any] = {}
        settings = study.settings()
        for refit in settings.refits if len(rounds) else ():
            part = rounds[rounds["refit"] == refit]
            if part.empty:
                continue
            table = summary(part, settings.baseline)
            summaries[refit] = table.to_dict("records")
            lines += [f"{refit}:", *(f"  {line}" for line in sentences(part, settings.baseline)), ""]
        if missing:
            reasons = {t.name: study.failure(t) for t in missing}
            lines += [
                f"{len(missing)} trials are missing:",
                *(f"  {name}: {why or 'not run'}" for name, why in reasons.items()),
            ]
        page = write_report(place, cache_dir, colored) if len(rounds) else None
        lines.append(f"study in {place}" + (f", report in {page}" if page else ""))
        values = {"out": str(place), "report": str(page), "missing": [t.name for t in missing], "summary": summaries}
        output.result(values, "\n".join(lines))


def _place(words: list[Path], out: Path | None) -> tuple[bool, Path]:
    """Whether only a report is wanted, and the study folder."""
    from ssl_diffusion.errors import RecipeError

    if len(words) == 2 and str(words[0]) == "report" and out is None:
        return True, words[1]
    if len(words) > 1 or (words and out is not None):
        raise RecipeError("give one study folder: --out for a new study, FOLDER --resume to go on, report FOLDER for its page")
    if not words and out is None:
        raise RecipeError("where is the study to be kept? Give --out")
    return False, out or words[0]


def _settings(dataset: str | None, recipe: str | None, given: dict[str, Any], overrides: list[str]) -> "StudySettings":
    from dataclasses import replace

    from ssl_diffusion.studies.settings import StudySettings, load_study
    from ssl_diffusion.training.recipe import load_recipe, recipe_for

    if recipe is not None and recipe.endswith(".toml"):
        base = load_study(Path(recipe))
    else:
        base = StudySettings(recipe=load_recipe(recipe or recipe_for(dataset or "fashion-mnist")))
    r = base.recipe.with_setting("data.dataset", dataset) if dataset else base.recipe
    return replace(base, recipe=r.with_overrides(overrides), **given)


def _cache(cache_dir: Path | None) -> Any:
    from ssl_diffusion.training.denoiser_cache import DenoiserCache

    return DenoiserCache(cache_dir) if cache_dir is not None else None


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str | None) -> tuple[int, ...] | None:
    from ssl_diffusion.errors import RecipeError

    try:
        return None if text is None else tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise RecipeError(f"budgets are whole numbers, comma-separated, not {text!r}") from None
