"""Task columns, constant within each task: found, scaled on meta-train alone, and where a model starts from."""

import numpy as np
import pandas as pd
import torch

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.tasks.support import stream


def patients(tasks: int = 60) -> pd.DataFrame:
    """The level of a patient follows from the age alone."""
    rng = np.random.default_rng(0)
    age = np.repeat(rng.uniform(20, 80, tasks), 8)
    dose = rng.normal(size=tasks * 8)
    site = np.repeat([f"p{n:02d}" for n in range(tasks)], 8)
    return pd.DataFrame({"who": site, "age": age, "dose": dose, "level": age / 10 + dose})


def trained(scaling: str) -> tuple[object, object]:
    tasks = il.tasks.table(patients(), task="who", target="level", n_support=3)
    learner = learner_for(tasks, scaling=scaling, hidden=[16])
    return tasks, il.meta_train(learner, tasks.train, steps=150, device="cpu", gear="eager").model


def test_the_model_before_adaptation_starts_where_its_task_column_says() -> None:
    tasks, model = trained("shared")
    assert tasks.schema.task_columns == ("age",)
    found = il.evaluate(model, tasks.test)
    # without a single row of a new patient, nearly all of the variance between patients is explained
    assert found.metric("error_over_variance", 0)[0] < 0.15
    blind = il.tasks.table(patients(), task="who", target="level", n_support=3, ignore=["age"])
    model = il.meta_train(
        learner_for(blind, hidden=[16]), blind.train, steps=150, device="cpu", gear="eager"
    ).model
    assert il.evaluate(model, blind.test).metric("error_over_variance", 0)[0] > 0.4


def test_a_task_column_is_scaled_on_meta_train_and_never_by_the_support() -> None:
    frame = patients()
    tasks = il.tasks.table(frame, task="who", target="level", n_support=3)
    column = next(column for column in tasks.schema.columns if column.name == "age")
    train = frame[frame.who.isin(tasks.splits["train"])]
    assert np.isclose(column.mean, train.age.mean())
    assert np.isclose(column.scale, train.age.std(ddof=0))
    learner = learner_for(tasks, scaling="per_task")
    support = tasks.test.sample(4, stream(0)).support
    own = learner.adapt(learner.init(), support, steps=0)
    names = [column.name for column in tasks.schema.columns]
    assert (own["support.x_mean"][..., names.index("age")] == 0).all()
    assert (own["support.x_scale"][..., names.index("age")] == 1).all()
    assert (own["support.x_mean"][..., names.index("dose")] != 0).all()
    # so patients of different ages still look different to the model
    base = learner.predict(learner.init(), own, support.x)
    other = support.x.clone()
    other[..., names.index("age")] += 1
    assert not torch.allclose(learner.predict(learner.init(), own, other), base)


def test_scores_of_classes_that_training_knows_are_marked():
    rows = np.arange(240)
    site = rows // 12
    # the last sites have a class that no other has
    label = np.where((site >= 17) & (rows % 3 == 0), "rare", np.array(["a", "b", "c"])[rows % 3])
    frame = pd.DataFrame({"site": [f"s{number:02}" for number in site], "x": rows % 7.0, "kind": label})
    split = {
        "train": [f"s{number:02}" for number in range(14)],
        "valid": ["s14", "s15", "s16"],
        "test": ["s17", "s18", "s19"],
    }
    options = {"task": "site", "target": "kind", "n_shot": 1, "split": split}
    tasks = il.tasks.table(frame, **options, labels="per_task")
    assert (tasks.valid.trained_classes, tasks.test.trained_classes) == ((3, 3), (2, 3))
    assert any(note.startswith("2 of the 3 classes of meta-test tasks occur") for note in tasks.notes)
    assert il.tasks.table(frame, **options).test.trained_classes is None
