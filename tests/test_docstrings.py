"""Docstrings of the public interface: every exported function has an example that runs, and arguments are named by nouns."""

import ast
import doctest
import importlib
import inspect
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ssl_diffusion.acquisition import STRATEGIES
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.models.backbones.registry import BACKBONES
from ssl_diffusion.training.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "models", "inference", "training", "generation", "acquisition", "curation", "annotation", "studies")

# An entry that begins so is a fragment that needs the name in front of it to be understood.
FRAGMENT = re.compile(
    r"(of|that|where|how|which|called|for|in|on|with|by|to|leave|go|take|keep|replace|also|begin|has|what|who|from|under|without|"
    r"these|those|only|if|besides|draw|give|their|its)\b",
    re.IGNORECASE,
)


def public_functions() -> list[tuple[str, str]]:
    found = set()
    for room in ROOMS:
        module = importlib.import_module(f"ssl_diffusion.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                found.add((inspect.unwrap(thing).__module__, name))
    return sorted(found)


def documented(tree: ast.Module) -> list[str]:
    """Docstrings of a module and of everything in it."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def arguments_of(docstring: str) -> list[str]:
    """The entries of the sections Args and Attributes."""
    sections = re.findall(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", docstring, flags=re.DOTALL | re.MULTILINE)
    return [entry for section in sections for entry in re.findall(r"^ {4}[\w, *`]+: +(.*)", section, flags=re.MULTILINE)]


def test_what_a_fragment_is() -> None:
    told = arguments_of(
        "Do it.\n\nArgs:\n    rng: of all chance\n    n: Number of images.\n        More of them.\n\nReturns:\n    x: that"
    )
    assert told == ["of all chance", "Number of images."]
    assert [bool(FRAGMENT.match(entry)) for entry in told] == [True, False]


@pytest.mark.parametrize("folder", ["ssl_diffusion", "cli", "benchmarks"])
def test_arguments_begin_with_a_noun_phrase(folder: str) -> None:
    fragments = [
        f"{path.relative_to(ROOT)}: {entry}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for docstring in documented(ast.parse(path.read_text(encoding="utf-8")))
        for entry in arguments_of(docstring)
        if FRAGMENT.match(entry)
    ]
    assert not fragments


@pytest.mark.parametrize(("module_name", "name"), public_functions())
def test_a_public_function_has_an_example(module_name: str, name: str) -> None:
    docstring = inspect.getdoc(getattr(importlib.import_module(module_name), name)) or ""
    examples = doctest.DocTestParser().get_examples(docstring)
    assert examples
    for example in examples:
        compile(example.source, name, "single")


class Printed(doctest.OutputChecker):
    """What an example prints is compared where the docstring shows it."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def namespace(
    tiny_run: Path, digits_pool: Pool, tiny_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the examples take for granted."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(tiny_run, folder / "runs" / "digits-40-s0")
    run = load_run(tiny_run, "cpu", "fp32")
    names: dict[str, Any] = {"np": np, "torch": torch, "Path": Path, "run": run, "model": run.model, "pool": digits_pool}
    for room in ROOMS:
        module = importlib.import_module(f"ssl_diffusion.{room}")
        names |= {name: getattr(module, name) for name in module.__all__}
    fast = partial(_fast_recipe, names["load_recipe"], tiny_settings)
    return names | {"images": digits_pool.images[:8], "load_recipe": fast, "_folder": folder}


def _fast_recipe(load: Callable[[str], Recipe], settings: Sequence[str], name: str) -> Recipe:
    """A recipe with a tiny network and a handful of steps: examples show how a fit is called, not how good it is."""
    return load(name).with_overrides(settings) if name == "digits" else load(name)


@pytest.mark.parametrize(("module_name", "name"), public_functions())
def test_the_example_of_a_public_function_runs(
    module_name: str, name: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(namespace["_folder"])
    docstring = inspect.getdoc(getattr(importlib.import_module(module_name), name)) or ""
    test = doctest.DocTestParser().get_doctest(docstring, dict(namespace), name, module_name, 0)
    lines: list[str] = []
    runner = doctest.DocTestRunner(Printed(), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    with patch.dict(STRATEGIES), patch.dict(BACKBONES):  # some register what they define
        runner.run(test, out=lines.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(lines)
