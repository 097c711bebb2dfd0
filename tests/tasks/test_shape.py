"""What stands around the rows of a file: read where one reading is possible, or refused with place and way out."""

from pathlib import Path

import pandas as pd
import pytest

import innerloop as il
from innerloop.cli import run as command
from innerloop.errors import DataError, UsageError
from innerloop.tasks.tables.deciding import Reading
from innerloop.tasks.tables.reading import read_table

ROWS = "ann,1.5,2\nbob,2.5,3\n"


def read(folder: Path, text: str, name: str = "a.csv", **options: object) -> pd.DataFrame:
    """What is read of a file with this text."""
    path = folder / name
    path.write_text(text)
    return read_table(path, task="who", reading=Reading.of({"task": "who", **options}))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (f"Ward 7\nMay\n\nwho,dose,pain\n{ROWS}", {"skip_rows": 3}),
        (f"# of ward 7\nwho,dose,pain\n{ROWS}", {"skip_rows": 1}),
        (f"who,dose,pain\n{ROWS}Total,4,5\n", {"skip_footer": 1}),
        (f"who,dose,pain\n{ROWS}\nSource: ward 7\nseen on 1 May\n", {"skip_footer": 2}),
        (f'"a title, quoted"\nwho,dose,pain\n{ROWS}Total,,\n', {"skip_rows": 1, "skip_footer": 1}),
    ],
)
def test_lines_around_the_rows_are_left_out_with_a_note(tmp_path: Path, text: str, options: dict) -> None:
    frame = read(tmp_path, text, **options)
    assert frame.to_dict("list") == {"who": ["ann", "bob"], "dose": [1.5, 2.5], "pain": [2, 3]}
    first = text.split("\n").index("ann,1.5,2") + 1
    assert frame.index.tolist() == [first, first + 1]  # lines of the file
    assert sum("left out" in note for note in frame.attrs["notes"]) == len(options)


def test_names_in_two_lines_are_joined(tmp_path: Path) -> None:
    frame = read(tmp_path, ",blood,,pain\nwho,na,k,\nann,140,4,1\nbob,150,5,2\n", header_rows=2)
    assert frame.columns.tolist() == ["who", "blood na", "blood k", "pain"]
    assert frame["blood k"].tolist() == [4, 5]
    assert frame.index.tolist() == [3, 4]
    with pytest.raises(DataError, match=r"line 1: the 2 lines of the header have '?2'?, '?3'? names"):
        read(tmp_path, "blood,pain\nwho,na,k\nann,140,4\n", header_rows=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"Ward 7\nMay\n\nwho,dose,pain\n{ROWS}", r"'Ward 7'.*--skip-rows 3"),
        (f"# of ward 7\nwho,dose,pain\n{ROWS}", r"a comment, '# of ward 7'.*--skip-rows 1"),
        (f"Ward 7,,\nwho,dose,pain\n{ROWS}", r"a title, 'Ward 7'.*--skip-rows 1"),
        (",blood,,pain\nwho,na,k,\nann,140,4,1\n", r"column 3 has no name.*--header-rows 2"),
        (f"who,dose,pain\n{ROWS}Total,4,5\n", r"line 4: 'Total' looks like a footer.*--skip-footer 1"),
        (f"who,dose,pain\n{ROWS}Gesamt:,4,5\nQuelle: WHO,,\n", r"line 4: 'Gesamt:'.*--skip-footer 2"),
        (f"who,dose,pain\n{ROWS}\nSource: ward 7\n", r"line 5: 'Source: ward 7'.*--skip-footer 1"),
        (f"who,dose,pain\n{ROWS}cut off he", r"line 4: 'cut off he' looks like a footer.*--skip-footer 1"),
        (f"who,dose,pain\n{ROWS}cut", r"line 4: has 1 values, but the header has 3"),
        ("who,pain\nann,1,5,2\n", r"line 2: has 4 values"),
        ("who,pain\nann,1,5\nbob,2,5\n", r"line 2: has 3 values, but the header has 2"),
    ],
)
def test_what_can_be_read_in_two_ways_names_place_and_way_out(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_task_called_total_can_be_kept(tmp_path: Path) -> None:
    text = f"who,dose,pain\n{ROWS}Total,4,5\n"
    assert read(tmp_path, text, skip_footer=0).who.tolist() == ["ann", "bob", "Total"]
    # one that is there before is no footer
    assert len(read(tmp_path, f"who,dose,pain\nTotal,1,2\n{ROWS}Total,4,5\n")) == 4


@pytest.mark.parametrize(
    "text",
    [
        "who   dose pain\nann   1.5  2\nbob   2.5  3\n",
        "  who dose pain\n  ann  1.5    2\n  bob  2.5    3",
        '"who" "dose" "pain"\n"1" "ann" 1.5 2\n"2" "bob" 2.5 3\n',  # write.table
        '"who" "dose" "pain"\n"x y" "ann" 1.5 2\n"z" "bob" 2.5 3\n',
        "who dose pain\n1 ann 1.5 2\n2 bob 2.5 3\n",  # write.table(quote = FALSE)
        "who,dose,pain\n1,ann,1.5,2\n2,bob,2.5,3\n",
        '"who"\t"dose"\t"pain"\n"1"\t"ann"\t1.5\t2\n"2"\t"bob"\t2.5\t3\n',
    ],
)
def test_blanks_and_the_header_of_r_are_understood(tmp_path: Path, text: str) -> None:
    frame = read(tmp_path, text, "a.txt")
    assert frame.to_dict("list") == {"who": ["ann", "bob"], "dose": [1.5, 2.5], "pain": [2, 3]}
    if text.startswith(("who  ", "  who")):
        assert "a.txt is separated by blanks" in frame.attrs["notes"]
    else:
        assert any("names of rows and were left out" in note for note in frame.attrs["notes"])


def test_pandas_reads_the_same_of_blanks(tmp_path: Path) -> None:
    text = 'who dose city\nann 1.5 "New  York"\n\nbob  -2.5e3 NA\n'
    frame = read(tmp_path, text, "a.txt", categorical=["city"])
    (tmp_path / "b.txt").write_text(text)
    other = pd.read_csv(tmp_path / "b.txt", sep=r"\s+", keep_default_na=False)
    assert frame.to_dict("list") == other.to_dict("list")


def test_a_time_of_day_is_not_taken_for_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has one column"):
        read(tmp_path, "seen dose\n2024-01-01 10:00 5\n2024-01-02 11:00 6\n", "a.txt")


def test_a_spreadsheet_has_the_same_shapes(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    cells = [
        ["Ward 7", None, None, None], [None, "blood", None, "pain"], ["who", "na", "k", None],
        ["ann", 140, 4, 1], ["bob", 150, 5, 2], ["Total", 290, 9, 3],
    ]  # fmt: skip
    path = tmp_path / "a.xlsx"
    pd.DataFrame(cells).to_excel(path, header=False, index=False)
    options = {"task": "who", "skip_rows": 1, "header_rows": 2}
    with pytest.raises(DataError, match=r"row 6: 'Total' looks like a footer.*--skip-footer 1"):
        read_table(path, reading=Reading.of(options))
    frame = read_table(path, reading=Reading.of({**options, "skip_footer": 1}))
    assert frame.to_dict("list") == {
        "who": ["ann", "bob"], "blood na": [140, 150], "blood k": [4, 5], "pain": [1, 2],
    }  # fmt: skip
    assert frame.index.tolist() == [4, 5]
    with pytest.raises(DataError, match=r"column 2 has no name.*--skip-rows 1.*--header-rows 2"):
        read_table(path, reading=Reading.of({"task": "who"}))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"skip_rows": -1}, UsageError, "skip_rows=-1: give 0 or more"),
        ({"header_rows": 0}, UsageError, "header_rows=0: give 1 or more"),
        ({"skip_footer": -2}, UsageError, "skip_footer=-2: give 0 or more"),
        ({"skip_rows": 9}, DataError, "too few for a header and a row"),
        ({"skip_footer": 2}, DataError, "too few for a header and a row"),
    ],
)
def test_senseless_numbers_of_lines_are_refused(
    tmp_path: Path, options: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, f"who,dose,pain\n{ROWS}", **options)


def test_a_file_without_lines_takes_no_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"who": "a", "dose": 1}\n')
    with pytest.raises(UsageError, match="has no header lines"):
        read_table(path, reading=Reading.of({"task": "who", "skip_rows": 1}))


def test_a_model_reads_new_files_as_that_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train, predict: the shape is stored, and what is left out is said."""
    lines = [f"{task},{row},{task + row / 9}" for task in range(12) for row in range(6)]
    head = "Ward 7\n,dose,pain\nwho,mg,"
    (tmp_path / "a.csv").write_text("\n".join([head, *lines, "Total,1,2"]))
    options = [
        "--task",
        "who",
        "--target",
        "pain",
        "--skip-rows",
        "1",
        "--header-rows",
        "2",
        "--skip-footer",
        "1",
    ]
    out = ["--algorithm", "mixed", "--out", str(tmp_path / "run")]
    assert command(["train", str(tmp_path / "a.csv"), *options, *out]) == 0
    schema = il.load(tmp_path / "run").schema
    assert [column.name for column in schema.columns] == ["dose mg"]
    assert schema.reading.shape == (1, 2, 1)
    (tmp_path / "new.csv").write_text("\n".join([head, "z,1,5", "z,2,", "Total,1,2"]))
    capsys.readouterr()
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("who,dose mg,pain,prediction,n_support\n")
    assert len(said.out.splitlines()) == 3
    assert "1 line below the rows was left out: 'Total,1,2'" in said.err
    (tmp_path / "new.csv").write_text("\n".join([head, "z,1,5", "z,2,", "z,3,"]))
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--skip-footer", "0"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4
    assert "below the rows" not in said.err
    adapted = ["adapt", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "adapted")]
    assert command([*adapted, "--skip-footer", "2"]) == 0
    assert "2 lines below the rows were left out: 'z,2,'" in capsys.readouterr().err
