"""Studies: strategies x budgets x seeds, paired, with statistics."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.studies.attempts import Outcome as Outcome
    from ssl_diffusion.studies.attempts import StudyFolder as StudyFolder
    from ssl_diffusion.studies.attempts import attempt as attempt
    from ssl_diffusion.studies.attempts import attempt_elsewhere as attempt_elsewhere
    from ssl_diffusion.studies.report import write_report as write_report
    from ssl_diffusion.studies.runner import ENGINES as ENGINES
    from ssl_diffusion.studies.runner import run_study as run_study
    from ssl_diffusion.studies.settings import REFITS as REFITS
    from ssl_diffusion.studies.settings import StudySettings as StudySettings
    from ssl_diffusion.studies.settings import load_study as load_study
    from ssl_diffusion.studies.summary import sentences as sentences
    from ssl_diffusion.studies.summary import summary as summary

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["REFITS", "StudySettings", "load_study"],
        "runner": ["ENGINES", "run_study"],
        "attempts": ["Outcome", "StudyFolder", "attempt", "attempt_elsewhere"],
        "summary": ["sentences", "summary"],
        "report": ["write_report"],
    },
)
