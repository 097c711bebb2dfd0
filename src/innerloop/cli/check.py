"""`innerloop check`: look at data before training, everything that is wrong at once."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..errors import DataError
from .common import Notes, emit
from .encoding import encoding_told
from .opening import open_options
from .options import TRAINING, DataOptions, Json, Quiet, about
from .text import columns, say

__all__ = ["check"]


def check(
    tasks: str,
    /,
    *,
    data: DataOptions = DataOptions(),
    seed: Annotated[
        int, Parameter(group=TRAINING), about("Of the split, the initial parameters and the episodes.")
    ] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
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
    with encoding_told(notes):
        report = look(tasks, **open_options(data, seed))
    if json:
        emit("check", seed, notes, {"tasks": tasks, **data.given(), "seed": seed}, **report.to_dict())
    else:
        say(columns([list(row) for row in report.table()]))
        for finding in report.findings:
            say(finding)
    if not report.ok:
        raise DataError(f"{len(report.errors)} error(s) in {tasks}: mend them, then check again")
