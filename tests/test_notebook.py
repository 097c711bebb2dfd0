"""What notebooks show: well formed, escaped, small, and with the numbers of the object."""

import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.compare.result import Comparison, Method
from innerloop.evaluation.intervals import Estimate
from innerloop.notebook import as_html
from innerloop.storage.save import unsaved

EVIL = "<script>alert('1')</script>&\""


class Cells(HTMLParser):
    """The texts of cells and titles; tags that are opened are closed, in order, and of few kinds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in {"div", "table", "tr", "th", "td", "b", "i"}
        assert all(name == "style" for name, _ in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def objects():
    """A table with an evil name, and all that is made from it."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"site": np.repeat(range(30), 6), EVIL: draw.normal(size=180), "y": draw.normal(size=180)}
    )
    tasks = il.tasks.table(frame, task="site", target="y", n_support=2).renamed(EVIL)
    learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=2)
    run = il.meta_train(learner, tasks.train, steps=25, device="cpu", gear="eager")
    scores = il.evaluate(run.model, tasks.test)
    stored = unsaved(
        run.model,
        schema=tasks.schema,
        support=tasks.train.support,
        scores=scores.scores("maml"),
        data={"name": EVIL},
    )
    method = Method("maml", EVIL, "shared", "meta", (), {"rmse": Estimate(1.5, 1.0, 2.0)})
    comparison = Comparison(
        {}, {"name": EVIL}, "rmse", True, ("a",), (), (method,), verdict={"sentence": "It helps."}
    )
    return {
        "tasks": tasks, "learner": learner, "model": run.model, "run": run, "evaluation": scores, "stored": stored,
        "comparison": comparison,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tasks", "learner", "model", "run", "evaluation", "stored", "comparison"])
def test_every_representation_is_small_sound_html(objects, name):
    text = objects[name]._repr_html_()
    assert len(text) < 5000
    assert Cells(text).texts
    assert (EVIL in "".join(Cells(text).texts)) == (name in ("tasks", "stored", "comparison"))


def test_they_say_what_the_objects_hold(objects):
    texts = {name: Cells(value._repr_html_()).texts for name, value in objects.items()}
    mean, low, high = objects["evaluation"].metric("rmse")
    assert f"{mean:.4g} [{low:.4g}, {high:.4g}]" in texts["evaluation"]
    assert f"{mean:.4g}" in texts["stored"]
    assert texts["learner"][0] == "Learner: maml"
    assert "mlp" in texts["learner"]
    assert {"4x1", "1x4"} <= set(texts["model"])
    assert "train=22, valid=4, test=4" in texts["tasks"]
    assert texts["tasks"][texts["tasks"].index("n_support") + 1] == "2"
    last = objects["run"].log[-1]
    assert texts["run"][-2:] == [str(last["step"]), f"{last['loss']:.4g}"]
    assert "1.5 [1, 2]" in texts["comparison"]
    assert "It helps." in texts["comparison"]


def test_long_text_and_long_tables_are_cut_and_say_so():
    text = as_html("x", {"long": "a" * 1000}, [["n"], *([number] for number in range(50))])
    texts = Cells(text).texts
    assert max(map(len, texts)) == 160
    assert texts[-1] == "and 30 more"
    assert "19" in texts
    assert "20" not in texts


def test_what_is_empty_is_left_out_and_zero_is_not():
    texts = Cells(as_html("x", {"none": None, "empty": (), "zero": 0, "nan": math.nan})).texts
    assert texts == ["x", "zero", "0", "nan", "undefined"]


def test_a_learner_assembled_by_hand_has_the_name_of_its_class():
    learner = il.mixed(1).with_recipe(None)
    assert Cells(learner._repr_html_()).texts == [f"Learner: {type(learner).__name__}"]
