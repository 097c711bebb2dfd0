"""The `innerloop` command: one file a verb. Heavy imports happen inside the verbs, so that help is quick."""

from __future__ import annotations

import inspect as inspection
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import cyclopts

from ..errors import InnerloopError, UsageError, message_of
from . import adapt, check, compare, demo, evaluate, export, inspect, list_, predict, refine, train, tune
from .config import with_file
from .text import say

__all__ = ["VERBS", "app", "main", "run"]

EXAMPLES = """Examples:
  innerloop train schools.csv --task school --target exam --out runs/schools
  innerloop evaluate runs/schools
  innerloop predict runs/schools new_schools.csv --out predictions.csv
  innerloop train --help

Options can stand in a TOML file, in a table for each verb:
  innerloop train schools.csv --config schools.toml

Exit codes: 0 ok, 1 our bug, 2 usage, 3 data, 4 model directory, 5 resources,
6 diverged. --debug shows where an error arose."""

VERBS: dict[str, Callable[..., None]] = {
    "check": check.check,
    "train": train.train,
    "compare": compare.compare,
    "tune": tune.tune,
    "evaluate": evaluate.evaluate,
    "adapt": adapt.adapt,
    "predict": predict.predict,
    "export": export.export,
    "list": list_.list_,
    "inspect": inspect.inspect,
    "refine": refine.refine,
    "demo": demo.demo,
}


def _version() -> str:
    from importlib.metadata import version

    return version("innerloop")


app = cyclopts.App(
    name="innerloop",
    help="Meta-learning for people with many small related tasks.",
    help_epilogue=EXAMPLES,
    help_format="plaintext",
    version=_version,
    suppress_keyboard_interrupt=False,  # `run` says it in one line
)


def _add(name: str, verb: Callable[..., None]) -> None:
    """Its docstring is its help; what begins with "Examples:" goes below the options, line by line."""
    about, _, examples = inspection.cleandoc(verb.__doc__ or "").partition("\n\nExamples:\n")
    # the other paragraphs are wrapped for the source, not for the terminal
    paragraphs = [" ".join(paragraph.split()) for paragraph in about.split("\n\n")]
    app.command(verb, name=name, help="\n\n".join(paragraphs), help_epilogue=f"Examples:\n{examples}")


for _name, _verb in VERBS.items():
    _add(_name, _verb)


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
        _require_one_process(arguments)
        app(
            with_file(app, arguments, list(VERBS)),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return _complain(f"{error} ({_help_of(arguments)} shows what there is)", 2)
    except InnerloopError as error:
        if debug:
            raise
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # the reader of a pipe has gone: what is left to flush has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        if _is_memory(error):
            return _complain(f"out of memory: {_less_memory(arguments)}", 5)
        return _complain(
            f"this is a bug in innerloop: {type(error).__name__}: {error}; --debug shows where", 1
        )
    return 0


def _is_memory(error: Exception) -> bool:
    """Python, torch on a GPU and torch on a CPU each say it in their own way."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _less_memory(arguments: list[str]) -> str:
    """What the verb can do about it."""
    if {"predict", "adapt", "evaluate"} & set(arguments):
        return "the rows of one task are worked on together: give fewer tasks or rows at a time"
    return "lower --meta-batch-size or --inner-steps, or use fomaml"


def _help_of(arguments: list[str]) -> str:
    verb = next((argument for argument in arguments if argument in VERBS), None)
    return f"innerloop {verb} --help" if verb else "innerloop --help"


def _require_one_process(arguments: list[str]) -> None:
    """Refuse several processes for what is no training: each would do all of it, and write it."""
    verb = next((argument for argument in arguments if argument in VERBS), "train")
    if verb != "train" and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(f"innerloop {verb} works in one process: start it without torchrun")


def _complain(message: str, code: int) -> int:
    if "RANK" in os.environ:
        from ..outer.ranks import says_it

        if not says_it(message):
            return code
    say(message_of(f"innerloop: {' '.join(message.split())}"), file=sys.stderr)
    return code


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
