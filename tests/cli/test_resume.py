"""`innerloop train --resume`: signals, kills, two at once, changes; the end is that of an uninterrupted training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from innerloop.cli import run

TRAIN = [
    "train",
    "sinusoid",
    "--n-support",
    "5",
    "--algorithm",
    "maml",
    "--inner-steps",
    "1",
    "--gear",
    "eager",
]


def command(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "innerloop", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def awaited(path: Path):
    until = time.monotonic() + 120
    while not list(path.glob("step-*")):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run([*TRAIN, "--steps", "60", "--quiet", "--out", str(folder)]) == 0
    return folder


def same(one, other):
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for name in ("model.safetensors", "log.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def interrupted(folder, monkeypatch, *more, at=40, with_=signal.SIGKILL):
    """A training that ends after an update of its first validations."""
    from innerloop.outer.descent import Descent

    ends = Descent._ends

    def ending(self, entry, steps):
        if entry["step"] == at and with_ == signal.SIGKILL:
            raise SystemExit
        if entry["step"] == at:
            signal.raise_signal(with_)
        return ends(self, entry, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Descent, "_ends", ending)
        try:
            words = ["--out", str(folder), "--checkpoint-every", "7", *more]
            return run([*TRAIN, "--steps", "60", "--quiet", *words])
        except SystemExit:
            return None


def test_a_kill_and_a_resume_end_like_the_uninterrupted_training(tmp_path, whole, monkeypatch, capsys):
    folder = tmp_path / "run"
    assert interrupted(folder, monkeypatch) is None
    assert not folder.exists()
    kept = [path.name for path in (tmp_path / "run.checkpoints").glob("step-*")]
    assert sorted(kept) == ["step-000000028", "step-000000035"]
    assert run([*TRAIN, "--out", str(folder)]) == 2
    assert f"go on with it (innerloop train --resume {folder})" in capsys.readouterr().err
    assert run(["train", "--resume", str(folder)]) == 0
    same(folder, whole)
    assert os.listdir(tmp_path) == ["run"]
    assert run(["train", "--resume", str(folder)]) == 0
    assert "nothing is left to do" in capsys.readouterr().err


def test_after_ctrl_c_the_best_so_far_is_there_and_it_goes_on(tmp_path, whole, monkeypatch, capsys):
    folder = tmp_path / "run"
    assert interrupted(folder, monkeypatch, at=20, with_=signal.SIGINT) == 130
    assert json.loads((folder / "config.json").read_text())["best_step"] == 12
    assert len((folder / "log.jsonl").read_text().splitlines()) == 20
    assert "meta-test:" in capsys.readouterr().out
    assert run(["train", "--resume", f"{folder}.checkpoints", "--quiet"]) == 0
    same(folder, whole)


def test_sigterm_leaves_with_143_and_a_second_training_with_5(tmp_path, whole):
    folder = tmp_path / "run"
    child = command(*TRAIN, "--steps", "1000000", "--out", folder, "--checkpoint-every", "5")
    awaited(tmp_path / "run.checkpoints")
    second = command(*TRAIN, "--out", folder)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 5
    assert f"another training saves its checkpoints in {folder}.checkpoints (process {child.pid} on" in said
    child.terminate()
    out, err = child.communicate(timeout=120)
    assert child.returncode == 143
    assert out == ""
    assert f"it goes on with: innerloop train --resume {folder}" in err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--steps", "70"], "--steps is 70, and was 60"),
        (["sinusoid", "--inner-steps", "2"], "--inner-steps is 2, and was 1"),
        (["harmonics"], "TASKS is harmonics, and was sinusoid"),
    ],
)
def test_other_settings_are_refused_unless_told(tmp_path, monkeypatch, capsys, more, words):
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch)
    assert run(["train", *more, "--resume", str(folder)]) == 2
    assert words in capsys.readouterr().err
    if more[0] == "--steps":
        assert run(["train", *more, "--resume", str(folder), "--allow-changes", "--quiet"]) == 0
        assert len((folder / "log.jsonl").read_text().splitlines()) == 70


def test_other_data_are_refused(tmp_path, monkeypatch, capsys):
    table = tmp_path / "t.csv"
    rows = [f"{task},{x},{task * x}" for task in range(12) for x in range(8)]
    table.write_text("\n".join(["task,x,y", *rows]))
    monkeypatch.chdir(tmp_path)
    words = ["train", str(table), "--task", "task", "--target", "y", "--algorithm", "maml", "--gear", "eager"]
    monkeypatch.setattr(f"{__name__}.TRAIN", words)
    interrupted(tmp_path / "run", monkeypatch)
    table.write_text("\n".join(["task,x,y", *rows[:-1], "11,7,1000"]))
    assert run(["train", "--resume", str(tmp_path / "run")]) == 2
    assert f"the content of {table} is another one" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(["train", "--resume", str(tmp_path / "run")]) == 2
    assert f"name them (innerloop train {table} --resume {tmp_path / 'run'})" in capsys.readouterr().err
    assert run(["train", str(table), "--resume", str(tmp_path / "run")]) == 2
    assert "is another one" in capsys.readouterr().err


def test_resume_begins_where_there_is_nothing_if_tasks_are_given(tmp_path, whole, capsys):
    folder = tmp_path / "run"
    assert run(["train", "--resume", str(folder)]) == 2
    assert "there is no such folder: give the tasks too" in capsys.readouterr().err
    assert run([*TRAIN, "--steps", "60", "--resume", str(folder), "--quiet"]) == 0
    same(folder, whole)


def test_replace_gives_an_interrupted_training_up(tmp_path, whole, monkeypatch):
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, "--seed", "3")
    assert run([*TRAIN, "--steps", "60", "--replace", "--out", str(folder), "--quiet"]) == 0
    same(folder, whole)


def test_an_inner_loop_that_diverges_is_not_left_without_a_word(tmp_path, capsys):
    words = [
        "--inner-lr",
        "3",
        "--inner-steps",
        "5",
        "--steps",
        "3",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    assert run(["train", "sinusoid", "--n-support", "5", "--algorithm", "fomaml", *words]) == 0
    out, err = capsys.readouterr()
    assert "warning: adaptation makes predictions worse: error over variance" in err
    assert any("lower the inner step size (--inner-lr)" in remark for remark in json.loads(out)["remarks"])
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert "the inner loop diverges" in stored["warning"]


def test_what_an_update_needs_is_said_before(tmp_path, capsys):
    assert run([*TRAIN, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    err = capsys.readouterr().err
    assert "memory: about" in err
    assert err.index("memory: about") < err.index("gear:")


def test_a_model_that_adapts_well_gets_no_warning(whole):
    assert "warning" not in json.loads((whole / "config.json").read_text())["settings"]
