"""Text of strangers (cells, names, files) reaches people, and never steers their terminal or floods it."""

import ast
import io
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

import innerloop.cli
from innerloop.cli import run
from innerloop.cli.text import columns, say
from innerloop.errors import DataError, message_of, visible
from toolkit.commands import printed_by
from toolkit.tables import visits

CLI = Path(innerloop.cli.__file__).parent
# `say` itself, the one line of JSON, and the table of `predict` for programs
PRINTERS = {
    ("text.py", "say"),
    ("common.py", "emit"),
    ("predict.py", "predict"),
    ("classes.py", "predict_rows"),
}
STEERING = "\x1b[2J\x1b]0;mine\x07\x9b31m\u202ecsv.exe\x7f"


def prints() -> set[tuple[str, str]]:
    """File and function of every call of `print`, and of every `write` to a standard stream."""
    found = set()
    for path in sorted(CLI.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                        "print",
                        "sys.stdout.write",
                        "sys.stderr.write",
                    ):
                        found.add((path.name, function.name))
    return found


def test_what_people_read_is_said_by_one_function() -> None:
    assert prints() == PRINTERS


@pytest.mark.parametrize(
    "character", [*map(chr, [*range(32), *range(0x7F, 0xA0), 0x2028, 0x202E, 0x2066, 0xD800])]
)
def test_characters_that_steer_are_written_out(character: str) -> None:
    shown = visible(f"a{character}b")
    if character in "\t\n":
        assert shown == f"a{character}b"
    else:
        assert shown == f"a{character.encode('unicode_escape').decode()}b"
        assert shown.isprintable()
    assert columns([[f"a{character}b"]]).isprintable()


def test_text_of_all_languages_stays() -> None:
    text = "Zürich 東京 עברית नमस्ते 👩‍👩‍👧 ½ µ"
    assert visible(text) == text


def test_a_stream_that_cannot_show_a_letter_shows_its_number() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say("Zürich 東", file=stream)
    stream.flush()
    assert raw.getvalue() == b"Z\\xfcrich \\u6771\n"


def test_a_message_keeps_its_place_and_its_fix() -> None:
    error = DataError(f"task 'a', line 3: {STEERING * 100_000} is no number: correct it", task=STEERING)
    text = str(error)
    assert len(text) < 2_100
    assert text.startswith("task 'a', line 3: ")
    assert text.endswith(" is no number: correct it")
    assert text.isprintable()
    assert error.place["task"] == STEERING


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A table whose names and values steer terminals."""
    site = [f"{STEERING} {number // 6}" for number in range(72)]
    frame = visits(tasks=12, rows=6).assign(site=site, note=[f"{STEERING}{n % 2}" for n in range(72)])
    frame.rename(columns={"dose": f"dose{STEERING}"}).to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path / "visits.csv"


def test_no_verb_passes_them_on(hostile: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--task", "site", "--target", "risk", "--algorithm", "mixed", "--keep-ids"]
    asked = [
        ["check", hostile, "--task", "site", "--target", "risk"],
        ["check", hostile, "--task", "site", "--target", f"risk{STEERING}"],
        ["train", hostile, *words, "--out", "run"],
        ["inspect", "run"],
        ["inspect", "run", "--privacy"],
        ["evaluate", "run", "--report", "none"],
        ["adapt", "run", hostile, "--out", "adapted"],
        ["inspect", "adapted"],
        ["predict", "run", f"no{STEERING}.csv"],
        [f"verb{STEERING}"],
    ]
    codes = []
    for arguments in asked:
        code, out, err = printed_by(capsys, *arguments)
        codes.append(code)
        assert all(line.isprintable() for line in (out + err).split("\n")), arguments
    assert codes == [0, 3, 0, 0, 0, 0, 0, 0, 3, 2]


def test_a_terminal_sees_a_prediction_and_a_program_reads_it_as_it_is(
    hostile, tmp_path, capsys, monkeypatch
) -> None:
    words = ["--task", "site", "--target", "risk", "--algorithm", "mixed", "--quiet"]
    assert run(["train", str(hostile), *words, "--out", str(tmp_path / "run")]) == 0
    raw = printed_by(capsys, "predict", tmp_path / "run", hostile, "--quiet")[1]
    assert STEERING in raw
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = printed_by(capsys, "predict", tmp_path / "run", hostile, "--quiet")[1]
    assert shown == visible(raw) != raw


def test_a_huge_name_makes_no_huge_message(tmp_path: Path, capsys) -> None:
    frame = pd.DataFrame(
        {"site": list("aabb"), "x" * 1_000_000: [1, 2, 3, 4], "y": [1, "y" * 1_000_000, 3, 4]}
    )
    frame.to_csv(tmp_path / "wide.csv", index=False)
    for target in ("y", "nothing", "z" * 1_000_000):
        code, out, err = printed_by(
            capsys, "train", tmp_path / "wide.csv", "--task", "site", "--target", target
        )
        assert (code in (2, 3), len(err) < 2_100) == (True, True)
        code, out, _ = printed_by(
            capsys, "check", tmp_path / "wide.csv", "--task", "site", "--target", target, "--json"
        )
        if len(target) > 100_000:  # no list of names: nothing is looked at
            assert (code, out) == (2, "")
            continue
        assert code == 3
        assert all(len(each["message"]) < 2_100 for each in json.loads(out)["findings"])


def test_message_of_leaves_short_text_alone() -> None:
    assert message_of("a" * 2000) == "a" * 2000
