"""Fixture that runs ``medcam demo`` once for all tests of the folder."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from medcam.cli import app


@pytest.fixture(scope="package")
def written(tmp_path_factory):
    """The folder that ``medcam demo`` wrote, and its output on the terminal."""
    folder = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(
        app, ["demo", "--output", str(folder)], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0
    return folder, result.output
