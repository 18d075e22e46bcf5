"""A safe name is one component of a path, and different names stay different."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medcam.files import safe_name


@pytest.mark.parametrize(
    "name",
    [
        "layer4",
        "encoder.stages.3",
        "_orig_mod.model.1.submodule",
        "features.denseblock4.denselayer16.conv2",
        "backbone-1",
        "left lung",
        "auxlayers.0",
        "x" * 120,
    ],
)
def test_plain_names_stay(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a.", "a..b", " a", "a ", "a/b", "a\\b", "C:x", "*", "../../passwd"],
)
def test_names_with_dots_and_separators_get_a_hash(name):
    assert safe_name(name) != name
    assert safe_name(name)[-13] == "~"


@pytest.mark.parametrize(
    "name",
    ["a\0b", "a\nb", "x" * 121, "nul", "aux.1", "CON", "a~0123456789ab", "Läsion", "\ud800"],
)
def test_other_names_get_a_hash(name):
    assert safe_name(name) != name
    assert safe_name(name)[-13] == "~"


def test_the_readable_part_of_a_name_is_kept():
    assert safe_name("../Läsion/links").startswith("Läsion_links~")


@given(st.text())
@example("../../x")
@example(".")
@example("..")
@example("")
@example("ä" * 500)
@example("\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL X}" * 500)
def test_a_safe_name_is_one_visible_component(tmp_path_factory, name):
    safe = safe_name(name)
    folder = tmp_path_factory.getbasetemp()
    assert (folder / safe).resolve().parent == folder.resolve()
    assert Path(safe).name == safe
    assert safe[0] not in ". "
    assert safe[-1] not in ". "
    assert ".." not in safe
    assert not set(safe) & set('/\\:*?"<>|')
    assert safe.isprintable()
    assert len(safe.encode()) <= 120
    file = folder / f"{safe}.nii.gz"
    file.touch()
    file.unlink()


PARTS = st.sampled_from(
    ["a", "b", ".", "..", "/", "\\", "_", "~", " ", "\0", "x" * 130, "\u00e9", "e\u0301"]
)


@given(st.lists(PARTS).map("".join), st.lists(PARTS).map("".join))
@example("a/b", "a_b")
@example("x" * 130 + "a", "x" * 130 + "b")
def test_different_names_stay_different(first, second):
    assert (safe_name(first) == safe_name(second)) == (first == second)


@given(st.text())
def test_no_name_equals_the_safe_name_of_another(name):
    safe = safe_name(name)
    assert safe == name or safe_name(safe) != safe


@pytest.mark.parametrize(
    "name",
    ["NUL", "nul.txt", "aux", "aux.0", "CON.layer.1", "com1", "LPT9.x", "COM¹", "CONIN$", "prn ."],
)
def test_no_name_begins_as_a_device_of_windows(name):
    """Windows 10 and older open the device for any ending."""
    first = safe_name(name).split(".")[0].split("~")[0].strip().upper()
    assert first not in {"NUL", "AUX", "CON", "COM1", "LPT9", "COM¹", "CONIN$", "PRN"}
    assert safe_name(name) != safe_name(f"_{name}")
