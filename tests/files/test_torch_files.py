"""A file of weights takes no more memory than it holds, whatever its format says."""

from __future__ import annotations

import pickle
import struct
import zipfile

import pytest
import torch

from medcam.errors import InputError
from medcam.files.torch_files import load_torch

WHAT = "'w.pt' cannot be read"


class Large:
    """Makes a bytearray of a number."""

    def __reduce__(self):
        return bytearray, (10**9,)


def bomb(path):
    torch.save({"weight": torch.zeros(2**22)}, path)
    with zipfile.ZipFile(path) as plain:
        parts = {item.filename: plain.read(item) for item in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return path


def test_a_compressed_archive(tmp_path):
    with pytest.raises(InputError, match="is compressed and would take"):
        load_torch(bomb(tmp_path / "w.pt"), WHAT, trust=False)
    assert load_torch(tmp_path / "w.pt", WHAT, trust=True)["weight"].shape == (2**22,)


def test_an_archive_that_only_pytorch_would_read(tmp_path):
    """`zipfile` refuses a version that PyTorch's reader does not look at."""
    path = bomb(tmp_path / "w.pt")
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 4):
        if content[place : place + 4] == b"PK\x01\x02":
            content[place + 6 : place + 8] = struct.pack("<H", 99)
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_torch(path, WHAT, trust=False)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("archive", [True, False])
def test_objects_of_any_size(tmp_path, protocol, archive):
    path = tmp_path / "w.pt"
    if archive:
        torch.save({"a": Large()}, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps({"a": Large()}, protocol=protocol))
    with pytest.raises(InputError, match="any amount of memory"):
        load_torch(path, WHAT, trust=False)


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_weights(tmp_path, zipped):
    path = tmp_path / "w.pt"
    state = {"weight": torch.rand(3), "bytearray of a name": 3}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_torch(path, WHAT, trust=False)["weight"], state["weight"])
