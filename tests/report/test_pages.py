"""Pages and logs of the verbs: where they go, what they say, and that a result never depends on them."""

import json
import shlex
import sys
import types
from functools import partial

import numpy as np
import pandas as pd
import pytest

import innerloop as il
import innerloop.report
from innerloop.cli import run
from innerloop.cli.pages import command_line
from toolkit.commands import printed_by

pytest.importorskip("matplotlib")
TRAIN = [
    "--task",
    "site",
    "--target",
    "risk",
    "--n-support",
    "3",
    "--steps",
    "3",
    "--inner-steps",
    "2",
    "--hidden",
    "6",
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with an awkward task, and a model trained on it, drawn."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"site": np.repeat([f"site {i} <script>" for i in range(10)], 8)})
    frame["dose"] = rng.normal(size=80)
    frame["risk"] = 3 * frame["dose"] + rng.normal(size=80)
    frame.to_csv(folder / "my table.csv", index=False)
    assert run(["train", str(folder / "my table.csv"), *TRAIN, "--out", str(folder / "run"), "--quiet"]) == 0
    return folder


@pytest.fixture
def call(table, monkeypatch, capsys):
    monkeypatch.chdir(table)

    return partial(printed_by, capsys)


def test_train_leaves_a_page_in_the_directory(call, pages, tmp_path):
    code, out, _ = call("train", "my table.csv", *TRAIN, "--out", tmp_path / "run")
    assert code == 0
    assert f"page: {tmp_path / 'run' / 'report.html'}" in out
    text = (tmp_path / "run" / "report.html").read_text()
    assert "maml on my table" in text
    assert "<script" not in text
    stored = il.load(tmp_path / "run")  # verified: the manifest knows the page
    assert stored.config["scores"][0]["metric"] == "rmse"
    # the command on the page gives the same model
    command = text.partition("<code>")[2].partition("</code>")[0].replace("&#39;", "'")
    again = shlex.split(command)
    assert again[:2] == ["innerloop", "train"]
    assert call(*again[1:], "--out", tmp_path / "again", "--quiet")[0] == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "again" / "report.html").read_bytes() == (
        tmp_path / "run" / "report.html"
    ).read_bytes()


def test_evaluate_leaves_a_page_beside_the_directory_or_where_it_is_asked(call, pages, table, tmp_path):
    code, out, _ = call("evaluate", "run")
    assert code == 0
    assert "page: run-evaluate.html" in out
    assert "innerloop evaluate run" in (table / "run-evaluate.html").read_text()
    place = tmp_path / "new" / "page.html"
    code, out, _ = call("evaluate", "run", "my table.csv", "--report", place, "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["report"] == str(place)
    assert "&#39;my table.csv&#39;" in place.read_text()
    code, out, _ = call("evaluate", "run", "--report", "none", "--json")
    assert json.loads(out)["report"] is None


def test_a_place_that_cannot_be_written_is_refused_before_the_work(call, table):
    code, _, err = call("evaluate", "run", "--report", "my table.csv/page.html")
    assert code == 2
    assert "is a file, not a folder" in err


def test_a_page_that_cannot_be_written_costs_no_result(call, pages, table):
    place = table / "run-evaluate.html"
    place.unlink(missing_ok=True)
    place.mkdir()
    try:
        code, out, err = call("evaluate", "run")
    finally:
        place.rmdir()
    assert code == 0
    assert "RMSE" in out
    assert "the page was not written" in err


def test_without_the_extra_one_line_says_so(call, pages, monkeypatch, tmp_path):
    monkeypatch.setattr(innerloop.report, "available", lambda: False)
    code, out, err = call("train", "my table.csv", *TRAIN, "--out", tmp_path / "run")
    assert code == 0
    assert "page:" not in out
    assert [line for line in err.splitlines() if "page" in line] == [
        "note: no page was drawn; it needs: pip install 'innerloop[report]'"
    ]
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_page_that_fails_costs_no_model(call, pages, monkeypatch, tmp_path):
    def fail(page):
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr(innerloop.report, "render", fail)
    code, _, err = call("train", "my table.csv", *TRAIN, "--out", tmp_path / "run")
    assert code == 0
    assert "note: no page was drawn, which is a bug in innerloop: ZeroDivisionError: no ink" in err
    assert il.load(tmp_path / "run").model


def test_a_log_grows_while_training_runs_and_ends_in_the_directory(call, monkeypatch, tmp_path):
    live, seen = tmp_path / "run.live.jsonl", []
    step = innerloop.outer.logs.JsonLines.__call__

    def look(self, entry):
        step(self, entry)
        seen.append(len(live.read_text().splitlines()))

    monkeypatch.setattr(innerloop.outer.logs.JsonLines, "__call__", look)
    assert call("train", "my table.csv", *TRAIN, "--out", tmp_path / "run", "--quiet")[0] == 0
    assert seen == [1, 2, 3]
    assert not live.exists()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3


def test_the_log_of_a_run_that_stopped_stays(call, monkeypatch, tmp_path):
    step = innerloop.outer.logs.JsonLines.__call__

    def stop(self, entry):
        step(self, entry)
        raise KeyboardInterrupt

    monkeypatch.setattr(innerloop.outer.logs.JsonLines, "__call__", stop)
    assert call("train", "my table.csv", *TRAIN, "--out", tmp_path / "run", "--quiet")[0] == 130
    assert (tmp_path / "run.live.jsonl").exists()
    assert not (tmp_path / "run").exists()


def test_tensorboard_on_request(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = call(
        "train", "my table.csv", *TRAIN, "--out", tmp_path / "a", "--tensorboard", tmp_path / "tb"
    )
    assert code == 2
    assert "pip install 'innerloop[tensorboard]'" in err
    written = []
    writer = types.SimpleNamespace(add_scalar=lambda *one: written.append(one), close=lambda: None)
    module = types.SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    out = ["--out", tmp_path / "b", "--tensorboard", tmp_path / "tb", "--quiet"]
    assert call("train", "my table.csv", *TRAIN, *out)[0] == 0
    assert [step for name, _, step in written if name == "loss"] == [1, 2, 3]


def test_inspect_says_what_was_learned(call):
    code, out, _ = call("inspect", "run")
    assert code == 0
    for words in ("What adaptation changes", "Linear 1 to 6", "Learned step sizes", "Adapting helps on"):
        assert words in out
    found = json.loads(call("inspect", "run", "--json")[1])
    inside = found["learned"]
    assert [row["layer"] for row in inside["moved"]] == ["0", "2"]
    assert {row["layer"] for row in inside["similarity"]} == {"0", "2"}
    assert len(inside["gains"]) == 2
    assert found["algorithm"] == "maml"


def test_inspect_without_the_data_says_what_the_parameters_say(call, table, tmp_path):
    moved = tmp_path / "elsewhere.csv"
    (table / "my table.csv").rename(moved)
    try:
        code, out, err = call("inspect", "run")
        again = call("inspect", "run", moved)
        wrong = call("inspect", "run", "no.csv")
    finally:
        moved.rename(table / "my table.csv")
    assert code == 0
    assert "note: what tasks show is left out" in err
    assert "Learned step sizes" in out
    assert "What adaptation changes" not in out
    assert "What adaptation changes" in again[1]
    assert wrong[0] == 3


@pytest.mark.parametrize("algorithm", ["mixed", "sparse_maml"])
def test_every_kind_of_model_has_a_page(call, pages, tmp_path, algorithm):
    options = TRAIN if algorithm != "mixed" else [*TRAIN[:6], "--steps", "1"]
    code, out, err = call(
        "train", "my table.csv", *options, "--algorithm", algorithm, "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert "page:" in out, err
    text = (tmp_path / "run" / "report.html").read_text()
    assert "How far each layer moves" in text
    assert ("Learned step sizes" in text) == (algorithm != "mixed")
    assert ("Which weights may move" in text) == (algorithm == "sparse_maml")


def test_classes_and_scaled_tasks_have_pages(call, pages, table, tmp_path):
    frame = pd.read_csv(table / "my table.csv")
    frame["risk"] = np.where(frame["risk"] > 0, "high", "low")
    frame.to_csv(tmp_path / "classes.csv", index=False)
    options = ["--task", "site", "--target", "risk", "--n-shot", "2", *TRAIN[6:]]
    code, out, err = call("train", tmp_path / "classes.csv", *options, "--out", tmp_path / "classes")
    assert (code, "page:" in out) == (0, True), err
    code, out, err = call(
        "train", "my table.csv", *TRAIN, "--scaling", "per_task", "--out", tmp_path / "scaled"
    )
    assert (code, "page:" in out) == (0, True), err


def test_the_command_line_is_quoted():
    assert command_line(
        "train", {"task": "a b", "n_support": "1-8", "x": None, "skip_bad": True}, "$(x).csv"
    ) == ("innerloop train '$(x).csv' --task 'a b' --n-support 1-8 --skip-bad")
