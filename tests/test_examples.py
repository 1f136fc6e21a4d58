"""The examples run from top to bottom in a process of their own and show what their text says.

A notebook runs in a kernel as its readers have it, which also shows whether a picture appears at all. A last cell in the same
kernel checks what the text says. The schedule is in the cell with the tag `parameters`: the default suite takes a short one for
the first notebook, `-m slow` runs all of them as they stand.
"""

import ast
import base64
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from support import notebooks, processes
from support.notebooks import EXAMPLES, execute, parameters_of

pytestmark = pytest.mark.timeout(900)  # seconds of work, but of a process of its own
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
PICTURES = {"01-fit-and-predict": 3, "02-what-to-label-next": 2, "03-explain-and-sample": 4}
SHORT = "pretraining_steps, training_steps, seed = 10, 10, 0"
LARGEST = 300 * 1024

# What holds however short the schedule of the first notebook is.
SHORT_CLAIMS = """
assert len(pool.train) == 1360 and len(train_labels) == 40
assert 0.25 < accuracy == report.metrics["accuracy"] and report.n == 340
assert low < accuracy < high
assert n == 97 and not skipped and 0.25 < new_accuracy < 1
assert comparison["test accuracy, %"].tolist() == [100 * baseline_accuracy, 100 * alone_accuracy, 100 * accuracy]
"""

# What the text says of the results. Comments: what was measured, with the seeds 0, 1, ... in order as far as they were tried.
CLAIMS = {
    "01-fit-and-predict": SHORT_CLAIMS
    + """
assert accuracy > alone_accuracy + 0.02  # 0.929, 0.941, 0.971, 0.947 against 0.835, 0.894, 0.915, 0.909
assert accuracy > baseline_accuracy + 0.05  # 0.829, 0.838, 0.853, 0.844
assert new_accuracy > 0.85  # 0.948
""",
    "02-what-to-label-next": """
assert by_auto.strategy == "uherding" and not set(by_auto.ids) & set(labeled.train)
assert by_margin.utilities.tolist() == sorted(by_margin.utilities, reverse=True)
assert rounds_by_hand["labels"].tolist() == [20, 30, 40, 50] and len(set(known)) == 50
gain = rounds_by_hand["test accuracy, %"].iloc[-1] - rounds_by_hand["test accuracy, %"].iloc[0]
means = rounds.groupby(["strategy", "n_labeled"])["accuracy"].mean()
assert gain > 8  # 16.7, 17.5
assert not missing and means["auto", 10] > means["random", 10] + 0.08  # 0.659 and 0.473, means of five seeds
assert means["auto", 40] > means["random", 40] + 0.03  # 0.873 and 0.749
""",
    "03-explain-and-sample": """
assert result.success.all() and (result.target != result.source).all()
assert accuracy > 0.85, accuracy  # 0.936, 0.956
assert table["probability"].mean() > 0.85, table["probability"].mean()  # 0.98, 0.99
assert deepfool < counterfactual, (deepfool, counterfactual)  # 0.80, 0.84 of it
assert correlations.to_numpy().min() > 0.6, correlations  # 0.89, 0.94
assert wrong[:15].mean() > wrong[15:].mean()  # 3 of 15 and 1 of 45, 3 and 0
""",
}


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Path]:
    with notebooks.surroundings(tmp_path) as folder:
        yield folder
    assert not list(folder.iterdir()), "a notebook writes to temporary folders only"


def check(path: Path, claims: str, working: Path, parameters: str | None = None) -> None:
    notebook = nbformat.read(path, as_version=4)
    if parameters is not None:
        parameters_of(notebook).source = parameters
    notebook.cells.append(nbformat.v4.new_code_cell(claims))
    execute(notebook, working)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[path.stem]
    assert not [output.text for output in outputs if output.get("name") == "stderr"], "a notebook runs without a warning"


# ---- notebooks, executed


def test_the_first_notebook_runs_with_a_short_schedule(working: Path) -> None:
    check(EXAMPLES / "01-fit-and-predict.ipynb", SHORT_CLAIMS, working, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_says(path: Path, working: Path) -> None:
    check(path, CLAIMS[path.stem], working)


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(CLAIMS) == sorted(PICTURES)


# ---- notebooks, as they are kept


def code_of(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_public_names_only(path: Path) -> None:
    found = 0
    for cell in code_of(path):
        for node in ast.walk(ast.parse(cell.source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in modules if name.startswith("ssl_diffusion")], "from ROOM import NAME, for readers"
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ssl_diffusion"):
                room = str(node.module)
                assert room.count(".") <= 1, f"{room} is a module inside of a room"
                public = importlib.import_module(room).__all__
                assert not [alias.name for alias in node.names if alias.name not in public], room
                found += 1
    assert found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_the_results_of_one_run(path: Path) -> None:
    cells = code_of(path)
    outputs = [output for cell in cells for output in cell.outputs]
    assert path.stat().st_size < LARGEST
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom"
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == PICTURES[path.stem]
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert min(image.size) > 100
            assert len(set(image.convert("L").tobytes())) > 10, "an empty picture"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook == notebooks.cleaned(notebook), "nox -s notebooks leaves out times, versions and names"
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/png", None)
    assert not absolute_paths(json.dumps(notebook, ensure_ascii=False))


def absolute_paths(text: str) -> list[str]:
    return re.findall(r"(?<![\w./:<*])/(?:[\w.-]+/)+[\w.-]*|\b[A-Z]:\\\\?\w+", text)


@pytest.mark.parametrize("path", ["/tmp/ssld-x1/run", "/home/ada/images/0.png", "C:\\Users\\ada"])
def test_absolute_paths_are_found(path: str) -> None:
    assert absolute_paths(f"a run in '{path}' of this machine")
    assert not absolute_paths("see ../docs/how-to/query.md, images/0/1.png, https://example.org/a/b and </td></tr>")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert targets
    assert not [target for target in targets if not (path.parent / target).exists()]


# ---- scripts


def printed(name: str, folder: Path) -> str:
    """What an example prints, run as a script in an empty folder."""
    working, log = folder / "working", folder / "log.txt"
    working.mkdir()
    status = processes.run_script(EXAMPLES / name, working, log)
    text = log.read_text(encoding="utf-8")
    assert status == 0, text
    assert not list(working.iterdir()), "the example leaves files behind"
    return text


def percent(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)}: ([\d.]+)%", text, flags=re.MULTILINE)
    assert found, text
    return float(found[1])


def test_the_strategy_asks_for_what_is_rare(tmp_path: Path) -> None:
    text = printed("own_strategy.py", tmp_path)
    assert "the contract is kept: 8 tests" in text
    assert percent(text, "rare-margin") > percent(text, "margin")
    assert percent(text, "rare-margin:diverse") > percent(text, "margin")


def test_the_backbone_knows_more_than_pixels(tmp_path: Path) -> None:
    text = printed("own_backbone.py", tmp_path)
    assert "the contract is kept: 11 tests" in text
    assert percent(text, "patches") > percent(text, "pixels") + 1
    assert "features.npz has the same features: True" in text


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("own_*.py")), ids=lambda path: path.name)
def test_an_example_of_ones_own_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 90
