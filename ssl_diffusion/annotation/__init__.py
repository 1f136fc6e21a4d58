"""Labeling by people: a durable store, the loop of rounds and fits, the labeling page, Label Studio."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.annotation.files.exports import EXPORTS as EXPORTS
    from ssl_diffusion.annotation.files.exports import export_labels as export_labels
    from ssl_diffusion.annotation.files.imports import Imported as Imported
    from ssl_diffusion.annotation.files.imports import LabelRecord as LabelRecord
    from ssl_diffusion.annotation.files.imports import apply_records as apply_records
    from ssl_diffusion.annotation.files.imports import import_labels as import_labels
    from ssl_diffusion.annotation.files.imports import read_labels as read_labels
    from ssl_diffusion.annotation.loop.fit_state import FitState as FitState
    from ssl_diffusion.annotation.loop.fits import Background as Background
    from ssl_diffusion.annotation.loop.fits import fit_job as fit_job
    from ssl_diffusion.annotation.loop.job import Job as Job
    from ssl_diffusion.annotation.loop.job import create_job as create_job
    from ssl_diffusion.annotation.loop.job import move_images as move_images
    from ssl_diffusion.annotation.loop.job import open_job as open_job
    from ssl_diffusion.annotation.loop.rounds import Round as Round
    from ssl_diffusion.annotation.loop.rounds import next_round as next_round
    from ssl_diffusion.annotation.loop.rounds import rerank as rerank
    from ssl_diffusion.annotation.loop.settings import JobSettings as JobSettings
    from ssl_diffusion.annotation.loop.snapshot import Snapshot as Snapshot
    from ssl_diffusion.annotation.loop.snapshot import take_snapshot as take_snapshot
    from ssl_diffusion.annotation.loop.status import JobStatus as JobStatus
    from ssl_diffusion.annotation.loop.status import audit_estimate as audit_estimate
    from ssl_diffusion.annotation.loop.status import drawn_estimate as drawn_estimate
    from ssl_diffusion.annotation.loop.status import fitted_labels as fitted_labels
    from ssl_diffusion.annotation.loop.status import job_status as job_status
    from ssl_diffusion.annotation.loop.status import labels_per_hour as labels_per_hour

# Imported on first use, so that one name does not load torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loop.job": ["Job", "create_job", "move_images", "open_job"],
        "loop.settings": ["JobSettings"],
        "loop.rounds": ["Round", "next_round", "rerank"],
        "loop.fit_state": ["FitState"],
        "loop.fits": ["Background", "fit_job"],
        "loop.snapshot": ["Snapshot", "take_snapshot"],
        "loop.status": ["JobStatus", "audit_estimate", "drawn_estimate", "fitted_labels", "job_status", "labels_per_hour"],
        "files.imports": ["Imported", "LabelRecord", "apply_records", "import_labels", "read_labels"],
        "files.exports": ["EXPORTS", "export_labels"],
    },
)
