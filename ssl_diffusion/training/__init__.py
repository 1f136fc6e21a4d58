"""From a recipe and a pool to a run folder."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.training.classification_report import ClassificationReport as ClassificationReport
    from ssl_diffusion.training.classification_report import classification_report as classification_report
    from ssl_diffusion.training.classification_report import wilson_interval as wilson_interval
    from ssl_diffusion.training.data_changes import load_run_pool as load_run_pool
    from ssl_diffusion.training.denoiser_cache import CachedDenoiser as CachedDenoiser
    from ssl_diffusion.training.denoiser_cache import DenoiserCache as DenoiserCache
    from ssl_diffusion.training.denoiser_cache import denoiser_key as denoiser_key
    from ssl_diffusion.training.evaluate import evaluate_run as evaluate_run
    from ssl_diffusion.training.evaluate import report_fit as report_fit
    from ssl_diffusion.training.fit import FitOptions as FitOptions
    from ssl_diffusion.training.fit import fit_model as fit_model
    from ssl_diffusion.training.fit import fit_run as fit_run
    from ssl_diffusion.training.fit import resume_run as resume_run
    from ssl_diffusion.training.planning import parse_duration as parse_duration
    from ssl_diffusion.training.planning import plan_for_time as plan_for_time
    from ssl_diffusion.training.planning import time_plan as time_plan
    from ssl_diffusion.training.recipe import Recipe as Recipe
    from ssl_diffusion.training.recipe import load_recipe as load_recipe
    from ssl_diffusion.training.recipe import recipe_for as recipe_for
    from ssl_diffusion.training.recipe import recipe_names as recipe_names
    from ssl_diffusion.training.result import Fitted as Fitted
    from ssl_diffusion.training.result import TrainingResult as TrainingResult
    from ssl_diffusion.training.run_folder import RunFolder as RunFolder
    from ssl_diffusion.training.run_folder import default_run_name as default_run_name
    from ssl_diffusion.training.run_folder import load_metrics as load_metrics
    from ssl_diffusion.training.run_folder import model_metadata as model_metadata
    from ssl_diffusion.training.run_folder import run_inputs as run_inputs
    from ssl_diffusion.training.settings import AugmentationSettings as AugmentationSettings
    from ssl_diffusion.training.settings import ComputeSettings as ComputeSettings
    from ssl_diffusion.training.settings import PhaseSettings as PhaseSettings
    from ssl_diffusion.training.settings import TrainingSettings as TrainingSettings

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "recipe": ["Recipe", "load_recipe", "recipe_for", "recipe_names"],
        "settings": ["AugmentationSettings", "ComputeSettings", "PhaseSettings", "TrainingSettings"],
        "fit": ["FitOptions", "fit_model", "fit_run", "resume_run"],
        "result": ["Fitted", "TrainingResult"],
        "classification_report": ["ClassificationReport", "classification_report", "wilson_interval"],
        "evaluate": ["evaluate_run", "report_fit"],
        "run_folder": ["RunFolder", "default_run_name", "load_metrics", "model_metadata", "run_inputs"],
        "data_changes": ["load_run_pool"],
        "denoiser_cache": ["CachedDenoiser", "DenoiserCache", "denoiser_key"],
        "planning": ["parse_duration", "plan_for_time", "time_plan"],
    },
)
