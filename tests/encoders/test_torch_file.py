"""Tensors of old files of torch: those that torch wrote, and nothing runs in those that it did not."""

import collections
import os
import pickle
from pathlib import Path

import pytest
import torch

from innerloop.encoders.torch_file import read_state_dict
from innerloop.errors import DataError


def written(path: Path, content: object) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def test_tensors_are_those_that_torch_wrote(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    shared = torch.arange(12.0).reshape(3, 4)
    state = {**module.state_dict(), "column": shared[:, 1], "turned": shared.T, "double": shared.double()}
    read = read_state_dict(written(tmp_path / "a.pth", collections.OrderedDict(state)))
    assert list(read) == list(state)
    for name, value in state.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_file_names_is_run(tmp_path: Path) -> None:
    place = tmp_path / "made"
    path = written(tmp_path / "a.pth", {"a": Harmful(place)})
    with pytest.raises(DataError, match="mkdir"):
        read_state_dict(path)
    assert not place.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": [torch.ones(1)]}, torch.ones(2)])
def test_what_is_no_dict_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(DataError, match="holds no tensors by name"):
        read_state_dict(written(tmp_path / "a.pth", content))


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.pth", {"a": torch.ones(50)}).read_bytes()
    cut = tmp_path / "b.pth"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"b\.pth"):
            read_state_dict(cut)


def test_a_tensor_stays_in_its_storage(tmp_path: Path) -> None:
    # one number in the storage, and a view that would repeat it, or read behind it
    for shape, stride in (((4,), (0,)), ((2,), (1,)), ((-1,), (1,))):
        laid = pickle.dumps({}, 2)[:3] + b"X\x01\x00\x00\x00a"
        laid += b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        laid += (
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQK\x00"
            + tuples(shape)
            + tuples(stride)
            + b"\x89NtRs."
        )
        head = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        data = b"".join(head) + laid + pickle.dumps(["0"], 2) + (1).to_bytes(8, "little") + b"\0\0\0\0"
        path = tmp_path / "a.pth"
        path.write_bytes(data)
        with pytest.raises(DataError, match="reaches beyond its storage"):
            read_state_dict(path)


def tuples(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values) + b"t"
