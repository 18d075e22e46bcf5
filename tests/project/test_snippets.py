"""Snippets, links and commands of the README and the docs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

import medcam
from medcam.cli import app
from medcam.methods import METHODS
from support.nets import Classifier
from support.nnunet_toy import make_folder, make_image, oblique, write_case

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _registry():
    """Restore the registry of methods: a page registers one of its own."""
    registered = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(registered)


SLOW = ("README.md", "docs/how-to/trust.md", "docs/volumes.md", "docs/monai.md")
"""Pages whose snippets take more than ten seconds."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=_name(page), marks=[pytest.mark.slow] * (_name(page) in SLOW))
        for page in PAGES
        if SNIPPET.search(page.read_text())
    ],
)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {
        "model": Classifier().eval()
    }  # the reader's model, for pages that define none
    if page.name == "nnunet.md":  # the reader's trained folder and case
        names = {"medcam": medcam, "folder": make_folder(tmp_path / "trained", folds=(0,))}
        write_case(tmp_path, make_image(), oblique())
    for snippet in SNIPPET.findall(page.read_text()):
        exec(compile(snippet, str(page), "exec"), names)  # noqa: S102  # our own docs


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{target} in {page}"


COMMAND = re.compile(r"^(medcam (?:.*\\\n)*.*)$", re.MULTILINE)
SHELL = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = [
    pytest.param(line.replace("\\\n", " "), id=f"{_name(page)}-{number}")
    for page in [*PAGES, *sorted((ROOT / "tools" / "notebooks").glob("*.py"))]
    for number, line in enumerate(
        line
        for shell in SHELL.findall(re.sub(r"^# ", "", page.read_text(), flags=re.MULTILINE))
        for line in COMMAND.findall(shell)
    )
]


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    _, *arguments = shlex.split(line, comments=True)
    command = typer.main.get_command(app)
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        command = command.get_command(click.Context(command), name)
        assert command is not None, name
    command.make_context(command.name, arguments)  # raises for unknown or missing options
