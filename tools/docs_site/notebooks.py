"""MkDocs hook: each notebook is a page, with the outputs that are stored in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

_FOLDER = "notebooks"
_html: dict[str, str] = {}  # outputs in HTML by their mark, put in once Markdown has been read


def on_files(files: Files, *, config: Any) -> Files:
    """Adds a page for every notebook; the notebook itself stays, to be downloaded."""
    for path in sorted(Path(config.docs_dir, _FOLDER).glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        page = f"{_FOLDER}/{path.stem}.md"
        parts = list(_parts(notebook, page, files, config))
        head, _, rest = parts[0].partition("\n")
        note = f'<p class="notebook-file"><a href="{path.name}" download>{path.name}</a></p>'
        files.append(
            File.generated(config, page, content="\n\n".join([head, note, rest, *parts[1:]]))
        )
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Puts the HTML of outputs where their marks are."""
    for mark in [mark for mark in _html if mark in content]:
        content = content.replace(f"<p>{mark}</p>", _html.pop(mark))
    return content


def _parts(notebook: Mapping[str, Any], page: str, files: Files, config: Any) -> Iterator[str]:
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for place, output in enumerate(cell["outputs"]):
            name = f"{PurePosixPath(page).stem}-{number}-{place}"
            yield _output(output, name, files, config)


def _output(output: Mapping[str, Any], name: str, files: Files, config: Any) -> str:
    if output["output_type"] == "stream":
        return _text("".join(output["text"]))
    if output["output_type"] not in ("display_data", "execute_result"):
        raise PluginError(f"Output {name} is an {output['output_type']}: run the notebook again.")
    data = output["data"]
    if "text/html" in data:
        mark = f"notebook-output-{name}-"
        _html[mark] = f'<div class="notebook-html">{"".join(data["text/html"])}</div>'
        return mark
    if "image/png" in data:
        picture = base64.b64decode("".join(data["image/png"]))
        files.append(File.generated(config, f"{_FOLDER}/{name}.png", content=picture))
        alt = "".join(output["metadata"].get("alt", "The figure that this cell draws"))
        return f"![{alt}]({name}.png)"
    return _text("".join(data["text/plain"]))


def _text(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n{{ .notebook-text }}"
