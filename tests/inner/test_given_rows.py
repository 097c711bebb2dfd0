"""Rows in units of their own, given to a model of standardised ones: said, where it can be told."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop.storage import load
from innerloop.tasks.splits import Tasks


def people() -> pd.DataFrame:
    """Heights and weights of people."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"who": np.repeat(np.arange(12), 8), "height": rng.normal(170, 3, 96)})
    frame["weight"] = 500 + frame.height + rng.normal(size=12)[frame.who]
    return frame


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    """Their tasks."""
    return il.tasks.open(people(), task="who", target="weight", n_support=3)


@pytest.fixture(scope="module")
def run(tasks: Tasks) -> object:
    """A model of them."""
    return il.meta_train(il.mixed(1), tasks.train, device="cpu")


def test_raw_rows_are_said_with_the_way_out(run, tasks: Tasks) -> None:
    rows = people()[:5]
    x, y = rows[["height"]].to_numpy(), rows[["weight"]].to_numpy()
    with pytest.warns(UserWarning, match=r"feature 1 is 1\d\d.*units of their own.*schema\.encode"):
        run.model.adapt(x, y)
    with pytest.warns(UserWarning, match=r"target 1 is 6\d\d"):
        run.model.adapt(tasks.schema.encode(rows), y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.model.adapt(tasks.schema.encode(rows), tasks.schema.encode_target(rows))
        il.evaluate(run.model, tasks.test)


def test_a_few_rows_far_away_are_no_warning(run, tasks: Tasks) -> None:
    x = torch.tensor([[0.1], [30.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.model.adapt(x, torch.zeros(2, 1))


def test_tasks_of_raw_batches_are_said(run) -> None:
    x = torch.tensor(people()[["height"]].to_numpy(), dtype=torch.float32)
    raw = il.tasks.single((x, x + 500), batch_size=8)
    with pytest.warns(UserWarning, match="units of their own"):
        il.evaluate(run.model, raw.test)


def test_what_was_trained_on_raw_rows_takes_them() -> None:
    tasks = il.tasks.sinusoid(n_support=3)
    run = il.meta_train(il.mixed(1), tasks.train, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.model.adapt(torch.full((3, 1), 100.0), torch.zeros(3, 1))


def test_a_loaded_model_knows(run, tasks: Tasks, tmp_path) -> None:
    rows = people()[:5]
    stored = load(il.save(tmp_path / "run", run.model, schema=tasks.schema))
    assert stored.model.standardised
    with pytest.warns(UserWarning, match="units of their own"):
        stored.model.adapt(rows[["height"]].to_numpy(), tasks.schema.encode_target(rows))
