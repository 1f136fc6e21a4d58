"""Studies: strategies x budgets x seeds, paired, with statistics."""

from ssl_diffusion.studies import statistics
from ssl_diffusion.studies.attempts import StudyFolder
from ssl_diffusion.studies.runner import run_study
from ssl_diffusion.studies.settings import StudySettings, load_study

__all__ = ["StudyFolder", "StudySettings", "load_study", "run_study", "statistics"]
