"""The store against a dictionary: whatever is kept, asked for and damaged, in whatever order."""

import shutil
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_diffusion.inference.embedding_store import Embeddings, EmbeddingStore

FEATURES, CLASSES = 3, 2
FILES = ("keys", "representation", "probabilities")

KEYS = st.lists(st.integers(0, 15), max_size=12)
DAMAGE = st.tuples(
    st.integers(0, 10),
    st.sampled_from(FILES),
    st.sampled_from(["cut", "missing", "text", "folder", "short"]),
    st.floats(0, 0.99),
)
STEPS = st.lists(
    st.tuples(st.just("keep"), KEYS) | st.tuples(st.just("fill"), KEYS) | st.tuples(st.just("damage"), DAMAGE), max_size=12
)


def digests_of(numbers: list[int]) -> np.ndarray:
    return np.array([bytes([number + 1]) * 16 for number in numbers], dtype="S16")


def said_of(numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder says of images: another thing of each."""
    values = np.array(numbers, dtype=np.float32).reshape(-1, 1)
    return values + np.arange(FEATURES, dtype=np.float32), values - np.arange(CLASSES, dtype=np.float32)


def damage(part: Path, name: str, how: str, fraction: float) -> None:
    file = part / f"{name}.npy"
    if how == "folder":
        shutil.rmtree(part)
    elif how == "missing":
        file.unlink()
    elif how == "text":
        file.write_text("no array")
    elif how == "cut":
        data = file.read_bytes()
        file.write_bytes(data[: int(fraction * len(data))])
    else:  # a whole file, of fewer images
        np.save(file, np.load(file)[:-1])


@settings(max_examples=120, deadline=None)
@given(steps=STEPS)
def test_the_store_is_a_dictionary_that_forgets_damaged_parts(tmp_path_factory, steps) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("store")
    store = EmbeddingStore(root / "scores", "model 1")
    intact: dict[Path, set[int]] = {}  # parts, and the images in them
    for what, argument in steps:
        if what == "keep":
            store.keep(digests_of(argument), *said_of(argument))
            (new,) = set(root.glob("scores/*/part-*")) - intact.keys()
            intact[new] = set(argument)
        elif what == "damage":
            number, name, how, fraction = argument
            readable = [part for part in sorted(intact) if part.exists() and intact[part]]
            if readable:
                part = readable[number % len(readable)]
                damage(part, name, how, fraction)
                intact[part] = set()
        else:
            known = set().union(*intact.values())
            found = Embeddings(len(argument), FEATURES, CLASSES)
            found.representation[:], found.probabilities[:] = np.nan, np.nan
            unknown = store.fill(digests_of(argument), found)
            assert unknown.tolist() == [i for i, number in enumerate(argument) if number not in known]
            representation, probabilities = said_of(argument)
            hit = np.setdiff1d(np.arange(len(argument)), unknown)
            np.testing.assert_array_equal(found.representation[hit], representation[hit])
            np.testing.assert_array_equal(found.probabilities[hit], probabilities[hit])
            assert np.isnan(found.representation[unknown]).all()


def test_another_number_of_features_is_not_used(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "scores", "model 1")
    store.keep(digests_of([1, 2]), *said_of([1, 2]))
    assert store.fill(digests_of([1, 2]), Embeddings(2, FEATURES + 1, CLASSES)).tolist() == [0, 1]
