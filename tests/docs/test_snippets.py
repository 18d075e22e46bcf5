"""Every Python snippet of the README and the docs runs, in order, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import medcam
from support.nets import Classifier
from support.nnunet_toy import make_folder, make_image, oblique, write_case

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if SNIPPET.search(p.read_text())], ids=_name)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"model": Classifier().eval()}  # "your model", where none is made
    if page.name == "nnunet.md":  # "your trained folder", and a case of yours
        names = {"medcam": medcam, "folder": make_folder(tmp_path / "trained", folds=(0,))}
        write_case(tmp_path, make_image(), oblique())
    for snippet in SNIPPET.findall(page.read_text()):
        exec(compile(snippet, str(page), "exec"), names)  # noqa: S102  # our own docs


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{target} in {page}"
