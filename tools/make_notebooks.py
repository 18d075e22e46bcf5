"""Converts the scripts in tools/notebooks to docs/notebooks/*.ipynb, and runs the notebooks.

    python tools/make_notebooks.py [NAME ...]

The scripts are in percent format: ``# %%`` begins a code cell, ``# %% [markdown]`` a text cell, and
``# %name`` is a magic command. The stored notebooks contain no times and no widget state.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tools" / "notebooks"
NOTEBOOKS = ROOT / "docs" / "notebooks"

_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?\n(?P<body>.*?)(?=^# %%|\Z)", re.M | re.S)
_MAX_WIDTH = 900  # pixels of a figure
_WIDGET = "application/vnd.jupyter.widget-view+json"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def names() -> list[str]:
    """Return the names of the notebooks, sorted."""
    return sorted(path.stem for path in SCRIPTS.glob("*.py"))


def build(name: str) -> nbformat.NotebookNode:
    """Return the notebook of a script, without outputs."""
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    cells = list(_cells(text))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return new_notebook(cells=cells, metadata=_METADATA)


def _cells(text: str) -> Iterator[nbformat.NotebookNode]:
    for match in _CELL.finditer(text):
        body = match["body"].strip("\n")
        if match["kind"]:
            yield new_markdown_cell(re.sub(r"^# ?", "", body, flags=re.M))
        else:
            yield new_code_cell(re.sub(r"^# (?=%\w)", "", body, flags=re.M))


def run(notebook: nbformat.NotebookNode, timeout: float = 600) -> nbformat.NotebookNode:
    """Run a notebook in a temporary folder, next to the modules that notebooks import.

    Args:
        notebook: The notebook of `build`; it is changed in-place.
        timeout: The seconds that one cell may take.

    Returns:
        The same notebook, with outputs; figures are at most 900 pixels wide.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        for module in NOTEBOOKS.glob("*.py"):
            shutil.copy(module, folder)
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            store_widget_state=False,
        )
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = {}
            cell.outputs = [out for out in cell.outputs if _WIDGET not in out.get("data", {})]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _smaller(output.data["image/png"])
    notebook.metadata = _METADATA
    return notebook


def _smaller(png: str) -> str:
    """Return a figure at the width of the page, which keeps the repository small."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    width = min(image.width, _MAX_WIDTH)
    buffer = io.BytesIO()
    image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS).save(
        buffer, "PNG", optimize=True
    )
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Convert and run the notebooks given on the command line; by default all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=names(), metavar="NAME")
    NOTEBOOKS.mkdir(exist_ok=True)
    for name in parser.parse_args().names:
        path = NOTEBOOKS / f"{name}.ipynb"
        nbformat.write(run(build(name)), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
