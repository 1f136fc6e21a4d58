"""The joint loss by hand, and who gets gradients."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.objective import (
    OBJECTIVES,
    DenoisingBatch,
    LabeledBatch,
    Objective,
    TrainingBatch,
    UnlabeledBatch,
)

CONFIG = JointConfig(model=ModelSettings(channels=8, blocks=1, groups=4), n_classes=3, image_shape=(1, 7, 8))


def build(config: JointConfig = CONFIG) -> JointDiffusion:
    """A model in which no weight is zero, so that every part takes part."""
    torch.manual_seed(0)
    model = JointDiffusion(config)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return model


def draw(n: int = 4, m: int = 6, seed: int = 1) -> TrainingBatch:
    g = torch.Generator().manual_seed(seed)
    return TrainingBatch(
        DenoisingBatch(
            clean=torch.rand(n, 1, 7, 8, generator=g) * 2 - 1,
            sigma=torch.rand(n, generator=g) * 2 + 0.05,
            eps=torch.randn(n, 1, 7, 8, generator=g),
        ),
        LabeledBatch(
            images=torch.rand(m, 1, 7, 8, generator=g) * 2 - 1,
            labels=torch.arange(m) % 3,
            sigma=torch.rand(m, generator=g) * 0.3,
        ),
    )


def parts(batch: TrainingBatch, name: str) -> TrainingBatch:
    """The part of a batch that an objective uses, as the training loop draws it."""
    if name == "labels-only":
        return replace(batch, denoising=None)
    if name == "denoise-only":
        return replace(batch, labeled=None)
    return batch


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("parameterisation", ["edm", "ddpm"])
def test_gradients_reach_the_parts_that_the_objective_trains_and_no_others(name: str, parameterisation: str) -> None:
    model = build(CONFIG.replace(model=CONFIG.model.replace(parameterisation=parameterisation)))
    Objective(model, name)(parts(draw(), name))["loss"].backward()
    for part, parameters in model.parameter_groups().items():
        trained = part in OBJECTIVES[name]
        assert parameters
        for p in parameters:
            assert p.requires_grad == trained
            assert (p.grad is not None and bool(p.grad.any())) == trained


def test_objectives_of_one_model_can_follow_each_other() -> None:
    """What pretraining froze, training thaws."""
    model = build()
    Objective(model, "denoise-only")
    Objective(model, "joint")
    assert all(p.requires_grad for p in model.parameters())


@settings(max_examples=15, deadline=None)
@given(
    weight=st.floats(0, 50),
    smoothing=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
    ddpm=st.booleans(),
    read_sigma=st.sampled_from([0.0, 0.2]),
)
def test_joint_loss_by_hand(weight: float, smoothing: float, seed: int, ddpm: bool, read_sigma: float) -> None:
    """In image space with its weight, and through log-softmax: two ways that the objective does not take."""
    settings = CONFIG.model.replace(parameterisation="ddpm" if ddpm else "edm", read_sigma=read_sigma)
    config = CONFIG.replace(model=settings)
    model, batch = build(config), draw(seed=seed)
    denoise, read = batch.denoising, batch.labeled
    assert denoise is not None
    assert read is not None
    losses = Objective(model, "joint", classification_weight=weight, label_smoothing=smoothing)(batch)
    with torch.inference_mode():
        sigma = denoise.sigma[:, None, None, None]
        error = (model.denoise(denoise.clean + sigma * denoise.eps, denoise.sigma) - denoise.clean).square().mean(dim=(1, 2, 3))
        denoising = (model.noise.weight(denoise.sigma) * error).mean()
        log_p = model.classify(read.images, read.sigma).log_softmax(dim=1)
        wanted = functional.one_hot(read.labels, 3) * (1 - smoothing) + smoothing / 3
        classification = -(wanted * log_p).sum(dim=1).mean()
        accuracy = (log_p.argmax(dim=1) == read.labels).float().mean()
    assert losses["denoising_loss"].item() == pytest.approx(denoising.item(), rel=1e-3)
    assert losses["classification_loss"].item() == pytest.approx(classification.item(), rel=1e-4)
    assert losses["loss"].item() == pytest.approx((denoising + weight * classification).item(), rel=1e-3)
    assert losses["labeled_accuracy"].item() == pytest.approx(accuracy.item())


def test_one_shared_encoder_pass_equals_two() -> None:
    model, batch = build(), draw()
    together = Objective(model, "joint", classification_weight=2.5)(batch)
    denoise = Objective(model, "denoise-only")(parts(batch, "denoise-only"))
    classify = Objective(model, "labels-only", classification_weight=2.5)(parts(batch, "labels-only"))
    torch.testing.assert_close(together["denoising_loss"], denoise["denoising_loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together["classification_loss"], classify["classification_loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together["loss"], denoise["loss"] + classify["loss"], rtol=1e-5, atol=1e-6)
    assert set(denoise) == {"loss", "denoising_loss"}
    assert set(classify) == {"loss", "classification_loss", "labeled_accuracy"}


def test_the_encoder_runs_once_and_the_decoder_on_pool_images_only() -> None:
    model, batch = build(), draw(n=4, m=6)
    encoded: list[int] = []
    decoded: list[int] = []
    model.unet.stem.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    model.unet.out.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    Objective(model, "joint")(batch)
    assert (encoded, decoded) == ([10], [4])


def test_only_the_loss_carries_gradients() -> None:
    losses = Objective(build(), "joint")(draw())
    assert {name for name, value in losses.items() if value.requires_grad} == {"loss"}


def test_multilabel_loss_is_the_binary_cross_entropy_of_every_class() -> None:
    model = build()
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    read = draw(m=2).labeled
    assert read is not None
    losses = Objective(model, "labels-only")(TrainingBatch(labeled=replace(read, labels=labels)))
    p = model.classify(read.images, read.sigma).sigmoid()
    by_hand = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert losses["loss"].item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert losses["labeled_accuracy"].item() == pytest.approx(((p > 0.5) == (labels > 0.5)).float().mean().item())


@settings(max_examples=20, deadline=None)
@given(ranks=st.integers(1, 4), n=st.integers(1, 3), m=st.integers(1, 3), labeled=st.booleans(), unlabeled=st.booleans())
def test_parts_of_ranks_are_even_disjoint_and_complete(ranks: int, n: int, m: int, labeled: bool, unlabeled: bool) -> None:
    batch = draw(n * ranks, m * ranks)
    if not labeled:
        batch = parts(batch, "denoise-only")
    if unlabeled:
        views = torch.randn(2 * ranks, 1, 7, 8)
        batch.unlabeled = UnlabeledBatch(views, views + 1, torch.rand(2 * ranks))
    shares = [batch.for_rank(rank, ranks, torch.device("cpu")) for rank in range(ranks)]
    for term in fields(TrainingBatch):
        whole = getattr(batch, term.name)
        pieces = [getattr(share, term.name) for share in shares]
        if whole is None:
            assert pieces == [None] * ranks
            continue
        for f in fields(whole):
            tensor: Tensor | None = getattr(whole, f.name)
            parts_of = [getattr(piece, f.name) for piece in pieces]
            if tensor is None:
                assert parts_of == [None] * ranks
            else:
                assert {len(part) for part in parts_of} == {len(tensor) // ranks}
                assert torch.equal(torch.cat(parts_of), tensor)


def test_unlabeled_images_without_a_consistency_term_are_refused() -> None:
    views = torch.zeros(2, 1, 7, 8)
    batch = replace(draw(), unlabeled=UnlabeledBatch(views, views, torch.zeros(2)))
    with pytest.raises(ValueError, match="needs an objective with a consistency term and its teacher"):
        Objective(build(), "joint")(batch)


def test_mean_of_the_parts_losses_is_the_loss_of_the_batch() -> None:
    """What makes two ranks follow the curve of one."""
    objective, batch = Objective(build(), "joint"), draw(4, 6)
    shares = [objective(batch.for_rank(rank, 2, torch.device("cpu")))["loss"] for rank in range(2)]
    torch.testing.assert_close(torch.stack(shares).mean(), objective(batch)["loss"], rtol=1e-5, atol=1e-6)
