"""The demonstration runs once for all of its tests."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from medcam.cli import app


@pytest.fixture(scope="package")
def written(tmp_path_factory):
    """The folder of ``medcam demo``, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(
        app, ["demo", "--output", str(folder)], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0
    return folder, result.output
