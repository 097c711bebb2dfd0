"""Methods in processes of their own give the same numbers; an interrupted comparison keeps what is done."""

from functools import partial

import numpy as np
import pytest

import innerloop as il
from innerloop.compare import contest
from innerloop.compare.comparison import compare, plan_for
from innerloop.compare.contest import Contest, Effort
from innerloop.compare.methods import entrants
from innerloop.compare.workers import Workers
from innerloop.errors import DataError, UsageError


def table(n_tasks=12, rows=9):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n_tasks * rows, 2))
    y = x @ [1.0, -0.5] + np.repeat(rng.normal(size=n_tasks), rows)
    return il.tasks.arrays(x, y, np.repeat(np.arange(n_tasks), rows), n_support=3)


def fails(row):
    raise DataError(f"row {row} is no number", row=str(row))


def test_calls_run_here_or_apart():
    calls = [partial(pow, base, 2) for base in range(4)]
    for jobs in (1, 2):
        assert dict(Workers(jobs).run(calls)) == {0: 0, 1: 1, 2: 4, 3: 9}
        with pytest.raises(DataError, match="row 7 is no number") as raised:
            list(Workers(jobs).run([partial(fails, 7), partial(pow, 2, 2)]))
        assert raised.value.place == {"row": "7"}
    with pytest.raises(UsageError, match="jobs=0"):
        Workers(0)


def test_two_processes_find_what_one_finds():
    plan = plan_for(
        table(), quick=True, learners=["maml"], baselines=["pooled", "alone_neighbours", "mixed"], steps=3,
        tries=1, seeds=1, model={"hidden": (4,)},
    )  # fmt: skip
    one, two = (compare([table()], plan, jobs=jobs) for jobs in (1, 2))
    assert [each.name for each in one.methods] == [each.name for each in two.methods]
    for mine, theirs in zip(one.methods, two.methods, strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-5, err_msg=mine.name)
    for mine, theirs in zip(one.curves, two.curves, strict=True):
        assert (mine.method, mine.axis, mine.at) == (theirs.method, theirs.axis, theirs.at)
        np.testing.assert_allclose(
            [p.mean for p in mine.estimates], [p.mean for p in theirs.estimates], rtol=1e-5
        )
    assert one.verdict["sentence"] == two.verdict["sentence"]


def test_an_interrupted_comparison_keeps_the_methods_that_are_done(monkeypatch):
    tasks = table()
    plan = plan_for(
        tasks, quick=True, learners=["maml"], baselines=["pooled", "mixed"], steps=3, tries=1, seeds=1
    )
    searched = []

    def search(entrant, bench, *, tries):
        searched.append(entrant.name)
        if entrant.name == "mixed":
            raise KeyboardInterrupt
        return real(entrant, bench, tries=tries)

    real = contest.search
    monkeypatch.setattr(contest, "search", search)
    found = compare([tasks], plan)
    assert searched[-1] == "mixed"
    assert found.interrupted
    assert {each.name for each in found.methods} == set(searched) - {"mixed"}
    assert "interrupted: linear mixed model, MAML did not run, and not all curves were made" in found.notes
    assert found.curves == ()
    monkeypatch.setattr(contest, "search", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # nothing is done
        compare([tasks], plan)


def test_costly_methods_begin_and_those_of_one_training_stand_together():
    tasks = table()
    names = ["pooled", "pooled_net", "fine_tuned", "linear_head", "maml"]
    groups = Contest([tasks], entrants(tasks, names), Effort(100, 1, 1))._groups()
    assert [set(group) for group in groups] == [
        {"pooled_net", "fine_tuned", "linear_head"},
        {"maml"},
        {"pooled"},
    ]
