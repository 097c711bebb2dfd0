"""Terms of a mixed model by the names of columns, from Python and from the command."""

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.algorithms.terms import positions_of_terms
from innerloop.errors import UsageError
from toolkit.commands import printed_by


def frame(classes=False):
    draw = np.random.default_rng(0)
    site = np.repeat(np.arange(20), 8)
    table = pd.DataFrame({
        "site": site,
        "age": draw.normal(size=160),
        "drug": draw.choice(["a", "b"], 160),
        "a:b": draw.normal(size=160),
        "smoker": draw.choice([True, False], 160),
    })  # fmt: skip
    risk = table["age"] + draw.normal(size=20)[site] + 0.1 * draw.normal(size=160)
    return table.assign(risk=np.where(risk > 0, "high", "low") if classes else risk)


def tasks_of(table=None):
    return il.tasks.table(frame() if table is None else table, task="site", target="risk", n_support=3)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"squares": True}, {"squares": [0, 3]}),  # a truth value and a level are their own squares
        ({"squares": False}, {"squares": False}),
        ({"interactions": ["age:drug"]}, {"interactions": [(0, 1), (0, 2)]}),
        ({"interactions": ["a:b:age"]}, {"interactions": [(3, 0)]}),  # a name with a colon
        ({"interactions": [(0, 4)]}, {"interactions": [(0, 4)]}),
        ({"random": ["drug", "age"]}, {"random": [0, 1, 2]}),
        ({"random": []}, {"random": []}),
        ({"squares": True, "random": ["age^2"]}, {"squares": [0, 3], "random": [5]}),
        (
            {"squares": True, "interactions": ["age:drug"], "random": ["age:drug"]},
            {"squares": [0, 3], "interactions": [(0, 1), (0, 2)], "random": [7, 8]},
        ),
    ],
)
def test_names_become_positions(asked, expected):
    assert positions_of_terms(tasks_of(), asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"interactions": ["age"]}, "'age' is no pair of columns such as age:dose"),
        ({"interactions": ["age:mood"]}, "no pair of columns"),
        ({"interactions": ["age:age"]}, "is a square"),
        ({"random": ["mood"]}, "'mood' is no term of the model"),
        ({"random": ["age^2"]}, "there is no square of 'age': add them with --squares"),
        ({"random": ["age:drug"]}, "no interaction of the model: add --interactions age:drug"),
    ],
)
def test_what_is_no_term_is_refused(asked, message):
    with pytest.raises(UsageError, match=message.replace("^", r"\^")):
        learner_for(tasks_of(), algorithm="mixed", **asked)


def test_tasks_without_names_of_columns_take_positions():
    tasks = il.tasks.sinusoid(n_support=3)
    assert learner_for(tasks, algorithm="mixed", squares=True, random=[1]).head.effects == [1, 2]
    with pytest.raises(UsageError, match="the columns of these tasks have no names"):
        learner_for(tasks, algorithm="mixed", random=["age"])


def test_classes_shrink_level_and_slopes_by_a_strength_each():
    tasks = tasks_of(frame(classes=True))
    assert learner_for(tasks, algorithm="mixed").recipe["settings"]["covariance"] == "shared"
    asked = learner_for(tasks, algorithm="mixed", covariance="diagonal", random=["age"])
    assert asked.recipe["settings"]["covariance"] == "diagonal"
    assert asked.init()["head/root"].shape == (2, 2)


def test_the_command_takes_them(tmp_path, capsys):
    table = tmp_path / "sites.csv"
    frame().to_csv(table, index=False)
    words = ["train", table, "--task", "site", "--target", "risk", "--n-support", "3", "--algorithm", "mixed"]
    terms = ["--squares", "--interactions", "age:drug,age:smoker", "--random", "age,age^2"]
    code, _, _ = printed_by(capsys, *words, *terms, "--covariance", "full", "--out", tmp_path / "run")
    assert code == 0
    settings = il.load(tmp_path / "run").model.learner.recipe["settings"]
    assert settings["squares"] == [0, 3]
    assert settings["interactions"] == [[0, 1], [0, 2], [0, 4]]
    assert settings["random"] == [0, 5]
    code, _, _ = printed_by(capsys, *words, "--random", "none", "--out", tmp_path / "level")
    assert il.load(tmp_path / "level").model.learner.recipe["settings"]["random"] == []
    code, _, err = printed_by(capsys, *words[:-1], "maml", "--squares", "--out", tmp_path / "no")
    assert code == 2
    assert "squares has no meaning for maml" in err


def test_only_what_takes_terms_races(tmp_path, capsys):
    """With squares asked for, what cannot have them takes no part."""
    table = tmp_path / "sites.csv"
    frame().to_csv(table, index=False)
    words = ["train", table, "--task", "site", "--target", "risk", "--n-support", "3", "--squares"]
    assert printed_by(capsys, *words, "--out", tmp_path / "run")[0] == 0
    recipe = il.load(tmp_path / "run").config["learner"]
    members = recipe.get("members", [recipe])
    assert members
    assert all(each["algorithm"] == "mixed" and each["settings"]["squares"] for each in members)
