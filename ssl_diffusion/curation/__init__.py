"""Curation: what is wrong with images and labels, and new files of labels without it."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.curation.held_out import held_out_probabilities as held_out_probabilities
    from ssl_diffusion.curation.label_issues import LabelIssues as LabelIssues
    from ssl_diffusion.curation.label_issues import find_label_issues as find_label_issues
    from ssl_diffusion.curation.label_issues import judge_labels as judge_labels

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "held_out": ["held_out_probabilities"],
        "label_issues": ["LabelIssues", "find_label_issues", "judge_labels"],
    },
)
