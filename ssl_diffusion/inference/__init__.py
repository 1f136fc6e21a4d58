"""A model reads many images: runs opened, predictions, representations and where they are kept."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.inference.backbone_features import pool_features as pool_features
    from ssl_diffusion.inference.denoising import DenoiserQuality as DenoiserQuality
    from ssl_diffusion.inference.denoising import LinearDenoiser as LinearDenoiser
    from ssl_diffusion.inference.denoising import denoiser_quality as denoiser_quality
    from ssl_diffusion.inference.denoising import denoising_errors as denoising_errors
    from ssl_diffusion.inference.embedded_pool import EmbeddedPool as EmbeddedPool
    from ssl_diffusion.inference.embedding import embed as embed
    from ssl_diffusion.inference.embedding import embed_whole as embed_whole
    from ssl_diffusion.inference.embedding_store import Embeddings as Embeddings
    from ssl_diffusion.inference.embedding_store import EmbeddingStore as EmbeddingStore
    from ssl_diffusion.inference.embedding_store import digests as digests
    from ssl_diffusion.inference.embedding_store import store_of as store_of
    from ssl_diffusion.inference.engines.base import Engine as Engine
    from ssl_diffusion.inference.engines.local import LocalEngine as LocalEngine
    from ssl_diffusion.inference.metrics import classification_metrics as classification_metrics
    from ssl_diffusion.inference.metrics import expected_calibration_error as expected_calibration_error
    from ssl_diffusion.inference.neighbors import Neighbors as Neighbors
    from ssl_diffusion.inference.predict import by_batches as by_batches
    from ssl_diffusion.inference.predict import evaluating as evaluating
    from ssl_diffusion.inference.predict import map_batches as map_batches
    from ssl_diffusion.inference.predict import predict_logits as predict_logits
    from ssl_diffusion.inference.predict import predict_probabilities as predict_probabilities
    from ssl_diffusion.inference.predict import probabilities as probabilities
    from ssl_diffusion.inference.predict import represent as represent
    from ssl_diffusion.inference.predict_files import collect_images as collect_images
    from ssl_diffusion.inference.predict_files import predict_files as predict_files
    from ssl_diffusion.inference.projection import DIMENSIONS as DIMENSIONS
    from ssl_diffusion.inference.projection import ProjectedRows as ProjectedRows
    from ssl_diffusion.inference.projection import project as project
    from ssl_diffusion.inference.rows import Rows as Rows
    from ssl_diffusion.inference.rows import SelectedRows as SelectedRows
    from ssl_diffusion.inference.rows import SourceRows as SourceRows
    from ssl_diffusion.inference.run import Run as Run
    from ssl_diffusion.inference.run import load_run as load_run

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "backbone_features": ["pool_features"],
        "denoising": ["DenoiserQuality", "LinearDenoiser", "denoiser_quality", "denoising_errors"],
        "run": ["Run", "load_run"],
        "predict": [
            "by_batches",
            "evaluating",
            "map_batches",
            "predict_logits",
            "predict_probabilities",
            "probabilities",
            "represent",
        ],
        "neighbors": ["Neighbors"],
        "predict_files": ["collect_images", "predict_files"],
        "metrics": ["classification_metrics", "expected_calibration_error"],
        "embedding": ["embed", "embed_whole"],
        "embedding_store": ["EmbeddingStore", "Embeddings", "digests", "store_of"],
        "embedded_pool": ["EmbeddedPool"],
        "engines.base": ["Engine"],
        "engines.local": ["LocalEngine"],
        "rows": ["Rows", "SelectedRows", "SourceRows"],
        "projection": ["DIMENSIONS", "ProjectedRows", "project"],
    },
)
