"""Frames to predictions: `predict_frame` and `adapt_frame` beside a loop over the tasks, and beside the command."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop import models
from innerloop.algorithms import maml, mixed, protonet
from innerloop.cli import run as command
from innerloop.errors import DataError, DivergedError, UsageError
from innerloop.inner import Model
from innerloop.storage import Stored, load, save
from innerloop.tasks.tables.schema import Schema

LABELS = np.array(["high", "low", "middle"])


def table(kind="numbers", *, tasks=6, rows=7, labelled=3, seed=0) -> pd.DataFrame:
    """Tasks of rows that stand mixed up, the first `labelled` of each with a target."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "site": np.repeat([f"00{number}" for number in range(tasks)], rows),
            "dose": rng.normal(3, 2, tasks * rows),
            "ward": rng.choice(["north", "south"], tasks * rows),
            "note": "=1+1",
        }
    )
    frame["y"] = rng.normal(size=tasks)[np.repeat(np.arange(tasks), rows)] * frame.dose + 10
    if kind == "classes":
        frame["y"] = LABELS[np.digitize(frame.y, frame.y.quantile([0.3, 0.7]))]
    if kind == "own classes":
        frame["y"] = [f"{site}-{'abc'[number % 3]}" for number, site in enumerate(frame.site)]
    if kind == "several":
        frame["z"] = frame.y**2
    hidden = frame.groupby("site").cumcount() >= labelled
    for name in {"y", "z"} & {*frame}:
        frame[name] = frame[name].mask(hidden)
    return frame.sample(frac=1, random_state=seed).set_axis(
        pd.Index(np.arange(len(frame)) * 3 + 5, name="id")
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Stored]:
    """Models with random meta-parameters, as a model directory of each kind of table."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for kind in ("numbers", "closed", "classes", "own classes", "several"):
        frame = table(kind, labelled=7)
        target = ["y", "z"] if kind == "several" else "y"
        schema = Schema.fit(frame, task="site", target=target, features=["dose", "ward"])
        if kind == "own classes":
            schema = dataclasses.replace(schema, classes=(), n_way=3)
        n, outputs = schema.n_features, schema.n_outputs
        learner = {
            "closed": lambda n=n: mixed(n),
            "classes": lambda n=n: maml(models.mlp(n, [5], 3), loss="cross_entropy"),
            "own classes": lambda n=n: protonet(models.mlp(n, [5], None), n_features=5, n_outputs=3),
        }.get(kind, lambda n=n, k=outputs: maml(models.mlp(n, [5], k), loss="mse", inner_lr=0.1))()
        generator = torch.Generator().manual_seed(1)
        meta = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in learner.init().items()}
        found[kind] = load(save(folder / kind, Model(learner, meta), schema=schema))
    return found


def by_hand(stored: Stored, frame: pd.DataFrame, adapted=None) -> pd.DataFrame:
    """The new columns by a loop over the tasks, each adapted alone."""
    schema, parts = stored.schema, []
    for _, part in frame.groupby("site"):
        labelled = schema.labelled(part)
        support, query = part[labelled], part if adapted else part[~labelled]
        model = stored.model
        task = model.base()
        if len(support):
            task = model.adapt(schema.encode(support), schema.encode_target(support))
        names = sorted({*support.y}) if schema.n_way else []
        columns = schema.decode(task(schema.encode(query)), [names] * len(query))
        parts.append(pd.DataFrame({**columns, "n_support": len(support)}, index=query.index))
    return pd.concat(parts)


def agree(predicted: pd.DataFrame, truth: pd.DataFrame) -> None:
    for name in truth:
        values, expected = predicted.loc[truth.index, name], truth[name]
        if pd.api.types.is_numeric_dtype(expected):
            np.testing.assert_allclose(values.to_numpy(float), expected.to_numpy(float), rtol=2e-5, atol=1e-6)
        else:
            # no value is NaN or None, as the version of pandas has it
            assert values.isna().tolist() == expected.isna().tolist()
            assert values.dropna().tolist() == expected.dropna().tolist()


@pytest.mark.parametrize("kind", ["numbers", "closed", "classes", "own classes", "several"])
def test_a_frame_is_predicted_as_task_by_task(runs, kind) -> None:
    frame = table(kind, seed=1)
    before = frame.copy()
    predicted = runs[kind].predict_frame(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(predicted[[*frame]], frame)
    truth = by_hand(runs[kind], frame)
    assert [*predicted] == [*frame, *truth]
    agree(predicted, truth)
    support = predicted.drop(truth.index)
    assert support[[name for name in truth if name != "n_support"]].isna().all(axis=None)
    assert (support.n_support == 3).all()
    assert len(truth) == 6 * 4


@pytest.mark.parametrize("kind", ["numbers", "closed", "classes", "own classes", "several"])
def test_an_adapted_model_predicts_every_row(runs, kind, tmp_path) -> None:
    frame = table(kind, seed=1)
    adapted = runs[kind].adapt_frame(frame)
    assert adapted.kind == "adapted"
    bare = frame.drop(columns=["y", "z"], errors="ignore")
    predicted = adapted.predict_frame(bare)
    agree(predicted, by_hand(runs[kind], frame, adapted=True))
    assert predicted.notna().all(axis=None)
    loaded = load(adapted.save(tmp_path / "adapted"))
    pd.testing.assert_frame_equal(loaded.predict_frame(bare), predicted)
    assert loaded.config["parent"] == runs[kind].sha256
    in_order = list(dict.fromkeys(frame.site[frame.y.notna()]))
    assert list(loaded.tasks) == list(loaded.n_support) == in_order
    again = load(loaded.save(tmp_path / "copy"))
    assert again.sha256 == loaded.sha256
    with pytest.raises(UsageError, match="adapted already"):
        adapted.adapt_frame(frame)
    with pytest.raises(UsageError, match="adapted already"):
        adapted.predict_frame(frame, inner_steps=2)


def test_tasks_that_are_not_known_are_predicted_by_the_base(runs) -> None:
    stored, frame = runs["numbers"], table(seed=1)
    new = frame.assign(site=frame.site.replace("000", "new"), y=frame.y.where(frame.site != "000"))
    base = stored.schema.decode(stored.model.base()(stored.schema.encode(new)))["prediction"]
    of_new = (new.site == "new").to_numpy()
    for predicted in (stored.predict_frame(new), stored.adapt_frame(frame).predict_frame(new)):
        assert (predicted.n_support[of_new] == 0).all()
        assert (predicted.n_support[~of_new] == 3).all()
        np.testing.assert_allclose(predicted.prediction[of_new], base[of_new], rtol=2e-5)
    nothing = stored.predict_frame(frame.drop(columns="y"))
    assert (nothing.n_support == 0).all()
    assert nothing.prediction.notna().all()
    everything = stored.predict_frame(table(labelled=7))
    assert everything.prediction.isna().all()


def test_classes_of_a_task_without_support_are_not_known(runs) -> None:
    frame = table("own classes")
    frame["y"] = frame.y.where(frame.site != "001")
    predicted = runs["own classes"].predict_frame(frame)
    unknown = (frame.site == "001").to_numpy()
    assert predicted[unknown][["prediction", "probability"]].isna().all(axis=None)
    asked = predicted[frame.y.isna() & ~unknown]
    assert all(label.startswith(site) for label, site in zip(asked.prediction, asked.site, strict=True))


def test_probabilities_belong_to_their_classes(runs) -> None:
    predicted = runs["classes"].predict_frame(table("classes", seed=2))
    asked = predicted[predicted.prediction.notna()]
    shares = asked[[f"probability_{name}" for name in LABELS]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (LABELS[shares.to_numpy().argmax(axis=1)] == asked.prediction).all()


def test_a_refined_model_predicts_every_row(runs, tmp_path) -> None:
    stored, frame = runs["numbers"], table()
    refined = load(save(tmp_path / "r", stored.model, kind="refined", parent=stored, schema=stored.schema))
    base = stored.schema.decode(stored.model.base()(stored.schema.encode(frame)))["prediction"]
    predicted = refined.predict_frame(frame)
    np.testing.assert_allclose(predicted.prediction, base, rtol=2e-5)
    assert (predicted.n_support == 0).all()
    with pytest.raises(UsageError, match="inner_steps=1: this model is refined already"):
        refined.predict_frame(frame, inner_steps=1)


def test_the_index_may_be_anything(runs) -> None:
    frame = table()
    truth = runs["numbers"].predict_frame(frame)
    for index in (
        pd.Index(["same"] * len(frame)),
        pd.MultiIndex.from_product([range(6), range(7)]),
        pd.date_range("2024-01-01", periods=len(frame)),
    ):
        predicted = runs["numbers"].predict_frame(frame.set_axis(index))
        assert predicted.index.equals(index)
        np.testing.assert_array_equal(predicted.to_numpy()[:, 1:2], truth.to_numpy()[:, 1:2])
        np.testing.assert_array_equal(predicted.prediction.to_numpy(), truth.prediction.to_numpy())


@pytest.mark.parametrize("kind", ["numbers", "classes"])
@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_frames_of_other_libraries_come_back_as_what_they_were(runs, library, kind) -> None:
    module = pytest.importorskip(library)
    frame = table(kind).reset_index(drop=True)
    theirs = module.from_pandas(frame) if library == "polars" else module.Table.from_pandas(frame)
    truth = runs[kind].predict_frame(frame)
    predicted = runs[kind].predict_frame(theirs)
    assert type(predicted) is type(theirs)
    assert predicted.select(list(frame)).equals(theirs)
    back = predicted.to_pandas()
    assert list(back) == list(truth)
    agree(back, truth[truth.prediction.notna()])
    column = predicted["prediction"]
    nulls = column.null_count if library == "pyarrow" else column.null_count()
    assert nulls == frame.y.notna().sum()
    adapted = runs[kind].adapt_frame(theirs)
    assert list(adapted.tasks) == list(runs[kind].adapt_frame(frame).tasks)
    assert type(adapted.predict_frame(theirs)) is type(theirs)


class Foreign:
    """A frame of a library that is not known, but turns into pandas."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.to_pandas = lambda: frame


def test_any_other_frame_becomes_one_of_pandas(runs) -> None:
    frame = table()
    pd.testing.assert_frame_equal(
        runs["numbers"].predict_frame(Foreign(frame)), runs["numbers"].predict_frame(frame)
    )


def test_inner_steps_are_those_asked_for(runs) -> None:
    frame, stored = table(), runs["numbers"]
    none = stored.predict_frame(frame, inner_steps=0)
    base = stored.schema.decode(stored.model.base()(stored.schema.encode(frame)))["prediction"]
    asked = none.prediction.notna().to_numpy()
    np.testing.assert_allclose(none.prediction[asked], base[asked], rtol=2e-5)
    one = stored.adapt_frame(frame, inner_steps=1)
    assert one.config["settings"] == {"inner_steps": 1}
    np.testing.assert_allclose(
        one.predict_frame(frame).prediction[asked],
        stored.predict_frame(frame, inner_steps=1).prediction[asked],
        rtol=2e-5,
    )


@pytest.mark.parametrize("verb", ["predict_frame", "adapt_frame"])
def test_what_is_wrong_is_named(runs, verb, tmp_path) -> None:
    stored, frame = runs["numbers"], table()

    def refused(error, reason, stored=stored, frame=frame, **options) -> None:
        with pytest.raises(error, match=reason):
            getattr(stored, verb)(frame, **options)

    refused(DataError, "no column 'dose'", frame=frame.rename(columns={"dose": "Dose"}))
    refused(DataError, "no column 'site'", frame=frame.drop(columns="site"))
    refused(DataError, r"task '00\d', row \d+: 'many'", frame=frame.astype(object).assign(dose="many"))
    refused(DataError, "no row", frame=frame[:0])
    refused(DataError, "not list", frame=[1, 2])
    refused(UsageError, "inner_steps=-1: give 0 to 10000", inner_steps=-1)
    refused(UsageError, "inner_steps=2: .* closed form", stored=runs["closed"], inner_steps=2)
    plain = load(save(tmp_path / "plain", stored.model))
    refused(UsageError, "not trained on a table with a task column", stored=plain)


def test_columns_that_are_there_already_are_named(runs) -> None:
    for kind, name in {
        "numbers": "prediction",
        "several": "prediction_z",
        "classes": "probability_low",
        "own classes": "probability",
        "closed": "n_support",
    }.items():
        with pytest.raises(DataError, match=f"has a column '{name}' already: rename it"):
            runs[kind].predict_frame(table(kind).assign(**{name: 1}))


def test_a_table_without_targets_adapts_nothing(runs) -> None:
    for frame in (table(labelled=0), table().drop(columns="y")):
        with pytest.raises(DataError, match="no row with a value in the target 'y'"):
            runs["numbers"].adapt_frame(frame)
    wrong = table("classes").replace({"y": {"low": "lower"}})
    with pytest.raises(DataError, match=r"task '00\d', row \d+: class 'lower' of target 'y' is none of"):
        runs["classes"].adapt_frame(wrong)


def test_a_task_that_diverges_is_not_saved(runs, tmp_path) -> None:
    adapted = runs["numbers"].adapt_frame(table())
    adapted.tasks["004"].own["0.bias"][:] = torch.nan
    with pytest.raises(DivergedError, match=r"task '004' diverged: '0\.bias'"):
        adapted.save(tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()


def test_every_kind_of_directory_is_copied_byte_for_byte(runs, tmp_path) -> None:
    stored = runs["classes"]
    mask = {name: torch.ones_like(value, dtype=torch.bool) for name, value in stored.model.meta.items()}
    folder = save(
        tmp_path / "one", stored.model, kind="refined", schema=stored.schema, mask=mask, log=[{"step": 1}],
        extra={"report.html": b"<p>"},
    )  # fmt: skip
    copy = load(folder).save(tmp_path / "other")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in copy.iterdir())
    assert all((folder / name).read_bytes() == (copy / name).read_bytes() for name in names)


def through_the_command(stored: Stored, frame: pd.DataFrame, folder) -> pd.DataFrame:
    frame.to_csv(folder / "rows.csv", index=False)
    arguments = [
        str(stored.path),
        str(folder / "rows.csv"),
        "--out",
        str(folder / "out.csv"),
        "--device",
        "cpu",
    ]
    assert command(["predict", *arguments, "--quiet"]) == 0
    return pd.read_csv(folder / "out.csv", dtype={"site": str})


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["numbers", "closed", "classes", "own classes", "several"]),
    tasks=st.integers(1, 5),
    rows=st.integers(1, 6),
    labelled=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_the_command_writes_what_a_frame_becomes(
    runs, tmp_path_factory, kind, tasks, rows, labelled, seed
) -> None:
    folder = tmp_path_factory.mktemp("both")
    frame = table(kind, tasks=tasks, rows=rows, labelled=labelled, seed=seed)
    written = through_the_command(runs[kind], frame, folder)
    read = pd.read_csv(folder / "rows.csv", dtype={"site": str})
    predicted = runs[kind].predict_frame(read)
    assert [*written] == [*predicted]
    for name in predicted:
        if pd.api.types.is_numeric_dtype(predicted[name]):
            np.testing.assert_allclose(written[name], predicted[name], rtol=1e-5, atol=1e-6)
        else:
            assert written[name].isna().equals(predicted[name].isna())
            assert written[name].dropna().tolist() == predicted[name].dropna().astype(str).tolist()


def test_the_command_saves_what_adapt_frame_gives(runs, tmp_path, capsys) -> None:
    stored, frame = runs["own classes"], table("own classes")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    arguments = [
        str(stored.path),
        str(tmp_path / "rows.csv"),
        "--out",
        str(tmp_path / "a"),
        "--device",
        "cpu",
    ]
    assert command(["adapt", *arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    loaded, adapted = load(tmp_path / "a"), stored.adapt_frame(frame)
    assert printed["tasks"] == loaded.n_support == adapted.n_support
    assert loaded.config["settings"] == {
        "support": str(tmp_path / "rows.csv"), **adapted.config["settings"],
    }  # fmt: skip
    pd.testing.assert_frame_equal(loaded.predict_frame(frame), adapted.predict_frame(frame))


@pytest.mark.parametrize("kind", ["numbers", "closed", "classes", "several"])
def test_a_run_knows_tasks_and_still_adapts_to_others(kind, runs, tmp_path):
    run, frame = runs[kind], table(kind)
    known = frame[frame.site.isin(["000", "001"])]
    knowing = load(run.knowing(known).save(tmp_path / "model"))
    assert knowing.kind == "run"
    assert knowing.n_support == dict.fromkeys(dict.fromkeys(known.site), 3)
    asked = frame.assign(**{name: frame[name].where(frame.site == "002") for name in {"y", "z"} & {*frame}})
    found = knowing.predict_frame(asked)
    # a task that is known without a row here, one with rows here, and one that nothing is known of
    for site, as_if in (("000", frame), ("002", frame), ("003", asked)):
        own = found.site == site
        expected = run.predict_frame(as_if[as_if.site == site])
        rows = expected.filter(like="prediction").notna().all(axis=1)
        pd.testing.assert_frame_equal(
            found[own].filter(regex="prediction|probability")[rows],
            expected.filter(regex="prediction|probability")[rows],
        )
    assert found.n_support[found.site == "000"].unique() == [3]
    assert found.n_support[found.site == "003"].unique() == [0]


def test_a_task_that_is_known_is_adapted_anew_and_stays_the_only_one(runs, tmp_path):
    frame = table("closed", labelled=7)
    twice = runs["closed"].knowing(frame).knowing(frame[frame.site == "001"].head(2))
    again = load(twice.save(tmp_path / "model"))
    assert again.n_support == {**dict.fromkeys(frame.site, 7), "001": 2}
    pd.testing.assert_frame_equal(
        again.predict_frame(frame.drop(columns="y")), twice.predict_frame(frame.drop(columns="y"))
    )


def test_what_cannot_know_tasks_says_so(runs, tmp_path):
    frame = table()
    with pytest.raises(UsageError, match="is adapted: only a run adapts to further tasks"):
        runs["numbers"].adapt_frame(frame).knowing(frame)
    with pytest.raises(UsageError, match="classes of their own are explained by their rows only"):
        runs["own classes"].knowing(table("own classes"))
