"""The reader of small state files: the content as it was written, or one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from pydantic import Field, RootModel
from support.damage import DAMAGES, Damage, damages, json_damages

from ssl_diffusion.errors import StateError
from ssl_diffusion.settings import PlainName, Settings, State, parse_state, read_state
from ssl_diffusion.storage import read_regular

CONTENT = {"n": 3, "ratio": 0.5, "names": ["a", "b"], "file": "x.npy", "inner": {"n": 1}}


class Inner(State):
    n: int


class Facts(State):
    n: int
    ratio: float | None
    names: tuple[str, ...]
    file: PlainName
    inner: Inner


class Chosen(Settings):
    n: int = Field(3, ge=1)
    names: tuple[str, ...] = ()


def written(folder: Path, text: str = json.dumps(CONTENT), name: str = "facts.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def sentence(path: Path, kind: Any = Facts, **options: Any) -> str:
    with pytest.raises(StateError) as caught:
        read_state(path, kind, remedy="make it again", **options)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.endswith("; make it again")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 400
    return text


def test_what_was_written_is_read(tmp_path: Path) -> None:
    facts = read_state(written(tmp_path), Facts, remedy="")
    assert facts == Facts(n=3, ratio=0.5, names=("a", "b"), file="x.npy", inner=Inner(n=1))
    assert read_state(written(tmp_path, json.dumps(CONTENT | {"newer": 1})), Facts, remedy="") == facts


def test_toml_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, 'n = 4\nnames = ["ä"]', "chosen.toml")
    assert read_state(path, Chosen, remedy="") == Chosen(n=4, names=("ä",))
    assert read_state(written(tmp_path, '{"n": 4}'), Chosen, remedy="").n == 4


@pytest.mark.parametrize("name", ["facts.json", "facts.toml"])
@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_damage_is_a_sentence(tmp_path: Path, damage: Damage, name: str) -> None:
    text = 'n = 3\nratio = 0.5\nfile = "x"\n[inner]\nn = 1' if name.endswith("toml") else json.dumps(CONTENT)
    path = written(tmp_path, text, name)
    damage.apply(path)
    sentence(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": "3"}, "n: input should be a valid integer"),
        ({"n": True}, "n: input should be a valid integer"),
        ({"n": None}, "n: input should be a valid integer"),
        ({"names": "ab"}, "names: input should be a valid array"),
        ({"names": ["a", 5]}, "names.1: input should be a valid string"),
        ({"inner": 5}, "inner: input should be an object"),
        ({"inner": {"n": []}}, "inner.n: input should be a valid integer"),
        ({"file": "../../run"}, "file: '../../run' is no plain file name"),
        ({"file": ".."}, "file: '..' is no plain file name"),
        ({"file": "c:\\x"}, "is no plain file name"),
        ({"file": "a\0b"}, "is no plain file name"),
        ({"file": ""}, "is no plain file name"),
        ({"ratio": float("nan")}, "it is not valid JSON"),
        ({"other": [float("inf")]}, "it is not valid JSON"),
    ],
)
def test_the_field_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert words in sentence(written(tmp_path, json.dumps(CONTENT | change)))


@pytest.mark.parametrize("key", CONTENT)
def test_a_key_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    assert f"{key}: field required" in sentence(written(tmp_path, json.dumps({k: v for k, v in CONTENT.items() if k != key})))


def test_settings_keep_their_sentences(tmp_path: Path) -> None:
    assert "n must be in [1, inf), not 0" in sentence(written(tmp_path, "n = 0", "x.toml"), Chosen)
    assert "unknown setting 'm'" in sentence(written(tmp_path, '{"m": 0}'), Chosen)
    assert "section" in sentence(written(tmp_path, "5"), Chosen)


def test_numbers_that_are_none_are_read_where_they_may_stand(tmp_path: Path) -> None:
    free = RootModel[dict[str, Any]]
    path = written(tmp_path, '{"a": NaN}')
    assert list(read_state(path, free, remedy="", nan=True).root) == ["a"]
    assert "not valid JSON" in sentence(path, free)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    assert "is larger than" in sentence(written(tmp_path), largest=10)
    assert read_regular(written(tmp_path, "12345"), largest=5) == b"12345"


@pytest.mark.parametrize("name", ["a" * 300, "file/below", "nul\0"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    written(tmp_path, name="file")
    sentence(tmp_path / name)


def test_json_in_another_file() -> None:
    with pytest.raises(StateError, match=r"^model.safetensors is damaged: n: field required; fit again$"):
        parse_state("{}", Inner, Path("model.safetensors"), remedy="fit again")
    assert parse_state('{"n": 1}', Inner, Path("x"), remedy="").n == 1


@profile(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages() | json_damages())
def test_any_damage_is_a_sentence_or_harmless(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "facts.json"
    DAMAGES[0].apply(path)
    written(tmp_path)
    damage.apply(path)
    try:
        facts = read_state(path, Facts, remedy="make it again")
    except StateError:
        sentence(path)
    else:
        assert facts == Facts.model_validate_json(path.read_bytes())
