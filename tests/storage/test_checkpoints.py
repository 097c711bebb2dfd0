"""Checkpoints: a training that was cut short anywhere ends as if it had not been, and no checkpoint is ever lost."""

import json
import math
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop import files
from innerloop.errors import DivergedError, ModelFileError, ResourceError, UsageError
from innerloop.outer.training import Gear
from innerloop.storage import checkpoints as module
from innerloop.tasks.sources import FunctionSource, SupportSize, Targets
from toolkit.cases import CASES, IDS
from toolkit.compiler import compiles
from toolkit.drawn import SOURCES, drawn_regression
from toolkit.faults import Faulty, Killed


def killing(step):
    def look(entry):
        if entry["step"] == step:
            raise Killed

    return look


def equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def same_log(one, other):
    assert [list(map(repr, entry.items())) for entry in one] == [list(map(repr, e.items())) for e in other]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_algorithm_goes_on_from_a_kill_to_the_same_bits(case, tmp_path):
    source = SOURCES[case.kind]
    options = {"steps": 4, "meta_batch_size": 3, "gear": "eager", "device": "cpu"}
    whole = il.meta_train(case.make(), source, **options)
    checkpoints = il.Checkpoints(tmp_path, every=1)
    for step in (1, 3):
        try:
            il.meta_train(case.make(), source, checkpoints=checkpoints, callbacks=[killing(step)], **options)
        except Killed:
            assert checkpoints.steps[-1:] == [step - 1][: step - 1]
    rest = il.meta_train(case.make(), source, checkpoints=il.Checkpoints(tmp_path, every=1), **options)
    equal(whole.model.meta, rest.model.meta)
    same_log(whole.log, rest.log)
    assert (rest.best_step, rest.remarks) == (whole.best_step, whole.remarks)


def ragged_tasks():
    rows = np.random.default_rng(0)
    counts = [6 + task % 3 for task in range(12)]
    x = rows.normal(size=sum(counts))
    frame = pd.DataFrame({"task": np.repeat(np.arange(12), counts), "x": x, "y": 2 * x})
    return il.tasks.table(frame, task="task", target="y", n_support="2-3")


def dropout_learner():
    torch.manual_seed(0)
    return il.maml(il.models.mlp(1, [6], 1, dropout=0.3), loss="mse", inner_steps=2)


GROUPED = il.optimizers.grouped({"*bias": il.optimizers.rmsprop(), "*": il.optimizers.adamw()})
OPTIMIZERS = {
    "adam": il.optimizers.adam(),
    "nested": il.optimizers.averaged(il.optimizers.accumulated(GROUPED, 2), 0.9),
    "torch": il.optimizers.torch_optimizer(lambda params: torch.optim.AdamW(params, 3e-3)),
}  # fmt: skip


def _runs():
    yield from (("eager", optimizer) for optimizer in OPTIMIZERS)
    yield from (("traced", "nested"), ("loop", "adam"))


@pytest.mark.parametrize(("gear", "optimizer"), [*_runs(), pytest.param("compiled", "adam", marks=compiles)])
def test_from_any_step_in_any_gear_with_validation_and_dropout(gear, optimizer, tmp_path):
    tasks, steps = ragged_tasks(), 6
    options = {
        "valid": tasks.valid, "steps": steps, "meta_batch_size": 3, "validate_every": 3,
        "gear": Gear(gear), "device": "cpu", "optimizer": OPTIMIZERS[optimizer],
    }  # fmt: skip
    whole = il.meta_train(dropout_learner(), tasks.train, **options)
    for step in range(1, steps + 1) if gear == "eager" else (4,):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            il.meta_train(
                dropout_learner(), tasks.train, checkpoints=il.Checkpoints(folder, every=1),
                callbacks=[killing(step)], **options,
            )  # fmt: skip
        rest = il.meta_train(dropout_learner(), tasks.train, checkpoints=il.Checkpoints(folder), **options)
        equal(whole.model.meta, rest.model.meta)
        same_log(whole.log, rest.log)
        assert rest.best_step == whole.best_step


def quick(folder, *, steps=6, callbacks=(), warn=None, meta_lr=3e-3, source=None, **options):
    said = {} if warn is None else {"warn": warn}
    return il.meta_train(
        dropout_learner(), source or il.tasks.sinusoid(n_support=5).train, steps=steps, meta_batch_size=2,
        meta_lr=meta_lr, gear="eager", device="cpu", callbacks=callbacks,
        checkpoints=il.Checkpoints(folder, **{"every": 1} | said | options),
    )  # fmt: skip


def test_a_training_that_is_finished_is_not_made_again(tmp_path):
    first = quick(tmp_path)
    seen = []
    again = quick(tmp_path, callbacks=[seen.append])
    assert seen == []
    equal(first.model.meta, again.model.meta)
    same_log(first.log, again.log)


def test_a_training_that_patience_ended_is_finished_too(tmp_path):
    tasks = ragged_tasks()

    def train():
        return il.meta_train(
            dropout_learner(), tasks.train, valid=tasks.valid, steps=40, validate_every=1, patience=2, meta_lr=1.0,
            gear="eager", device="cpu", checkpoints=il.Checkpoints(tmp_path, every=5),
        )  # fmt: skip

    first, again = train(), train()
    assert first.remarks == again.remarks != ()
    assert "no better validation" in first.remarks[-1]
    equal(first.model.meta, again.model.meta)


def damage(folder, step):
    path = folder / f"step-{step:09d}" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_checkpoint_is_left_aside_and_said(tmp_path):
    whole = quick(tmp_path / "other")
    with pytest.raises(Killed):
        quick(tmp_path / "run", callbacks=[killing(5)])
    damage(tmp_path / "run", 4)
    said = []
    rest = quick(tmp_path / "run", warn=said.append)
    assert len(said) == 1
    assert "update 4 is left aside" in said[0]
    equal(whole.model.meta, rest.model.meta)
    for step in il.Checkpoints(tmp_path / "run").steps:
        damage(tmp_path / "run", step)
    with pytest.raises(ModelFileError, match="none of 2 checkpoints can be read: remove the folder"):
        quick(tmp_path / "run", warn=said.append)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 7}, r"training\.steps is 7, and was 6"),
        ({"meta_lr": 1e-2}, r"training\.meta_lr is 0\.01, and was 0\.003"),
        ({"source": il.tasks.sinusoid(n_support=6).train}, r"train_tasks is \w+, and was \w+"),
    ],
)
def test_another_training_is_refused_with_the_difference_unless_told(tmp_path, change, words):
    with pytest.raises(Killed):
        quick(tmp_path, callbacks=[killing(3)])
    with pytest.raises(UsageError, match=words):
        quick(tmp_path, **change)
    said = []
    run = quick(tmp_path, **change, allow_changes=True, warn=said.append)
    assert len(run.log) == change.get("steps", 6)
    assert "with changes" in said[0]


def test_another_version_and_another_machine(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        quick(tmp_path, callbacks=[killing(3)])
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        with pytest.raises(Killed):
            quick(tmp_path, warn=said.append, callbacks=[killing(4)])
    assert "not that of an uninterrupted one to the bit: machine.threads is 7" in said[0]
    monkeypatch.setattr("innerloop.storage.fingerprints.versions", lambda: {"innerloop": "99", "torch": "9"})
    with pytest.raises(UsageError, match="innerloop is 99, and was"):
        quick(tmp_path)


def test_only_the_newest_and_the_pinned_ones_stay(tmp_path):
    def pin(entry):
        if entry["step"] == 3:
            il.Checkpoints(tmp_path).pin(2)

    quick(tmp_path, callbacks=[pin], keep=3)
    assert il.Checkpoints(tmp_path).steps == [2, 4, 5, 6]
    with pytest.raises(UsageError, match="no checkpoint after update 1"):
        il.Checkpoints(tmp_path).pin(1)


HOLD = """
import sys, innerloop as il
with il.Checkpoints(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_train_into_one_folder(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(ResourceError, match=rf"another training saves .* \(process {child.pid} on "):
            quick(tmp_path)
    finally:
        child.kill()
        child.communicate()
    # the system has let go of it
    assert len(quick(tmp_path).log) == 6


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=["full", "kill"])
def test_a_fault_at_any_call_of_a_training_loses_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setattr(module, "_PAUSE", 0)
    whole = quick(tmp_path / "whole", steps=2)
    for at in range(1, 400, 1 if error.args else 2):
        folder, said = tmp_path / str(at), []
        with monkeypatch.context() as patch:
            faulty = Faulty(at, error)
            patch.setattr(files, "os", faulty)
            try:
                run = quick(folder, steps=2, warn=said.append)
                equal(whole.model.meta, run.model.meta)
            except (Killed, ResourceError):
                pass
        if faulty.calls < at:
            break
        rest = quick(folder, steps=2)
        equal(whole.model.meta, rest.model.meta)
        same_log(whole.log, rest.log)
        assert all("could not be written" in words for words in said)
        assert il.Checkpoints(folder).steps[-1] == 2
        assert not [path for path in folder.iterdir() if path.name.startswith(".") and any(path.iterdir())]
    else:
        pytest.fail("the work never came through")
    assert at > 40


def test_ctrl_c_returns_the_best_so_far_and_a_second_one_stops_at_once(tmp_path):
    def once(entry):
        if entry["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    def twice(entry):
        if entry["step"] == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    whole = quick(tmp_path / "whole")
    with pytest.warns(UserWarning, match="interrupted after update 3 of 6: the best"):
        run = quick(tmp_path / "run", callbacks=[once], every=100)
    assert run.interrupted
    assert len(run.log) == 3
    assert il.Checkpoints(tmp_path / "run").steps == [3]
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path / "run", callbacks=[twice])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest = quick(tmp_path / "run")
    equal(whole.model.meta, rest.model.meta)
    assert rest.remarks == whole.remarks == ()


def test_sigterm_does_what_it_did_before_once_the_state_is_saved(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))

    def once(entry):
        if entry["step"] == 3:
            signal.raise_signal(signal.SIGTERM)
            assert seen == []

    try:
        quick(tmp_path, callbacks=[once], every=100)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert il.Checkpoints(tmp_path).steps == [3]


def test_in_a_thread_signals_are_left_to_the_main_one(tmp_path):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(quick(tmp_path)))
    thread.start()
    thread.join()
    assert len(runs[0].log) == 6


def test_where_nothing_is_finite_any_more_the_last_good_state_is_kept(tmp_path):
    good = {"left": 5}

    def later(count, generator):
        good["left"] -= 1
        episode = drawn_regression(count, generator)
        y = episode.query.y if good["left"] >= 0 else torch.full_like(episode.query.y, torch.nan)
        return episode._replace(query=episode.query._replace(y=y))

    source = FunctionSource(later, Targets("regression", 1), SupportSize(5, 5))
    learner = il.maml(il.models.mlp(2, [4], 1), loss="mse", inner_steps=1)
    states = []
    with pytest.raises(DivergedError, match=r"20 steps in a row.*left out most often"):
        il.meta_train(
            learner, source, steps=60, meta_batch_size=2, gear="eager", device="cpu",
            callbacks=[il.Every(1, lambda state, entry: states.append((entry["loss"], state.meta)))],
            checkpoints=il.Checkpoints(tmp_path, every=100),
        )  # fmt: skip
    kept = il.Checkpoints(tmp_path)
    with kept:
        sealed = module.read_sealed(kept.path(kept.steps[-1]), module.CHECKPOINT)
    state, _ = module.unpacked(sealed)
    last = [meta for loss, meta in states if math.isfinite(loss)][-1]
    equal(state.meta, last)
    assert all(torch.isfinite(value).all() for value in state.meta.values())


def test_tasks_that_are_left_out_are_named(tmp_path):
    rows = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"school": np.repeat([f"school {n}" for n in range(9)], 8), "x": rows.normal(size=72)}
    )
    frame["y"] = frame.x
    tasks = il.tasks.table(frame, task="school", target="y", n_support=3)
    bad = tasks.train.ids[2]
    y = tasks.train.y.clone()
    y[tasks.train.starts[2] : tasks.train.starts[3]] = torch.inf
    source = replace(tasks.train, y=y)
    learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=1)
    run = il.meta_train(learner, source, steps=9, meta_batch_size=3, gear="eager", device="cpu")
    assert run.skipped > 0
    assert run.remarks[-1].endswith(f"left out most often: {bad!r} ({run.skipped} times)")


def test_the_log_is_the_files_own_json_lines(tmp_path):
    run = quick(tmp_path)
    lines = (tmp_path / "step-000000006" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [entry["loss"] for entry in run.log]
