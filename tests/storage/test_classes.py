"""Models adapted to classes by their names: what they hold, what forgetting leaves, and what a hostile file does."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load as read_tensors

import innerloop as il
from innerloop.errors import DataError, UsageError
from innerloop.models import build
from innerloop.storage import load
from innerloop.storage.enrolled import Enrolled, enrolled_of
from innerloop.storage.save import unsaved
from innerloop.tasks.class_rows import class_rows

FEATURES = 6
GOODS = ["apple", "blue cup", "fork/left", "knife", "plate", "pot"]


def arrays(names=GOODS, count=3, seed=0):
    """Rows around a mean for each name, the same for equal names."""
    rng = np.random.default_rng(seed)
    x = [
        np.random.default_rng([5, GOODS.index(name)]).normal(size=FEATURES)
        + 0.1 * rng.normal(size=(count, FEATURES))
        for name in names
    ]
    return {"x": np.concatenate(x).astype(np.float32), "label": np.repeat(names, count)}


def mlp():
    torch.manual_seed(0)
    return build("mlp", n_in=FEATURES, hidden=[8], n_out=None)


LEARNERS = {
    "two_covariance": lambda: il.two_covariance(FEATURES, 3),
    "protonet": lambda: il.protonet(mlp(), n_features=8, n_outputs=3),
    "ridge": lambda: il.ridge(mlp(), n_features=8, n_outputs=3, kind="classification"),
    "gaussian": lambda: il.gaussian(mlp(), n_features=8, n_outputs=3, kind="classification"),
}
every = pytest.mark.parametrize("name", LEARNERS)


def a_run(learner):
    """A run that was trained on arrays, three classes an episode."""
    tasks = il.tasks.classes(np.zeros((36, FEATURES)), np.arange(36) // 3, n_way=3, n_query=1)
    return unsaved(il.Model(learner, learner.init()), inputs=tasks.inputs, targets=tasks.targets)


def written(stored, folder):
    """The directory after it was written and read again, and its tensors."""
    path = stored.save(folder)
    return load(path), read_tensors((path / "model.safetensors").read_bytes())


@every
def test_any_number_of_classes_is_enrolled_and_named(name, tmp_path):
    adapted, _ = written(a_run(LEARNERS[name]()).adapt_files(arrays()), tmp_path / "goods")
    assert adapted.enrolled.classes == tuple(GOODS)
    assert adapted.enrolled.counts == (3,) * 6
    found = adapted.predict_files({"x": arrays(seed=1)["x"]})
    assert list(found) == ["row", "prediction", *(f"probability_{each}" for each in GOODS)]
    assert np.allclose(found.filter(like="probability").sum(axis=1), 1)
    assert (found.prediction == arrays()["label"]).mean() > 0.6


@every
def test_a_directory_predicts_as_a_learner_made_for_so_many_classes(name):
    learner = LEARNERS[name]()
    adapted, rows = a_run(learner).adapt_files(arrays()), arrays()
    resized, meta = learner.for_classes(learner.init(), 6)
    y = torch.from_numpy(np.repeat(np.arange(6), 3))
    task = il.Model(resized, meta).adapt(torch.from_numpy(rows["x"]), y)
    query = torch.from_numpy(arrays(seed=1)["x"])
    expected = task(query).double().softmax(-1).numpy()
    found = adapted.predict_files({"x": query.numpy()}).filter(like="probability").to_numpy()
    assert np.allclose(found, expected, atol=1e-5)


@every
def test_forgetting_equals_never_enrolled_and_adding_leaves_the_others_to_the_bit(name, tmp_path):
    run, some = a_run(LEARNERS[name]()), [each for each in GOODS if each != "blue cup"]
    few, few_tensors = written(run.adapt_files(arrays(some)), tmp_path / "few")
    whole = {key: np.concatenate([arrays(some)[key], arrays(["blue cup"])[key]]) for key in ("x", "label")}
    every, every_tensors = written(run.adapt_files(whole), tmp_path / "every")
    forgotten, tensors = written(every.forgetting_classes(["blue cup"]), tmp_path / "forgotten")
    added, added_tensors = written(few.adapt_files(arrays(["blue cup"]), add=True), tmp_path / "added")
    assert forgotten.config["enrolled"] == few.config["enrolled"]
    assert added.config["enrolled"] == every.config["enrolled"]
    for one, other in ((tensors, few_tensors), (added_tensors, every_tensors)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    for each in some:
        assert torch.equal(few.enrolled.rows_of(each), added.enrolled.rows_of(each))
    query = {"x": arrays(seed=2)["x"]}
    assert forgotten.predict_files(query).equals(few.predict_files(query))


def test_a_mean_and_a_count_say_all_of_a_class_and_more_rows_move_its_mean():
    adapted = a_run(LEARNERS["two_covariance"]()).adapt_files(arrays(count=3))
    assert adapted.enrolled.means
    assert adapted.enrolled.x.shape == (6, FEATURES)
    more = adapted.adapt_files(arrays(["knife"], count=5, seed=4), add=True).enrolled
    rows = np.concatenate([arrays(count=3)["x"][9:12], arrays(["knife"], count=5, seed=4)["x"]])
    assert more.count_of("knife") == 8
    assert np.allclose(more.rows_of("knife")[0], rows.mean(0), atol=1e-6)
    assert not a_run(LEARNERS["ridge"]()).adapt_files(arrays()).enrolled.means


def test_two_classes_with_one_row_each_suffice():
    adapted = a_run(LEARNERS["two_covariance"]()).adapt_files(arrays(GOODS[:2], count=1))
    assert adapted.predict_files({"x": arrays(GOODS[:2], count=1)["x"]}).prediction.tolist() == GOODS[:2]


def test_a_network_with_batchnorm_of_the_support_keeps_its_rows(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(FEATURES, 8), torch.nn.BatchNorm1d(8))
    learner = il.protonet(net, n_features=8, n_outputs=3)
    adapted = a_run(learner).adapt_files(arrays())
    assert not adapted.enrolled.means
    assert torch.equal(
        torch.sort(adapted.enrolled.x, 0)[0], torch.sort(torch.from_numpy(arrays()["x"]), 0)[0]
    )


def test_a_fixed_output_layer_serves_up_to_its_own_number_of_classes():
    run = a_run(
        il.maml(build("mlp", n_in=FEATURES, hidden=[8], n_out=3), loss="cross_entropy", inner_steps=1)
    )
    found = run.adapt_files(arrays(GOODS[:2])).predict_files({"x": arrays()["x"]})
    assert np.allclose(found.filter(like="probability").sum(axis=1), 1)
    with pytest.raises(
        UsageError, match="6 classes are given, and this model has outputs for 3: maml has an output"
    ):
        run.adapt_files(arrays())


def test_a_run_takes_labelled_rows_for_support_and_predicts_the_others():
    rows = arrays()
    label = rows["label"].astype(object)
    label[2::3] = ""
    found = a_run(LEARNERS["two_covariance"]()).predict_files({"x": rows["x"], "label": label.astype(str)})
    assert found.row.tolist() == ["3", "6", "9", "12", "15", "18"]
    assert found.prediction.tolist() == GOODS


def test_a_table_of_classes_is_adapted_to_and_predicted_with_its_own_columns():
    rng = np.random.default_rng(0)
    letters = np.repeat(list("abcdefghijklmno"), 6)
    frame = pd.DataFrame(
        {"width": np.repeat(np.arange(15.0), 6) + 0.1 * rng.normal(size=90), "letter": letters}
    )
    tasks = il.tasks.class_table(frame, target="letter", n_way=3, n_query=3)
    learner = il.two_covariance(1, 3)
    run = unsaved(
        il.meta_train(learner, tasks.train, device="cpu").model, schema=tasks.schema, targets=tasks.targets
    )
    new = pd.DataFrame(
        {"width": [0.0, 20.0, 40.0, 0.1, 39.0], "letter": ["é", "x", "y", None, None]}, index=[9, 8, 7, 6, 5]
    )
    found = run.predict_frame(new)
    assert found.index.tolist() == new.index.tolist()
    assert found.prediction[:3].isna().all()
    assert found.prediction[3:].tolist() == ["é", "y"]
    adapted = run.adapt_frame(new)
    assert adapted.predict_frame(new[["width"]]).prediction.tolist() == ["é", "x", "y", "é", "y"]
    with pytest.raises(UsageError, match="inner_steps has no meaning"):
        run.predict_frame(new, inner_steps=2)


def test_what_cannot_be_adapted_to_is_refused_in_one_sentence():
    run = a_run(LEARNERS["two_covariance"]())
    adapted = run.adapt_files(arrays())
    with pytest.raises(DataError, match=r"1 classes are there \('apple'\), and two or more"):
        run.adapt_files(arrays(["apple"]))
    with pytest.raises(DataError, match="no row has the name of its class"):
        run.adapt_files({"x": arrays()["x"]})
    with pytest.raises(DataError, match="knows no classes yet"):
        run.predict_files({"x": arrays()["x"]})
    with pytest.raises(UsageError, match=r"'aple' is no class here \(did you mean 'apple'\?\): there are"):
        adapted.forgetting_classes(["aple"])
    with pytest.raises(UsageError, match="1 class would be left"):
        adapted.forgetting_classes(GOODS[1:])
    with pytest.raises(UsageError, match="is adapted already"):
        adapted.adapt_files(arrays())
    with pytest.raises(UsageError, match="has no classes to add to"):
        run.adapt_files(arrays(), add=True)
    with pytest.raises(DataError, match=r"rows of x have shape \(2,\), and those of training had \(6,\)"):
        adapted.predict_files({"x": np.zeros((3, 2))})
    with pytest.raises(DataError, match="x holds uint8, and training had floating numbers"):
        adapted.predict_files({"x": np.zeros((3, FEATURES), np.uint8)})
    table = unsaved(il.Model(il.mixed(1), il.mixed(1).init()))
    with pytest.raises(UsageError, match="does not say what its rows are"):
        table.class_schema()


def test_tensors_that_are_not_those_of_the_classes_are_refused():
    model = a_run(LEARNERS["two_covariance"]()).model
    entries = [{"id": "a", "n_support": 1}, {"id": "b", "n_support": 2}]

    def read(**tensors):
        own = {f"enrolled/{key}": value for key, value in tensors.items()}
        return enrolled_of(model, entries, own, shape=(FEATURES,), n_outputs=3)

    assert read(x=torch.zeros(2, FEATURES)).counts == (1, 2)
    rows, number = torch.zeros(3, FEATURES), torch.tensor([0, 1, 1])
    assert isinstance(read(x=rows, **{"class": number}), Enrolled)
    for wrong in (
        {"x": torch.zeros(3, FEATURES)},
        {"x": torch.zeros(2, FEATURES + 1)},
        {"x": torch.zeros(2, FEATURES).double()},
        {"class": number},
        {"x": rows, "class": torch.tensor([1, 1, 0])},
        {"x": rows, "class": torch.tensor([0, 0, 1])},
        {"x": rows, "class": torch.tensor([0, 1, -1])},
        {"x": rows.int(), "class": number},
        {"x": rows, "class": number.float()},
    ):
        with pytest.raises((ValueError, KeyError)):
            read(**wrong)


def test_rows_are_named_by_their_place_and_classes_of_groups_by_both():
    run = a_run(LEARNERS["two_covariance"]())
    given = {"x": np.zeros((2, FEATURES)), "label": ["a", "b"], "group": ["g", "h"]}
    rows = class_rows(given, run.class_schema())
    assert rows.labels.tolist() == ["g/a", "h/b"]
    assert rows.names == ("1", "2")
