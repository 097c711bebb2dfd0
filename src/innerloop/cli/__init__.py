"""The `innerloop` command: one file a verb. Heavy imports happen inside the verbs, so that help is quick."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import cyclopts
from rich.console import Console

from ..errors import InnerloopError, UsageError
from . import adapt, demo, evaluate, inspect, list_, predict, train

EPILOGUE = """Examples:

  innerloop train schools.csv --task school --target exam --n-support 10 --out runs/schools

  innerloop evaluate runs/schools

  innerloop predict runs/schools new_schools.csv --out predictions.csv

Every option can stand in a TOML file: innerloop train --config schools.toml
Exit codes: 0 ok, 1 our bug, 2 usage, 3 data, 4 model directory, 5 resources, 6 diverged."""


def _version() -> str:
    from importlib.metadata import version

    return version("innerloop")


app = cyclopts.App(
    name="innerloop",
    help="Meta-learning for people with many small related tasks.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
    version=_version,
)
app.command(train.train)
app.command(evaluate.evaluate)
app.command(adapt.adapt)
app.command(predict.predict)
app.command(list_.list_, name="list")
app.command(inspect.inspect)
app.command(demo.demo)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command; what goes wrong becomes one line on stderr and an exit code.

    Example:
        >>> run(["inspect", "no/such/model"])
        4
    """
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app.config = _configuration(arguments)
        app(
            arguments,
            exit_on_error=False,
            print_error=False,
            error_console=Console(stderr=True),
            result_action="return_value",
        )
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return _complain(_first_line(error), 2)
    except InnerloopError as error:
        if debug:
            raise
        return _complain(str(error), error.exit_code)
    except MemoryError:
        return _complain("out of memory: lower --meta-batch-size or --inner-steps, or use fomaml", 5)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # the reader of a pipe has gone: what is left to flush has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        return _complain(
            f"this is a bug in innerloop: {type(error).__name__}: {error}; --debug shows where", 1
        )
    return 0


def _configuration(arguments: list[str]) -> list[Any]:
    """Take `--config FILE` out of the arguments; cyclopts reads the table `[verb]` of that file."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != "--config":
            continue
        if not equals and place + 1 == len(arguments):
            raise UsageError("--config needs a TOML file")
        path = Path(value if equals else arguments[place + 1])
        del arguments[place : place + (1 if equals else 2)]
        if not path.is_file():
            raise UsageError(f"--config {path}: there is no such file")
        import tomllib

        try:
            tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"--config {path}: not a TOML file: {error}") from None
        return [cyclopts.config.Toml(path, must_exist=True)]
    return []


def _complain(message: str, code: int) -> int:
    print(f"innerloop: {' '.join(message.split())}", file=sys.stderr)
    return code


def _first_line(error: cyclopts.CycloptsError) -> str:
    return f"{error} (innerloop --help shows the options)"


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
