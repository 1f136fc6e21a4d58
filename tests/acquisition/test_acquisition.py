"""Every strategy keeps the contract; scores against values worked out by hand; batches against brute force."""

import copy
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ssl_diffusion.acquisition import STRATEGIES, Candidates, choose, query
from ssl_diffusion.acquisition.batch_selection import best, diverse, in_proportion
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.acquisition.strategies.gradient import gradient_norms
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.inference import embedding
from ssl_diffusion.inference import projection as scanning
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.rows import SelectedRows
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.testing.strategies import known_distances
from ssl_diffusion.testing.strategies import noise_candidates as candidates

BOUNDARY = {"linear", "deepfool", "counterfactual"}
LOOKS_AT_IMAGES = BOUNDARY | {"bald", "latent-mix"}


# ---- what is said where something is missing


@pytest.mark.parametrize("name", sorted(LOOKS_AT_IMAGES))
def test_what_looks_at_images_says_so_without(name: str) -> None:
    c = candidates(20)
    with pytest.raises(SSLDError, match="only representations"):
        choose(name, Candidates(c.representation, c.probabilities, c.labeled_representation, c.labeled_classes, 3), 3)


def test_a_batch_larger_than_the_pool_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(choose("margin", candidates(5), 8).picks) == 5
    assert "only 5 samples are left, 8 were asked for" in caplog.text


# ---- scores


def test_scores_by_hand() -> None:
    p = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=np.float32)
    c = Candidates(np.zeros((3, 2), np.float32), p, np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 3)
    by_name = {name: STRATEGIES[name].score(c) for name in ("margin", "least-confidence", "entropy")}  # type: ignore[misc]
    assert by_name["margin"] == pytest.approx([0.8, 0.0, 1.0], abs=1e-6)
    assert by_name["least-confidence"] == pytest.approx([0.75, 0.0, 1.0], abs=1e-6)
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)) / np.log(3)
    assert by_name["entropy"] == pytest.approx([entropy, 0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("name", ["margin", "least-confidence", "entropy"])
def test_one_class_only_has_no_uncertainty(name: str) -> None:
    c = candidates(6)
    one = Candidates(c.representation, np.ones((6, 1), np.float32), c.labeled_representation, c.labeled_classes, 1)
    assert choose(name, one, 2).utilities.tolist() == [0.0] * 6


def test_gradient_norms_are_those_of_autograd() -> None:
    c = candidates(6)
    assert c.model is not None
    linear = copy.deepcopy(c.model)
    for i, z in enumerate(torch.from_numpy(c.representation)):
        linear.zero_grad()
        logits = linear.classify_representation(z[None])
        torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1)).backward()
        assert linear.weight.grad is not None
        assert gradient_norms(c)[i] == pytest.approx(float(linear.weight.grad.norm()), rel=1e-4)


# ---- batches


def test_coreset_is_the_greedy_k_center_of_brute_force() -> None:
    c = candidates(30, 3)
    chosen = [*c.labeled_representation]
    for pick in choose("coreset", c, 6).picks:
        distance = [min(np.linalg.norm(z - s) for s in chosen) for z in c.representation]
        assert distance[pick] == pytest.approx(max(distance), rel=1e-6)
        chosen.append(c.representation[pick])


def test_typiclust_finds_one_of_every_cluster_and_no_outlier() -> None:
    rng = np.random.default_rng(0)
    centers = 20 * np.eye(4, 6, dtype=np.float32)
    x = np.concatenate([center + rng.normal(size=(40, 6)).astype(np.float32) for center in centers])
    x = np.concatenate([x, np.full((1, 6), 90, np.float32)])
    c = Candidates(x, None, x[:0], np.zeros(0, np.int64), 0, np.random.default_rng(0))
    picks = choose("typiclust", c, 5).picks
    assert len({int(i) // 40 for i in picks[:4]}) == 4
    assert 160 not in picks[:4]
    known = Candidates(x[40:], None, x[:2], np.zeros(2, np.int64), 0, np.random.default_rng(0))
    assert {int(i) // 40 for i in choose("typiclust", known, 3).picks} == {0, 1, 2}  # the first cluster has labels


def test_probcover_is_the_greedy_cover_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(n, 3)) + center for n, center in ((30, 0), (20, 9), (10, -9))]).astype(np.float32)
    c = Candidates(x, None, x[:0], np.zeros(0, np.int64), 3, np.random.default_rng(0))
    choice = choose("probcover", c, 3)
    assert [("a", "b", "c")[0 if i < 30 else 1 if i < 50 else 2] for i in choice.picks] == ["a", "b", "c"]
    # The first pick covers as many as any single sample can, by its own count.
    assert choice.utilities[choice.picks[0]] == choice.utilities.max() > 1


def test_bald_is_zero_where_noise_changes_nothing() -> None:
    c = candidates(12)
    assert c.model is not None
    linear = copy.deepcopy(c.model)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias[:] = torch.tensor([2.0, 0.0, 0.0])
    flat = replace(c, model=linear)  # type: ignore[arg-type]
    score = STRATEGIES["bald"].score
    assert score is not None
    assert score(flat) == pytest.approx(np.zeros(12), abs=1e-9)
    assert (score(c) > 0).all()
    assert (score(c) <= 1).all()


def test_latent_mix_takes_what_changes_first() -> None:
    c = candidates(60)
    choice = choose("latent-mix", c, 5)
    margin = STRATEGIES["margin"].score
    assert margin is not None
    assert margin(c)[choice.picks].mean() > margin(c).mean()
    assert choice.utilities[choice.picks].min() >= np.sort(choice.utilities)[-5]


@pytest.mark.parametrize("name", sorted(BOUNDARY))
def test_boundary_batches_rank_by_the_distance_to_the_boundary(name: str) -> None:
    c, distance = known_distances(60)
    choice = choose(name, c, 5)
    looked_at = np.flatnonzero(choice.utilities)
    # A shortlist of five batches, which are the nearest 25: with two classes the margin falls with the distance.
    assert sorted(looked_at.tolist()) == sorted(np.argsort(distance)[:25].tolist())
    apart = np.diff(np.sort(distance[looked_at])) > 0
    ranked = looked_at[np.argsort(-choice.utilities[looked_at], kind="stable")]
    assert spearmanr(choice.utilities[looked_at], distance[looked_at]).statistic < -0.99
    assert distance[ranked[0]] == distance.min()
    assert distance[ranked[-1]] > np.median(distance[looked_at])
    assert choice.picks[0] == ranked[0]
    assert apart.sum() > 15  # not a ranking of copies


# ---- selection


def test_variants_keep_the_utilities_and_change_the_choice() -> None:
    whole = choose("counterfactual", candidates(40), 5)
    top = choose("counterfactual:top", candidates(40), 5)
    np.testing.assert_array_equal(whole.utilities, top.utilities)
    np.testing.assert_allclose(top.utilities[top.picks], np.sort(whole.utilities)[::-1][:5])
    copied = candidates(40, copies=0.3)
    score = choose("margin", copied, 5).utilities
    spread = choose("margin:diverse", copied, 5)
    np.testing.assert_array_equal(spread.utilities, score)
    assert len(np.unique(copied.representation[spread.picks], axis=0)) == 5
    drawn = choose("margin:power", candidates(40), 5)
    assert (drawn.probabilities < 1).all()


def test_unknown_variants_are_named() -> None:
    with pytest.raises(SSLDError, match="did you mean diverse"):
        choose("margin:divers", candidates(), 3)
    with pytest.raises(SSLDError, match="no strategy 'magin'"):
        choose("magin:top", candidates(), 3)


def test_best_breaks_ties_by_chance() -> None:
    first = {int(best(np.ones(5), 1, np.random.default_rng(s)).picks[0]) for s in range(60)}
    assert first == {0, 1, 2, 3, 4}
    assert best(np.array([0.1, 0.9, 0.5]), 2, np.random.default_rng(0)).picks.tolist() == [1, 2]


def test_draws_follow_the_probabilities_that_are_reported() -> None:
    u = np.array([1.0, 2.0, 4.0, 0.0])
    first, said = np.zeros(4), {}
    for seed in range(3000):
        choice = in_proportion(u, 4, 1.0, np.random.default_rng(seed))
        first[choice.picks[0]] += 1
        said[int(choice.picks[0])] = choice.probabilities[0]
        assert choice.picks[-1] == 3
        assert choice.probabilities[-1] == pytest.approx(1)
    assert first / 3000 == pytest.approx([1 / 7, 2 / 7, 4 / 7, 0], abs=0.03)
    assert [said[i] for i in range(3)] == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_diverse_batches_leave_copies_for_last() -> None:
    x = np.concatenate([np.zeros((20, 2)), np.array([[5.0, 0], [0, 5], [5, 5]])]).astype(np.float32)
    for seed in range(10):
        picks = diverse(x, np.ones(23), 4, np.random.default_rng(seed)).picks
        assert len({tuple(x[i]) for i in picks}) == 4


# ---- query


def test_a_query_returns_ids_and_does_not_depend_on_the_order_of_the_pool(tiny_run: Path, digits_pool: Pool) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    one = query(run, digits_pool, 7, "badge", random_state=3)
    order = np.random.default_rng(0).permutation(len(digits_pool))
    turned = Pool(
        digits_pool.name,
        digits_pool.images[order],
        digits_pool.ids[order],
        digits_pool.labels[order],
        digits_pool.classes,
        digits_pool.is_test[order],
        augmentation=digits_pool.augmentation,
    )
    labeled = (tiny_run / "labeled.csv").read_text(encoding="utf-8").splitlines()[1:]
    ids = [line.partition(",")[0] for line in labeled]
    two = query(run, turned, 7, "badge", labeled=ids, random_state=3)
    assert one.ids.tolist() == two.ids.tolist()
    assert not set(one.ids) & set(ids)
    assert all(i.startswith("train/") for i in one.ids)
    frame = one.to_frame()
    assert frame["rank"].tolist() == list(range(1, 8))
    assert frame["prediction"].isin(digits_pool.classes).all()
    assert len(set(one.reasons)) == 7


@pytest.mark.parametrize("name", sorted(name for name, strategy in STRATEGIES.items() if not strategy.reads_labeled))
def test_who_does_not_ask_for_labeled_images_does_not_need_them(
    name: str, tiny_run: Path, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, pool = load_run(tiny_run, "cpu", "fp32"), digits_pool.select(digits_pool.train[:40])
    labeled = pool.ids[:20]

    def chosen() -> list[str]:
        variants = ("", ":diverse", ":power")
        batches = [query(run, pool, 4, name + variant, labeled=labeled, keep_scores=False) for variant in variants]
        return [sample for batch in batches for sample in batch.ids.tolist()]

    without = chosen()
    monkeypatch.setitem(STRATEGIES, name, replace(STRATEGIES[name], reads_labeled=True))
    assert chosen() == without


@pytest.mark.parametrize(
    ("strategy", "reads_labeled"), [("margin", False), ("margin:balanced", True), ("badge", False), ("coreset", True)]
)
def test_a_query_reads_the_images_that_its_strategy_needs(
    tiny_run: Path, digits_pool: Pool, strategy: str, reads_labeled: bool
) -> None:
    labeled, read = digits_pool.ids[digits_pool.train][:200], 0

    def count(update: ProgressUpdate) -> None:
        nonlocal read
        read = max(read, update.total)

    run = load_run(tiny_run, "cpu", "fp32")
    query(run, digits_pool, 3, strategy, labeled=labeled, keep_scores=False, progress=count)
    assert read == len(digits_pool.train) - (0 if reads_labeled else 200)


@pytest.mark.parametrize("name", sorted(name for name, strategy in STRATEGIES.items() if not strategy.reads_representation))
@pytest.mark.parametrize("variant", ["", ":top", ":power", ":diverse", ":balanced"])
def test_who_does_not_ask_for_representations_chooses_the_same_without(
    name: str, variant: str, tiny_run: Path, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, pool = load_run(tiny_run, "cpu", "fp32"), digits_pool.select(digits_pool.train[:40])
    unread = query(run, pool, 4, name + variant, labeled=pool.ids[:20], keep_scores=False)
    monkeypatch.setitem(STRATEGIES, name, replace(STRATEGIES[name], reads_representation=True))
    read = query(run, pool, 4, name + variant, labeled=pool.ids[:20], keep_scores=False)
    assert unread.ids.tolist() == read.ids.tolist()
    assert np.array_equal(unread.utilities, read.utilities)


def test_a_query_that_keeps_nothing_does_not_project(
    tiny_run: Path, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(embedding, "projection_matrix", lambda n: asked.append(n))
    run, pool = load_run(tiny_run, "cpu", "fp32"), digits_pool.select(digits_pool.train[:40])
    query(run, pool, 4, "margin", labeled=pool.ids[:20], keep_scores=False)
    assert not asked
    query(run, pool, 4, "badge", labeled=pool.ids[:20], keep_scores=False)
    assert asked


@pytest.mark.parametrize("strategy", ["auto", "margin", "badge", "counterfactual"])
def test_a_single_candidate_is_chosen(strategy: str, tiny_run: Path, digits_pool: Pool) -> None:
    """Maps of digits end at a single pixel, and groups of one channel have a single value there."""
    labeled = digits_pool.ids[digits_pool.train[1:]]
    batch = query(load_run(tiny_run, "cpu", "fp32"), digits_pool, 1, strategy, labeled=labeled)
    assert batch.ids.tolist() == [digits_pool.ids[digits_pool.train[0]]]


def test_copies_are_chosen_once_with_dedupe(tiny_run: Path, digits_pool: Pool) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    images = digits_pool.images.copy()
    train = digits_pool.train
    images[train[100:500]] = images[train[100]]
    copied = Pool("d", images, digits_pool.ids, digits_pool.labels, digits_pool.classes, digits_pool.is_test)
    batch = query(run, copied, 40, "random", labeled=[], dedupe=True)
    chosen = copied.images[copied.positions(batch.ids)]
    assert len(np.unique(chosen.reshape(40, -1), axis=0)) == 40
    assert len(query(run, copied, 2000, "random", labeled=[], dedupe=True)) <= len(train) - 399
    with pytest.raises(DataError, match="is a copy of a labeled one"):
        query(run, copied, 5, "random", labeled=np.delete(copied.ids[train], slice(101, 500)), dedupe=True)


def test_projected_representations_keep_distances(tiny_run: Path, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    positions = digits_pool.train[:40]
    rows = SelectedRows(digits_pool.images, positions)
    found = embed(run.model, rows)
    whole, p = found.representation, found.probabilities
    assert whole.shape == (40, run.model.n_features)
    monkeypatch.setattr(scanning, "DIMENSIONS", 60)
    scanning.projection_matrix.cache_clear()
    projected = embed(run.model, rows)
    few, q = projected.representation, projected.probabilities
    scanning.projection_matrix.cache_clear()
    assert few.shape == (40, 60)
    np.testing.assert_array_equal(p, q)
    np.testing.assert_allclose(p, run.predict_proba(digits_pool.images[positions]), atol=1e-5)
    far, near = (np.linalg.norm(z[:, None] - z[None], axis=2)[np.triu_indices(40, 1)] for z in (whole, few))
    assert np.abs(near / far - 1).mean() < 0.12


def test_auto_follows_the_regime(unlabeled_run: Path, digits_pool: Pool) -> None:
    cold = query(load_run(unlabeled_run, "cpu", "fp32"), digits_pool, 5)
    assert cold.strategy == "maxherding"
    assert "no classifier yet" in cold.reason
    assert cold.predictions == []
    denoiser = load_run(unlabeled_run, "cpu", "fp32").model
    assert strategy_for("auto", 19, 10, denoiser)[0].name == "maxherding"
    assert strategy_for("auto:balanced", 19, 10, denoiser)[0].name == "maxherding:balanced"
    assert strategy_for("auto", 20, 10, denoiser)[0].name == "uherding"
    assert strategy_for("auto", 19, 10)[0].name == "typiclust"  # pixels, or features of a backbone
    assert strategy_for("auto", 20, 10)[0].name == "uherding"
    assert strategy_for("auto", 499, 10, denoiser)[0].name == "uherding"
    assert strategy_for("auto", 500, 10, denoiser)[0].name == "margin:diverse"
    assert strategy_for("auto:balanced", 500, 10, denoiser)[0].name == "margin:balanced"
    assert strategy_for("auto", 500, 10, denoiser, independent=True)[0].name == "uherding"
    assert strategy_for("auto", 4000, 10)[0].name == "uherding"


def test_what_cannot_be_queried_is_said(tiny_run: Path, digits_pool: Pool) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    with pytest.raises(SSLDError, match="did you mean margin"):
        query(run, digits_pool, 5, "margins")
    with pytest.raises(DataError, match="one sample or more"):
        query(run, digits_pool, 0)
    with pytest.raises(DataError, match="nothing is left to choose"):
        query(run, digits_pool, 5, labeled=digits_pool.ids[digits_pool.train])
    with pytest.raises(DataError, match="no sample 'train/77777'"):
        query(run, digits_pool, 5, labeled=["train/77777"])
    with pytest.raises(SSLDError, match="chooses batches as a whole"):
        query(run, digits_pool, 5, "coreset", power=1.0)
    wide = Pool(
        "w", np.zeros((3, 1, 9, 9), np.uint8), np.array(["a", "b", "c"]), np.zeros(3, np.int64), ("x",), np.zeros(3, bool)
    )
    with pytest.raises(DataError, match=r"images have shape \(1, 9, 9\)"):
        query(run, wide, 1)
