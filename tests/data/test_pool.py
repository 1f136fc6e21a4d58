"""Ids, labels and budgets: what is chosen, what is kept, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled, hold_out_test, label_name
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError


def make(labels: list[int], n_classes: int = 3, n_test: int = 0) -> Pool:
    """Tiny images with these labels; the last `n_test` are the test split."""
    n = len(labels)
    return Pool(
        name="made",
        images=np.arange(n, dtype=np.uint8).repeat(4).reshape(n, 1, 2, 2),
        ids=np.array([f"s{i:03d}" for i in range(n)]),
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(f"class-{k}" for k in range(n_classes)),
        is_test=np.arange(n) >= n - n_test,
    )


def counts(pool: Pool, ids: tuple[str, ...]) -> list[int]:
    return np.bincount(pool.labels[pool.positions(ids)], minlength=len(pool.classes)).tolist()


# ---- the pool


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((60, 3, 6, 5), np.float32)}, "must be uint8"),
        ({"images": np.zeros((60, 6, 5), np.uint8)}, "must be uint8 of shape"),
        ({"images": np.zeros((60, 5, 6, 5), np.uint8)}, "1 to 4 channels, not 5"),
        ({"ids": np.array(["a"])}, "1 ids for 60 images"),
        ({"is_test": np.zeros(59, bool)}, "59 is_test for 60 images"),
        ({"ids": np.array(["same"] * 2 + [f"s{i}" for i in range(58)])}, "'same' occurs 2 times"),
        ({"labels": np.full(60, 3)}, "label 3 has no name among 3 classes"),
    ],
)
def test_impossible_pools_are_refused(small_pool: Pool, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(small_pool, **changes)  # type: ignore[arg-type]


def test_positions_follow_ids_and_name_the_unknown_one(small_pool: Pool) -> None:
    assert small_pool.positions(["s07", "s00", "s59"]).tolist() == [7, 0, 59]
    with pytest.raises(DataError, match="'small' has no sample 's99'"):
        small_pool.positions(["s01", "s99"])


def test_a_part_of_a_pool_keeps_what_belongs_to_its_samples(small_pool: Pool) -> None:
    pool = replace(small_pool, files=[Path(f"{sample}.png") for sample in small_pool.ids])
    part = pool.select(np.array([50, 7, 3]))
    assert part.ids.tolist() == ["s50", "s07", "s03"]
    assert part.files == [Path("s50.png"), Path("s07.png"), Path("s03.png")]
    assert part.is_test.tolist() == [True, False, False]
    assert (part.images == pool.images[[50, 7, 3]]).all()
    assert part.positions(["s07"]).tolist() == [1]
    assert part.classes == pool.classes
    assert pool.select(pool.is_test).ids.tolist() == pool.ids[pool.test].tolist()
    with pytest.raises(DataError, match="'s07' occurs 2 times"):
        pool.select(np.array([7, 7]))


def test_splits_and_known_labels(small_pool: Pool) -> None:
    assert small_pool.train.tolist() == list(range(48))
    assert small_pool.test.tolist() == list(range(48, 60))
    assert small_pool.has_label.tolist() == [False] * 6 + [True] * 54
    rows = np.array([[0, 0, 0], [-1, -1, -1], [1, 0, 1]] * 20)
    assert replace(small_pool, labels=rows, multilabel=True).has_label.tolist() == [True, False, True] * 20


def test_fingerprint_follows_training_images_and_ids_and_nothing_else(small_pool: Pool) -> None:
    reference = small_pool.fingerprint()
    pixel, test_pixel, ids, swapped = (
        small_pool.images.copy(),
        small_pool.images.copy(),
        small_pool.ids.copy(),
        small_pool.ids.copy(),
    )
    pixel[3, 0, 0, 0] ^= 1
    test_pixel[59, 0, 0, 0] ^= 1
    ids[3] = "other"
    swapped[[3, 4]] = swapped[[4, 3]]
    different = [
        replace(small_pool, images=pixel),
        replace(small_pool, ids=ids),
        replace(small_pool, ids=swapped),
        replace(small_pool, is_test=np.arange(60) >= 47),
        replace(small_pool, images=small_pool.images.reshape(60, 3, 5, 6)),
    ]
    equal = [
        replace(small_pool, labels=np.full(60, -1), name="other", augmentation="photo", classes=("x", "y", "z")),
        replace(small_pool, images=test_pixel),
        replace(small_pool, images=np.asfortranarray(small_pool.images)),
    ]
    assert len({p.fingerprint() for p in [*different, small_pool]}) == len(different) + 1
    assert {p.fingerprint() for p in equal} == {reference}


def test_sigma_data_is_the_root_mean_square_of_training_pixels(small_pool: Pool) -> None:
    pixels = small_pool.images[:48].astype(np.float64) / 127.5 - 1
    assert small_pool.sigma_data() == pytest.approx(np.sqrt((pixels**2).mean()), rel=1e-5)
    black = replace(small_pool, images=np.zeros_like(small_pool.images))
    assert black.sigma_data() == pytest.approx(1.0)
    gray = replace(small_pool, images=np.full_like(small_pool.images, 127))
    assert gray.sigma_data() == 0.01  # never zero, which would divide by zero


# ---- the labeled budget


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=8, max_size=80),
    seed=st.integers(0, 2**31),
    share=st.floats(0.05, 1),
    choice=st.sampled_from(["balanced", "uniform"]),
)
def test_budgets_are_exact_nested_and_never_touch_test_or_unlabeled(
    labels: list[int], seed: int, share: float, choice: str
) -> None:
    pool = make(labels, 4, n_test=len(labels) // 4)
    eligible = set(pool.ids[pool.has_label & ~pool.is_test].tolist())
    assume(eligible)
    budget = max(1, round(share * len(eligible)))
    chosen = choose_labeled(pool, budget, seed=seed, choice=choice, allow_missing_classes=True)
    assert len(set(chosen.train)) == len(chosen) == budget
    assert set(chosen.train) <= eligible
    assert list(chosen.train) == sorted(chosen.train)
    for smaller in {1, budget // 2, budget - 1} - {0}:
        fewer = choose_labeled(pool, smaller, seed=seed, choice=choice, allow_missing_classes=True)
        assert set(fewer.train) <= set(chosen.train)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5), seed=st.integers(0, 2**31), data=st.data())
def test_balanced_counts_differ_by_at_most_one_while_classes_last(sizes: list[int], seed: int, data: st.DataObject) -> None:
    pool = make([k for k, size in enumerate(sizes) for _ in range(size)], len(sizes))
    budget = data.draw(st.integers(len(sizes), sum(sizes)))
    taken = counts(pool, choose_labeled(pool, budget, seed=seed).train)
    assert sum(taken) == budget
    most = max(taken)
    # Whoever has less than the richest class minus one has run out.
    assert all(n == size for n, size in zip(taken, sizes, strict=True) if n < most - 1)
    assert all(taken)


def test_budget_on_digits_is_balanced(digits_pool: Pool) -> None:
    assert counts(digits_pool, choose_labeled(digits_pool, 40, seed=0).train) == [4] * 10
    assert sorted(counts(digits_pool, choose_labeled(digits_pool, 45, seed=3).train)) == [4] * 5 + [5] * 5


def test_uniform_budget_follows_the_pool() -> None:
    pool = make([0] * 900 + [1] * 100, 2)
    taken = [counts(pool, choose_labeled(pool, 100, seed=s, choice="uniform").train)[1] for s in range(20)]
    assert 7 < np.mean(taken) < 13
    assert len(set(taken)) > 1
    assert counts(pool, choose_labeled(pool, 100, seed=0).train) == [50, 50]


@pytest.mark.parametrize("choice", ["balanced", "uniform"])
def test_seeds_differ_and_repeat(digits_pool: Pool, choice: str) -> None:
    def choose(seed: int) -> LabeledSet:
        return choose_labeled(digits_pool, 50, seed=seed, choice=choice, allow_missing_classes=True)

    assert choose(1) == choose(1)
    assert len({choose(seed) for seed in range(5)}) == 5
    assert set(choose(0).train) != set(choose(1).train)


def test_choice_does_not_depend_on_the_global_random_state(digits_pool: Pool) -> None:
    np.random.seed(1)
    first = choose_labeled(digits_pool, 50, seed=0)
    np.random.seed(2)
    assert choose_labeled(digits_pool, 50, seed=0) == first


@settings(max_examples=40, deadline=None)
@given(budget=st.integers(10, 60), fraction=st.floats(0, 0.7))
def test_validation_labels_count_in_the_budget(budget: int, fraction: float) -> None:
    pool = make([i % 3 for i in range(90)])
    chosen = choose_labeled(pool, budget, seed=1, val_fraction=fraction)
    assert len(chosen) == budget
    assert len(chosen.val) == round(fraction * budget)
    assert not set(chosen.val) & set(chosen.train)
    assert set(chosen.train + chosen.val) == set(choose_labeled(pool, budget, seed=1).train)


def test_no_budget_takes_every_label(small_pool: Pool) -> None:
    assert len(choose_labeled(small_pool, None, seed=0)) == 42


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        (43, {}, "43 labels is larger than the 42 labeled training images of 'small'"),
        (0, {}, "--objective denoise-only"),
        (-3, {}, "--objective denoise-only"),
        (2, {}, "2 labels cannot cover 3 classes; use at least 3"),
        (10, {"val_fraction": 1.0}, r"validation fraction must be in \[0, 1\), not 1.0"),
        (10, {"val_fraction": -0.1}, "validation fraction"),
        (10, {"val_fraction": 0.99}, "leaves no label of 10 for training"),
        (4, {"val_fraction": 0.5}, "no training label for class '"),
        (10, {"choice": "best"}, "'balanced' or 'uniform', not 'best'"),
    ],
)
def test_impossible_budgets_are_refused(small_pool: Pool, budget: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_labeled(small_pool, budget, seed=0, **options)  # type: ignore[arg-type]


def test_classes_without_a_training_label_are_named() -> None:
    pool = make([0] * 10 + [2] * 10, 4)
    with pytest.raises(DataError, match=r"no training label for class 'class-1', 'class-3': .*--allow-missing-classes"):
        choose_labeled(pool, 10, seed=0)
    assert len(choose_labeled(pool, 3, seed=0, allow_missing_classes=True)) == 3


def test_a_class_only_in_the_test_split_is_missing() -> None:
    with pytest.raises(DataError, match="'class-2'"):
        choose_labeled(make([0, 1] * 5 + [2] * 3, n_test=3), 6, seed=0)


def test_multilabel_budgets_need_not_cover_classes(small_pool: Pool) -> None:
    rows = np.zeros((60, 3), dtype=np.int64)
    pool = replace(small_pool, labels=rows, multilabel=True)
    assert len(choose_labeled(pool, 2, seed=0)) == 2


# ---- labeled.csv


def test_labeled_set_survives_its_file(small_pool: Pool, tmp_path: Path) -> None:
    chosen = choose_labeled(small_pool, 20, seed=4, val_fraction=0.25)
    chosen.save(tmp_path / "labeled.csv", small_pool)
    assert LabeledSet.load(tmp_path / "labeled.csv", small_pool) == chosen
    lines = (tmp_path / "labeled.csv").read_text().splitlines()
    assert lines[0] == "id,label,role"
    first = chosen.train[0]
    assert lines[1] == f"{first},{small_pool.classes[small_pool.labels[small_pool.positions([first])[0]]]},train"
    assert sum(line.endswith(",val") for line in lines) == 5


def test_multilabel_set_survives_its_file(small_pool: Pool, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (60, 3))
    pool = replace(small_pool, labels=rows, multilabel=True)
    chosen = choose_labeled(pool, 30, seed=0)
    chosen.save(tmp_path / "labeled.csv", pool)
    assert LabeledSet.load(tmp_path / "labeled.csv", pool) == chosen
    assert "ant|cat" in (tmp_path / "labeled.csv").read_text()


def test_ids_and_classes_that_look_like_something_else_survive_the_file(tmp_path: Path) -> None:
    pool = replace(make([0, 1, 2]), ids=np.array(["007", "NA", "a,b"]), classes=("1.0", "None", "nan"))
    chosen = LabeledSet(("007", "NA"), ("a,b",))
    chosen.save(tmp_path / "labeled.csv", pool)
    assert LabeledSet.load(tmp_path / "labeled.csv", pool) == chosen


# Names as they are found in folders and CSV files: separators, quotes, line ends, what looks like a number or like nothing.
HOSTILE = st.text(
    st.sampled_from("ab|\\,;\"'\n\r\t #=é") | st.characters(exclude_categories=("Cs",), exclude_characters="\0"),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(HOSTILE, min_size=1, max_size=8, unique=True),
    classes=st.lists(HOSTILE, min_size=1, max_size=4, unique=True),
    multilabel=st.booleans(),
    seed=st.integers(0, 99),
)
def test_hostile_ids_and_class_names_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], classes: list[str], multilabel: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n, k = len(ids), len(classes)
    labels = rng.integers(0, 2, (n, k)) if multilabel else rng.integers(0, k, n)
    names = np.array(ids)
    pool = replace(make([0] * n, k), ids=names, labels=labels, classes=tuple(classes), multilabel=multilabel)
    chosen = LabeledSet(tuple(ids[: n // 2]), tuple(ids[n // 2 :]))
    path = tmp_path_factory.mktemp("hostile") / "labeled.csv"
    chosen.save(path, pool)
    assert LabeledSet.load(path, pool) == chosen


@settings(max_examples=150, deadline=None)
@given(classes=st.lists(HOSTILE, min_size=1, max_size=5, unique=True))
def test_no_two_sets_of_classes_have_the_same_name(classes: list[str]) -> None:
    rows = np.stack(np.meshgrid(*[[0, 1]] * len(classes), indexing="ij"), axis=-1).reshape(-1, len(classes))
    assert len({label_name(row, classes) for row in rows}) == 2 ** len(classes)


def test_two_classes_are_told_from_one_whose_name_joins_them(tmp_path: Path) -> None:
    both, joined = np.array([[1, 1, 0]]), np.array([[0, 0, 1]])
    pool = replace(make([0]), labels=both, classes=("a", "b", "a|b"), multilabel=True)
    LabeledSet(("s000",)).save(tmp_path / "labeled.csv", pool)
    with pytest.raises(DataError, match=r"was labeled 'a\|b' but the pool now says"):
        LabeledSet.load(tmp_path / "labeled.csv", replace(pool, labels=joined))


def test_changed_label_is_refused(small_pool: Pool, tmp_path: Path) -> None:
    chosen = choose_labeled(small_pool, 20, seed=4)
    chosen.save(tmp_path / "labeled.csv", small_pool)
    labels = small_pool.labels.copy()
    position = small_pool.positions([chosen.train[5]])[0]
    was = small_pool.classes[labels[position]]
    labels[position] = (labels[position] + 1) % 3
    with pytest.raises(DataError, match=f"{chosen.train[5]!r} was labeled {was!r} but the pool now says"):
        LabeledSet.load(tmp_path / "labeled.csv", replace(small_pool, labels=labels))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("role", "rôle"), "columns id, label, role"),
        (lambda text: text.replace(",val\n", ",validate\n", 1), "'validate'"),
        (lambda text: text + text.splitlines()[1] + "\n", "twice"),
        (lambda text: text.replace("s1", "x1", 1), "no sample 'x1"),
        (lambda text: "", "cannot be read|empty"),
    ],
)
def test_edited_file_is_refused(small_pool: Pool, tmp_path: Path, edit: object, message: str) -> None:
    path = tmp_path / "labeled.csv"
    choose_labeled(small_pool, 20, seed=4, val_fraction=0.25).save(path, small_pool)
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        LabeledSet.load(path, small_pool)


# ---- the test split


@settings(max_examples=40, deadline=None)
@given(n=st.integers(30, 120), more=st.integers(1, 80), fraction=st.floats(0.2, 0.8), seed=st.integers(0, 1000), data=st.data())
def test_adding_and_removing_images_moves_no_other(n: int, more: int, fraction: float, seed: int, data: st.DataObject) -> None:
    whole = make([-1] * 7 + [k % 3 for k in range(n + more)], 3)
    hold_out_test(whole, fraction, seed=seed)
    assert not whole.is_test[:7].any()
    kept = np.sort(np.array(data.draw(st.permutations(range(len(whole)))))[: n + 7])
    part = replace(
        whole, images=whole.images[kept], ids=whole.ids[kept], labels=whole.labels[kept], is_test=np.zeros(n + 7, dtype=bool)
    )
    hold_out_test(part, fraction, seed=seed)
    assert part.is_test.tolist() == whole.is_test[kept].tolist()


def test_the_held_out_fraction_is_the_one_asked_for() -> None:
    pool = make([k % 4 for k in range(8000)], 4)
    hold_out_test(pool, 0.3)
    for k in range(4):  # 2000 draws a class: standard deviation 0.0102
        assert abs(pool.is_test[pool.labels == k].mean() - 0.3) < 0.04


def test_a_class_without_a_test_image_is_named() -> None:
    pool = make([0] * 40 + [1], 2)
    hold_out_test(pool, 0.2)
    said = f"the test split has no image of {pool.classes[1]}: raise the test fraction to measure all classes"
    assert (said in pool.notes) != bool(pool.is_test[40])


def test_held_out_split_repeats_with_its_seed() -> None:
    first, again, other = (make([i % 3 for i in range(60)]) for _ in range(3))
    hold_out_test(first, 0.3, seed=0)
    hold_out_test(again, 0.3, seed=0)
    hold_out_test(other, 0.3, seed=1)
    assert first.is_test.tolist() == again.is_test.tolist() != other.is_test.tolist()


def test_multilabel_pools_can_be_split() -> None:
    pool = replace(make([0] * 20), labels=np.zeros((20, 3), np.int64), multilabel=True)
    hold_out_test(pool, 0.25)
    assert 0 < len(pool.test) < 20


@pytest.mark.parametrize(
    ("n_test", "fraction", "message"),
    [(3, 0.2, "has a test split of 3 images"), (0, 1e-6, "takes 0 of 30"), (0, 1.0, "takes 30 of 30")],
)
def test_impossible_test_splits_are_refused(n_test: int, fraction: float, message: str) -> None:
    pool = make([i % 3 for i in range(30)], n_test=n_test)
    with pytest.raises(DataError, match=message):
        hold_out_test(pool, fraction)
    assert pool.is_test.sum() == n_test
