"""From noise to images, and from an image to its counterfactual."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.generation.boundary_distance import deepfool_distance as deepfool_distance
    from ssl_diffusion.generation.boundary_distance import linear_distance as linear_distance
    from ssl_diffusion.generation.counterfactual import CounterfactualResult as CounterfactualResult
    from ssl_diffusion.generation.counterfactual import explain as explain
    from ssl_diffusion.generation.counterfactual import explain_run as explain_run
    from ssl_diffusion.generation.explanations import write_explanations as write_explanations
    from ssl_diffusion.generation.extractors import Extractor as Extractor
    from ssl_diffusion.generation.extractors import extractor_of_run as extractor_of_run
    from ssl_diffusion.generation.extractors import inception_extractor as inception_extractor
    from ssl_diffusion.generation.extractors import labels_only_extractor as labels_only_extractor
    from ssl_diffusion.generation.gallery import class_index as class_index
    from ssl_diffusion.generation.gallery import file_stems as file_stems
    from ssl_diffusion.generation.gallery import write_samples as write_samples
    from ssl_diffusion.generation.guidance import GUIDANCE as GUIDANCE
    from ssl_diffusion.generation.guidance import Guidance as Guidance
    from ssl_diffusion.generation.quality import compare_features as compare_features
    from ssl_diffusion.generation.quality import frechet_distance as frechet_distance
    from ssl_diffusion.generation.quality import kernel_distance as kernel_distance
    from ssl_diffusion.generation.quality import neighbor_measures as neighbor_measures
    from ssl_diffusion.generation.quality_report import GenerationReport as GenerationReport
    from ssl_diffusion.generation.quality_report import evaluate_generation as evaluate_generation
    from ssl_diffusion.generation.quality_report import real_features as real_features
    from ssl_diffusion.generation.quality_report import write_generation as write_generation
    from ssl_diffusion.generation.sampling import DDIM as DDIM
    from ssl_diffusion.generation.sampling import SAMPLERS as SAMPLERS
    from ssl_diffusion.generation.sampling import DDPMAncestral as DDPMAncestral
    from ssl_diffusion.generation.sampling import Denoiser as Denoiser
    from ssl_diffusion.generation.sampling import DPMSolverPP as DPMSolverPP
    from ssl_diffusion.generation.sampling import Heun as Heun
    from ssl_diffusion.generation.sampling import NoiseStream as NoiseStream
    from ssl_diffusion.generation.sampling import Sampler as Sampler
    from ssl_diffusion.generation.sampling import denoising_strip as denoising_strip
    from ssl_diffusion.generation.sampling import find_sampler as find_sampler
    from ssl_diffusion.generation.sampling import integrate as integrate
    from ssl_diffusion.generation.sampling import sample as sample
    from ssl_diffusion.generation.sampling import sample_run as sample_run

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "sampling": [
            "DDIM",
            "DDPMAncestral",
            "DPMSolverPP",
            "Denoiser",
            "Heun",
            "NoiseStream",
            "SAMPLERS",
            "Sampler",
            "denoising_strip",
            "find_sampler",
            "integrate",
            "sample",
            "sample_run",
        ],
        "guidance": ["GUIDANCE", "Guidance"],
        "boundary_distance": ["deepfool_distance", "linear_distance"],
        "quality": ["compare_features", "frechet_distance", "kernel_distance", "neighbor_measures"],
        "quality_report": ["GenerationReport", "evaluate_generation", "real_features", "write_generation"],
        "extractors": ["Extractor", "extractor_of_run", "inception_extractor", "labels_only_extractor"],
        "gallery": ["class_index", "file_stems", "write_samples"],
        "explanations": ["write_explanations"],
        "counterfactual": ["CounterfactualResult", "explain", "explain_run"],
    },
)
