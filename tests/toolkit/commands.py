"""The command, run in the process of the test."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pytest

from innerloop.cli import run

Data = TypeVar("Data", bytes, str)


def printed_by(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command: its exit code, and what it printed to stdout and to stderr."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, in which nothing was imported yet."""
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def words_of(options: dict[str, str]) -> list[str]:
    """Options as the words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def check_until_clean(
    capsys: pytest.CaptureFixture[str],
    path: Path,
    data: Data,
    options: dict[str, str],
    heed: Callable[[str, Data, dict[str, str]], Data],
) -> str:
    """Run `check` and do what each error says, again and again; what the check without an error printed.

    `heed` gets the message, the file and the options; it returns the file and may change the options.
    """
    for _ in range(9):
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        code, printed, _ = printed_by(capsys, "check", path, *words_of(options))
        if code == 0:
            return printed
        assert code == 3, printed
        before = data, dict(options)
        errors = [line for line in printed.splitlines() if line.startswith("error")]
        # from the last line to the first, so that numbers of lines stay true
        for line in sorted(errors, key=lambda text: -int((re.findall(r"line (\d+)", text) or ["0"])[0])):
            data = heed(line, data, options)
        assert (data, options) != before, printed
    raise AssertionError(printed)


def predicted(
    capsys: pytest.CaptureFixture[str], path: Path, options: dict[str, str], steps: int = 2
) -> pd.DataFrame:
    """The table with the predictions of a model that was trained on it for a few steps."""
    out, found = path.parent / "run", path.parent / "found.csv"
    quick = ["--steps", steps, "--quiet", "--device", "cpu", "--out", out]
    code, _, complaint = printed_by(capsys, "train", path, *words_of(options), *quick)
    assert code == 0, complaint
    assert printed_by(capsys, "predict", out, path, "--out", found, "--quiet")[0] == 0
    header = found.read_text(encoding="utf-8").partition("\n")[0]
    separator = next((mark for mark in ";\t" if mark in header), ",")
    return pd.read_csv(found, sep=separator, decimal=options.get("decimal", "."))
