"""`train --folds`: every task is tested once, by a model that never saw it, and one interval over all of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.cli import run
from innerloop.evaluation import interval, over_folds
from innerloop.tasks.splits import Fold

QUICK = ["--algorithm", "maml", "--device", "cpu", "--quiet", "--steps", "4", "--hidden", "8"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"site": np.repeat(np.arange(11), 8), "dose": rng.normal(size=88)})
    frame["risk"] = np.sin(frame.dose + frame.site) + rng.normal(size=88) / 10
    frame.to_csv(tmp_path / "sites.csv", index=False)
    return tmp_path / "sites.csv"


@pytest.mark.usefixtures("pages")
def test_folds_of_the_command_are_those_of_python(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    words = ["--task", "site", "--target", "risk", "--n-support", "3", *QUICK, "--out", out, "--report-rows"]
    assert run(["train", str(table), *words, "--folds", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts, tested = [], []
    options = {"task": "site", "target": "risk", "n_support": 3}
    for tasks in il.tasks.folds(3, il.tasks.table, table, **options):
        learner = learner_for(tasks, hidden=[8])
        model = il.meta_train(learner, tasks.train, valid=tasks.valid, steps=4, device="cpu").model
        parts.append(il.evaluate(model, tasks.test))
        tested += tasks.splits["test"]
    assert sorted(tested, key=int) == [str(number) for number in range(11)]
    headline = next(row for row in found["scores"] if row["headline"])
    total = over_folds(parts).metric("rmse")
    assert headline["n_tasks"] == 11
    assert [headline["mean"], *headline["ci95"]] == pytest.approx(total, rel=1e-6)
    assert found["folds"] == pytest.approx([part.metric("rmse")[0] for part in parts], rel=1e-6)
    # the model that is kept is that of the first fold, and is scored again on its own tasks
    assert run(["evaluate", out, str(table), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["scores"]
    assert next(row for row in again if row["headline"])["mean"] == pytest.approx(found["folds"][0], rel=1e-6)
    assert il.load(out).config["settings"]["split"] == str(Fold(1, 3))
    words[words.index(out)] += "2"
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert f"{sum(len(part.ids) for part in parts)} held-out tasks, regression" in page
    assert page.count("Of the first fold, whose model is kept.") == 2
    assert run(["train", str(table), *words, "--folds", "3"]) == 0
    mean, low, high = interval(np.array(found["folds"]))
    assert f"mean {mean:.3f} [{low:.3f}, {high:.3f}] over folds" in capsys.readouterr().out


def test_folds_of_classes_and_what_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--n-way", "2", *QUICK[:5], "--steps", "1", "--out", str(tmp_path / "run")]
    assert run([*words, "--hidden", "4", "--model", "mlp", "--folds", "4"]) == 2  # an mlp takes no images
    assert run([*words, "--width", "4", "--folds", "4", "--json", "--n-query", "1"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert {row["n_tasks"] for row in rows} == {2400}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--folds", "2"], 2, "--folds 2: give 3 or more"),
        (["--folds", "40"], 3, "40 folds of 11 tasks"),
        (["--folds", "5", "--split", "0.6,0.2,0.2"], 2, "leave --split out"),
        (["--split", "a"], 2, "a fold such as 2/5"),
        (["--split", "9/3"], 2, "numbered from 1"),
        (["--split", "absent.csv"], 3, "no such file"),
    ],
)
def test_folds_that_cannot_be(
    table: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "site", "--target", "risk", *QUICK, "--out", str(table.parent / "run")]
    assert run(["train", str(table), *given, *words]) == code
    assert message in capsys.readouterr().err


def test_tasks_without_end_have_no_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "sinusoid", "--n-support", "3", "--folds", "5", "--out", str(tmp_path / "r")]) == 2
    assert "--folds have no meaning for the built-in 'sinusoid'" in capsys.readouterr().err
