"""Tuning: what is tried, how it goes on, what it looks at, and the file that `train --config` takes."""

import json
import signal
import tomllib
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import optuna
import pandas as pd
import pytest

import innerloop as il
from innerloop.errors import DivergedError, ModelFileError, ResourceError, UsageError
from innerloop.files import Lock
from innerloop.report import figures, render, tuning_page
from innerloop.tuning import knobs
from innerloop.tuning import trials as module
from innerloop.tuning.study import JOURNAL, clearly_worse, importances
from toolkit.commands import printed_by
from toolkit.groups import patients


def table(tasks=30):
    frame, score = patients(tasks)
    return frame.assign(score=score)


def tasks_of(count=30):
    return il.tasks.table(table(count), task="patient", target="score", n_support=2, split=(0.4, 0.4, 0.2))


def quick(tasks, **options):
    return il.tune(tasks, **{"algorithm": "ridge", "trials": 4, "steps": 8, "device": "cpu", **options})


def without_times(tuning):
    return tuning.trials.drop(columns="seconds")


class Stopped:
    """Told of trials; presses Ctrl-C when one of a number begins."""

    def __init__(self, at):
        self.at, self.told = at, []

    def __call__(self, what, done):
        self.told.append(what)
        if done == self.at:
            signal.raise_signal(signal.SIGINT)


def exact_p(differences):
    """The one-sided p-value of the signed-rank test: all signs, without zeros and ties."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = ranks[differences > 0].sum()
    signs = np.indices((2,) * len(ranks)).reshape(len(ranks), -1)
    return float((ranks @ signs >= observed).mean())


@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize("shift", [0.02, 0.3, 1.0])
def test_a_trial_is_given_up_by_the_signed_rank_test_over_tasks(size, shift):
    rng = np.random.default_rng(size)
    best = rng.random(size)
    losses = best + shift + 0.3 * rng.normal(size=size)
    worse = exact_p(losses - best) < 0.1 and losses.mean() > best.mean()
    assert clearly_worse(losses, best, p=0.1) == worse


def test_what_is_equal_or_better_is_not_given_up():
    best = np.arange(6.0)
    assert not clearly_worse(best, best, p=0.1)
    assert not clearly_worse(best - 1, best, p=0.1)


def test_untuned_settings_are_tried_first_and_the_best_trial_is_chosen():
    tasks = tasks_of()
    found = quick(tasks, algorithm="mixed,ridge", trials=6)
    first = found.trials.head(2)
    assert first["algorithm"].tolist() == ["mixed", "ridge"]
    assert first["hidden"].tolist()[1] == "64,64"
    complete = found.trials[found.trials["state"] == "complete"]
    best = complete.loc[complete["error"].idxmin()]
    assert best["algorithm"] == found.algorithm
    np.testing.assert_allclose(found.error.mean, best["error"])
    np.testing.assert_allclose(found.untuned.mean, first["error"].min())
    assert found.trials["best"].is_monotonic_decreasing


def test_the_error_is_that_of_a_training_with_these_settings():
    tasks = tasks_of()
    found = quick(tasks, trials=3)
    network = il.models.mlp(tasks.n_features, found.settings["hidden"], None)
    del network  # its shape is what `learner_for` makes of `hidden`
    from innerloop.algorithms.assemble import learner_for

    scaling = {name: found.settings[name] for name in ("scaling",) if name in found.settings}
    learner = learner_for(tasks, algorithm="ridge", hidden=found.settings["hidden"], **scaling)
    run = il.meta_train(
        learner, tasks.train, valid=tasks.valid, steps=8, device="cpu", meta_lr=found.settings["meta_lr"],
        meta_batch_size=found.settings["meta_batch_size"],
    )  # fmt: skip
    scores = il.evaluate(run.model, tasks.test)
    np.testing.assert_allclose(scores.metric("rmse"), found.scores.metric("rmse"), rtol=1e-5)
    errors = il.evaluate(run.model, tasks.valid, seed=il.tasks.sources.VALIDATION_SEED).of_tasks(
        "error_over_variance"
    )
    np.testing.assert_allclose(found.losses, errors, rtol=1e-5)


class Watched:
    """A source that counts how often its episodes are asked for."""

    def __init__(self, source):
        self.source, self.asked = source, 0

    def __getattr__(self, name):
        return getattr(self.source, name)

    def fixed(self, seed):
        self.asked += 1
        return self.source.fixed(seed)


def test_meta_test_tasks_are_looked_at_once_and_at_the_end():
    tasks = tasks_of()
    watched = Watched(tasks.test)
    seen = []
    found = quick(replace(tasks, test=watched), trials=3, tell=lambda what, done: seen.append(watched.asked))
    assert seen == [0, 0, 0, 0]
    assert watched.asked == 1
    assert len(found.scores.ids) == len(tasks.splits["test"])


def test_what_is_given_is_fixed():
    tasks = tasks_of()
    space = knobs(tasks, "maml", given=["inner_lr", "hidden", "meta_lr"], inner_lr=0.1)
    assert sorted(space) == ["inner_steps", "learn_lr", "meta_batch_size", "scaling"]
    found = quick(
        tasks, algorithm="maml", trials=2, given={"inner_steps": 1}, model={"hidden": [4]}, meta_lr=0.01
    )
    assert sorted(found.settings) == ["algorithm", "inner_lr", "learn_lr", "meta_batch_size", "scaling"]
    with pytest.raises(UsageError, match="no algorithm takes"):
        quick(tasks, algorithm="auto", given={"inner_steps": 1, "kernel": "linear"})


def test_a_tuning_that_was_interrupted_goes_on_to_the_same_trials(tmp_path):
    tasks = tasks_of()
    whole = quick(tasks)
    stopped = Stopped(at=2)
    part = quick(tasks, folder=tmp_path, tell=stopped)
    assert part.interrupted
    assert part.run is part.scores is None
    pd.testing.assert_frame_equal(without_times(part), without_times(whole)[:2])
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 4, "wor')  # killed while it wrote
    rest = quick(tasks, folder=tmp_path, tell=(told := Stopped(at=-1)))
    assert len(told.told) == 3  # two trials, and the best of all
    pd.testing.assert_frame_equal(without_times(rest), without_times(whole))
    assert rest.settings == whole.settings
    np.testing.assert_array_equal(rest.losses, whole.losses)
    more = quick(tasks, folder=tmp_path, trials=5)
    pd.testing.assert_frame_equal(without_times(more)[:4], without_times(whole))


def test_ctrl_c_in_a_training_ends_the_tuning_with_the_best_so_far(monkeypatch):
    original = module._Rungs.look

    def look(self, state, entry):
        if len(module.finished(self.search.study)) == 1:
            signal.raise_signal(signal.SIGINT)
        original(self, state, entry)

    monkeypatch.setattr(module._Rungs, "look", look)
    found = quick(tasks_of(), trials=5)
    assert found.interrupted
    assert len(found.trials) == 1
    with pytest.raises(KeyboardInterrupt):
        quick(tasks_of(), tell=Stopped(at=0))


def test_a_worse_trial_is_given_up_at_a_quarter(monkeypatch):
    proposals = iter([{"meta_lr": 0.01}, {"meta_lr": 1e-6}])
    original = module.next_trial

    def proposed(*arguments, **options):
        trial, values = original(*arguments, **options)
        return trial, values | {"hidden_layers": 1, "hidden_width": 16} | next(proposals)

    monkeypatch.setattr(module, "next_trial", proposed)
    found = quick(tasks_of(), trials=2, steps=80)
    assert found.trials["state"].tolist() == ["complete", "given up"]
    assert found.settings["meta_lr"] == 0.01


def test_no_finite_trial_is_an_error(monkeypatch):
    def diverges(*arguments, **options):
        raise DivergedError("nothing was finite")

    monkeypatch.setattr(module, "meta_train", diverges)
    with pytest.raises(DivergedError, match="none of 2 trials"):
        quick(tasks_of(), trials=2)


def test_nothing_new_to_try_ends_it():
    found = quick(tasks_of(), algorithm="boosted_mixed", trials=9)
    assert len(found.trials) == 1


def test_folders_of_others_are_refused(tmp_path, monkeypatch):
    tasks = tasks_of()
    quick(tasks, trials=1, folder=tmp_path)
    with pytest.raises(UsageError, match="steps is 9, and was 8"):
        quick(tasks, trials=1, folder=tmp_path, steps=9)
    with pytest.raises(UsageError, match="train_tasks"):
        quick(tasks_of(20), trials=1, folder=tmp_path)
    lock = Lock(tmp_path / "lock")
    assert lock.take(b"")
    with pytest.raises(ResourceError, match="another process tunes"):
        quick(tasks, trials=1, folder=tmp_path)
    lock.release()
    (tmp_path / JOURNAL).write_bytes(b"no journal\n{}\n")
    with pytest.raises(ModelFileError, match="is damaged"):
        quick(tasks, trials=1, folder=tmp_path)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "optuna" else find_spec(name)
    )
    with pytest.raises(UsageError, match=r"innerloop\[tune\]"):
        quick(tasks, trials=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 0}, "trials=0"),
        ({"minutes": 0.0}, "minutes=0.0"),
        ({"algorithm": "auto,maml"}, "auto alone"),
        ({"algorithm": "mmal"}, "mmal"),
    ],
)
def test_arguments_without_a_meaning_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        quick(tasks_of(), **options)


def test_what_decides_alone_matters_most():
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(60):
        trial = study.ask()
        first, other = (trial.suggest_float(name, 0, 1) for name in ("first", "other"))
        trial.suggest_categorical("same", ["one"])
        del other
        if number % 5 == 4:
            trial.report(5.0, 0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, first)
    shares = importances(study)
    assert list(shares) == ["first", "other"]
    assert shares["first"] > 0.8
    np.testing.assert_allclose(sum(shares.values()), 1)


def test_the_page_shows_what_was_found():
    found = quick(tasks_of(), trials=3)
    found = replace(found, importances={"ridge.meta_lr": 0.75, "ridge.hidden_width": 0.25})
    page = tuning_page(found, data="wards <b>", next="innerloop train")
    html = render(page).decode()
    assert "wards &lt;b&gt;" in html
    assert "scored once" in html
    assert "lowest of many trials" in html
    assert figures.importances_numbers(found).values.tolist() == [["meta lr", 0.75], ["hidden width", 0.25]]
    tried = figures.tried_numbers(found)
    part = tried[tried["setting"] == "meta lr"]
    np.testing.assert_array_equal(part["value"], found.trials["meta_lr"])
    np.testing.assert_array_equal(part["error"], found.trials["error"])
    stopped = replace(found, scores=None, run=None, interrupted=True)
    assert "interrupted" in render(tuning_page(stopped)).decode()


ASKED = ["--task", "patient", "--target", "score", "--n-support", "2", "--device", "cpu", "--steps", "8"]


@pytest.mark.usefixtures("pages")
def test_the_settings_are_a_file_that_train_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(40).to_csv("wards.csv", index=False)
    code, out, err = printed_by(
        capsys, "tune", "wards.csv", *ASKED, "--algorithm", "ridge,maml", "--trials", "4", "--json", "--quiet"
    )
    assert code == 0, err
    found = json.loads(out)
    content = tomllib.loads((tmp_path / "runs/wards-tune/tuned.toml").read_text())
    assert content["train"]["algorithm"] == found["chosen"]["algorithm"]
    assert found["next"] == "innerloop train wards.csv --config runs/wards-tune/tuned.toml"
    assert (tmp_path / "runs/wards-tune/report.html").is_file()
    words = found["next"].split()[1:]
    code, out, err = printed_by(capsys, *words, "--out", "runs/tuned", "--json", "--quiet")
    assert code == 0, err
    trained = {row["metric"]: row["mean"] for row in json.loads(out)["scores"] if row["inner_steps"] != 0}
    tuned = {row["metric"]: row["mean"] for row in found["scores"] if row["inner_steps"] != 0}
    assert trained["rmse"] == pytest.approx(tuned["rmse"], rel=1e-6)
    code, out, err = printed_by(
        capsys, "tune", "wards.csv", *ASKED, "--algorithm", "ridge,maml", "--trials", "4"
    )
    assert code == 0, err
    assert "trial 4" not in err  # all are there
    assert "looked at once" in out


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_keep_what_is_done(tmp_path, capsys, monkeypatch, number, expected):
    monkeypatch.chdir(tmp_path)
    table().to_csv("wards.csv", index=False)
    original = module._Rungs.look

    def look(self, state, entry):
        if len(module.finished(self.search.study)) == 1:
            signal.raise_signal(number)
        original(self, state, entry)

    monkeypatch.setattr(module._Rungs, "look", look)
    words = ["tune", "wards.csv", *ASKED, "--algorithm", "ridge", "--trials", "4"]
    if expected == 143:
        with pytest.raises(SystemExit) as left:
            printed_by(capsys, *words)
        assert left.value.code == 143
    else:
        code, out, _ = printed_by(capsys, *words)
        assert code == 130
        assert "wards: 1 trial, 0 given up early" in out
    assert "ridge" in (tmp_path / "runs/wards-tune/tuned.toml").read_text()
    assert "interrupted" in (tmp_path / "runs/wards-tune/report.html").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--train-way", "5"], "--train-way has no meaning for tune"),
        (["--trials", "0"], "--trials 0"),
        (["--algorithm", "pooled"], "is a baseline"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, capsys, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    table().to_csv("wards.csv", index=False)
    code, _, err = printed_by(capsys, "tune", "wards.csv", "--task", "patient", "--target", "score", *more)
    assert code == 2
    assert words in err
