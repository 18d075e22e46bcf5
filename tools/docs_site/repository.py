"""MkDocs hook that makes pages of files of the repository (CHANGELOG.md, ...) instead of copies.

Links in these files and in the docs are relative paths in the repository, e.g.
``../benchmarks/README.md``. The hook rewrites them to the pages of the site.
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
"""The page of each file of the repository."""

_DOCS = "docs/"
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)(?P<path>[^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages and the pictures in them."""
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
    """Rewrite the links of a page from paths in the repository to paths on the site.

    Raises:
        PluginError: A link leads to a file that is not on the site.
    """
    uri = page.file.src_uri
    source = next((path for path, name in _PAGES.items() if name == uri), _DOCS + uri)
    uris = {file.src_uri for file in files}

    def to_site(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        target = _PAGES.get(path, path.removeprefix(_DOCS))
        if target.endswith(".ipynb"):
            target = target.removesuffix(".ipynb") + ".md"
        if target not in uris:
            raise PluginError(f"{source} links to '{match['path']}', which is not on the site")
        return posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return _LINK.sub(to_site, markdown)
