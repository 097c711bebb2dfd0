"""Reading: what a column is for decides what its text means, from files and frames of any program."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from innerloop.errors import DataError, UsageError
from innerloop.tasks.recognise import open_tasks
from innerloop.tasks.splits import read_split
from innerloop.tasks.tables import dates
from innerloop.tasks.tables.deciding import Reading
from innerloop.tasks.tables.reading import as_frame, read_table
from innerloop.tasks.tables.schema import Schema
from toolkit.tables import visits


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    "words", [("none", "mild", "NA"), ("1.1", "1.10", "1.2"), ("01", "1", "10"), ("1e999", "2e999", "x")]
)
def test_names_ids_and_classes_stay_as_they_are_written(
    tmp_path: Path, words: tuple[str, ...], quote: str
) -> None:
    cells = [f"{quote}{word}{quote}" for word in words]
    path = write(tmp_path, "a,b,x\n" + "".join(f"{cell},{cell},1.5\n" for cell in cells))
    for options in (
        {"task": "a", "target": "b", "kind": "classification"},
        {"task": "a", "target": "x", "categorical": "b"},
        {"task": "x", "target": "x", "split_by": "a", "support": "block:b"},
        {"n_way": 2, "target": "a", "categorical": ["b"]},
    ):
        frame = read_table(path, reading=Reading.of(options))
        assert frame.b.tolist() == list(words), options
        assert frame.a.tolist() == list(words), options
    schema = Schema.fit(frame, task=None, target="a", kind="classification", ignore=["b"])
    assert sorted(schema.classes) == sorted(words)


def test_a_gap_is_one_in_numbers_dates_and_truth_values_and_where_it_is_declared(tmp_path: Path) -> None:
    text = "id,dose,day,flag,city,mark\nNA,NA,NA,NA,NA,-\nb,1.5,2024-03-01,true,Ulm,2\n-,null,2024-03-02,false,-,3\n"
    frame = read_table(write(tmp_path, text), reading=Reading(ids=("id",), missing=("-",)))
    assert frame.id.tolist() == ["NA", "b", "-"]
    assert frame.isna().sum().to_dict() == {"id": 0, "dose": 2, "day": 1, "flag": 1, "city": 1, "mark": 1}
    notes = " ".join(frame.attrs["notes"])
    assert "1 'NA' in 'dose', 1 'null' in 'dose', 1 'NA' in 'day'" in notes
    assert "1 'NA' in 'city'; if they stand for gaps, say so (--missing NA)" in notes


def test_an_undeclared_target_of_two_values_is_classes_as_written(tmp_path: Path) -> None:
    rows = "".join(f"{who},{day},0{1 + day % 2}\n" for who in "abcdef" for day in range(6))
    path = write(tmp_path, "t,x,y\n" + rows)
    assert open_tasks(path, task="t", target="y").schema.classes == ("01", "02")


@pytest.mark.parametrize("mark", [".", "?", "-", "<0.5"])
def test_more_marks_than_numbers_are_no_classes(tmp_path: Path, mark: str) -> None:
    rows = [f"{n // 10},{mark if n % 10 < 6 else n * 1.07:}" for n in range(80)]
    path = write(tmp_path, "t,y\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"line 2: .* is not a number"):
        open_tasks(path, task="t", target="y")
    frame = read_table(path, reading=Reading.of({"task": "t", "target": "y", "missing": [mark]}))
    assert frame.y.isna().sum() == 48
    assert frame.y.dropna().tolist() == [n * 1.07 for n in range(80) if n % 10 >= 6]


def test_pressures_and_numbers_as_text_are_no_names() -> None:
    frame = visits().assign(bp=[f"{100 + n}/{60 + n % 7}" for n in range(48)])
    with pytest.raises(DataError, match=r"'100/60' in column 'bp' is not a number, as it is two numbers"):
        open_tasks(frame, task="site", target="risk")
    with pytest.raises(DataError, match=r"48 different numbers"):
        open_tasks(visits().assign(risk=lambda f: f.risk.astype(str)), task="site", target="risk")


@pytest.mark.parametrize(
    ("texts", "iso"),
    [
        (["2024/03/31", "2024/12/01"], ["2024-03-31", "2024-12-01"]),
        (["31-Mar-2024", "1-Dec-2024"], ["2024-03-31", "2024-12-01"]),
        (["Mar 31 2024", "Dec 1 2024"], ["2024-03-31", "2024-12-01"]),
        (["March 31, 2024", "December 1, 2024"], ["2024-03-31", "2024-12-01"]),
        (["31-03-2024", "01-12-2024"], ["2024-03-31", "2024-12-01"]),
        (["2024-3-31", "2024-12-1"], ["2024-03-31", "2024-12-01"]),
        (["2024-03", "2024-12"], ["2024-03-01", "2024-12-01"]),
        (["12/25/24", "01/31/24"], ["2024-12-25", "2024-01-31"]),
        (["31.03.24", "1.12.24"], ["2024-03-31", "2024-12-01"]),
    ],
)
def test_dates_that_can_be_read_in_one_way(texts: list[str], iso: list[str]) -> None:
    formats = dates.formats_of(texts)
    assert not any(dates.ambiguous(text, formats) for text in texts)
    expected = (pd.to_datetime(iso) - pd.Timestamp(0)).days.tolist()
    assert [dates.days(text, formats) for text in texts] == expected


def test_times_of_day_are_parts_of_a_day_and_unclear_dates_are_refused() -> None:
    formats = dates.formats_of(["07:30", "19:30"])
    first, second = (dates.days(text, formats) for text in ("07:30", "19:30"))
    assert second - first == 0.5
    frame = visits().assign(day=[f"{1 + n % 12:02d}-{1 + n % 11:02d}-24" for n in range(48)])
    with pytest.raises(DataError, match=r"say which \(--date-format %d-%m-%y or --date-format %m-%d-%y\)"):
        open_tasks(frame, task="site", target="risk")


def test_split_files_name_ids_as_they_are_written(tmp_path: Path) -> None:
    path = write(tmp_path, "task,split\n007,train\nNA,valid\n1.10,test\n")
    assert read_split(path) == {"train": ["007"], "valid": ["NA"], "test": ["1.10"]}


def test_unknown_names_are_not_taken_for_numbers_that_are_equal(tmp_path: Path) -> None:
    schema = Schema.fit(
        visits().assign(code=["1", "7"] * 24), task="site", target="risk", categorical=["code"]
    )
    new = pd.DataFrame({"code": ["007", "7", "7.0", "1.00"], "dose": 0.0, "site": "s"})
    codes = [column.name for column in schema.columns].index("code")
    assert schema.encode(new)[:, codes : codes + 2].tolist() == [[0, 0], [0, 1], [0, 1], [0, 0]]


def test_a_schema_from_before_reads_as_before(tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": list("ab") * 3, "code": [7, 8, 7, 8, 7, 8], "y": ["u", "v"] * 3})
    config = Schema.fit(frame, task="t", target="y", categorical=["code"]).to_config()
    for name in ("missing", "encoding", "as_written"):
        del config[name]
    schema = Schema.from_config(json.loads(json.dumps(config)))
    path = write(tmp_path, "t,code,y\nNA,007,none\nb,8,v\n")
    new = read_table(path, reading=schema.reading)
    assert schema.encode(new).tolist() == [[1, 0], [0, 1]]
    assert new.t.tolist() == ["NA", "b"]
    assert schema.labelled(new).tolist() == [False, True]


def test_encodings(tmp_path: Path) -> None:
    text = "ort;dosis\nKöln;1.188,03\nFürth;-2,5\nŽatec €;2.000\n"
    reading = Reading(ids=("ort",), decimal=",", encoding="cp1252")
    for data, how in (
        (text.encode("cp1252"), reading),
        (text.encode("utf-16"), Reading(ids=("ort",), decimal=",")),
        (text.encode(), reading),
    ):
        frame = read_table(write(tmp_path, data), reading=how)
        assert frame.to_numpy().tolist() == [["Köln", 1188.03], ["Fürth", -2.5], ["Žatec €", 2000.0]]
    with pytest.raises(UsageError, match="unknown"):
        read_table(write(tmp_path, text.encode("cp1252")), reading=Reading(encoding="klingon"))
    with pytest.raises(DataError, match=r"has a point"):
        read_table(write(tmp_path, "t;x\na;1,5\nb;2.5\nc;3.5\n"), reading=Reading(decimal=","))


def test_a_frame_of_any_program_gives_the_same_tasks(tmp_path: Path) -> None:
    import polars
    import pyarrow

    frame = visits()
    expected = open_tasks(frame, task="site", target="risk")
    frame.to_feather(tmp_path / "a.feather")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True, double_precision=15)
    frame.to_stata(tmp_path / "a.dta", write_index=False)
    forms = [
        *(tmp_path / f"a.{suffix}" for suffix in ("feather", "jsonl", "dta")),
        frame.set_index("site"),
        frame.convert_dtypes(dtype_backend="pyarrow"),
        polars.from_pandas(frame),
        pyarrow.Table.from_pandas(frame.astype({"site": "category"})),
    ]
    for form in forms:
        tasks = open_tasks(form, task="site", target="risk")
        assert tasks.splits == expected.splits
        np.testing.assert_allclose(tasks.train.x, expected.train.x, rtol=1e-5, atol=1e-6)
    numbered = frame.set_axis([0, 1, 2], axis=1)
    assert open_tasks(numbered, task=0, target=2).splits == expected.splits


def test_gaps_in_dictionaries_of_arrow_are_gaps() -> None:
    import pyarrow

    stored = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 2]), pyarrow.array(["a", None, "b"]))
    table = pyarrow.table({"t": stored, "x": [1, 2, 3]})
    for frame in (as_frame(table), as_frame(table.to_pandas(types_mapper=pd.ArrowDtype))):
        assert frame["t"].isna().tolist() == [False, True, False]


def test_spreadsheets_and_files_of_spss(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["id", "code", "dose", "day"])
    book.active.append(["007", "1.10", 1.5, pd.Timestamp("2024-03-01").to_pydatetime()])
    book.active.append(["NA", "1.1", "NA", None])
    book.create_sheet("notes").append(["text"])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(UsageError, match=r"the sheets 'Sheet', 'notes': say which"):
        read_table(tmp_path / "a.xlsx")
    frame = read_table(
        tmp_path / "a.xlsx", reading=Reading(ids=("id",), names=("code",), sheet="Sheet", decimal=",")
    )
    assert frame.id.tolist() == ["007", "NA"]
    assert frame.code.tolist() == ["1.10", "1.1"]
    assert frame.dose.tolist()[0] == 1.5
    assert frame.isna().sum().tolist() == [0, 0, 1, 1]
    pyreadstat = pytest.importorskip("pyreadstat")
    numbers = pd.DataFrame({"who": ["a", "b", "c"], "sex": [1.0, 2.0, 1.0], "scale": [1.0, 3.0, 5.0]})
    labels = {"sex": {1: "m", 2: "f"}, "scale": {1: "never", 5: "always"}}
    pyreadstat.write_sav(numbers, str(tmp_path / "a.sav"), variable_value_labels=labels)
    spss = read_table(tmp_path / "a.sav")
    assert spss.sex.tolist() == ["m", "f", "m"]
    assert spss.scale.tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.sas7bdat", b"x", "PROC EXPORT"),
        ("a.csv", b"$FL2@(#) SPSS", "ends with .sav"),
        ("a.csv", b"SQLite format 3\0", "is a database"),
        ("a.dta", b"nothing", "cannot be read as Stata"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2\n', "line 2: is no JSON"),
        ("a.jsonl", b"[1]\n", "line 1: is no object"),
        ("a.csv", b"# by hand\na,b\n1,2\n", "is a comment"),
    ],
)
def test_what_cannot_be_read_says_how_to_go_on(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    with pytest.raises((DataError, UsageError), match=words):
        read_table(write(tmp_path, data, name))


def test_memory_that_may_not_be_written_to_gives_no_warning() -> None:
    from innerloop.tasks.episodes import as_tensors

    values = np.arange(4.0)
    values.flags.writeable = False
    assert as_tensors(values).tolist() == [0, 1, 2, 3]  # warnings are errors here


def test_limits_without_any_number_are_names(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"p{n // 4},{n},{'>= 50' if n % 3 else '< 50'}" for n in range(40)]
    path.write_text("\n".join(["person,x,creatinine", *rows]))
    tasks = open_tasks(path, task="person", target="x")
    assert "creatinine" in str(tasks.schema.columns)
    assert tasks.n_features == 2  # one a name
