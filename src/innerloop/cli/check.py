"""`innerloop check`: look at data before training, everything that is wrong at once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from ..errors import DataError
from .common import Notes, emit
from .options import DATA_SETTINGS, Json, Quiet, data_options
from .text import columns
from .train import train


def _with_data_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The data options of `train`, so that both always have the same."""
    own, trained = inspect.signature(verb).parameters, inspect.signature(train).parameters
    parts = [trained[name] for name in DATA_SETTINGS if name in trained]
    kept = [part for part in own.values() if part.name not in {"settings", *DATA_SETTINGS}]
    hints = get_type_hints(train, include_extras=True) | get_type_hints(verb, include_extras=True)

    @functools.wraps(verb)
    def wrapped(*arguments: Any, **settings: Any) -> None:
        verb(*arguments, **settings)

    every = [part.replace(annotation=hints[part.name]) for part in (*parts, *kept)]
    wrapped.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {part.name: part.annotation for part in every} | {"return": None}
    del wrapped.__wrapped__
    return wrapped


@_with_data_options
def check(tasks: str, /, *, json: Json = False, quiet: Quiet = False, **settings: Any) -> None:
    """Look at data as training would: everything that is wrong at once, and what was understood.

    The options are the data options of innerloop train. Errors are what training refuses; the exit
    code is 3 if there is one. Warnings are what it accepts, though scores may be too good.

    Examples:
      innerloop check schools.csv --task school --target exam
      innerloop check photos --skip-bad --json
    """
    from ..tasks.datasets import catalogue as datasets
    from ..tasks.findings import check as look

    if tasks in datasets.DATASETS:
        raise DataError(f"{tasks} is built in, so there is nothing to check: give data of your own")
    notes = Notes(quiet=quiet)
    given = {key: value for key, value in settings.items() if value is not None and value is not False}
    report = look(tasks, **data_options(given))
    if json:
        emit("check", settings.get("seed"), notes, {"tasks": tasks} | settings, **report.to_dict())
    else:
        print(columns([list(row) for row in report.table()]))
        for finding in report.findings:
            print(finding)
    if not report.ok:
        raise DataError(f"{len(report.errors)} error(s) in {tasks}: mend them, then check again")
