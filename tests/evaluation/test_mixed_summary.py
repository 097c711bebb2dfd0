"""The statistician's numbers of a linear mixed model, against statsmodels and mixedlm, in the units of the table."""

import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.errors import ModelFileError, UsageError
from innerloop.evaluation import MixedSummary, mixed_summary
from innerloop.evaluation.natural_units import natural_terms
from toolkit.commands import printed_by
from toolkit.oracles import within

CLOSE = 1e-4  # relative, but for statsmodels' own tolerance


def everything(frame, *, task, target, features, n_support=2, **settings):
    """A mixed model of a table, its summary, and the rows of meta-train."""
    names = [str(name) for name in pd.unique(frame[task])]
    split = {"train": names[:-2], "valid": names[-2:-1], "test": names[-1:]}
    frame = (
        frame[[task, *features, *([target] if isinstance(target, str) else target)]]
        .dropna()
        .reset_index(drop=True)
    )
    tasks = il.tasks.table(frame, task=task, target=target, n_support=n_support, split=split)
    run = il.meta_train(learner_for(tasks, algorithm="mixed", **settings), tasks.train, device="cpu")
    return mixed_summary(run.model, tasks.train, schema=tasks.schema), frame[
        frame[task].astype(str).isin(names[:-2])
    ]


def of_statsmodels(design, effects, target, groups, *, reml):
    """The best of several searches of MixedLM, which stop early now and then."""
    module = pytest.importorskip("statsmodels.regression.mixed_linear_model", reason="statsmodels is absent")
    model = module.MixedLM(np.asarray(target), design, groups=np.asarray(groups), exog_re=effects)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = [model.fit(reml=reml, method=[name]) for name in ("bfgs", "lbfgs", "cg")]
    return max(fits, key=lambda fit: fit.llf)


def assert_equal(summary, reference):
    """Fixed effects with standard errors, variances and log likelihood are the reference's."""
    first = summary.targets[0]
    within(abs(summary.log_likelihood / reference.llf - 1), CLOSE)
    within(np.abs(np.array(first.estimates) / reference.fe_params - 1).max(), CLOSE)
    within(np.abs(np.array(first.standard_errors) / reference.bse_fe - 1).max(), 5 * CLOSE)
    largest = np.abs(reference.cov_re).max()
    within(np.abs(np.array(first.covariance) - np.array(reference.cov_re)).max() / largest, CLOSE)
    within(abs(first.residual / reference.scale - 1), CLOSE)


def pigs():
    """Weights of pigs (Lauridsen et al., 1999), a table of statsmodels' own tests."""
    module = pytest.importorskip("statsmodels.regression", reason="statsmodels is absent")
    path = os.path.join(os.path.dirname(module.__file__), "tests", "results", "dietox.csv")
    if not os.path.exists(path):
        pytest.skip("this statsmodels came without its tests")
    return pd.read_csv(path)


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("random", [[], ["Time"]])
def test_growing_pigs_are_fitted_as_by_statsmodels(reml, random):
    summary, rows = everything(
        pigs(), task="Pig", target="Weight", features=["Time"], random=random, covariance="full",
        likelihood="reml" if reml else "ml",
    )  # fmt: skip
    design = np.column_stack([np.ones(len(rows)), rows["Time"]])
    reference = of_statsmodels(design, design[:, : 1 + len(random)], rows["Weight"], rows["Pig"], reml=reml)
    assert_equal(summary, reference)
    assert summary.terms == ["(Intercept)", "Time"]
    assert (summary.n_rows, summary.n_tasks) == (len(rows), rows["Pig"].nunique())


@pytest.mark.parametrize("reml", [False, True])
def test_sleep_deprivation_is_fitted_as_by_mixedlm(reml):
    """Reaction times of Belenky et al., 2003, the table of lme4's vignette."""
    mixedlm = pytest.importorskip("mixedlm", reason="mixedlm is absent")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it reads its table with an argument that pandas gives up
        frame = pd.DataFrame(mixedlm.load_sleepstudy())[["Subject", "Days", "Reaction"]]
    summary, rows = everything(
        frame, task="Subject", target="Reaction", features=["Days"], random=["Days"], covariance="full",
        likelihood="reml" if reml else "ml",
    )  # fmt: skip
    reference = mixedlm.lmer("Reaction ~ Days + (Days | Subject)", rows.reset_index(drop=True), REML=reml)
    first = summary.targets[0]
    within(np.abs(np.array(first.estimates) / np.array([*reference.fixef().values()]) - 1).max(), CLOSE)
    errors = np.sqrt(np.diag(np.asarray(reference.vcov())))
    within(np.abs(np.array(first.standard_errors) / errors - 1).max(), CLOSE)
    within(abs(summary.log_likelihood - reference.logLik().value), CLOSE * abs(summary.log_likelihood))
    within(abs(first.residual / reference.sigma**2 - 1), CLOSE)


def drawn(seed=0):
    """A table with a number, a date, a category, a truth value and gaps."""
    draw = np.random.default_rng(seed)
    count, size = 40, 9
    clinic = np.repeat(np.arange(count), size)
    age = draw.uniform(1980, 2020, count * size)  # far from 0, where centring matters
    frame = pd.DataFrame({
        "clinic": clinic,
        "age": age,
        "drug": draw.choice(["a", "b", "c"], count * size),
        "smoker": draw.choice([True, False], count * size),
    })  # fmt: skip
    slope = 0.1 * draw.normal(size=count)[clinic]
    level = draw.normal(size=count)[clinic]
    effect = frame["drug"].map({"a": 0.0, "b": 1.0, "c": -2.0})
    frame["risk"] = (
        3 + (0.2 + slope) * (age - 2000) + level + effect + frame["smoker"] + draw.normal(size=len(age))
    )
    return frame


@pytest.mark.parametrize("reml", [False, True])
def test_categories_products_and_years_are_in_the_units_of_the_table(reml):
    """The design that a statistician would write: the first level is the reference, years are years."""
    summary, rows = everything(
        drawn(), task="clinic", target="risk", features=["age", "drug", "smoker"], squares=True,
        interactions=["age:drug"], random=["age"], covariance="full", likelihood="reml" if reml else "ml",
    )  # fmt: skip
    assert summary.terms == [
        "(Intercept)", "age", "drug=b", "drug=c", "smoker", "age^2", "age:drug=b", "age:drug=c",
    ]  # fmt: skip
    assert summary.random == ["(Intercept)", "age"]
    # statsmodels is given ages from 2000, which it can invert; the numbers are then moved there
    age = rows["age"].to_numpy() - 2000
    dummies = [(rows["drug"] == level).to_numpy(float) for level in "bc"]
    design = np.column_stack(
        [np.ones(len(rows)), age, *dummies, rows["smoker"], age**2, *(age * dummy for dummy in dummies)]
    ).astype(float)
    reference = of_statsmodels(design, design[:, :2], rows["risk"], rows["clinic"], reml=reml)
    # year = age + 2000: y = sum of natural terms at the year, so estimates move by this matrix
    move = np.eye(8)
    move[0, 1], move[0, 5], move[1, 5] = -2000, 2000**2, -4000
    move[2, 6] = move[3, 7] = -2000
    estimates, first = move @ reference.fe_params, summary.targets[0]
    covariance = move @ np.asarray(reference.cov_params())[:8, :8] @ move.T
    within(np.abs(np.array(first.estimates) / estimates - 1).max(), 10 * CLOSE)
    within(np.abs(np.array(first.standard_errors) / np.sqrt(np.diag(covariance)) - 1).max(), 50 * CLOSE)
    within(abs(summary.log_likelihood / reference.llf - 1), CLOSE)
    effects = move[:2, :2] @ reference.cov_re @ move[:2, :2].T
    # the constant of a year 0 is 2000 slopes away, so that its variance is known to fewer digits
    within(np.abs(np.array(first.covariance) / effects - 1).max(), 0.02)


def test_the_intraclass_correlation_is_the_usual_one_where_only_the_level_varies():
    summary, _ = everything(drawn(), task="clinic", target="risk", features=["age", "drug"], random=[])
    level, noise = summary.targets[0].covariance[0][0], summary.targets[0].residual
    within(abs(summary.icc - level / (level + noise)), 1e-9)
    assert summary.covariance().shape == summary.correlation().shape == (1, 1)


def test_several_targets_have_numbers_of_their_own():
    frame = drawn().assign(dose=lambda f: 5 * f["risk"] + 7)
    summary, _ = everything(frame, task="clinic", target=["risk", "dose"], features=["age"], random=["age"])
    one, two = summary.targets
    assert [one.target, two.target] == ["risk", "dose"]
    within(np.abs(5 * np.array(one.standard_errors) / two.standard_errors - 1).max(), 1e-5)
    within(abs(5 * one.estimates[1] / two.estimates[1] - 1), 1e-5)
    within(abs(25 * one.residual / two.residual - 1), 1e-4)
    assert summary.fixed()["target"].tolist() == ["risk", "risk", "dose", "dose"]
    with pytest.raises(UsageError, match="target 'mood' is not predicted"):
        summary.covariance("mood")


def test_products_of_levels_reduce():
    """Two levels of a category exclude each other, and a level times itself is itself."""
    frame = pd.DataFrame({"drug": list("abab"), "age": [1.0, 3.0, 2.0, 6.0], "y": [0.0, 1.0, 2.0, 5.0]})
    schema = il.tasks.tables.Schema.fit(frame, task=None, target="y", kind="regression")
    terms = natural_terms(schema, [(0, 1), (1, 1), (0, 2)], n_features=3, complete=["drug"])
    assert terms.names == ["(Intercept)", "drug=b", "age", "drug=b:age"]
    x = schema.encode(frame).astype(float)
    design = np.column_stack([x, x[:, 0] * x[:, 1], x[:, 1] ** 2, x[:, 0] * x[:, 2], np.ones(4)])
    b = frame["drug"].eq("b").to_numpy(float)
    natural = np.column_stack([np.ones(4), b, frame["age"], b * frame["age"]])
    within(np.abs(natural @ terms.weights.numpy().T - design).max(), 1e-6)


def test_what_is_no_linear_mixed_model_is_refused():
    tasks = il.tasks.sinusoid(n_support=5, episodes=4)
    learner = il.maml(il.models.mlp(1, [8], 1), loss="mse")
    with pytest.raises(UsageError, match="only a linear mixed model"):
        mixed_summary(il.Model(learner, learner.init()), tasks.train)


def test_with_fewer_rows_than_columns_there_are_no_standard_errors():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(60, 70)), columns=[f"f{n}" for n in range(70)])
    frame = frame.assign(site=np.arange(60) // 5, y=draw.normal(size=60))
    with pytest.raises(UsageError, match="fewer than two for each of 71 columns"):
        everything(frame, task="site", target="y", features=[f"f{n}" for n in range(70)])


def test_the_command_prints_the_numbers_and_the_directory_keeps_them(tmp_path, capsys):
    table, out = tmp_path / "clinics.csv", tmp_path / "run"
    drawn().to_csv(table, index=False)
    train = [
        "train", table, "--task", "clinic", "--target", "risk", "--n-support", "3", "--algorithm", "mixed", "--random",
        "age", "--interactions", "age:drug", "--squares", "--likelihood", "reml", "--out", out,
    ]  # fmt: skip
    assert printed_by(capsys, *train)[0] == 0
    stored = il.load(out)
    summary = stored.mixed_summary()
    assert summary == MixedSummary.of(json.loads(json.dumps(summary.plain())))
    shown = printed_by(capsys, "inspect", out)[1]
    assert "fitted by restricted maximum likelihood (REML)" in shown
    assert "Fixed effects of risk" in shown
    assert f"{summary.log_likelihood:.4f}" in shown
    for term in summary.terms:
        assert term in shown
    printed = json.loads(printed_by(capsys, "inspect", out, "--json")[1])
    assert printed["mixed"] == summary.plain()


def test_a_combination_has_the_numbers_of_its_linear_mixed_model(tmp_path, capsys):
    table, out = tmp_path / "clinics.csv", tmp_path / "run"
    drawn().to_csv(table, index=False)
    train = [
        "train",
        table,
        "--task",
        "clinic",
        "--target",
        "risk",
        "--n-support",
        "3",
        "--covariance",
        "diagonal",
    ]
    assert printed_by(capsys, *train, "--out", out)[0] == 0
    tasks = il.tasks.table(table, task="clinic", target="risk", n_support=3)
    assert il.load(out).mixed_summary().n_tasks == tasks.train.n_tasks + tasks.valid.n_tasks
    assert "Fixed effects of risk" in printed_by(capsys, "inspect", out)[1]


def test_a_directory_without_the_numbers_says_so_and_a_hostile_one_is_refused(tmp_path):
    learner = il.mixed(1)
    stored = il.load(il.save(tmp_path / "plain", il.Model(learner, learner.init())))
    with pytest.raises(UsageError, match="holds no numbers of a linear mixed model"):
        stored.mixed_summary()
    summary, _ = everything(drawn(), task="clinic", target="risk", features=["age"], random=[])
    wrong = MixedSummary.of(summary.plain() | {"terms": ["only one"]})
    with pytest.raises((ModelFileError, UsageError), match="other sizes than its terms"):
        il.save(tmp_path / "wrong", il.Model(learner, learner.init()), mixed=wrong)
