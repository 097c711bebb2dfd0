"""Intervals and prediction sets of frames beside a loop over tasks; a calibration in a model directory."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from innerloop import models
from innerloop.algorithms import maml, mixed, protonet
from innerloop.errors import DataError, ModelFileError, UsageError
from innerloop.evaluation.conformal import Calibration
from innerloop.inner import Model
from innerloop.storage import Stored, load, save
from innerloop.storage.manifest import MANIFEST, seal
from innerloop.tasks.tables.schema import Schema

SIZES = (0, 1, 3)
KINDS = ("numbers", "net", "several", "classes", "own classes")


def table(kind="numbers", *, seed=0) -> pd.DataFrame:
    """Six tasks of eight rows that stand mixed up; 0, 1, 2, ... of them have a target."""
    rng = np.random.default_rng(seed)
    site = np.repeat([f"s{number}" for number in range(6)], 8)
    frame = pd.DataFrame({"site": site, "dose": rng.normal(3, 2, 48)})
    frame["y"] = rng.normal(size=6)[np.repeat(np.arange(6), 8)] * frame.dose + 10
    if kind == "several":
        frame["z"] = 100 * frame.y + rng.normal(size=48)
    if kind == "classes":
        frame["y"] = np.array(["high; odd", "low", "middle"])[np.arange(48) % 3]
    if kind == "own classes":
        frame["y"] = [f"{name}-{'abc'[number % 3]}" for number, name in enumerate(frame.site)]
    return frame.sample(frac=1, random_state=seed)


def hidden(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with the targets of all rows but the first 0, 1, 2, ... of each task taken away."""
    count = frame.groupby("site").cumcount()
    away = count >= frame.site.str[1:].astype(int)
    return frame.assign(**{name: frame[name].mask(away) for name in ("y", "z") if name in frame})


def calibration(kind: str) -> Calibration:
    """Thresholds that differ in everything."""
    rng, width = np.random.default_rng(4), 2 if kind == "several" else 1
    largest = 1.0 if "classes" in kind else 3.0
    return Calibration(
        {size: np.sort(largest * rng.uniform(size=(199, width)), axis=0) for size in SIZES},
        {size: np.sort(rng.normal(1, 1, 12)) for size in SIZES},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Stored]:
    """Models with random meta-parameters and a calibration, as a model directory of each kind of table."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for kind in KINDS:
        target = ["y", "z"] if kind == "several" else "y"
        schema = Schema.fit(table(kind), task="site", target=target, features=["dose"])
        if kind == "own classes":
            schema = dataclasses.replace(schema, classes=(), n_way=3)
        learner = {
            "numbers": lambda: mixed(1),
            "several": lambda: mixed(1, 2),
            "net": lambda: maml(models.mlp(1, [5], 1), loss="mse", inner_lr=0.1),
            "classes": lambda: maml(models.mlp(1, [5], 3), loss="cross_entropy", inner_lr=0.1),
            "own classes": lambda: protonet(models.mlp(1, [5], None), n_features=5, n_outputs=3),
        }[kind]()
        generator = torch.Generator().manual_seed(1)
        meta = {k: v + 0.3 * torch.randn(v.shape, generator=generator) for k, v in learner.init().items()}
        model = Model(learner, meta)
        found[kind] = load(save(folder / kind, model, schema=schema, calibration=calibration(kind)))
    return found


def by_hand(stored: Stored, part: pd.DataFrame, level: float) -> pd.DataFrame:
    """Intervals of one task, in natural units, and its percentile."""
    schema, own = stored.schema, stored.calibration
    labelled = schema.labelled(part)
    support, query = part[labelled], part[~labelled]
    size = max(size for size in SIZES if size <= len(support))
    limit = own.thresholds[size][round(200 * level) - 1]
    task, x = stored.model.base(), torch.from_numpy(schema.encode(query))
    percentile = math.nan
    if len(support):
        rows = schema.encode(support), schema.encode_target(support)
        task = stored.model.adapt(*rows)
        rows = [torch.from_numpy(values)[None] for values in rows]
        from innerloop.tasks.episodes import Batch

        loss = float(stored.model.learner.loss(stored.model.meta, task.own, Batch(*rows)))
        percentile = 100 * np.mean(own.support_losses[size] < loss)
    out = {"support_loss_percentile": percentile}
    if schema.kind == "classification":
        names = sorted({*support.y}) if schema.n_way else schema.classes
        chances = task(x).double().softmax(-1).numpy()
        out["prediction_set"] = [
            "; ".join(
                f'"{names[c]}"' if ";" in names[c] else names[c]
                for c in np.argsort(-chance, kind="stable")
                if (1 - chance[c] <= limit[0] or chance[c] == chance.max()) and c < len(names)
            )
            for chance in chances
        ]
        return pd.DataFrame(out, index=query.index)
    spread = (
        1.0
        if stored.schema.more_targets == () and "head/mean" not in stored.model.meta
        else task.deviation(x)
    )
    for place, (column, suffix) in enumerate(zip(schema.target_columns, ("_y", "_z"), strict=False)):
        center = task(x)[:, place].double().numpy() * column.scale + column.mean
        deviation = spread if isinstance(spread, float) else spread[:, place].double().numpy()
        name = suffix if schema.more_targets else ""
        out[f"lower{name}"] = center - limit[place] * deviation * column.scale
        out[f"upper{name}"] = center + limit[place] * deviation * column.scale
    return pd.DataFrame(out, index=query.index)


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_has_the_intervals_of_its_tasks(runs, kind, level) -> None:
    frame = hidden(table(kind, seed=2))
    predicted = runs[kind].predict_frame(frame, interval=level)
    plain = runs[kind].predict_frame(frame)
    for name in plain:
        pd.testing.assert_series_equal(predicted[name], plain[name], rtol=1e-5)
    truth = pd.concat([by_hand(runs[kind], part, level) for _, part in frame.groupby("site")])
    assert {*predicted} == {*plain, *truth}
    for name in truth:
        values = predicted.loc[truth.index, name]
        if name == "prediction_set":
            assert values.tolist() == truth[name].tolist()
        else:
            np.testing.assert_allclose(values.to_numpy(float), truth[name], rtol=1e-4, atol=1e-5)
    assert predicted.drop(truth.index)[[*truth]].isna().all(axis=None)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_directory_keeps_its_intervals(runs, kind, tmp_path) -> None:
    frame = hidden(table(kind, seed=2))
    frame = frame[frame.site != "s0"]
    at_once = runs[kind].predict_frame(frame, interval=0.8)
    adapted = load(runs[kind].adapt_frame(frame).save(tmp_path / "adapted"))
    later = adapted.predict_frame(frame.drop(columns=["y", "z"], errors="ignore"), interval=0.8)
    asked = at_once.prediction_y.notna() if kind == "several" else at_once.prediction.notna()
    for name in {*at_once} - {*frame}:
        pd.testing.assert_series_equal(later[asked][name], at_once[asked][name], rtol=1e-4)
    assert later.iloc[:, -3:].notna().all(axis=None)
    new = table(kind, seed=2).assign(site="unknown").drop(columns=["y", "z"], errors="ignore")
    if kind != "own classes":
        base = adapted.predict_frame(new, interval=0.8)
        assert base.support_loss_percentile.isna().all()
        assert base.drop(columns="support_loss_percentile").notna().all(axis=None)


def test_a_calibration_goes_round_bit_for_bit(runs, tmp_path) -> None:
    for stored in runs.values():
        again = load(stored.save(tmp_path / stored.path.name))
        assert again.sha256 == stored.sha256
        for part in ("thresholds", "support_losses"):
            one, other = (getattr(each.calibration, part) for each in (stored, again))
            assert {size: values.tolist() for size, values in one.items()} == {
                size: values.tolist() for size, values in other.items()
            }


def test_other_kinds_of_frames_have_intervals_too(runs) -> None:
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for kind in ("numbers", "classes"):
        frame = hidden(table(kind)).reset_index(drop=True)
        expected = runs[kind].predict_frame(frame, interval=0.9)
        for other in (polars.from_pandas(frame), pyarrow.Table.from_pandas(frame)):
            found = runs[kind].predict_frame(other, interval=0.9).to_pandas()
            for name in {*expected} - {*frame}:
                pd.testing.assert_series_equal(found[name], expected[name], check_dtype=False)


def test_what_cannot_be_given_is_refused(runs, tmp_path) -> None:
    run, frame = runs["net"], hidden(table())
    for level in (0, 1, 90, "0.9", True):
        with pytest.raises(UsageError, match="between 0 and 1"):
            run.predict_frame(frame, interval=level)
    with pytest.raises(
        UsageError, match=r"needs 19 calibration tasks or more, and .* has 12: ask for 0\.92 or"
    ):
        run.predict_frame(frame, interval=0.95)
    assert run.predict_frame(frame, interval=0.92).upper.notna().any()
    with pytest.raises(UsageError, match="inner_steps=3: the intervals hold for"):
        run.predict_frame(frame, interval=0.9, inner_steps=3)
    assert run.adapt_frame(frame, inner_steps=3).calibration is None
    bare = load(save(tmp_path / "bare", run.model, schema=run.schema))
    with pytest.raises(UsageError, match=r"bare holds no calibration: .*calibration=il\.calibrate"):
        bare.predict_frame(frame, interval=0.9)
    for taken in ("lower", "upper", "support_loss_percentile"):
        with pytest.raises(DataError, match=f"has a column '{taken}' already"):
            run.predict_frame(frame.assign(**{taken: 1}), interval=0.9)
        assert taken in run.predict_frame(frame.assign(**{taken: 1}))
    with pytest.raises(DataError, match="'prediction_set' already"):
        runs["classes"].predict_frame(hidden(table("classes")).assign(prediction_set=1), interval=0.9)


def test_a_task_with_fewer_rows_than_any_calibration_task_has_no_interval(runs) -> None:
    own = runs["numbers"].calibration
    later = Calibration({3: own.thresholds[3]}, {3: own.support_losses[3]})
    stored = dataclasses.replace(runs["numbers"], calibration=later)
    predicted = stored.predict_frame(hidden(table()), interval=0.9)
    asked = predicted[predicted.prediction.notna()]
    assert (asked.lower.isna() == (asked.n_support < 3)).all()
    assert stored.adapt_frame(hidden(table())).config["settings"]["support_loss_percentile"].keys() == {
        "s3", "s4", "s5",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("calibration/thresholds/1"), "differ in number"),
        (lambda t: t.update({"calibration/more/1": torch.ones(2)}), "'calibration/more/1' is no part"),
        (lambda t: t.update({"calibration/thresholds/01": torch.ones(2)}), "is no part of a calibration"),
        (lambda t: t.update({"calibration/thresholds/-1": torch.ones(2)}), "is no part of a calibration"),
        (lambda t: t.update({"calibration/thresholds/1": torch.ones(12, 1)}), "another type or shape"),
        (lambda t: t.update({"calibration/thresholds/1": torch.ones(12).double()}), "another type or shape"),
        (
            lambda t: t.update({"calibration/thresholds/1": torch.ones(0, 1).double()}),
            "another type or shape",
        ),
        (lambda t: t.update({"calibration/thresholds/1": torch.ones(199, 2).double()}), "several numbers of"),
        (lambda t: t["calibration/thresholds/1"].neg_(), "does not ascend"),
        (lambda t: t["calibration/thresholds/1"].fill_(-1), "below 0"),
        (lambda t: t["calibration/thresholds/1"].fill_(torch.inf), "holds NaN or infinity"),
        (lambda t: t["calibration/support_losses/1"].copy_(torch.arange(12.0).flip(0)), "does not ascend"),
        (
            lambda t: t.update(
                {f"calibration/thresholds/{size}": torch.ones(199, 2).double() for size in SIZES}
            ),
            "of other targets",
        ),
    ],
)
def test_hostile_calibrations_are_refused(runs, tmp_path, change, reason) -> None:
    path = runs["numbers"].save(tmp_path / "run")
    tensors = safetensors.torch.load((path / "model.safetensors").read_bytes())
    change(tensors)
    content = {file.name: file.read_bytes() for file in path.iterdir() if file.name != MANIFEST}
    for name, data in seal(content | {"model.safetensors": safetensors.torch.save(tensors)}).items():
        (path / name).write_bytes(data)
    with pytest.raises(ModelFileError, match=reason):
        load(path)


@pytest.mark.parametrize("value", ["text", {"s1": "text"}, {"s1": None}, [1.0], 5])
def test_hostile_percentiles_are_refused(runs, tmp_path, value) -> None:
    adapted = runs["numbers"].adapt_frame(hidden(table()))
    settings = adapted.config["settings"] | {"support_loss_percentile": value}
    with pytest.raises(UsageError, match="support_loss_percentile is no table of numbers"):
        dataclasses.replace(adapted, config={**adapted.config, "settings": settings}).save(tmp_path / "bad")


def test_a_calibration_of_another_width_is_not_saved(runs, tmp_path) -> None:
    wrong = dataclasses.replace(runs["numbers"], calibration=calibration("several"))
    with pytest.raises(UsageError, match="cannot be stored: the calibration is of other targets"):
        wrong.save(tmp_path / "wrong")
