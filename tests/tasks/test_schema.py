"""What columns mean: against hand-made expectations, and on frames that nobody would make by hand."""

import csv
import io
import json
import math
import os
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings

from innerloop.errors import DataError, InnerloopError, ModelFileError, UsageError
from innerloop.tasks.tables.cells import sorted_labels, task_ids
from innerloop.tasks.tables.deciding import Reading
from innerloop.tasks.tables.reading import as_frame, read_table
from innerloop.tasks.tables.schema import Schema
from innerloop.tasks.tables.shape import Shape
from innerloop.tasks.tables.targets import target_kind


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# reading


def test_ids_keep_their_spelling_and_the_index_is_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "id,x,y\n007,1,2.5\n\nNA,2,3.5\n1e3,,4.5\n")
    frame = read_table(path, task="id")
    assert frame.id.tolist() == ["007", "NA", "1e3"]
    assert frame.index.tolist() == [2, 4, 5]
    assert frame.x.isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\r\n1,2\r\n3,4\r\n",
        "a,b\r1,2\r3,4\r",
        "a,b\n1,2\n3,4",
        "\ufeffa,b\n1,2\n3,4\n",
        "a;b\n1;2\n3;4\n",
        "a\tb\n1\t2\n3\t4\n",
        '"a","b"\n"1","2"\n3,4\n\n  \n',
        "\n\na,b\n1,2\n\n3,4\n",
        "a,b\n1,2\n3,4\n".encode("utf-16"),
        ",a,b\n1,1,2\n2,3,4\n",
    ],
)
def test_the_same_table_in_many_spellings(tmp_path: Path, text: str | bytes) -> None:
    frame = read_table(write(tmp_path, text))
    assert frame.columns.tolist() == ["a", "b"]
    assert frame.to_numpy().tolist() == [[1, 2], [3, 4]]
    plain = isinstance(text, str) and not (";" in text or "\t" in text or text.startswith(","))
    assert bool(frame.attrs["notes"]) != plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        (" \n\n", ["empty"]),
        ("a,b\n", ["no row"]),
        ("a\n1\n2\n", ["one column", "'a'"]),
        ("a,b,a\n1,2,3\n", ["'a'", "rename"]),
        (",a,b\n7,1,2\n7,3,4\n", ["column 1", "index=False"]),
        ("a,b\n1,2\n3,4,5\n", ["line 3", "3 values", "2 columns"]),
        ("a,b\n1,2\n\n3\n", ["line 4", "1 values"]),
        ('a,b\n1,"2\n3,4\n', ["line 2", "quotation"]),
        ('a,b\n1,"2\n3"\n5,6,7\n', ["line 4", "3 values"]),
        ("a,b\n1,caf\xe9\n".encode("latin-1"), ["line 2", "0xe9", "'café'", "--encoding cp1252"]),
        ("a,b\n1,2\n".encode("utf-16-le"), ["UTF-16", "--encoding utf-16-le"]),
        (b"a,b\n1,2\n\x00,3\n", ["line 3", "NUL"]),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_its_place(
    tmp_path: Path, text: str | bytes, words: list[str]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert all(word in str(caught.value) for word in [*words, "table.csv"]), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n1\n2\n", ["one column", "'a'"]),
        ("a,b\n1,2\n3,4,5\n", ["line 3", "3 values", "2 columns"]),
        ("a;b\n1;2\n3;4;5\n", ["line 3", "3 values", "2 columns"]),
        (" \t\na;b,c;d\n1;2;3\n4;5\n", ["line 4", "2 values", "3 columns"]),
        ('"a,b,c";d;e\n1;2\n', ["line 2", "2 values", "3 columns"]),
    ],
)
def test_a_separator_is_found_in_rows_of_unequal_length_on_every_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str]
) -> None:
    plain = csv.reader

    def as_in_python_3_13(rows: io.StringIO, *, delimiter: str = ",", **rest: bool) -> object:
        if delimiter in "\r\n":
            raise ValueError("bad delimiter value")
        return plain(rows, delimiter=delimiter, **rest)

    monkeypatch.setattr(csv, "reader", as_in_python_3_13)
    test_a_file_that_is_no_table_is_refused_with_its_place(tmp_path, text, words)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a,b\n1,2\n", "schools.csv")
    with pytest.raises(DataError, match=r"did you mean 'schools\.csv'"):
        read_table(tmp_path / "shcools.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no table"):
        read_table(tmp_path / "empty")
    with pytest.raises(UsageError, match="downloaded"):
        read_table("https://example.org/a.csv")


def test_flags_keep_their_spelling(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "t,r,p\na,TRUE,True\nb,FALSE,False\nc,,\n"))
    assert frame.r.dropna().tolist() == ["TRUE", "FALSE"]
    assert frame.p.dropna().tolist() == [True, False]


def test_other_frames_give_the_same() -> None:
    import polars
    import pyarrow

    values = {"t": ["a", "b", None], "n": [1, None, 3], "f": [0.5, 1.5, 2.5], "b": [True, False, None]}
    expected = as_frame(pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in values.items()}))
    for frame in (as_frame(polars.DataFrame(values)), as_frame(pyarrow.table(values))):
        assert frame.columns.tolist() == list(values)
        for name in values:
            assert frame[name].isna().tolist() == expected[name].isna().tolist()
            assert frame[name].dropna().tolist() == expected[name].dropna().tolist()
    with pytest.raises(DataError, match="not list"):
        as_frame([1, 2])


# meaning


MIXED = pd.DataFrame(
    {
        "site": list("aabbcc"),
        "size": [1.0, 2.0, 3.0, 4.0, 5.0, 9.0],
        "gap": [1.0, np.nan, 3.0, np.nan, 5.0, 3.0],
        "same": [7] * 6,
        "flag": [True, False, False, True, True, True],
        "colour": ["red", "blue", "red", None, "", "green"],
        "risk": [0.5, 1.5, 2.5, 4.0, 8.0, 9.5],
    }
)


def fitted() -> Schema:
    return Schema.fit(MIXED, task="site", target="risk")


def test_every_kind_of_column_by_hand() -> None:
    schema = fitted()
    assert [(c.name, c.kind, c.missing) for c in schema.columns] == [
        ("size", "number", False),
        ("gap", "number", True),
        ("same", "number", False),
        ("flag", "flag", False),
        ("colour", "category", False),
    ]
    mean = sum(MIXED["size"]) / 6
    scale = math.sqrt(sum((v - mean) ** 2 for v in MIXED["size"]) / 6)
    gap_scale = math.sqrt(((1 - 3) ** 2 + 0 + (5 - 3) ** 2 + 0) / 4)
    expected = []
    for row in MIXED.to_dict("records"):
        missing = math.isnan(row["gap"])
        expected.append(
            [
                (row["size"] - mean) / scale,
                0.0 if missing else (row["gap"] - 3) / gap_scale,
                float(missing),
                0.0,
                float(row["flag"]),
                *(float(row["colour"] == level) for level in ("blue", "green", "red")),
            ]
        )
    np.testing.assert_allclose(schema.encode(MIXED), expected, atol=1e-6)
    assert schema.encode(MIXED).dtype == np.float32
    assert schema.n_features == 8


def test_a_schema_survives_json_and_other_frames() -> None:
    schema = fitted()
    again = Schema.from_config(json.loads(json.dumps(schema.to_config())))
    assert again == schema
    shuffled = MIXED[["risk", "colour", "flag", "same", "gap", "size"]].assign(more=1)
    np.testing.assert_array_equal(again.encode(shuffled), schema.encode(MIXED))
    with pytest.raises(ModelFileError):
        Schema.from_config({"columns": []})


def test_unseen_levels_and_gaps_at_prediction() -> None:
    frame = pd.DataFrame(
        {"size": [np.nan], "gap": [3.0], "same": [7], "flag": ["TRUE"], "colour": ["violet"]}
    )
    schema = fitted()
    np.testing.assert_allclose(schema.encode(frame), [[0, 0, 0, 0, 1, 0, 0, 0]], atol=1e-7)
    assert schema.gaps(frame) == {"size": 1}
    assert not schema.labelled(frame).any()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["1", "2", "3", "tall", "5", "6"], ["'tall'", "'x'", "row 3", "task 'b'", "categorical"]),
        ([1.0, 2.0, math.inf, 4.0, 5.0, 6.0], ["inf", "'x'", "row 2", "task 'b'"]),
        (["1,5", "2,5", "3,0", "4,5", "5,5", "6,5"], ["'1,5'", "decimal comma"]),
        (pd.timedelta_range("1D", periods=6), ["dates or times", "'x'"]),
        ([[1], [2], [3], [4], [5], [6]], ["lists", "'x'"]),
        ([1j] * 6, ["complex", "'x'"]),
        ([b"a"] * 6, ["bytes", "'x'"]),
        ([(1, 2)] * 6, ["tuple", "'x'"]),
    ],
)
def test_bad_columns_are_named(column: object, words: list[str]) -> None:
    frame = pd.DataFrame({"site": list("aabbcc"), "x": column, "y": [1.0, 2, 3, 4, 5, 6]})
    with pytest.raises(DataError) as caught:
        Schema.fit(frame, task="site", target="y")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_bad_cells_at_prediction_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "site,size,gap,same,flag,colour\nq,1,1,7,True,red\nq,big,1,7,True,red\n")
    with pytest.raises(DataError, match=r"task 'q', line 3: 'big' in column 'size'"):
        fitted().encode(read_table(path, task="site"))
    with pytest.raises(DataError, match=r"no column 'size' in the table \(did you mean 'Size'\?\)"):
        fitted().encode(MIXED.rename(columns={"size": "Size"}))
    with pytest.raises(DataError, match="'maybe' in column 'flag' is not True or False"):
        fitted().encode(MIXED.assign(flag="maybe"))
    with pytest.raises(DataError, match="too far"):
        fitted().encode(MIXED.assign(size=1e300))


def test_a_column_of_too_many_texts_is_refused_unless_named() -> None:
    frame = pd.DataFrame({"t": 0, "note": [f"note {i}" for i in range(150)], "y": np.arange(150.0)})
    with pytest.raises(DataError, match=r"150 different values.*ignore"):
        Schema.fit(frame, task="t", target="y")
    assert Schema.fit(frame, task="t", target="y", categorical=["note"]).n_features == 150


def test_numbers_can_be_names() -> None:
    frame = pd.DataFrame({"t": 0, "code": [10, 9, 10], "y": [1.0, 2.0, 3.0]})
    schema = Schema.fit(frame, task="t", target="y", categorical=["code"])
    assert schema.columns[0].levels == ("9", "10")
    assert schema.encode(pd.DataFrame({"code": [9.0, 10.0, 8.0]})).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_choice_of_columns() -> None:
    def names(**choice: object) -> list[str]:
        return [c.name for c in Schema.fit(MIXED, task="site", target="risk", **choice).columns]

    assert names(features=["gap", "size"]) == ["gap", "size"]
    assert names(ignore=["gap", "colour"]) == ["size", "same", "flag"]
    with pytest.raises(DataError, match="no feature column"):
        names(ignore=["size", "gap", "same", "flag", "colour"])
    with pytest.raises(UsageError, match="no feature"):
        names(features=["risk"])
    with pytest.raises(DataError, match=r"'colur'.*did you mean 'colour'"):
        names(ignore=["colur"])


# targets


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([1.0, 2.0, 3.5], "regression", None),
        ([1, 2, 1], "classification", ("1", "2")),
        ([0.0, 1.0, None], "classification", ("0.0", "1.0")),
        ([True, False, True], "classification", ("False", "True")),
        (["b", "a", "c"], "classification", ("a", "b", "c")),
        (["10", "9", "11"], "classification", ("9", "10", "11")),
    ],
)
def test_target_kinds(values: list[object], kind: str, classes: tuple[str, ...] | None) -> None:
    frame = pd.DataFrame({"y": values})
    assert target_kind(frame, "y") == kind
    if classes:
        assert sorted_labels(frame["y"]) == classes
    assert target_kind(frame, "y", "regression") == "regression"


def test_regression_targets_are_standardised_and_come_back() -> None:
    schema = fitted()
    y = schema.encode_target(MIXED)
    assert y.shape == (6, 1)
    assert y.dtype == np.float32
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-6)
    assert schema.targets.variance == (1.0,)
    assert schema.targets.scale == pytest.approx((np.std(MIXED.risk),))
    np.testing.assert_allclose(schema.decode(torch.from_numpy(y))["prediction"], MIXED.risk, rtol=1e-6)


def test_class_labels_come_back_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x,y\na,1,3\na,2,1\na,3,2\na,4,\n")
    frame = read_table(path, task="t")
    schema = Schema.fit(frame, task="t", target="y", kind="classification")
    known = frame[schema.labelled(frame)]
    numbers = schema.encode_target(known)
    assert numbers.dtype == np.int64
    columns = schema.decode(torch.nn.functional.one_hot(torch.from_numpy(numbers), 3).float() * 5)
    assert list(columns) == ["prediction", "probability_1", "probability_2", "probability_3"]
    assert pd.DataFrame({"y": columns["prediction"]}).to_csv(index=False) == "y\n3\n1\n2\n"
    total = columns["probability_1"] + columns["probability_2"] + columns["probability_3"]
    np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(columns["probability_3"][0], math.exp(5) / (math.exp(5) + 2))


def test_whole_classes_that_became_floats_are_recognised() -> None:
    schema = Schema.fit(pd.DataFrame({"x": [1, 2, 3], "y": [1, 2, 2]}), task=None, target="y")
    assert schema.encode_target(pd.DataFrame({"y": [2.0, 1.0]})).tolist() == [1, 0]


def test_targets_that_cannot_be_used() -> None:
    frame = pd.DataFrame({"t": list("ab"), "x": [1.0, 2.0], "y": [3.0, 3.0]})
    with pytest.raises(DataError, match="nothing to learn"):
        Schema.fit(frame, task="t", target="y", kind="regression")
    with pytest.raises(DataError, match="one class"):
        Schema.fit(frame, task="t", target="y", kind="classification")
    schema = Schema.fit(frame.assign(y=["p", "q"]), task="t", target="y")
    with pytest.raises(DataError, match=r"task 'b', row 1: class 'r' of target 'y' is none of 'p', 'q'"):
        schema.encode_target(frame.assign(y=["p", "r"]))
    with pytest.raises(DataError, match="no value in target"):
        schema.encode_target(frame.assign(y=["p", None]))
    with pytest.raises(DataError, match="'n/k' in column 'y' is not a number"):
        target_kind(pd.DataFrame({"y": ["1.5", "2.5", "n/k"]}), "y")
    with pytest.raises(UsageError, match="kind"):
        target_kind(frame, "y", "ranking")
    with pytest.raises(DataError, match="shape"):
        schema.decode(np.zeros((3, 1)))


def test_ids_of_rows() -> None:
    assert task_ids(pd.DataFrame({"t": [1.0, 2.5]}), "t").tolist() == ["1", "2.5"]
    assert task_ids(pd.DataFrame({"t": [1, 20]}), "t").tolist() == ["1", "20"]
    with pytest.raises(DataError, match="row 1: no task id"):
        task_ids(pd.DataFrame({"t": ["a", None, " "]}), "t")


# anything

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["1", "2.5", "1,5", "true", "FALSE", "", " ", "nan", "inf", "1_0"]),
    st.dates(),
    st.decimals(allow_nan=False),
    st.binary(max_size=2),
    st.lists(st.integers(), max_size=1),
    st.complex_numbers(),
)


def columns_of(rows: int) -> st.SearchStrategy[list[object]]:
    one_kind = st.sampled_from(
        [
            st.floats(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.one_of(st.none(), st.booleans()),
            st.text(max_size=4),
            st.one_of(st.none(), st.text("ab", min_size=1, max_size=2)),
            st.one_of(st.none(), st.integers(-5, 5)),
            st.floats(1e-320, 1e-300),
            st.floats(1e299, 1e308),
            CELLS,
        ]
    )
    return one_kind.flatmap(lambda cells: st.lists(cells, min_size=rows, max_size=rows))


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.integers(1, 8))
    names = draw(st.lists(st.text(max_size=4), min_size=1, max_size=4, unique=True))
    plain = [name for name in names if name not in ("task", "target")]
    data = {name: draw(columns_of(rows)) for name in [*plain, "task", "target"]}
    return pd.DataFrame({name: pd.Series(values) for name, values in data.items()})


@settings(max_examples=300)
@given(frames())
def test_any_frame_becomes_finite_numbers_or_one_message(frame: pd.DataFrame) -> None:
    before = frame.copy(deep=True)
    try:
        schema = Schema.fit(frame, task="task", target="target")
        x = schema.encode(frame)
        kept = frame[schema.labelled(frame)]
        y = schema.encode_target(kept)
        task_ids(frame, "task")
    except InnerloopError as error:
        assert len(str(error)) > 20  # noqa: PT017, both outcomes are right
    else:
        assert x.shape == (len(frame), schema.n_features)
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert np.isfinite(y).all()
        assert Schema.from_config(json.loads(json.dumps(schema.to_config(), allow_nan=False))) == schema
        if schema.kind == "classification":
            logits = np.eye(schema.n_outputs)[y]
            decoded = schema.decode(logits)["prediction"].tolist()
            # zero and minus zero are one value
            texts = [str(v).replace("-0.0", "0.0") for v in kept["target"]]
            assert texts == [text.replace("-0.0", "0.0") for text in decoded]
    pd.testing.assert_frame_equal(frame, before)


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_table_or_one_message(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), data, "any.csv")
    try:
        frame = read_table(path)
    except InnerloopError as error:
        assert "any.csv" in str(error)  # noqa: PT017, both outcomes are right
    else:
        assert len(frame) >= 1


@settings(max_examples=150)
@example([["", ""], ["1 1,", ""]])
@given(
    st.lists(st.lists(st.text('ab,;"\n\r 1.', max_size=5), min_size=2, max_size=2), min_size=1, max_size=5)
)
def test_tables_written_by_the_csv_module_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["first", "second"], *rows])
    path = write(tmp_path_factory.getbasetemp(), text.getvalue(), "written.csv")
    # a last row of one value may be a footer, unless there is said to be none
    frame = read_table(path, reading=Reading(ids=("first",), shape=Shape(skip_footer=0)))
    assert ["" if pd.isna(v) else v for v in frame["first"]] == [row[0] for row in rows]


def test_an_error_of_the_system_is_an_error_of_the_table(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_table(path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="not a regular file"):
        read_table(tmp_path / "pipe.csv")
