"""Encoders from the command line: a directory keeps the name, and runs nothing because of it."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from innerloop.encoders import encoder as known
from innerloop.encoders.encoder import _used
from toolkit.commands import printed_by

CODE = """
def lengths(texts):
    return [[len(text), text.count("e")] for text in texts]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a function and a table of notes, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting.py").write_text(CODE)
    rows = range(96)
    pd.DataFrame({
        "site": [f"s{row // 8}" for row in rows],
        "note": ["n" + "e" * (row % 5) + "x" * (row % 3) for row in rows],
        "risk": [row % 5 + row // 8 for row in rows],
        "kind": [f"k{row % 12}" for row in rows],
    }).to_csv("notes.csv", index=False)  # fmt: skip
    return tmp_path


def forget() -> None:
    """As in a new process."""
    _used.pop("counting:lengths", None)
    sys.modules.pop("counting", None)


def test_each_verb_asks_for_the_function_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("--encoder", "counting:lengths")
    train = ("train", "notes.csv", "--task", "site", "--target", "risk", "--n-support", 3, "--ignore", "kind")
    code, _, err = printed_by(
        capsys, *train, "--text", "note", *own, "--algorithm", "mixed", "--out", "run", "--quiet"
    )
    assert code == 0, err
    pd.DataFrame({
        "site": ["new"] * 4, "note": ["ne", "nee", "neee", "neexx"], "risk": [1.0, 2.0, 3.0, None],
    }).to_csv("new.csv", index=False)  # fmt: skip
    for verb in (
        ("predict", "run", "new.csv"),
        ("adapt", "run", "new.csv", "--out", "adapted"),
        ("evaluate", "run"),
    ):
        forget()
        code, _, err = printed_by(capsys, *verb)
        assert code == 2
        assert "--encoder counting:lengths" in err
        assert "counting" not in sys.modules
        code, _, err = printed_by(capsys, *verb, *own)
        assert code == 0, err
    forget()
    code, out, _ = printed_by(capsys, "predict", "adapted", "new.csv", *own)
    assert code == 0
    assert out.splitlines()[0] == "site,note,risk,prediction,n_support"
    # the risk is the number of e and a level of the site, and what is said of the fourth row is exact
    assert float(out.splitlines()[4].split(",")[3]) == pytest.approx(2.0, abs=0.3)
    assert known("counting:lengths")(["ee"]).tolist() == [[2, 2]]


def test_classes_of_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "notes.csv",
        "--text",
        "note",
        "--target",
        "kind",
        "--features",
        "risk",
        "--encoder",
        "counting:lengths",
    )
    code, out, err = printed_by(capsys, "check", *words)
    assert code == 0, err
    assert "text, 2 features by counting:lengths" in out
    code, out, err = printed_by(
        capsys, "train", *words, "--algorithm", "protonet", "--steps", 2, "--out", "run", "--json"
    )
    assert code == 0, err
    assert '"encoder": "counting:lengths"' in out


def test_how_far_the_encoder_is_shows_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("innerloop.cli.encoding._PAUSE", -1)
    _, _, err = printed_by(
        capsys, "check", "notes.csv", "--task", "site", "--target", "risk", "--ignore", "kind", "--text", "note",
        "--encoder", "counting:lengths",
    )  # fmt: skip
    assert "counting:lengths: 15 of 15 encoded, about 0 s left" in err


def test_classes_of_files_are_enrolled_and_found_by_the_encoder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sizes.py").write_text(
        "def size(paths):\n    return [[path.stat().st_size, 1] for path in paths]\n"
    )
    for place, names, count in (("known", "abcdefghijkl", 4), ("shelf", "xyz", 1)):
        for number, name in enumerate(names):
            (folder / place / name).mkdir(parents=True)
            for copy in range(count):
                (folder / place / name / f"{copy}.wav").write_bytes(b"." * (100 * number + 2 * copy + 1))
    (folder / "inbox").mkdir()
    (folder / "inbox" / "new.wav").write_bytes(b"." * 103)
    own = ("--encoder", "sizes:size")
    code, _, err = printed_by(
        capsys,
        "train",
        "known",
        *own,
        "--n-way",
        2,
        "--n-query",
        2,
        "--algorithm",
        "two_covariance",
        "--out",
        "run",
    )
    assert code == 0, err
    _used.pop("sizes:size")
    code, _, err = printed_by(capsys, "adapt", "run", "shelf", "--out", "adapted")
    assert code == 2
    assert "--encoder sizes:size" in err
    code, out, err = printed_by(capsys, "adapt", "run", "shelf", "--out", "adapted", *own)
    assert code == 0, err
    assert "adapted to 3 classes, 3 support rows" in out
    code, out, err = printed_by(capsys, "predict", "adapted", "inbox")
    assert code == 0, err
    assert out.splitlines()[1].startswith("new.wav,y,")
    code, _, err = printed_by(capsys, "evaluate", "run", *own)
    assert code == 0, err


def test_texts_of_a_class_are_enrolled_by_the_encoder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("--encoder", "counting:lengths")
    table = ("notes.csv", "--text", "note", "--target", "kind", "--ignore", "site,risk")
    code, _, err = printed_by(capsys, "train", *table, *own, "--algorithm", "class_means", "--out", "run")
    assert code == 0, err
    pd.DataFrame({"note": ["neeee", "nxx", "nee", "nxxx"], "kind": ["e", "x", None, None]}).to_csv(
        "new.csv", index=False
    )
    code, out, err = printed_by(capsys, "predict", "run", "new.csv", *own)
    assert code == 0, err
    assert [line.split(",")[2] for line in out.splitlines()[1:]] == ["", "", "e", "x"]
