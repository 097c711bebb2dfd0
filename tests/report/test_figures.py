"""Figures: their numbers are those of what they show, and what is drawn is what is in the numbers."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop import figures, learned
from innerloop.evaluation.examples import Shown, show
from innerloop.report.figures.episodes import is_classification, is_image, is_regression
from innerloop.report.figures.style import COLOURS, KINDS, MARKS, short
from toolkit.comparisons import synthetic_comparison

mpl = pytest.importorskip("matplotlib")
mpl.use("agg")


@pytest.fixture(scope="module")
def found():
    return synthetic_comparison()


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def points(ax):
    """Every drawn point as (x, y), of lines with markers or without."""
    return np.concatenate([line.get_xydata() for line in ax.lines if len(line.get_xydata())])


def words(ax):
    """All text of a figure."""
    ax.figure.canvas.draw()
    legend = ax.get_legend()
    inside = legend.get_texts() if legend else []
    return [
        t.get_text()
        for t in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), *inside, ax.xaxis.label)
    ]


def holds(ax, x, y):
    drawn = points(ax)
    return all(np.isclose(drawn, [a, b]).all(1).any() for a, b in zip(x, y, strict=True))


def test_the_ranking_holds_every_method_in_order(found):
    numbers = figures.ranking_numbers(found)
    assert numbers["method"].tolist() == [method.name for method in found.methods]
    assert numbers["kind"].tolist()[:2] == ["shared", "meta"]
    assert set(numbers["kind"]) <= set(KINDS)
    estimate = found.method("anil").metrics["error_over_variance"]
    assert tuple(numbers.set_index("method").loc["anil", ["mean", "low", "high"]]) == tuple(estimate)
    ax = figures.ranking(numbers)
    assert holds(ax, numbers["mean"], range(len(numbers)))
    assert holds(ax, numbers["low"], range(len(numbers)))
    assert "linear mixed model" in words(ax)
    other = figures.ranking_numbers(found, "rmse")
    assert other["mean"][0] == found.methods[0].metrics["rmse"].mean


def test_dots_are_means_over_seeds_and_thinned_by_the_score(found):
    numbers = figures.dots_numbers(found)
    assert len(numbers) == len(found.methods) * len(found.tasks)
    method = found.methods[2]
    mine = numbers[numbers["method"] == method.name].set_index("task")["score"]
    for task, scores in zip(found.tasks, method.scores, strict=True):
        assert mine[task] == pytest.approx(sum(scores) / len(scores))
    few = figures.dots_numbers(found, most=4)
    best = numbers[numbers["method"] == found.methods[0].name]
    kept = few[few["method"] == found.methods[0].name]
    assert len(kept) == 4
    # the best and the worst task are among them
    assert {kept["score"].min(), kept["score"].max()} == {best["score"].min(), best["score"].max()}
    ax = figures.dots(numbers)
    assert len(points(ax)) >= len(numbers)


@pytest.mark.parametrize("axis", ["support", "train_tasks", "inner_steps"])
def test_curves_hold_every_point(found, axis):
    numbers = figures.curve_numbers(found, axis)
    wanted = [curve for curve in found.curves if curve.axis == axis]
    assert len(numbers) == sum(len(curve.at) for curve in wanted)
    ax = figures.curve(numbers, crossing=figures.crossing_numbers(found, axis))
    assert holds(ax, numbers["at"], numbers["mean"])
    for curve in wanted:
        mine = numbers[numbers["method"] == curve.method]
        assert mine["mean"].tolist() == [estimate.mean for estimate in curve.estimates]
        assert mine["written"].tolist() == list(curve.labels)


def test_the_crossing_is_marked_with_its_interval(found):
    crossing = figures.crossing_numbers(found, "support")
    assert crossing[["at", "low"]].values.tolist() == [[14.0, 11.0]]
    assert math.isnan(crossing["high"][0])
    ax = figures.curve(figures.curve_numbers(found, "support"), crossing=crossing)
    assert any("as good from 14" in text for text in words(ax))
    assert ax.get_xscale() == "log"
    # an open end reaches to the edge of the picture
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert band.x0 == pytest.approx(11)
    assert band.x1 == pytest.approx(ax.get_xlim()[1])
    without = crossing.assign(at=math.nan)
    assert not any(
        "as good" in text
        for text in words(figures.curve(figures.curve_numbers(found, "support"), crossing=without))
    )


def test_more_methods_than_marks_are_grey(found):
    parts = [
        figures.curve_numbers(found, "inner_steps").assign(method=f"m{i}", label=f"m{i}") for i in range(9)
    ]
    ax = figures.curve(pd.concat(parts, ignore_index=True))
    assert "other methods" in words(ax)
    assert "m6" not in words(ax)


def test_the_factorial_and_its_effects(found):
    numbers = figures.factorial_numbers(found)
    assert len(numbers) == len(found.cells) == 24
    ax = figures.factorial(numbers)
    drawn = sorted(
        itertools.chain.from_iterable(line.get_xdata() for line in ax.lines if line.get_marker() != "None")
    )
    assert drawn == pytest.approx(sorted(numbers["mean"]))
    assert "mix, dropout 50 %" in words(ax)
    effects = figures.effects_numbers(found)
    assert effects["effect"].tolist()[-1] == "learning=meta x dropout=0.5"
    assert holds(figures.effects(effects), effects["change"], range(len(effects)))


def test_the_learning_curve_averages_and_keeps_validations():
    log = [{"step": step, "loss": float(step)} for step in range(1, 401)]
    log[399]["valid_loss"] = 7.0
    log[200]["valid_loss"] = 8.0
    log[100]["loss"] = None
    numbers = figures.learning_numbers({"maml": log}, most=100)
    assert len(numbers) == 100
    assert numbers["step"].tolist() == list(range(4, 401, 4))
    assert numbers["loss"][0] == pytest.approx(2.5)
    assert numbers["loss"][25] == pytest.approx((102 + 103 + 104) / 3)
    assert numbers["valid_loss"].dropna().tolist() == [8.0, 7.0]
    ax = figures.learning(numbers, best_step=400)
    assert holds(ax, [400], [7.0])
    assert figures.learning_numbers({"mixed": []}).empty


@pytest.fixture(scope="module")
def trained():
    tasks = il.tasks.sinusoid(n_support=5, episodes=8)
    learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.05, learn_lr="tensor")
    return il.Model(learner, learner.init()), tasks


def test_what_was_learned_is_drawn(trained):
    model, tasks = trained
    inside = learned.learned(model, tasks.test)
    ax = figures.moved(inside.moved)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(inside.moved["relative"].tolist())
    assert holds(figures.similarity(inside.similarity), inside.similarity["cka"], range(2))
    assert holds(figures.rates(inside.rates), inside.rates["mean"], range(4))
    gains = learned.gains(il.evaluate(model, tasks.test))
    assert holds(figures.gains(gains), range(1, 9), gains["gain"])
    masks = pd.DataFrame([("0.weight", 8, 0.25)], columns=["parameter", "weights", "adapting"])
    assert figures.masks(masks).patches[0].get_width() == 25
    steps = pd.DataFrame(
        [("w", str(step), 0.1 * step, 0.0, 1.0, 0.0) for step in (1, 2, 3)],
        columns=["parameter", "step", "mean", "lowest", "highest", "negative"],
    )
    assert holds(figures.rates(steps), [1, 2, 3], [0.1, 0.2, 0.3])


def test_steps_of_an_evaluation(trained):
    model, tasks = trained
    found = il.evaluate(model, tasks.test)
    numbers = figures.steps_numbers(found, "maml")
    assert numbers["at"].tolist() == [0, 1, 2, 3, 4, 5]
    assert tuple(numbers.loc[5, ["mean", "low", "high"]]) == found.metric("rmse")
    assert holds(figures.curve(numbers), numbers["at"], numbers["mean"])


def test_an_episode_is_shown_along_the_feature_that_tells_most(found):
    x = np.linspace(-1, 1, 9)
    rows = tuple((math.sin(40 * v), float(v), 3.0) for v in x)
    y = tuple(float(v) for v in x)
    one = Shown("t", ("noise", "dose", "constant"), rows[:4], y[:4], rows[4:], y[4:], {"maml": y[4:]})
    numbers = figures.scatter_numbers([one])
    assert set(numbers["feature"]) == {"dose"}
    assert numbers["role"].value_counts().to_dict() == {"support": 4, "query": 5, "prediction": 5}
    assert holds(figures.scatter(numbers), numbers["x"], numbers["y"])
    assert is_regression(one)
    assert not is_image(one)
    assert figures.scatter_numbers(found.episodes)["task"].nunique() == 2


def test_classes_are_shown_along_the_two_features_that_tell_them_apart():
    kinds, noise = np.arange(12) % 3, np.random.default_rng(0).normal(size=12)
    # the first tells 0 from the others and the third nearly the same; the fourth tells 1 from 2
    columns = (kinds > 0, noise, (kinds > 0) + 0.05 * noise, kinds + 0.3 * noise, np.ones(12))
    rows = tuple(tuple(float(v) for v in row) for row in np.stack(columns, 1))
    names = tuple("abc"[kind] for kind in kinds)
    said = ("b", *names[7:])
    one = Shown("t", ("first", "noise", "again", "other", "constant"), rows[:6], names[:6], rows[6:], names[6:],
                {"maml": said, "mixed": names[6:]})  # fmt: skip
    assert is_classification(one)
    numbers = figures.classes_numbers([one, dataclasses.replace(one, task="u")])
    assert {numbers["feature"].iloc[0], numbers["second"].iloc[0]} == {"first", "other"}
    mine = numbers[numbers["task"] == "t"]
    assert mine.groupby(["role", "method"]).size().to_dict() == {
        ("query", "maml"): 6, ("query", "mixed"): 6, ("support", ""): 6,
    }  # fmt: skip
    wrong = mine[mine["right"] == "no"]
    assert wrong[["method", "number", "class", "predicted"]].values.tolist() == [["maml", 1, names[6], "b"]]
    ax = figures.classes(numbers, "u")
    crosses = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in crosses] == [wrong["x"].tolist()]
    assert {"a", "b", "c", "wrong"} <= set(words(ax))
    drawn = [(x, y) for line in ax.lines for x, y in line.get_xydata()]
    shown = mine[mine["method"] != "mixed"][["x", "y"]].values.tolist() + wrong[["x", "y"]].values.tolist()
    assert sorted(drawn) == sorted(map(tuple, shown))
    alone = figures.classes_numbers([dataclasses.replace(one, features=(), support_x=tuple(r[:1] for r in rows[:6]),
                                             query_x=tuple(r[:1] for r in rows[6:]))])  # fmt: skip
    assert alone["second"].eq("").all()
    assert figures.classes(alone).get_ylabel() == "row"


def test_images_say_what_is_right():
    found = synthetic_comparison("classification", images=True)
    one = found.episodes[0]
    assert is_image(one)
    numbers = figures.image_numbers(one)
    asked = numbers[(numbers["role"] == "query") & (numbers["method"] == "maml")]
    assert (asked["right"] == "yes").tolist() == [
        p == y for p, y in zip(one.predictions["maml"], one.query_y, strict=True)
    ]
    ax = figures.images(one)
    assert len(ax.images) == 12
    np.testing.assert_array_equal(ax.images[0].get_array(), np.array(one.support_x[0])[0])
    assert sum(text.startswith("✓") for text in words(ax)) == (asked["right"] == "yes").sum()


def test_shown_episodes_are_in_natural_units_and_agree_with_the_model():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"site": np.repeat([f"s{i}" for i in range(12)], 9), "dose": rng.normal(100, 20, 108)}
    )
    frame["colour"] = np.where(rng.random(108) > 0.5, "red", "blue")
    frame["y"] = 5000 + 7 * frame["dose"] + rng.normal(size=108)
    tasks = il.tasks.table(frame, task="site", target="y", n_support=4)
    learner = il.mixed(tasks.n_features)
    model = il.meta_train(learner, tasks.train).model
    episodes = show({"mixed": model}, tasks.test, schema=tasks.schema)
    assert {one.task for one in episodes} <= set(tasks.splits["test"])
    known = {(round(a, 3), round(b, 3)) for a, b in zip(frame["dose"], frame["y"], strict=True)}
    for one in episodes:
        assert one.features[0] == "dose"
        assert one.features[1].startswith("colour=")
        rows = zip((*one.support_x, *one.query_x), (*one.support_y, *one.query_y), strict=True)
        assert all(min(abs(row[0] - a) + abs(y - b) for a, b in known) < 0.1 for row, y in rows)
        error = np.array(one.predictions["mixed"]) - np.array(one.query_y)
        assert np.abs(error).max() < 10


def test_shown_classes_have_their_names():
    tasks = il.datasets.load("alphabets", n_way=3, n_shot=1)
    learner = il.maml(il.models.conv4(1, 3, size=28, width=4), loss="cross_entropy", inner_steps=1)
    (one,) = show({"maml": il.Model(learner, learner.init())}, tasks.test, count=1)
    assert is_image(one)
    assert np.array(one.support_x).shape == (3, 1, 28, 28)
    assert set(one.support_y) == {"1", "2", "3"}
    assert len(one.query_x) == len(one.predictions["maml"]) == 10


AWKWARD = ["<script>alert(1)</script>", "$x_1$", "_hidden", "", "ü 漢字", "a" * 200, "\\frac{1}{2}$"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_from_data_are_text_and_nothing_else(found):
    methods = tuple(
        dataclasses.replace(method, label=label) for method, label in zip(found.methods, AWKWARD, strict=True)
    )
    odd = dataclasses.replace(found, methods=methods)
    for ax in (
        figures.ranking(figures.ranking_numbers(odd)),
        figures.curve(figures.curve_numbers(odd, "support")),
        figures.learning(figures.learning_numbers({name or "none": methods[1].log for name in AWKWARD})),
    ):
        assert "$x_1$" in words(ax) or "_hidden" in words(ax)
    gains = pd.DataFrame(
        [(name, 1.0, 0.5, 0.5) for name in AWKWARD], columns=["task", "before", "after", "gain"]
    )
    assert any("<script>" in text for text in words(figures.gains(gains)))


def test_a_given_axes_is_drawn_on_and_settings_stay_as_they_are(found):
    from matplotlib.figure import Figure

    before = dict(mpl.rcParams)
    ax = Figure().subplots()
    assert figures.ranking(figures.ranking_numbers(found), ax=ax) is ax
    assert dict(mpl.rcParams) == before


EMPTY = [
    (figures.ranking, ["method", "label", "kind", "metric", "mean", "low", "high"]),
    (figures.dots, ["method", "label", "kind", "task", "metric", "score"]),
    (figures.curve, ["method", "label", "axis", "at", "written", "metric", "mean", "low", "high"]),
    (figures.factorial, ["learning", "augmentation", "dropout", "metric", "mean", "low", "high"]),
    (figures.effects, ["effect", "metric", "change", "low", "high", "p_holm"]),
    (figures.moved, ["layer", "kind", "relative", "low", "high"]),
    (figures.similarity, ["layer", "kind", "cka", "low", "high"]),
    (figures.rates, ["parameter", "step", "mean", "lowest", "highest", "negative"]),
    (figures.gains, ["task", "before", "after", "gain"]),
    (figures.masks, ["parameter", "weights", "adapting"]),
    (figures.scatter, ["task", "role", "method", "feature", "x", "y"]),
    (figures.classes, ["task", "role", "class", "method", "predicted", "right", "x", "y"]),
]


@pytest.mark.parametrize(("draw", "columns"), EMPTY, ids=lambda value: getattr(value, "__name__", ""))
def test_no_numbers_give_an_empty_picture(draw, columns):
    assert draw(pd.DataFrame(columns=columns)).lines is not None


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_paper(mode):
    paper = COLOURS["paper"][mode]
    for name in ("ink", "muted"):
        assert contrast(COLOURS[name][mode], paper) >= 4.5, name  # text, WCAG 2.2 success criterion 1.4.3
    for name in ("blue", "orange", "green", "purple", "red"):
        assert contrast(COLOURS[name][mode], paper) >= 3, name  # graphics, 1.4.11


def test_marks_differ_without_colour():
    assert len({mark.marker for mark in MARKS}) == len(MARKS)
    assert len({str(mark.dash) for mark in MARKS}) == len(MARKS)
    assert len({mark.marker for _, mark in KINDS.values()}) == len(KINDS)


# Machado, Oliveira & Fernandes, 2009, at severity 1: linear RGB as the colour-blind see it
BLINDNESS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


# Ottosson, 2020, Oklab: distances between colours as people see them; 0.02 can just be told apart side by side
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OPPONENT = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_differ_to_the_colour_blind(kind, mode):
    def seen(name):
        parts = np.array([int(COLOURS[name][mode][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        light = np.clip(np.array(BLINDNESS[kind]) @ linear, 0, 1)
        return np.array(OPPONENT) @ np.cbrt(np.array(CONES) @ light)

    for one, other in itertools.combinations(("blue", "orange", "green", "purple", "red"), 2):
        assert np.linalg.norm(seen(one) - seen(other)) > 0.08, (one, other)


def test_long_names_keep_whole_words_or_both_ends():
    assert short("abcdefghij", 10) == "abcdefghij"
    assert short("the first of many words", 15) == "the first of …"
    assert short("0123456789abcdef", 11) == "012345…cdef"
    for text in ("x" * 500, "x" * 500 + " y", "y " * 500, "漢" * 99):
        assert len(short(text, 20)) <= 20
