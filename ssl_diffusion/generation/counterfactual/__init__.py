"""Counterfactuals: the search, its result, and metrics of many."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.generation.counterfactual.metrics import METRICS_VERSION as METRICS_VERSION
    from ssl_diffusion.generation.counterfactual.metrics import counterfactual_metrics as counterfactual_metrics
    from ssl_diffusion.generation.counterfactual.metrics import insertion_areas as insertion_areas
    from ssl_diffusion.generation.counterfactual.metrics import nearest_agreement as nearest_agreement
    from ssl_diffusion.generation.counterfactual.metrics import redundancy as redundancy
    from ssl_diffusion.generation.counterfactual.metrics import split_frechet as split_frechet
    from ssl_diffusion.generation.counterfactual.refining import patch_side as patch_side
    from ssl_diffusion.generation.counterfactual.result import CounterfactualResult as CounterfactualResult
    from ssl_diffusion.generation.counterfactual.result import Pairs as Pairs
    from ssl_diffusion.generation.counterfactual.result import make_pairs as make_pairs
    from ssl_diffusion.generation.counterfactual.search import ATTEMPTS as ATTEMPTS
    from ssl_diffusion.generation.counterfactual.search import SURE as SURE
    from ssl_diffusion.generation.counterfactual.search import check_images as check_images
    from ssl_diffusion.generation.counterfactual.search import explain as explain
    from ssl_diffusion.generation.counterfactual.search import explain_run as explain_run

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "search": ["ATTEMPTS", "SURE", "check_images", "explain", "explain_run"],
        "refining": ["patch_side"],
        "result": ["CounterfactualResult", "Pairs", "make_pairs"],
        "metrics": [
            "METRICS_VERSION",
            "counterfactual_metrics",
            "insertion_areas",
            "nearest_agreement",
            "redundancy",
            "split_frechet",
        ],
    },
)
