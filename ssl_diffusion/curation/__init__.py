"""Curation: what is wrong with images and labels, and new files of labels without it."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.curation.check import CheckResult as CheckResult
    from ssl_diffusion.curation.check import check_collection as check_collection
    from ssl_diffusion.curation.check import fixed_labels as fixed_labels
    from ssl_diffusion.curation.collection import Collection as Collection
    from ssl_diffusion.curation.collection import collect_photos as collect_photos
    from ssl_diffusion.curation.collection import collect_run as collect_run
    from ssl_diffusion.curation.held_out import held_out_probabilities as held_out_probabilities
    from ssl_diffusion.curation.label_issues import LabelIssues as LabelIssues
    from ssl_diffusion.curation.label_issues import find_label_issues as find_label_issues
    from ssl_diffusion.curation.label_issues import judge_labels as judge_labels
    from ssl_diffusion.curation.near_duplicates import Duplicates as Duplicates
    from ssl_diffusion.curation.near_duplicates import find_duplicates as find_duplicates
    from ssl_diffusion.curation.outliers import Outliers as Outliers
    from ssl_diffusion.curation.outliers import find_outliers as find_outliers
    from ssl_diffusion.curation.page import write_check as write_check
    from ssl_diffusion.curation.pair_pictures import PairPicture as PairPicture
    from ssl_diffusion.curation.pair_pictures import draw_pairs as draw_pairs

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "check": ["CheckResult", "check_collection", "fixed_labels"],
        "collection": ["Collection", "collect_photos", "collect_run"],
        "near_duplicates": ["Duplicates", "find_duplicates"],
        "outliers": ["Outliers", "find_outliers"],
        "page": ["write_check"],
        "pair_pictures": ["PairPicture", "draw_pairs"],
        "held_out": ["held_out_probabilities"],
        "label_issues": ["LabelIssues", "find_label_issues", "judge_labels"],
    },
)
