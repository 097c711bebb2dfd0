"""Faults of rows, columns, labels and files, by number: each has one wanted outcome, and none is a traceback.

A row of the table is the number of the fault, what is wrong, the exit code of the wanted error (0: it is
used), and words that stand in the message (0: in the notes).
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from innerloop.errors import DataError, InnerloopError, UsageError
from innerloop.tasks.findings import check
from innerloop.tasks.recognise import open_tasks
from innerloop.tasks.splits import Tasks
from innerloop.tasks.support import stream
from toolkit.anything import frames
from toolkit.folders import image_folders
from toolkit.tables import visits

NAN = float("nan")


def cell(column: str, value: object, row: int = 7) -> pd.DataFrame:
    frame = visits().astype({column: object})
    frame.loc[row, column] = value
    return frame


CLASSES = {"risk": np.tile(["no", "yes", "no"], 16)}
ROWS: list[tuple[str, Callable[[], object], int, str]] = [
    ("1 gap", lambda: cell("dose", NAN), 0, "filled with the mean"),
    ("2 infinity", lambda: cell("dose", np.inf), 3, "task 's1', row 7: 'inf' in column 'dose'"),
    ("3 gap in the target", lambda: cell("risk", None), 0, "1 of 48 rows have no 'risk'"),
    ("4 empty column", lambda: visits(more=NAN), 0, ""),
    ("4 empty in a task", lambda: visits(more=[NAN] * 6 + [1.0] * 42), 0, ""),
    ("5 constant column", lambda: visits(more=3), 0, ""),
    ("6 equal names", lambda: visits().set_axis(["site", "risk", "risk"], axis=1), 3, "two columns are"),
    ("6 names that are numbers", lambda: visits().rename(columns={"dose": 1}), 0, ""),
    ("7 huge", lambda: visits(dose=np.linspace(1e299, 1e300, 48)), 0, ""),
    ("7 subnormal", lambda: visits(dose=np.linspace(1e-320, 1e-310, 48)), 0, ""),
    ("7 int64 and float16", lambda: visits(a=2**63 - 1, b=np.arange(48, dtype=np.float16)), 0, ""),
    ("8 text among numbers", lambda: cell("dose", "much"), 3, "row 7: 'much' in column 'dose'"),
    ("8 lists", lambda: visits(dose=[[1]] * 48), 3, "'dose' holds lists"),
    ("8 dates", lambda: visits(day=pd.date_range("2024-01-01", periods=48)), 0, ""),
    ("8 nullable", lambda: visits(a=pd.array([1, None] * 24, dtype="Int64")), 0, "filled"),
    ("8 flag and category", lambda: visits(a=[True, None] * 24, b=pd.Categorical(list("xyz") * 16)), 0, ""),
    ("11 odd labels", lambda: visits(risk=["\u05d0", "\U0001f600", "a" * 999] * 16), 0, "classification"),
    ("11 whole floats", lambda: visits(risk=[1.0, 2.0] * 24), 0, "classification"),
    ("13 one class in a task", lambda: visits(risk=["a"] * 6 + ["a", "b"] * 21), 0, ""),
    ("14 one row", lambda: visits()[:-5], 0, "1 tasks have fewer than two labelled rows"),
    ("14 no usable task", lambda: visits(site=np.arange(48)), 3, "0 task(s)"),
    ("16 constant target", lambda: visits(risk=1.5), 3, "one class or none|nothing to learn"),
    ("16 outlier", lambda: cell("risk", 1e12), 0, ""),
    ("17 imbalance", lambda: visits(risk=["rare", *["common"] * 47]), 0, "classification"),
    ("19 no id", lambda: cell("site", None), 3, "row 7: no task id in column 'site' (1 such rows)"),
    ("19 mixed ids", lambda: cell("site", 1), 0, "fewer than two"),
    ("21 uneven", lambda: visits(site=list("a" * 40 + "bbccddee")), 0, ""),
    ("25 read-only", lambda: visits(dose=np.broadcast_to(np.float64(2.0), 48)), 0, ""),
    ("25 big-endian", lambda: visits(dose=np.arange(48, dtype=">f8")), 0, ""),
]  # fmt: skip


def finite(tasks: Tasks) -> None:
    for source in (tasks.train, tasks.valid, tasks.test):
        for batch in source.sample(3, stream(0)):
            assert torch.isfinite(batch.x).all()
            assert torch.isfinite(batch.y.float()).all()


@pytest.mark.parametrize(("make", "code", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_rows(make: Callable[[], pd.DataFrame], code: int, words: str) -> None:
    frame = make()
    before = frame.copy(deep=True)
    if code:
        with pytest.raises(InnerloopError) as caught:
            open_tasks(frame, task="site", target="risk")
        assert caught.value.exit_code == code
        assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)
    else:
        tasks = open_tasks(frame, task="site", target="risk")
        assert words in " ".join(tasks.notes)
        finite(tasks)
    pd.testing.assert_frame_equal(frame, before)
    # looking at it says the same
    assert check(frame, task="site", target="risk").ok == (code == 0)


def test_f9_and_f10_columns_and_categories_at_prediction() -> None:
    frame = visits(kind=list("xyz") * 16)
    schema = open_tasks(frame, task="site", target="risk").schema
    np.testing.assert_array_equal(
        schema.encode(frame[frame.columns[::-1]].assign(extra=1)), schema.encode(frame)
    )
    with pytest.raises(DataError, match=r"no column 'dose' in the table \(did you mean 'Dose'"):
        schema.encode(frame.rename(columns={"dose": "Dose"}))
    assert schema.unseen(frame.assign(kind="new")) == {"kind": 48}
    assert schema.encode(frame.assign(kind="new"))[:, 1:].sum() == 0


def test_f12_and_f15_classes_that_some_tasks_lack() -> None:
    frame = visits(risk=["a", "b"] * 21 + ["c"] * 6)
    tasks = open_tasks(frame, task="site", target="risk")
    assert tasks.n_outputs == 3
    finite(tasks)


def test_f18_and_f20_leaks_are_warned_of_or_cannot_be() -> None:
    frame = pd.concat([visits(), visits()[3:5]])
    report = check(frame, task="site", target="risk")
    assert report.ok
    assert any("equals row 3 in every column (2 such rows)" in each.message for each in report.findings)
    splits = open_tasks(frame, task="site", target="risk").splits
    assert len({name for part in splits.values() for name in part}) == sum(map(len, splits.values()))
    named = {"train": ["s0", "s1"], "valid": ["s1"], "test": ["s2"]}
    with pytest.raises(DataError, match="is in the splits"):
        open_tasks(frame, task="site", target="risk", split=named)


def test_f22_many_tasks_and_many_columns() -> None:
    began = time.perf_counter()
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 1000))).assign(site=np.arange(20) // 4)
    finite(open_tasks(wide, task="site", target="0"))
    many = visits().loc[np.arange(20_000) % 48].assign(site=np.arange(20_000) // 2)
    finite(open_tasks(many, task="site", target="risk", n_support=1))
    assert time.perf_counter() - began < 20


def test_f23_and_f24_order_and_scale_change_nothing() -> None:
    frame = visits()
    schema = open_tasks(frame, task="site", target="risk").schema
    shuffled = frame.sample(frac=1, random_state=0)[["risk", "dose", "site"]]
    again = open_tasks(shuffled, task="site", target="risk").schema
    np.testing.assert_allclose(again.encode(frame), schema.encode(frame), atol=1e-6)
    larger = frame.assign(dose=frame.dose * 1000)
    scaled = open_tasks(larger, task="site", target="risk").schema
    np.testing.assert_allclose(scaled.encode(larger), schema.encode(frame), atol=1e-6)


# files

PNG = b"\x89PNG\r\n\x1a\n"
GOOD = "".join(f"s{n // 4},{n},{n * n % 7}\n" for n in range(40))


def semicolons(more: str) -> str:
    return "site;dose;risk\n" + "".join(f"s{n // 4};{n},{more};{n % 3}\n" for n in range(20))


FILES: list[tuple[str, str, bytes | str, int, str]] = [
    ("26 empty", "a.csv", "", 3, "a.csv is empty"),
    ("26 header only", "a.csv", "site,dose,risk\n", 3, "no row"),
    ("26 one column", "a.csv", "site\na\nb\n", 3, "one column"),
    ("26 BOM and CRLF", "a.csv", ("\ufeffsite,dose,risk\n" + GOOD).replace("\n", "\r\n"), 0, ""),
    ("26 UTF-16", "a.csv", ("site,dose,risk\n" + GOOD).encode("utf-16"), 0, "UTF-16"),
    ("26 UTF-16 without a mark", "a.csv", ("site,dose,risk\n" + GOOD).encode("utf-16-le"), 3, "--encoding utf-16-le"),
    ("26 Latin-1", "a.csv", "site,dose,risk\ncaf\xe9,1,2\n".encode("latin-1"), 3, "line 2"),
    ("26 NUL", "a.csv", "site,dose,risk\na,\0,2\n", 3, "NUL"),
    ("26 no final newline", "a.csv", "site,dose,risk\n" + GOOD.rstrip(), 0, ""),
    ("26 ragged", "a.csv", "site,dose,risk\na,1,2\nb,1\n", 3, "line 3"),
    ("26 open quote", "a.csv", 'site,dose,risk\na,"1,2\n', 3, "quotation mark"),
    ("26 large cell", "a.csv", "site,dose,risk\na," + "x" * 10_000_000 + ",2\n", 3, "task(s)|not a number"),
    ("27 semicolons", "a.csv", ("site,dose,risk\n" + GOOD).replace(",", ";"), 0, "separated by semicolons"),
    ("27 decimal comma", "a.csv", semicolons("5"), 3, "decimal comma"),
    ("27 thousands", "a.csv", semicolons("000,000"), 3, "thousands marks"),
    ("29 odd name", "a b \U0001f600.csv", "site,dose,risk\n" + GOOD, 0, ""),
    ("32 cut Parquet", "a.parquet", b"PAR1cut", 3, "cannot be read as Parquet"),
    ("32 Parquet as CSV", "a.csv", b"PAR1....PAR1", 3, ".parquet"),
    ("32 broken npz", "a.npz", b"PK\3\4broken", 3, "cannot be read as npz"),
    ("34 zip", "a.zip", b"PK\3\4", 2, "unpack it yourself"),
    ("34 gz under another name", "a.csv", b"\x1f\x8b\x08\0", 2, "unpack it yourself"),
    ("34 pickle", "a.pkl", b"\x80\4.", 2, "can run code"),
    ("34 pickle under another name", "a.csv", b"\x80\4.", 2, "can run code"),
    ("34 spreadsheet", "a.xlsx", b"PK\3\4", 3, "export the sheet"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "code", "words"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
def test_files(tmp_path: Path, name: str, data: bytes | str, code: int, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    options = {} if name.endswith(".npz") else {"task": "site", "target": "risk"}
    report = check(path, **options)
    assert report.ok == (code == 0), report.findings
    if not code:
        tasks = open_tasks(path, **options)
        assert words in " ".join(tasks.notes)
        return finite(tasks)
    with pytest.raises(InnerloopError) as caught:
        open_tasks(path, **options)
    assert caught.value.exit_code == code
    assert len(str(caught.value)) < 1000
    assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)
    return None


def test_f29_to_f31_and_f35_odd_paths_end_at_once(tmp_path: Path) -> None:
    began = time.perf_counter()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "none").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").write_bytes(b"\0")
    for name in ("pipe.csv", "loop.csv", "none", "hidden", "absent.csv", "x" * 5000, "no/such/place.csv"):
        with pytest.raises(DataError):
            open_tasks(tmp_path / name, task="site", target="risk")
    with pytest.raises(DataError, match="not a regular file"):
        open_tasks("/dev/zero", task="site", target="risk")
    for name in ("https://example.org/a.csv", "s3://bucket/a.csv", "nul\0byte.csv"):
        with pytest.raises(UsageError):
            open_tasks(name, task="site", target="risk")
    assert time.perf_counter() - began < 5


def test_f31_a_folder_of_one_file_and_of_many(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"t{number}.csv").write_text("dose,risk\n1,2\n3,4\n5,6.5\n")
    began = time.perf_counter()
    assert sum(map(len, open_tasks(tmp_path, target="risk", n_support=1).splits.values())) == 300
    assert time.perf_counter() - began < 5
    for number in range(1, 300):
        os.remove(tmp_path / f"t{number}.csv")
    with pytest.raises(DataError, match=r"1 task\(s\)"):
        open_tasks(tmp_path, target="risk")


def test_f32_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}, 1], dtype=object), y=np.zeros(2), task=np.zeros(2))
    with pytest.raises(DataError, match="array of objects"):
        open_tasks(tmp_path / "a.npz")


def test_f33_damaged_pictures_are_named_or_skipped(tmp_path: Path) -> None:
    image_folders(tmp_path, [f"c{number}" for number in range(6)], count=3, size=(16, 16))
    whole = (tmp_path / "c0" / "0.png").read_bytes()
    size = (100_000).to_bytes(4, "big")
    bomb = whole[:16] + size + size + whole[24:]
    for data in (b"", b"no picture", bomb, *(whole[: len(whole) * part // 10] for part in range(1, 9))):
        (tmp_path / "c0" / "bad.png").write_bytes(data)
        with pytest.raises(DataError, match=r"bad.png.*--skip-bad"):
            open_tasks(tmp_path)
    assert [each.file for each in check(tmp_path).errors] == [str(tmp_path / "c0" / "bad.png")]
    skipped = open_tasks(tmp_path, skip_bad=True)
    assert any("1 damaged images were left out" in note for note in skipped.notes)
    (tmp_path / "c0" / "bad.png").write_bytes(whole.replace(b"PNG", b"PNG"))
    Image.new("L", (9, 9)).save(tmp_path / "c0" / "bad.png", format="PPM")
    with pytest.raises(DataError, match="is no image that can be read"):
        open_tasks(tmp_path)


# anything


def outcome(data: object, **options: object) -> None:
    """Finite tasks or one error, and `check` knows which."""
    report = check(data, **options)
    try:
        tasks = open_tasks(data, **options)
    except (DataError, UsageError) as error:
        assert len(str(error)) > 20  # noqa: PT017, both outcomes are right
        assert not report.ok
    else:
        finite(tasks)
        assert report.ok, report.errors


@settings(max_examples=120)
@given(frames(), st.sampled_from(["y", ["y", "z"]]))
def test_any_frame_is_tasks_or_one_error(frame: pd.DataFrame, target: object) -> None:
    outcome(frame, task="site", target=target)


@settings(max_examples=40)
@given(st.data())
def test_any_folder_is_tasks_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    names = st.sampled_from(
        ["a.csv", "b.csv", "c.csv", ".hidden.csv", "d.txt", "e.parquet", "x/1.png", "y/2.jpg"]
    )
    tables = st.sampled_from(
        ["x,y\n1,2\n3,4\n2,2\n", "y,x\n1,2\n3,4\n5,1\n", "x;y\n1;2\n", 'x,y\n"1",2\n', "", "x"]
    )
    for name in data.draw(st.lists(names, max_size=6, unique=True)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data.draw(st.one_of(tables.map(str.encode), st.binary(max_size=30))))
    outcome(folder, target="y")
