"""Notebooks of the docs: equal to their scripts, without paths and times, and they run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
STORED = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in STORED]
MOST_BYTES = 1_500_000
PATHS = re.compile(
    r"(?<![\w.:/<])/(?:home|root|tmp|usr|work|Users|var|opt|mnt)/|\b[A-Z]:\\\\?[A-Z]"
)
TIMES = re.compile(r"\b20\d\d-\d\d-\d\d|\b\d\d:\d\d:\d\d\b")


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_notebooks", ROOT / "tools" / "make_notebooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()


def _texts(notebook):
    """Yield all text of a notebook, without pictures."""
    for cell in notebook["cells"]:
        yield "".join(cell["source"])
        for output in cell.get("outputs", ()):
            yield "".join(output.get("text", ""))
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield re.sub(r"base64,[\w+/=]+", "", "".join(data))


def test_each_script_has_its_notebook():
    assert MAKER.names() == NAMES
    assert NAMES == ["classify_slice", "nnunet_volume", "segment_head"]


@pytest.mark.parametrize("path", STORED, ids=NAMES)
def test_the_stored_cells_are_those_of_the_script(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    expected = MAKER.build(path.stem)
    assert [(c["cell_type"], c["id"], "".join(c["source"])) for c in stored["cells"]] == [
        (c["cell_type"], c["id"], c["source"]) for c in expected.cells
    ], "run tools/make_notebooks.py"


@pytest.mark.parametrize("path", STORED, ids=NAMES)
def test_stored_cells_were_executed_in_order_without_an_error(path):
    code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds <= {"stream", "display_data", "execute_result"}
    streams = {o["name"] for cell in code for o in cell["outputs"] if o["output_type"] == "stream"}
    assert streams <= {"stdout"}  # no warnings


@pytest.mark.parametrize("path", STORED, ids=NAMES)
def test_stored_notebooks_are_small_and_contain_no_path_and_no_time(path):
    assert path.stat().st_size < MOST_BYTES
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    for text in _texts(notebook):
        assert not PATHS.search(text), PATHS.search(text)
        assert not TIMES.search(text), TIMES.search(text)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs(name):
    executed = MAKER.run(MAKER.build(name))
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    stored = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text())
    kinds = [[sorted(output.get("data", ["text"])) for output in cell.outputs] for cell in code]
    assert kinds == [
        [sorted(output.get("data", ["text"])) for output in cell["outputs"]]
        for cell in stored["cells"]
        if cell["cell_type"] == "code"
    ]
