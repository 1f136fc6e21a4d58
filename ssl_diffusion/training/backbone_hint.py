"""A word before a joint training: what the labels say of the pretrained network that "auto" leaves out then.

On photos of natural scenes a frozen network can have twice the accuracy that joint training has after its whole schedule, and
on others it is the other way round (benchmarks/README.md). The labels tell what the network alone would give, by a probe of
which some are held out; what joint training will give they cannot tell before it.
"""

from pathlib import Path

import numpy as np

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads
from ssl_diffusion.machine import resolve_accelerator
from ssl_diffusion.models.backbones.registry import load_backbone
from ssl_diffusion.models.probe import fit_probe
from ssl_diffusion.training.backbones import with_backbone_of
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.starting_point import fold_logits

__all__ = ["backbone_hint"]

_LEAST, _MOST = 20, 1000  # labels that are worth a word, and that are read for it


def backbone_hint(recipe: Recipe, pool: Pool, labeled: LabeledSet | None, cache_dir: Path | None = None) -> str | None:
    """What the backbone of "auto" alone makes of the labels, and how to use it.

    Args:
        recipe: Settings, the backbone not yet resolved.
        pool: Images.
        labeled: Labels to use; None without labels.
        cache_dir: Cache directory in which features are kept; None keeps none.

    Returns:
        A sentence; None unless the objective is "joint", the backbone "auto", and the probe would read one of these images, and
        where there are fewer than 20 labels, or fewer than two of a class.
    """
    if recipe.training.objective != "joint" or recipe.backbone.name != "auto" or pool.multilabel or labeled is None:
        return None
    name = with_backbone_of(recipe.with_setting("training.objective", "probe"), pool).backbone.name
    fitted = pool.positions(labeled.fitted)  # in the order of the pool, often class by class
    positions = np.random.default_rng(recipe.training.seed).permutation(fitted)[:_MOST] if len(fitted) > _MOST else fitted
    if name == "none" or len(positions) < _LEAST:
        return None
    backbone = load_backbone(name).to(resolve_accelerator(recipe.compute.accelerator))
    z = backbone_features(backbone, pool, positions, backbone_reads(backbone, pool), cache_dir=cache_dir)
    y, k, seed = pool.labels[positions], len(pool.classes), recipe.training.seed
    penalty = fit_probe(z, y, z, k, seed=seed).inverse_penalty
    folds = fold_logits(z, y, z, k, penalty, seed)
    if folds is None:
        return None
    return (
        f"{name} alone, a pretrained network that joint training does not read, gets {(folds.argmax(axis=1) == y).mean():.0%} "
        f"of the labels right that are held out for it: compare with --objective probe --backbone {name}, which takes minutes"
    )
