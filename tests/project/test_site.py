"""The documentation site: it builds without warnings, and its pages load nothing external."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADS = {  # the attribute with the address that a browser loads by itself, by tag
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src",
    "object": "data", "video": "src", "audio": "src", "embed": "src", "image": "href",
}  # fmt: skip
ELSEWHERE = re.compile(r"^(?:\w+:)?//")
IN_STYLES = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:\w+:)?//[^'\")\s]+)")


class Page(HTMLParser):
    """The addresses, links, ids, classes and tags of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.classes |= set((values.get("class") or "").split())
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in LOADS and values.get(LOADS[tag]):
            self.loads.append(values[LOADS[tag]])
        self.loads += [part.split()[0] for part in (values.get("srcset") or "").split(",") if part]
        self.loads += IN_STYLES.findall(values.get("style") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(  # noqa: S603  # our own docs
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    return {
        path.relative_to(site).as_posix(): Page(path)
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"
    }


def test_every_page_of_the_docs_is_a_page_of_the_site(site, pages):
    written = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for ending in ("*.md", "*.ipynb")
        for path in (ROOT / "docs").rglob(ending)
    }
    assert set(pages) == written | {"benchmarks.html", "changelog.html", "contributing.html"}


def test_pages_load_nothing_from_elsewhere(pages):
    external = {
        (name, url) for name, page in pages.items() for url in page.loads if ELSEWHERE.match(url)
    }
    assert external == set()
    assert all(page.loads for page in pages.values())  # the parser finds addresses
    assert all(
        "mermaid" not in page.classes for page in pages.values()
    )  # its script would be loaded from elsewhere


def test_what_pages_load_is_there(site, pages):
    for name, page in pages.items():
        for url in page.loads:
            if not url.startswith("data:"):
                path = (site / name).parent / url.split("?")[0].split("#")[0]
                assert path.exists(), f"{url} in {name}"


def test_links_between_pages_lead_to_a_heading(site, pages):
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if ":" in target or not anchor:
                continue
            other = (site / name).parent.joinpath(target).resolve() if target else site / name
            whole = pages[other.relative_to(site).as_posix()]
            assert anchor in whole.ids, f"{link} in {name}"


def test_styles_load_nothing_from_elsewhere(site):
    styles = sorted(site.rglob("*.css"))
    assert len(styles) >= 3
    assert [(p.name, url) for p in styles for url in IN_STYLES.findall(p.read_text())] == []


def test_formulas_are_mathml_and_none_is_left_as_tex(site, pages):
    assert pages["volumes.html"].tags.count("math") > 5
    assert pages["methods.html"].tags.count("math") > 20
    for name in pages:
        text = (site / name).read_text(encoding="utf-8")
        assert "arithmatex" not in text, name
        assert not re.search(r"\\(?:frac|sum|odot|partial)\b", text), name


def test_doctests_of_the_reference_are_shown_as_code(site):
    text = (site / "reference.html").read_text(encoding="utf-8")
    assert text.count('<span class="gp">') > 30  # prompts, coloured
    assert "<blockquote>" not in text  # Markdown makes one of a >>> outside code


def test_every_public_name_is_in_the_reference(pages):
    import medcam

    ids = pages["reference.html"].ids
    for name in medcam.__all__:
        assert any(name in id_.split(".") for id_ in ids), name


def test_notebooks_are_shown_with_their_figures(site, pages):
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        page = pages[f"notebooks/{path.stem}.html"]
        figures = [url for url in page.loads if url.startswith(f"{path.stem}-")]
        assert len(figures) >= 2
        assert path.name in page.links  # the link for download
        assert "notebook-output" not in (site / f"notebooks/{path.stem}.html").read_text()
