"""Scales and classes that only a task's support tells: against formulas, shifts, renamings, finite differences."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.cli import run
from innerloop.errors import DataError, UsageError
from innerloop.inner import Model
from innerloop.inner.per_task import per_task
from innerloop.tasks.episodes import Batch, Episode, select, stack
from innerloop.tasks.support import stream
from toolkit.oracles import class_episode, difference_error, doubled, largest_error, regression_episode


def net(n_in: int, n_out: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return il.models.mlp(n_in, [6], n_out)


def scaled(**options: object) -> object:
    learner = il.maml(net(2, 1), loss="mse", inner_lr=0.1, inner_steps=2)
    return per_task(learner, **{"features": [True, False], "n_targets": 1, **options})


def frame(seed: int = 0, tasks: int = 9, rows: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "site": np.repeat([f"s{n}" for n in range(tasks)], rows),
            "age": np.repeat(rng.integers(20, 80, tasks), rows),
            "dose": rng.normal(size=tasks * rows),
            "sick": np.tile([True, False], tasks * rows // 2),
        }
    )
    return found.assign(risk=found.dose**2 + found.age / 10)


def test_level_and_scale_are_those_of_the_formula() -> None:
    learner, episode = scaled(), regression_episode()
    own = learner.adapt(doubled(learner.init()), episode.support)
    x = episode.support.x[..., :1].numpy()
    mean = x.mean(1, keepdims=True)
    scale = np.sqrt((1 + ((x - mean) ** 2).sum(1, keepdims=True)) / x.shape[1])
    np.testing.assert_allclose(own["support.x_mean"][..., :1].numpy(), mean, atol=1e-12)
    np.testing.assert_allclose(own["support.x_scale"][..., :1].numpy(), scale, atol=1e-12)
    # the other feature is left alone
    assert (own["support.x_mean"][..., 1] == 0).all()
    assert (own["support.x_scale"][..., 1] == 1).all()


def test_the_meta_gradient_is_the_derivative_of_the_query_loss() -> None:
    learner = scaled()
    assert difference_error(learner, regression_episode(), doubled(learner.init())) < 1e-8
    classes = per_task(
        il.maml(net(4, 3), loss="cross_entropy", inner_steps=2), n_classes=3, features=[True] * 4
    )
    assert difference_error(classes, class_episode(), doubled(classes.init())) < 1e-8


def test_padding_changes_nothing() -> None:
    learner, episode = scaled(), regression_episode()
    meta = doubled(learner.init())
    first, second = (select(episode, slice(t, t + 1)) for t in range(2))
    short = Episode(*(Batch(b.x[0, :-1], b.y[0, :-1]) for b in first))
    whole = Episode(*(Batch(b.x[0], b.y[0]) for b in second))
    together, alone = stack([short, whole]), [stack([short]), stack([whole])]
    gradient = learner.metagrad(learner, meta, together)[0]
    parts = [learner.metagrad(learner, meta, one)[0] for one in alone]
    assert largest_error(gradient, {n: (parts[0][n] + parts[1][n]) / 2 for n in gradient}) < 1e-12


def test_a_shift_of_a_tasks_columns_shifts_its_predictions_alone() -> None:
    learner, episode = scaled(), regression_episode()
    model = Model(learner, doubled(learner.init()))
    x, y, query = episode.support.x[0], episode.support.y[0], episode.query.x[0]
    shift = torch.tensor([7.0, 0.0], dtype=x.dtype)
    before, after = model.adapt(x, y)(query), model.adapt(x + shift, y + 100)(query + shift)
    torch.testing.assert_close(after, before + 100)
    assert torch.isfinite(model.adapt(x[:0], y[:0])(query)).all()
    torch.testing.assert_close(model.adapt(x[:0], y[:0])(query), model.base()(query))


def test_what_is_scaled_by_task_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.csv", str(tmp_path / "run")
    frame().to_csv(path, index=False)
    quick = ["--task", "site", "--target", "risk", "--steps", "2", "--quiet", "--device", "cpu", "--out", out]
    assert run(["train", str(path), *quick, "--scaling", "per_task"]) == 0
    stored = il.load(out)
    # age is constant in each task: its scale is that of meta-train; and a flag has none
    assert stored.config["learner"]["per_task"] == {
        "features": [False, True, False],
        "n_targets": 1,
        "n_classes": 0,
    }
    rows = frame(1)
    rows["risk"] = rows.risk.where(rows.groupby("site").cumcount() < 4)
    rows.to_csv(path, index=False)
    outputs = []
    for words in (["predict", out], ["adapt", out], ["predict", f"{out}-adapted"]):
        place = f"{out}-adapted" if words[0] == "adapt" else str(tmp_path / "found.csv")
        assert run([*words, str(path), "--out", place, "--quiet"]) == 0, capsys.readouterr().err
        if words[0] == "predict":
            outputs.append(pd.read_csv(place).prediction[rows.risk.isna().to_numpy()])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5)
    capsys.readouterr()
    assert (
        run(["train", str(path), *quick[:-1], out + "2", "--scaling", "per_task", "--algorithm", "mixed"])
        == 2
    )
    assert "has no network" in capsys.readouterr().err
    assert run(["train", str(path), *quick[:-1], out + "2", "--scaling", "by_site"]) == 2
    assert "choose shared or per_task" in capsys.readouterr().err


# classes of each task


def gestures(**names: dict[str, str]) -> pd.DataFrame:
    """12 users with two or three gestures each; `names` gives those of a user other words."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(12):
        labels = list(rng.choice(["wave", "nod", "tap", "clap"], 2 + user % 2, replace=False))
        words = names.get(f"u{user}", {})
        for label in labels:
            center = 3 * rng.normal(size=2)
            rows += [
                (f"u{user}", *(center + rng.normal(size=2) / 9), words.get(label, label)) for _ in range(6)
            ]
    return pd.DataFrame(rows, columns=["user", "a", "b", "gesture"])


OWN = {"task": "user", "target": "gesture", "n_shot": 2, "labels": "per_task"}


def test_classes_are_numbered_in_each_task_and_anew_at_each_visit() -> None:
    tasks = il.tasks.table(gestures(), **OWN)
    assert (tasks.n_outputs, tasks.schema.classes, tasks.own_classes) == (3, (), True)
    for source in (tasks.train, tasks.valid, tasks.test):
        for number in range(source.n_tasks):
            own = source.y[source.starts[number] : source.starts[number + 1]]
            assert sorted(set(own.tolist())) == list(range(int(own.max()) + 1))
    seen = {tuple(tasks.train.sample(8, stream(0, step)).support.y[0].tolist()) for step in range(9)}
    assert len(seen) > 2
    fixed = [episode.query.y for _, episode in tasks.test.fixed(0)]
    assert all(
        torch.equal(one, other.query.y) for one, (_, other) in zip(fixed, tasks.test.fixed(0), strict=True)
    )


def test_other_words_for_the_classes_of_a_task_change_only_words(tmp_path: Path) -> None:
    words = {"wave": "A", "nod": "B", "tap": "C", "clap": "D"}
    flags = [part for key, value in OWN.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    quick = ["--steps", "30", "--quiet", "--device", "cpu", "--algorithm", "protonet"]
    out, path = str(tmp_path / "run"), tmp_path / "rows.csv"
    gestures().to_csv(path, index=False)
    assert run(["train", str(path), *flags, *quick, "--out", out]) == 0
    predictions = {}
    for name, table in {"plain": gestures(), "renamed": gestures(u0=words, u3=words)}.items():
        table["gesture"] = table.gesture.where(np.arange(len(table)) % 6 < 3)
        table.to_csv(path, index=False)
        assert run(["predict", out, str(path), "--out", str(tmp_path / name), "--quiet"]) == 0
        predictions[name] = pd.read_csv(tmp_path / name)
    plain, renamed = predictions["plain"], predictions["renamed"]
    changed = plain.user.isin(["u0", "u3"])
    assert (renamed.prediction[~changed].dropna() == plain.prediction[~changed].dropna()).all()
    truth = gestures().gesture
    for found, expected in ((plain, truth), (renamed, truth.where(~changed, truth.map(words)))):
        asked = found.prediction.notna()
        assert (found.prediction[asked] == expected[asked]).mean() > 0.9
        # only what the support of the task has
        for user, rows in found.groupby("user"):
            assert set(rows.prediction.dropna()) <= set(rows.gesture.dropna()), user


def test_an_adapted_directory_knows_the_classes_of_each_task(tmp_path: Path) -> None:
    table, out = gestures(), str(tmp_path / "run")
    table.to_csv(tmp_path / "a.csv", index=False)
    flags = [part for key, value in OWN.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    quick = ["--steps", "2", "--quiet", "--device", "cpu"]
    assert run(["train", str(tmp_path / "a.csv"), *flags, *quick, "--out", out]) == 0
    assert run(["adapt", out, str(tmp_path / "a.csv"), "--out", f"{out}2", "--quiet"]) == 0
    other = pd.concat(
        [table.drop(columns="gesture"), table[:2].drop(columns="gesture").assign(user="unknown")]
    )
    other.to_csv(tmp_path / "b.csv", index=False)
    assert (
        run(["predict", f"{out}2", str(tmp_path / "b.csv"), "--out", str(tmp_path / "c.csv"), "--quiet"]) == 0
    )
    found = pd.read_csv(tmp_path / "c.csv")
    # a task that nobody has shown a class of gets none
    assert found.prediction.isna().tolist() == (found.user == "unknown").tolist()
    for user, rows in found[:-2].groupby("user"):
        assert set(rows.prediction) <= set(table.gesture[table.user == user])


def test_classes_of_each_task_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    single = pd.concat([gestures(), gestures()[:6].assign(user="one", gesture="wave")])
    assert any("1 tasks have one class of their own" in note for note in il.tasks.table(single, **OWN).notes)
    tasks = il.tasks.table(gestures(), **OWN)
    many = pd.DataFrame({"user": "new", "a": 0.0, "b": 1.0, "gesture": list("vwxyz")})
    with pytest.raises(DataError, match=r"task 'new', row 3: its task has more than 3 classes"):
        tasks.schema.encode_target(many)
    with pytest.raises(UsageError, match="shared or per_task"):
        il.tasks.table(gestures(), **OWN | {"labels": "own"})
    with pytest.raises(UsageError, match="target is a number"):
        il.tasks.table(frame(), task="site", target="risk", n_support=2, labels="per_task")
    with pytest.raises(UsageError, match="nothing to do"):
        per_task(learner_for(tasks))
    gestures().to_csv(tmp_path / "a.csv", index=False)
    words = ["--task", "user", "--target", "gesture", "--labels", "per_task", "--json"]
    assert run(["check", str(tmp_path / "a.csv"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["understood"]["outputs"] == 3
