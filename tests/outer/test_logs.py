"""Loggers: what they write while training runs, and that none of them can stop it."""

import json
import math
import sys
import types

import pytest

import innerloop as il
from innerloop.errors import ResourceError, UsageError
from innerloop.outer.logs import JsonLines, TensorBoard, logging


def trained(callbacks, steps=3):
    tasks = il.tasks.sinusoid(n_support=5)
    learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
    return il.meta_train(learner, tasks.train, steps=steps, device="cpu", callbacks=callbacks)


def test_every_entry_is_in_the_file_at_once(tmp_path):
    path, seen = tmp_path / "new" / "log.jsonl", []

    def look(entry):
        seen.append(len(path.read_text().splitlines()))

    with logging(JsonLines(path)) as callbacks:
        run = trained([*callbacks, look])
    assert seen == [1, 2, 3]
    assert [json.loads(line) for line in path.read_text().splitlines()] == run.log


def test_a_file_is_begun_anew_and_holds_no_nan(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("old\n")
    log = JsonLines(path)
    log({"step": 1, "loss": math.nan, "valid_loss": math.inf})
    log.close()
    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "valid_loss": None}
    with pytest.raises(ResourceError, match="File exists"):
        JsonLines(path / "below.jsonl")({"step": 1})


def test_nothing_is_written_before_there_is_something_to_say(tmp_path):
    with logging(JsonLines(tmp_path / "log.jsonl")):
        pass
    assert not any(tmp_path.iterdir())


class Broken:
    def __init__(self):
        self.calls = 0

    def __call__(self, entry):
        self.calls += 1
        raise OSError("the network is gone")

    def close(self):
        raise AssertionError("it has failed already")


def test_a_logger_that_raises_is_left_out_and_training_goes_on(tmp_path):
    broken, said = Broken(), []
    with logging(broken, JsonLines(tmp_path / "log.jsonl"), warn=said.append) as callbacks:
        run = trained(callbacks)
    assert len(run.log) == 3
    assert broken.calls == 1
    assert said == ["note: the log is not written any more, training goes on: Broken: the network is gone"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_loggers_are_closed_when_training_stops():
    closed = []

    class Once:
        def __call__(self, entry):
            raise KeyboardInterrupt

        def close(self):
            closed.append(True)

    with pytest.raises(KeyboardInterrupt), logging(Once()) as callbacks:
        trained(callbacks)
    assert closed == [True]


def test_tensorboard_gets_every_number_at_its_step(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with logging(TensorBoard(tmp_path)) as callbacks:
        callbacks[0]({"step": 7, "loss": 0.5, "meta_lr": 0.1, "note": "text"})
    assert written == [str(tmp_path), ("loss", 0.5, 7), ("meta_lr", 0.1, 7), "closed"]


def test_without_tensorboard_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'innerloop\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: pip install 'innerloop[tensorboard]'"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logging(TensorBoard(tmp_path)) as callbacks:
        run = trained(callbacks)
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(entry["step"], pytest.approx(entry["loss"])) for entry in run.log]
