"""`train` calibrates, `predict --interval` gives intervals, and `evaluate` and the page say what they hold."""

import io
import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from innerloop.cli import run
from innerloop.storage import load
from toolkit.commands import printed_by


def patients(tasks=60, *, seed=0, classes=False) -> pd.DataFrame:
    """Lines of patients with noise, or whether they lie high."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(tasks), 12)
    dose = rng.normal(size=len(number))
    level = rng.normal(size=tasks)[number] + dose + 0.5 * rng.normal(size=len(number))
    names = [f"p{seed}-{one:02d}" for one in number]
    return pd.DataFrame(
        {"patient": names, "dose": dose, "y": np.where(level > 0, "high", "low") if classes else level}
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tables, and model directories with calibrations of 20 tasks and of 3."""
    folder = tmp_path_factory.mktemp("intervals")
    patients().to_csv(folder / "old.csv", index=False)
    patients(classes=True).to_csv(folder / "classes.csv", index=False)
    new = patients(9, seed=1)
    new.loc[new.patient == "p1-03", "y"] += 40 * (-1) ** np.arange(12)
    known = new.groupby("patient").cumcount() < 4
    new.to_csv(folder / "truth.csv", index=False)
    new.assign(y=new.y.where(known & (new.patient != "p1-00"))).to_csv(folder / "new.csv", index=False)
    fresh = patients(6, seed=2, classes=True)
    fresh.assign(y=fresh.y.where(fresh.groupby("patient").cumcount() < 4)).to_csv(
        folder / "new_classes.csv", index=False
    )
    common = ["--task", "patient", "--target", "y", "--n-support", "4", "--quiet"]
    for name, table, options in (
        ("run", "old.csv", ["--split", "0.4,0.35,0.25", "--algorithm", "mixed"]),
        ("few", "old.csv", ["--split", "0.85,0.05,0.1", "--algorithm", "mixed"]),
        ("classes", "classes.csv", ["--split", "0.4,0.35,0.25", "--algorithm", "maml", "--steps", "20"]),
    ):
        assert run(["train", str(folder / table), *common, *options, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def call(capsys, monkeypatch, place):
    monkeypatch.chdir(place)
    return partial(printed_by, capsys)


def test_predict_writes_intervals_that_hold_and_names_the_task_that_is_unlike(call, place) -> None:
    code, out, err = call("predict", "run", "new.csv", "--interval", "0.9")
    assert code == 0
    table = pd.read_csv(io.StringIO(out))
    assert [*table][-5:] == ["prediction", "lower", "upper", "support_loss_percentile", "n_support"]
    asked, truth = table.prediction.notna(), pd.read_csv(place / "truth.csv").y
    assert table.lower.notna().tolist() == table.upper.notna().tolist() == asked.tolist()
    held = ((truth >= table.lower) & (truth <= table.upper))[asked & (table.patient != "p1-03")]
    assert held.mean() > 0.75
    assert "note: 1 task is unlike those of the calibration ('p1-03')" in err
    found = json.loads(call("predict", "run", "new.csv", "--interval", "0.9", "--json")[1])
    assert found["unlike"] == {"p1-03": 100.0}
    assert found["settings"]["interval"] == 0.9
    assert found["predictions"][-1]["lower"] == pytest.approx(table.lower.iloc[-1])
    bare = json.loads(call("predict", "run", "new.csv", "--json")[1])
    assert bare["unlike"] is None
    assert "lower" not in bare["predictions"][0]


def test_an_adapted_directory_gives_the_same_intervals(call, tmp_path) -> None:
    code, _, err = call("adapt", "run", "new.csv", "--out", tmp_path / "adapted")
    assert code == 0
    assert "unlike those of the calibration ('p1-03')" in err
    at_once, later = (
        pd.read_csv(io.StringIO(call("predict", which, "new.csv", "--interval", "0.8", "--quiet")[1]))
        for which in ("run", tmp_path / "adapted")
    )
    asked = at_once.prediction.notna()
    for name in ("lower", "upper", "support_loss_percentile"):
        np.testing.assert_allclose(later[name][asked], at_once[name][asked], rtol=1e-5)


def test_classes_have_sets(call) -> None:
    table = pd.read_csv(
        io.StringIO(call("predict", "classes", "new_classes.csv", "--interval", "0.9", "--quiet")[1])
    )
    assert table.prediction_set.dropna().isin(["high", "low", "high; low", "low; high"]).all()
    first = table.prediction_set.dropna().str.split("; ").str[0]
    assert (first == table.prediction.dropna()).all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("few", "new.csv", "--interval", "0.9"), 2, "needs 9 calibration tasks or more, and few has 3"),
        (("run", "new.csv", "--interval", "90"), 2, "give a share between 0 and 1, such as 0.9"),
        (("run", "new.csv", "--interval", "wide"), 2, "--interval"),
    ],
)
def test_what_cannot_be_given_is_one_sentence(arguments, code, words, call) -> None:
    found, out, err = call("predict", *arguments)
    assert (found, out) == (code, "")
    assert words in err


def test_evaluate_says_what_intervals_hold(call) -> None:
    out = call("evaluate", "run", "--report", "none")[1]
    assert "90 % intervals for new tasks hold " in out
    assert "calibrated on 21 meta-validation tasks" in out
    found = json.loads(call("evaluate", "run", "--report", "none", "--json")[1])
    rows = {row["metric"]: row for row in found["scores"] if row["inner_steps"] == 1}
    assert 0.8 < rows["interval_coverage_90"]["mean"] <= 1
    assert rows["interval_width_90"]["mean"] > 0
    assert found["calibration_tasks"] == 21
    few = call("evaluate", "few", "--report", "none")[1]
    assert "no 90 % intervals for new tasks: they need 9 meta-validation tasks, and there are 3" in few
    sets = call("evaluate", "classes", "--report", "none")[1]
    assert "90 % prediction sets for new tasks hold " in sets
    other = call("evaluate", "classes", "--report", "none", "--inner-steps", "1")[1]
    assert "they hold for the inner steps of training" in other


def test_a_directory_without_a_calibration_says_so(call, place, tmp_path) -> None:
    from dataclasses import replace

    replace(load(place / "run"), calibration=None, extra={}).save(tmp_path / "before")
    assert "there is no calibration" in call("evaluate", tmp_path / "before", "--report", "none")[1]
    code, _, err = call("predict", tmp_path / "before", "new.csv", "--interval", "0.9")
    assert code == 2
    assert "before holds no calibration" in err
    assert (
        json.loads(call("evaluate", tmp_path / "before", "--report", "none", "--json")[1])[
            "calibration_tasks"
        ]
        is None
    )


def test_train_says_it_and_the_page_too(call, place, tmp_path) -> None:
    options = ["--task", "patient", "--target", "y", "--algorithm", "mixed", "--split", "0.4,0.35,0.25"]
    out = call("train", "old.csv", *options, "--out", tmp_path / "run", "--quiet")[1]
    assert "90 % intervals for new tasks hold " in out
    page = tmp_path / "run" / "report.html"
    if page.exists():
        text = page.read_text(encoding="utf-8")
        assert "Do 90 % intervals for new tasks hold?" in text
        assert "share in 90 % conformal interval" in text
        assert ">nan<" not in text


def test_every_fold_is_calibrated_on_its_own_tasks(call, tmp_path) -> None:
    options = ["--task", "patient", "--target", "y", "--algorithm", "mixed", "--folds", "3", "--json"]
    found = json.loads(call("train", "old.csv", *options, "--out", tmp_path / "run", "--quiet")[1])
    scores = {row["metric"]: row for row in found["scores"]}
    assert found["calibration_tasks"] == 20
    assert scores["interval_coverage_90"]["n_tasks"] == 60
    assert 0.8 < scores["interval_coverage_90"]["mean"] < 0.97
