"""MkDocs hook: pages that are files of the repository (CHANGELOG.md, ...), so that none goes stale.

Links are written for a reader of the repository, e.g. ``../benchmarks/README.md``; here they come
to lead to the pages of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files of the repository, and the pages that they become."""

_DOCS = "docs/"
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)(?P<path>[^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages, and the pictures that they show."""
    root = Path(config.config_file_path).parent
    for source, page in _PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for link in _LINK.findall(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            if path.endswith((".png", ".svg")):
                content = (root / path).read_bytes()
                files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Brings the links of a page from places in the repository to places in the site."""
    here = page.file.src_uri
    source = next((s for s, p in _PAGES.items() if p == here), _DOCS + here)
    known = {file.src_uri for file in files}

    def lead(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["path"]))
        target = _PAGES.get(path, path.removeprefix(_DOCS))
        if target.endswith(".ipynb"):
            target = target.removesuffix(".ipynb") + ".md"
        if target not in known:
            raise PluginError(f"{source} links to '{found['path']}', which is not in the site")
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return _LINK.sub(lead, markdown)
