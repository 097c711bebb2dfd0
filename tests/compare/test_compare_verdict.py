"""The verdict says what the numbers allow, and no more."""

import math
from dataclasses import replace

import numpy as np
import pytest

import innerloop as il
from innerloop.compare.curves import Line, crossing, some_tasks, support_sizes
from innerloop.compare.factorial import Level, effects
from innerloop.compare.result import Difference, Method
from innerloop.compare.verdict import Question, decided, verdict
from innerloop.evaluation.intervals import Estimate, holm, paired


def method(name, label, kind="shared", family="baseline"):
    return Method(name, label, kind, family, (), {})


MAML = method("maml", "MAML", family="meta")
MIXED = method("mixed", "linear mixed model")
POOLED = method("pooled", "one line for all tasks", "none")


def question(gain, low, high, *, p=0.001, worthwhile=0.05, ours=MAML, theirs=POOLED):
    found = Difference(ours.name, theirs.name, Estimate(-gain, -high, -low), Estimate(gain, low, high), p, p)
    return Question(ours, theirs, found, worthwhile, p)


@pytest.mark.parametrize(
    ("gain", "p", "answer", "words"),
    [
        ((0.37, 0.33, 0.41), 0.001, True, "pays over"),
        ((0.016, 0.008, 0.024), 0.001, False, "real, about 1-2 %, too small to matter"),
        ((0.0, -0.01, 0.01), 0.9, False, "does not pay"),
        ((0.01, 0.002, 0.018), 0.06, False, "a gain is not clear"),  # not there after correction
        ((0.06, 0.01, 0.11), 0.001, None, "cannot tell"),
        ((0.06, -0.01, 0.13), 0.3, None, "cannot tell"),
        ((-0.08, -0.12, -0.04), 0.001, False, "is worse than"),
        ((math.nan, math.nan, math.nan), math.nan, None, "cannot be told"),
    ],
)
def test_the_first_question(gain, p, answer, words):
    asked = question(*gain, p=p)
    found = verdict(asked, None)
    assert found["helps"] is answer
    assert found["net_over_classical"] is None
    assert words in found["sentence"]
    assert (found["best"], found["over"], found["net"], found["classical"]) == ("maml", "pooled", None, None)


def test_a_gain_must_survive_the_correction_to_help():
    assert question(0.3, 0.1, 0.5, p=0.2).answer is None


def test_the_net_is_held_against_the_mixed_model():
    tie = question(0.003, -0.012, 0.019, p=0.6, theirs=MIXED)
    found = verdict(question(0.37, 0.33, 0.41), tie)
    assert (found["helps"], found["net_over_classical"], found["best"], found["over"]) == (
        True,
        False,
        "maml",
        "pooled",
    )
    assert "The linear mixed model does as well as a meta-learned net (MAML)" in found["sentence"]
    assert "from 1.9 % lower to 1.2 % higher" in found["sentence"]
    assert (found["net"], found["classical"]) == ("maml", "mixed")
    better = verdict(None, question(0.2, 0.1, 0.3, theirs=MIXED))
    assert better["net_over_classical"] is True
    assert better["helps"] is better["best"] is None


def test_for_classes_log_loss_decides_where_accuracy_does_not():
    unclear, clear, none = (
        question(*gain) for gain in ((0.1, -0.1, 0.3), (0.1, 0.06, 0.14), (0.0, -0.01, 0.01))
    )
    by_loss = replace(clear, what="log loss")
    assert decided(unclear, by_loss) is by_loss
    assert decided(none, by_loss) is by_loss  # they disagree
    assert decided(clear, by_loss) is clear
    assert decided(clear, unclear) is clear
    assert "log loss 10 % lower" in verdict(by_loss, None)["sentence"]


def test_where_only_a_task_itself_knows_its_classes_the_question_is_about_other_tasks():
    alone = method("alone_neighbours", "each task alone (nearest neighbours)", "alone")
    found = verdict(question(0.37, 0.33, 0.41, theirs=alone), None)
    assert "Learning from other tasks (MAML) pays over each task alone (nearest" in found["sentence"]


def test_one_table_is_told_the_right_tool():
    boosting = method("pooled_boosting", "boosting on the rows of all tasks", "none")
    found = verdict(question(0.0, -0.01, 0.01, p=0.9), None, single=True, right=boosting)
    assert "meta-learning is the wrong tool" in found["sentence"]
    assert "boosting" in found["sentence"]
    assert found["helps"] is False


def test_nothing_ran():
    assert verdict(None, None)["sentence"]


def test_under_the_null_it_seldom_says_that_adapting_is_real():
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(40):
        pooled = rng.gamma(2.0, 0.4, (40, 1)) + rng.normal(0, 0.01, (40, 2))
        found = [
            paired(
                pooled + rng.normal(0, 0.02, (40, 1)) + rng.normal(0, 0.01, (40, 2)),
                pooled,
                lower_is_better=True,
            )
            for _ in range(5)
        ]
        corrected = holm([each.p for each in found])
        said += any(
            Question(MAML, POOLED, Difference("a", "b", f.difference, f.gain, f.p, p), 0.05, p).real
            for f, p in zip(found, corrected, strict=True)
        )
    assert said / 40 <= 0.15


def test_even_sides_chosen_on_the_tested_tasks_find_no_gain_that_is_not_there():
    """Validation tasks of one fold are tested in another; here all of them are, and the best of each kind is taken."""
    rng = np.random.default_rng(1)
    said = 0
    for _ in range(100):
        level = rng.gamma(2.0, 0.4, 40)
        sides = []
        for count in (9, 4):  # methods that adapt, and that do not
            kind = level + rng.normal(0, 0.02, 40)
            scores = kind + rng.normal(0, 0.02, (count, 40))
            sides.append(scores[scores.mean(1).argmin()][:, None] + rng.normal(0, 0.01, (40, 2)))
        found = paired(*sides, lower_is_better=True)
        difference = Difference("a", "b", found.difference, found.gain, found.p, 1.0)
        asked = Question(MAML, POOLED, difference, 0.05, holm([found.p, 1.0])[0])
        said += asked.real and found.gain.mean > 0
    assert said <= 5


def line(name, values, at=(1.0, 10.0, 100.0)):
    rows = np.asarray(values, dtype=float)
    if rows.ndim == 1:
        rows = np.repeat(rows[:, None], 6, 1)
    return Line(name, "support", at, tuple(f"{x:g}" for x in at), rows)


def meet(ours, theirs, *, lower=True):
    return crossing(
        line("a", ours),
        line("b", theirs),
        lower_is_better=lower,
        labels=("mixed", "each task alone"),
        unit="rows a task",
    )


def test_curves_meet_on_a_line_over_the_logarithm():
    found = meet([0.5, 0.5, 0.5], [0.7, 0.6, 0.3])  # ahead by .2, .1, -.2: a third of the way from 10 to 100
    assert found.at == pytest.approx(10 ** (1 + 1 / 3), abs=0.01)
    assert (found.low, found.high) == (found.at, found.at)  # all tasks are equal
    assert found.sentence.startswith("Above about 22 rows a task")
    flipped = meet([0.5, 0.5, 0.5], [0.3, 0.4, 0.7], lower=False)
    assert flipped.at == found.at


def test_curves_that_do_not_meet_say_so():
    never = meet([0.5, 0.5, 0.5], [0.7, 0.7, 0.6])
    assert (never.at, never.low, never.high) == (None, None, None)
    assert "does not come level" in never.sentence
    always = meet([0.5, 0.5, 0.5], [0.4, 0.4, 0.4])
    assert always.at is None
    assert "from 1 rows a task on" in always.sentence


def test_the_crossing_is_uncertain_where_tasks_differ():
    rng = np.random.default_rng(0)
    ours = np.full((3, 40), 0.5)
    theirs = np.array([0.9, 0.55, 0.4])[:, None] + rng.normal(0, 0.2, (3, 40))
    found = crossing(line("a", ours), line("b", theirs), lower_is_better=True, labels=("x", "y"), unit="rows")
    assert found.low < found.at < found.high


def test_fewer_tasks_are_the_same_rows():
    x = np.random.default_rng(0).normal(size=(60, 2))
    tasks = il.tasks.arrays(x, x[:, 0], np.arange(60) // 6, n_support=2)
    source = some_tasks(tasks.train, 3)
    assert source.n_tasks == 3
    assert set(source.ids) < set(tasks.train.ids)
    task = tasks.train.ids.index(source.ids[1])
    rows = slice(tasks.train.starts[task], tasks.train.starts[task + 1])
    np.testing.assert_array_equal(source.x[6:12].numpy(), tasks.train.x[rows].numpy())
    assert support_sizes(tasks) == {1.0: "1", 2.0: "2", 5.0: "all"}


LEVELS = [
    Level(learning, augmentation, dropout)
    for learning in ("conventional", "meta")
    for augmentation in ("none", "mix", "noise")
    for dropout in (0.0, 0.5)
]


def test_effects_of_an_additive_table():
    scores = np.array(
        [
            1.0 - 0.3 * (lv.learning == "meta") + 0.1 * (lv.augmentation == "mix") + 0.2 * (lv.dropout > 0)
            + 0.05 * (lv.learning == "meta" and lv.dropout > 0)
            for lv in LEVELS
        ]
    )  # fmt: skip
    table = scores[:, None, None] + np.random.default_rng(0).normal(0, 1e-6, (len(LEVELS), 8, 2))
    found = {e.factors: e.effect.mean for e in effects(LEVELS, table)}
    assert found["learning=meta",] == pytest.approx(-0.3 + 0.025, abs=1e-4)
    assert found["augmentation=mix",] == pytest.approx(0.1, abs=1e-4)
    assert found["dropout=0.5",] == pytest.approx(0.225, abs=1e-4)
    assert found["learning=meta", "dropout=0.5"] == pytest.approx(0.05, abs=1e-4)
    assert found["learning=meta", "augmentation=noise"] == pytest.approx(0.0, abs=1e-4)
    assert len(found) == 4 + 2 + 1 + 2


def test_effects_of_noise_alone_are_seldom_found():
    rng = np.random.default_rng(1)
    tasks = rng.normal(0, 1, (1, 30, 1))
    hits = [
        min(e.p_holm for e in effects(LEVELS, tasks + rng.normal(0, 0.1, (len(LEVELS), 30, 2)))) < 0.05
        for _ in range(20)
    ]
    assert np.mean(hits) <= 0.2
