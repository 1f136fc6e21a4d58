"""A model reads many images: runs opened, predictions, representations and where they are kept."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ssl_diffusion.inference.backbone_features import pool_features as pool_features
    from ssl_diffusion.inference.embed import scan_images as scan_images
    from ssl_diffusion.inference.embed import store_of as store_of
    from ssl_diffusion.inference.embed import write_representation as write_representation
    from ssl_diffusion.inference.embedded_pool import EmbeddedPool as EmbeddedPool
    from ssl_diffusion.inference.embedding_store import Embeddings as Embeddings
    from ssl_diffusion.inference.embedding_store import EmbeddingStore as EmbeddingStore
    from ssl_diffusion.inference.embedding_store import digests as digests
    from ssl_diffusion.inference.metrics import classification_metrics as classification_metrics
    from ssl_diffusion.inference.metrics import expected_calibration_error as expected_calibration_error
    from ssl_diffusion.inference.predict import by_batches as by_batches
    from ssl_diffusion.inference.predict import evaluating as evaluating
    from ssl_diffusion.inference.predict import predict_logits as predict_logits
    from ssl_diffusion.inference.predict import predict_probabilities as predict_probabilities
    from ssl_diffusion.inference.predict import probabilities as probabilities
    from ssl_diffusion.inference.predict import represent as represent
    from ssl_diffusion.inference.predict_files import collect_images as collect_images
    from ssl_diffusion.inference.predict_files import predict_files as predict_files
    from ssl_diffusion.inference.projection import DIMENSIONS as DIMENSIONS
    from ssl_diffusion.inference.projection import ProjectedRows as ProjectedRows
    from ssl_diffusion.inference.projection import project as project
    from ssl_diffusion.inference.run import Run as Run
    from ssl_diffusion.inference.run import load_run as load_run

# Imported on first use: who wants one name does not wait for torch and all the others.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "backbone_features": ["pool_features"],
        "run": ["Run", "load_run"],
        "predict": ["by_batches", "evaluating", "predict_logits", "predict_probabilities", "probabilities", "represent"],
        "predict_files": ["collect_images", "predict_files"],
        "metrics": ["classification_metrics", "expected_calibration_error"],
        "embed": ["scan_images", "store_of", "write_representation"],
        "embedding_store": ["EmbeddingStore", "Embeddings", "digests"],
        "embedded_pool": ["EmbeddedPool"],
        "projection": ["DIMENSIONS", "ProjectedRows", "project"],
    },
)
