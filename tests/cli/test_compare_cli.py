"""The commands that compare: their JSON, their folders, their errors, and what `train` combines."""

import contextlib
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from innerloop.cli import run
from innerloop.cli.common import Notes
from innerloop.cli.compare import progress, show
from innerloop.compare.result import Comparison
from toolkit.commands import printed_by

pytestmark = pytest.mark.long

ASKED = ["--task", "site", "--target", "y", "--n-support", "4"]
SMALL = ["--learners", "ridge", "--baselines", "mean,pooled,alone,mixed", "--steps", "3"]
SMALL += ["--tries", "1", "--seeds", "2", "--folds", "3"]
VERDICT = {
    "helps",
    "net_over_classical",
    "best",
    "over",
    "net",
    "classical",
    "difference",
    "ci95",
    "sentence",
}


def frame(*, spread=2.0, n_tasks=15, rows=9):
    rng = np.random.default_rng(0)
    task = np.arange(n_tasks * rows) // rows
    x = rng.normal(size=(len(task), 2))
    y = x @ [1.0, -0.5] + spread * rng.normal(size=n_tasks)[task] + 0.3 * rng.normal(size=len(x))
    clinic = np.array([f"clinic {t % 5}" for t in task])
    return pd.DataFrame(
        {"site": [f"s{t}" for t in task], "clinic": clinic, "x": x[:, 0], "z": x[:, 1], "y": y}
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    frame().to_csv(folder / "sites.csv", index=False)
    return folder


@pytest.fixture
def ask(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    return partial(printed_by, capsys)


@pytest.fixture(scope="module")
def told(place):
    """What one comparison prints: code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), redirect_stdout(out), redirect_stderr(err):
        code = run(
            ["compare", "sites.csv", *ASKED, *SMALL, "--ignore", "clinic", "--quick", "--json", "--out", "c"]
        )
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def stored(told, place):
    return Comparison.from_json((place / "c" / "comparison.json").read_text(encoding="utf-8"))


def test_compare_says_what_it_found(told, stored):
    code, out, err = told
    assert code == 0, err
    found = json.loads(out)
    assert found["command"] == "compare"
    assert found["verdict"].keys() == VERDICT
    assert found["verdict"]["helps"] is True
    assert found["verdict"]["over"] == "pooled"
    low, high = found["verdict"]["ci95"]
    assert low <= found["verdict"]["difference"] <= high < 0
    methods = {row["method"] for row in found["scores"]}
    assert methods == {"mean", "pooled", "alone_ridge", "mixed", "ridge"}
    headlines = [row for row in found["scores"] if row["headline"]]
    assert {row["metric"] for row in headlines} == {"error_over_variance"}
    assert {row["n_tasks"] for row in headlines} == {15}
    assert stored.verdict["best"] == found["verdict"]["best"]
    assert len(stored.tasks) == len(set(stored.tasks)) == 15
    assert all(len(each.scores) == 15 and len(each.scores[0]) == 2 for each in stored.methods)
    assert {curve.axis for curve in stored.curves} == {"support"}  # a closed form has no inner steps
    assert stored.crossings[0].theirs == "alone_ridge"
    assert stored.settings["command"].startswith("innerloop compare sites.csv --task site")
    assert stored.episodes


def test_people_get_a_table_and_what_is_done_now(told, stored, capsys):
    show(stored)
    out = capsys.readouterr().out
    assert "15 held-out tasks, support 4 a task, 3 folds, 2 seeds" in out
    assert "linear mixed model" in out
    assert "Adapting" in out
    assert "fold 1/3" in told[2]


def test_the_time_left_is_told(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 28.0, 31.0, 60.0])
    monkeypatch.setattr("innerloop.cli.compare.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with progress(Notes(quiet=False)) as tell:
        for what, part in (("first", 0.0), ("second", 0.25), ("too soon", 0.3), ("third", 0.5)):
            tell(what, part)
    assert capsys.readouterr().err.splitlines() == [
        "  0 %  first",
        " 25 %  second, about 84 s left",
        " 50 %  third, about 60 s left",
    ]
    with progress(Notes(quiet=True)) as tell:
        tell("nothing", 0.5)
    assert capsys.readouterr().err == ""


def test_a_coarser_split_gives_intervals_by_cluster(ask, place):
    code, _, err = ask(
        "compare", "sites.csv", *ASKED, "--split-by", "clinic", "--learners", "ridge", "--baselines", "pooled,mixed",
        "--steps", "2", "--tries", "1", "--seeds", "1", "--folds", "3", "--quick", "--quiet", "--out", "clinics",
        "--report", "none",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = Comparison.from_json((place / "clinics" / "comparison.json").read_text(encoding="utf-8"))
    assert len(set(found.clusters)) == 5
    assert found.data["clusters"] == 5
    assert len(found.clusters) == len(found.tasks)


def test_one_table_without_tasks_is_told_so(ask):
    code, out, err = ask(
        "compare", "sites.csv", "--target", "y", "--features", "x,z", "--learners", "ridge",
        "--baselines", "mean,pooled,alone", "--steps", "3", "--tries", "1", "--seeds", "1", "--folds", "1",
        "--quick", "--json", "--quiet", "--report", "none",
    )  # fmt: skip
    assert code == 0, err
    verdict = json.loads(out)["verdict"]
    assert verdict["helps"] is not True
    assert "meta-learning is the wrong tool; the right one of those tried is one line" in verdict["sentence"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--worthwhile", "many"], "--worthwhile many"),
        (["--folds", "2"], "--folds 2"),
        (["--folds", "3", "--split", "1/3"], "leave --split out"),
        (["--learners", "gpt"], "'gpt' is unknown"),
        (["--learners", "protonet", "--baselines", ""], "none of the methods applies"),
        (["--interval", "wald"], "wald"),
        (["--seeds", "0"], "--seeds 0"),
        (["--hidden", "a"], "--hidden a"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(ask, extra, words):
    code, out, err = ask("compare", "sites.csv", *ASKED, "--quiet", *extra)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_train_combines_what_is_good_and_says_who_counts(ask, place):
    code, out, err = ask(
        "train", "sites.csv", *ASKED, "--ignore", "clinic", "--steps", "8", "--out", "auto", "--quiet"
    )
    assert code == 0, err
    assert "weight, 0 rows" in out
    assert "chosen: " in out
    config = json.loads((place / "auto" / "config.json").read_text(encoding="utf-8"))
    found = config["settings"]["candidates"]
    trained = {"maml", "ridge", "mixed", "gp", "boosting", "boosted_mixed", "boosted_gp"}
    assert {each["algorithm"] for each in found} == trained
    assert config["settings"]["algorithm"] == "auto"
    of_rows = [sum(each["weights"][rows] for each in found) for rows in found[0]["weights"]]
    assert all(abs(total - 1) < 1e-3 for total in of_rows)
    code, out, err = ask("evaluate", "auto", "--quiet")
    assert code == 0, err
    assert "labelled rows a task" in out
    code, out, err = ask("inspect", "auto")
    assert code == 0, err
    if config["learner"]["algorithm"] == "combination":
        assert "What each member counts" in out
        code, out, err = ask("refine", "auto", "--data", "sites.csv")
        assert code == 2
        assert "--single" in err


def test_a_single_one_is_kept_where_it_is_asked_for(ask, place):
    train = ("train", "sites.csv", *ASKED, "--ignore", "clinic", "--steps", "4", "--quiet")
    code, out, err = ask(*train, "--single", "--out", "single")
    assert code == 0, err
    config = json.loads((place / "single" / "config.json").read_text(encoding="utf-8"))
    assert "members" not in config["learner"]
    code, out, err = ask(*train, "--single", "--algorithm", "maml", "--out", "maml")
    assert (code, out) == (2, "")
    assert "--single" in err


def test_a_line_says_why_nothing_is_combined(ask):
    train = ("train", "sites.csv", *ASKED, "--ignore", "clinic", "--steps", "1")
    assert ask(*train, "--algorithm", "maml", "--out", "begun", "--quiet")[0] == 0
    code, out, err = ask(*train, "--init", "begun", "--out", "again")
    assert code == 0, err
    assert "nothing is combined with --init" in err
    assert "weight," not in out


def test_settings_of_one_algorithm_leave_no_choice(ask, place):
    code, out, err = ask(
        "train",
        "sites.csv",
        *ASKED,
        "--ignore",
        "clinic",
        "--steps",
        "2",
        "--inner-steps",
        "2",
        "--out",
        "one",
        "--quiet",
    )
    assert code == 0, err
    assert "weight," not in out
    config = json.loads((place / "one" / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["algorithm"] == "maml"
