"""Atomic writes: after any failure either the old or the new file is there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medcam.errors import InputError, SaveError
from medcam.files import atomic, write_atomically

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def writer(text: str):
    return lambda path: path.write_text(text)


def test_the_file_arrives_whole_in_folders_that_did_not_exist(tmp_path):
    path = tmp_path / "a" / "b" / "map.txt"
    assert write_atomically(path, writer("hello")) == path
    assert path.read_text() == "hello"
    assert names(path.parent) == ["map.txt"]


def test_an_older_file_is_replaced(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("a much longer old text")
    write_atomically(path, writer("new"))
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["case.nii.gz", "map.png", "layer4.0.nii.gz", "x" * 240 + ".xlsx"])
def test_the_temporary_file_lies_beside_and_keeps_the_format(tmp_path, name):
    paths = []
    write_atomically(tmp_path / name, lambda path: (paths.append(path), path.touch()))
    (temporary,) = paths
    assert temporary.parent == tmp_path
    assert temporary.name != name
    assert temporary.name.startswith(".")
    assert temporary.name.endswith("".join(Path(name).suffixes[-2:]))


def test_the_new_file_is_readable_like_any_other(tmp_path):
    (tmp_path / "other").touch()
    path = write_atomically(tmp_path / "map.txt", writer("x"))
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def half_then_full(path: Path) -> None:
    path.write_text("half")
    raise NO_SPACE


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("old")
    with pytest.raises(SaveError, match=r"map\.txt.*No space left.*Free some space") as caught:
        write_atomically(path, half_then_full)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert names(tmp_path) == ["map.txt"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failing_disk_at_the_last_step_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "map.txt"
    path.write_text("old")

    def fail(*_):
        raise NO_SPACE

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(SaveError, match="No space left"):
        write_atomically(path, writer("new"))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["map.txt"]


@pytest.mark.parametrize("raised", [ValueError("theirs"), KeyboardInterrupt(), InputError("ours")])
def test_other_exceptions_pass_and_leave_nothing(tmp_path, raised):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise raised

    with pytest.raises(type(raised)) as caught:
        write_atomically(tmp_path / "map.txt", fail)
    assert caught.value is raised
    assert names(tmp_path) == []


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "map").mkdir()
    calls = []
    with pytest.raises(SaveError, match="A folder has this name"):
        write_atomically(tmp_path / "map", calls.append)
    assert calls == []
    assert names(tmp_path) == ["map"]


@pytest.mark.parametrize("below", ["file/map.txt", "file/folder/map.txt"])
def test_a_parent_that_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("old")
    with pytest.raises(SaveError, match="is a file, not a folder"):
        write_atomically(tmp_path / below, writer("new"))
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SaveError, match=r"Permission denied\. Choose a folder that you may write"):
        write_atomically(tmp_path / "new" / "map.txt", writer("x"))


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_no_name_at_all(path):
    with pytest.raises(SaveError, match="A folder has this name"):
        write_atomically(Path(path), writer("x"))


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(SaveError, match="Choose a shorter name"):
        write_atomically(tmp_path / ("x" * 300), writer("x"))
    assert names(tmp_path) == []


def test_files_of_dead_processes_are_swept(tmp_path):
    """As kill -9 leaves them."""
    dead = subprocess.Popen([sys.executable, "-c", ""])  # our own code
    dead.wait()
    host = atomic._host()
    left = tmp_path / f".map.nii.{host}-{dead.pid}-0123456789ab.nii.gz"
    kept = [
        tmp_path / f".map.nii.{host}-{os.getpid()}-0123456789ab.nii.gz",
        tmp_path / f".map.nii.00000000-{dead.pid}-0123456789ab.nii.gz",  # of another machine
        tmp_path / ".hidden",
        tmp_path / f"map.{host}-{dead.pid}-0123456789ab.nii.gz",
    ]
    for path in (left, *kept):
        path.touch()
    write_atomically(tmp_path / "a.txt", Path.touch)
    assert not left.exists()
    assert all(path.exists() for path in kept)


def test_the_name_of_a_temporary_file_is_that_of_its_process(tmp_path):
    names = []
    write_atomically(tmp_path / "a.nii.gz", lambda path: (names.append(path.name), path.touch()))
    match = atomic._TEMPORARY.fullmatch(names[0])
    assert int(match["process"]) == os.getpid()
    assert names[0].endswith(".nii.gz")


def test_a_zero_byte_in_a_path(tmp_path):
    with pytest.raises(SaveError, match="zero byte"):
        write_atomically(tmp_path / "a\0b", Path.touch)
