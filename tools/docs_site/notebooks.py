"""MkDocs hook that makes a page of each notebook, with its stored outputs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

_FOLDER = "notebooks"
# HTML outputs by placeholder, inserted after Markdown is rendered, which would change them.
_html: dict[str, str] = {}


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page for each notebook; the notebook itself stays on the site for download."""
    for path in sorted(Path(config.docs_dir, _FOLDER).glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        page = f"{_FOLDER}/{path.stem}.md"
        parts = list(_parts(notebook, page, files, config))
        head, _, rest = parts[0].partition("\n")
        download = f'<p class="notebook-file"><a href="{path.name}" download>{path.name}</a></p>'
        files.append(
            File.generated(config, page, content="\n\n".join([head, download, rest, *parts[1:]]))
        )
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Replace the placeholders by the HTML outputs."""
    for placeholder in [placeholder for placeholder in _html if placeholder in content]:
        content = content.replace(f"<p>{placeholder}</p>", _html.pop(placeholder))
    return content


def _parts(notebook: Mapping[str, Any], page: str, files: Files, config: Any) -> Iterator[str]:
    """Yield the Markdown of each cell and of each output."""
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for index, output in enumerate(cell["outputs"]):
            name = f"{PurePosixPath(page).stem}-{number}-{index}"
            yield _output(output, name, files, config)


def _output(output: Mapping[str, Any], name: str, files: Files, config: Any) -> str:
    if output["output_type"] == "stream":
        return _text("".join(output["text"]))
    if output["output_type"] not in ("display_data", "execute_result"):
        raise PluginError(
            f"Output {name} is of type '{output['output_type']}': run the notebook again."
        )
    data = output["data"]
    if "text/html" in data:
        placeholder = f"notebook-output-{name}-"
        _html[placeholder] = f'<div class="notebook-html">{"".join(data["text/html"])}</div>'
        return placeholder
    if "image/png" in data:
        picture = base64.b64decode("".join(data["image/png"]))
        files.append(File.generated(config, f"{_FOLDER}/{name}.png", content=picture))
        alt = "".join(output["metadata"].get("alt", "The figure that this cell draws"))
        return f"![{alt}]({name}.png)"
    return _text("".join(data["text/plain"]))


def _text(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n{{ .notebook-text }}"
