"""The command, run in the process of the test."""

import pytest

from innerloop.cli import run


def printed_by(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command: its exit code, and what it printed to stdout and to stderr."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err
