"""Exported files: raw columns and support rows in, the columns of `predict_frame` out."""

import functools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.cli import run
from innerloop.engine.onnx_file import to_onnx
from innerloop.engine.open_graph import open_graph
from innerloop.errors import UsageError
from innerloop.storage.save import unsaved

pytestmark = pytest.mark.long

LEVELS = ("f", "m")


def patients():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient": np.repeat([f"p{n}" for n in range(30)], 8)})
    frame["dose"] = rng.normal(3, 2, 240)
    frame["sex"] = rng.choice([*LEVELS], 240)
    frame["treated"] = rng.random(240) < 0.5
    frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, 240), "D")
    frame["weight"] = np.where(rng.random(240) < 0.1, np.nan, rng.normal(70, 9, 240))
    frame["score"] = frame.dose + np.repeat(rng.normal(size=30), 8) + (frame.sex == "m")
    return frame


def trained(algorithm, target, frame):
    tasks = il.tasks.table(frame, task="patient", target=target, n_support=3, split=(0.4, 0.4, 0.2))
    learner = learner_for(tasks, algorithm=algorithm, seed=0)
    trained_run = il.meta_train(learner, tasks.train, valid=tasks.valid, steps=3)
    meta = {name: value.double() for name, value in trained_run.model.meta.items()}
    stored = unsaved(
        il.Model(learner, meta), schema=tasks.schema, support=tasks.train.support, targets=tasks.targets,
        calibration=il.calibrate(trained_run.model, tasks.valid),
    )  # fmt: skip
    return stored, tasks.schema


@functools.cache
def regression():
    return trained("mixed", "score", patients())


@functools.cache
def classification():
    frame = patients()
    names = np.array(["low", "middle", "high"], dtype=object)
    frame["grade"] = names[np.digitize(frame.score, [2, 4])]
    return trained("maml", "grade", frame.drop(columns="score"))


def one_patient(schema, known):
    """Rows of a new patient: with a gap, and a level that no row of training has."""
    frame = patients().query("patient == 'p3'").assign(patient="new").reset_index(drop=True)
    frame.loc[6, "sex"], frame.loc[7, "weight"] = "?", np.nan
    if schema.kind == "classification":
        frame["grade"] = ["low", "high", "middle", "low", "high", "low", "high", "low"]
    frame[schema.target] = frame[schema.target].where(np.arange(8) < known)
    return frame


def numbers(frame, name):
    if name == "day":
        return ((frame[name] - pd.Timestamp(0)) / pd.Timedelta("1D")).to_numpy(np.float64)
    return frame[name].to_numpy(np.float64)


def columns_of(frame, schema, *, support, text):
    """The columns of some rows as arrays: names as text or as numbers of levels."""
    levels = {column.name: column.levels for column in schema.columns if column.kind == "category"}
    levels |= {schema.target: schema.classes} if schema.kind == "classification" else {}
    names = [column.name for column in schema.columns] + [schema.target] * support
    found = {}
    for name in names:
        if name not in levels:
            found[name] = numbers(frame, name)
        elif text:
            found[name] = frame[name].to_numpy(object)
        else:
            numbered = {label: number for number, label in enumerate(levels[name])}
            found[name] = np.array([numbered.get(label, -1) for label in frame[name]], dtype=np.int64)
    return found


def same(found, stored, frame, known, interval):
    wanted = stored.predict_frame(frame, interval=interval).iloc[known:]
    for name, values in found.items():
        if name.startswith("in_set_"):
            label = name.removeprefix("in_set_")
            assert values.tolist() == [label in one.split("; ") for one in wanted.prediction_set]
        elif values.dtype == object:
            assert values.tolist() == wanted[name].tolist()
        else:
            np.testing.assert_allclose(values, wanted[name].to_numpy(np.float64), rtol=1e-6, atol=1e-6)
    assert {"prediction"} < found.keys()


@pytest.mark.parametrize("make", [regression, classification])
def test_the_file_of_torch_predicts_what_the_model_does(make, tmp_path):
    stored, schema = make()
    path = stored.export(tmp_path / "model.pt2", interval=0.5)
    said = {"innerloop.json": ""}
    program = torch.export.load(path, extra_files=said).module()
    assert json.loads(said["innerloop.json"])["targets"] == [schema.target]
    for known in (0, 1, 5):
        frame = one_patient(schema, known)
        support, query = (
            {
                name: torch.from_numpy(values.copy())
                for name, values in columns_of(part, schema, support=labelled, text=False).items()
            }
            for part, labelled in ((frame[:known], True), (frame[known:], False))
        )
        found = {name: values.numpy() for name, values in program(support, query).items()}
        if schema.kind == "classification":
            found["prediction"] = np.array(schema.classes, dtype=object)[found["prediction"]]
        same(found, stored, frame, known, 0.5)


@pytest.mark.parametrize("make", [regression, classification])
def test_onnxruntime_predicts_what_the_model_does(make, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    stored, schema = make()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(stored.export(tmp_path / "model.onnx", interval=0.5), options)
    names = [output.name for output in session.get_outputs()]
    for known in (0, 1, 5):
        frame = one_patient(schema, known)
        feed = {
            f"{place}.{name}": values
            for place, part, labelled in (("support", frame[:known], True), ("query", frame[known:], False))
            for name, values in columns_of(part, schema, support=labelled, text=True).items()
        }
        same(dict(zip(names, session.run(None, feed), strict=True)), stored, frame, known, 0.5)
    if schema.kind == "classification":
        feed["support.grade"] = np.array(["nothing of the kind"] * 5, dtype=object)
        unknown = dict(zip(names, session.run(None, feed), strict=True))
        assert set(unknown["prediction"]) == {""}
        assert np.isnan(unknown["probability_low"]).all()


def test_linear_algebra_in_onnx_is_that_of_torch():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")

    def solved(root, right):
        square = root @ root.mT
        factor, info = torch.linalg.cholesky_ex(square)
        lower = torch.linalg.solve_triangular(factor, right, upper=False)
        upper = torch.linalg.solve_triangular(factor.mT, right, upper=True)
        return [
            factor,
            lower,
            upper,
            torch.linalg.solve(root, right),
            torch.cholesky_solve(right, factor),
            info,
        ]

    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    root[0, 0, 0, 0] = 0  # a system that needs its rows exchanged
    right = torch.randn(2, 3, 5, 2, generator=generator, dtype=torch.float64)
    program = torch.export.export(open_graph(solved, root, right), (root, right))
    names = ["factor", "lower", "upper", "general", "both", "info"]
    model = to_onnx(program, inputs=["root", "right"], outputs=names)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options)
    found = session.run(None, {"root": root.numpy(), "right": right.numpy()})
    for one, other in zip(found, solved(root, right), strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-8, atol=1e-9)
    broken = session.run(None, {"root": 0 * root.numpy(), "right": right.numpy()})
    assert (broken[-1] > 0).all()
    assert np.isnan(broken[0]).any()


def test_the_command_writes_the_file_and_says_so(tmp_path, capsys):
    stored, schema = regression()
    directory = stored.save(tmp_path / "run")
    capsys.readouterr()
    path = tmp_path / "model.pt2"
    assert run(["export", str(directory), "--out", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["out"], said["bytes"]) == (str(path), path.stat().st_size)
    assert said["columns"] == [column.name for column in schema.columns]
    assert run(["export", str(directory), "--out", str(tmp_path)]) == 2
    assert "name a file" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(tmp_path):
    stored, schema = regression()
    for path, to, message in (
        ("model", None, "end the name with .onnx or .pt2"),
        ("model.pt2", "onnx", "a file of onnx ends with .onnx"),
        ("model.pt2", "caffe", "is unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            stored.export(tmp_path / path, to=to)
    adapted = stored.adapt_frame(one_patient(schema, 4))
    with pytest.raises(UsageError, match="adapted already"):
        adapted.export(tmp_path / "model.pt2")
    with pytest.raises(UsageError, match="calibration tasks or more"):
        stored.export(tmp_path / "model.pt2", interval=0.999)
    own_classes = replace(stored, schema=replace(schema, n_way=3))
    with pytest.raises(UsageError, match="classes of their own"):
        own_classes.export(tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_extra_names_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    stored, _ = regression()
    with pytest.raises(UsageError, match=r"innerloop\[export\]"):
        stored.export(tmp_path / "model.onnx")
