"""`innerloop inspect --verify`: every file that is not what the manifest says, and what else is wrong."""

import json
import os

import pytest
import torch
from torch import nn

import innerloop as il
from innerloop.storage.manifest import seal
from toolkit.commands import printed_by


@pytest.fixture
def run(tmp_path):
    learner = il.mixed(2)
    return il.save(tmp_path / "run", il.Model(learner, learner.init()), log=[{"step": 1, "loss": 0.5}])


def test_a_whole_directory_is_called_whole(run, capsys) -> None:
    code, out, err = printed_by(capsys, "inspect", run, "--verify")
    assert (code, err) == (0, "")
    files = ["README.md", "config.json", "log.jsonl", "model.safetensors", "manifest.json"]
    assert [line.split()[0] for line in out.splitlines()[1:6]] == files
    assert out.count("whole") == 5 + 1
    assert out.rstrip().endswith(il.load(run).sha256)
    found = json.loads(printed_by(capsys, "inspect", run, "--verify", "--json")[1])
    assert found["sha256"] == il.load(run).sha256
    assert {each["name"]: each["size"] for each in found["files"]} == {
        name: os.path.getsize(run / name) for name in os.listdir(run)
    }


def test_every_fault_is_listed(run, capsys) -> None:
    (run / "config.json").write_bytes(b"{}")
    (run / "log.jsonl").unlink()
    (run / "more.txt").write_bytes(b"")
    data = bytearray((run / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "model.safetensors").write_bytes(data)
    code, out, err = printed_by(capsys, "inspect", run, "--verify")
    assert code == 4
    assert "4 of 6 files are not what the manifest says" in err
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "2 bytes, not " in lines["config.json"]
    assert "the file is missing" in lines["log.jsonl"]
    assert "the manifest does not name it: remove it from the folder" in lines["more.txt"]
    assert "its sha256 is not that of the manifest" in lines["model.safetensors"]
    assert lines["manifest.json"].endswith("whole")
    code, out, _ = printed_by(capsys, "inspect", run, "--verify", "--json")
    assert (code, sum(bool(each["fault"]) for each in json.loads(out)["files"])) == (4, 4)


def test_a_manifest_made_again_does_not_make_a_model(run, capsys) -> None:
    content = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "manifest.json"}
    for name, data in seal(content | {"config.json": b"{}"}).items():
        (run / name).write_bytes(data)
    code, _, err = printed_by(capsys, "inspect", run, "--verify")
    assert (code, "config.json: schema_version is None" in err) == (4, True)


def test_a_module_of_ones_own_need_not_be_at_hand(tmp_path, capsys) -> None:
    learner = il.maml(nn.Linear(2, 1), loss="mse")
    torch.manual_seed(0)
    path = il.save(tmp_path / "own", il.Model(learner, learner.init()))
    assert printed_by(capsys, "inspect", path, "--verify")[0] == 0


def test_what_is_no_directory_is_told(tmp_path, capsys) -> None:
    code, out, err = printed_by(capsys, "inspect", tmp_path / "nowhere", "--verify")
    assert (code, out, "no such folder" in err) == (4, "", True)
