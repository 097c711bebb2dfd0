"""Tasks from options: what is written on the command line becomes what the functions of `tasks` take."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import DataOptions, option_name

if TYPE_CHECKING:
    from ..tasks.splits import Tasks

__all__ = ["names", "open_options", "read_tasks"]


def read_tasks(tasks: str, data: DataOptions, seed: int | None) -> Tasks:
    """The tasks that the options describe.

    Raises:
        UsageError: options contradict each other, or a built-in name is unknown.
        DataError: the table cannot be used.
    """
    from ..tasks.datasets import catalogue as datasets
    from ..tasks.recognise import open_tasks

    if tasks in datasets.DATASETS:
        return datasets.load(tasks, **_known_options(tasks, data, seed))
    path = Path(tasks)
    if not path.exists() and path.suffix == "" and "/" not in tasks:
        return datasets.load(tasks)  # says what is known
    return open_tasks(path, **open_options(data, seed))


def open_options(data: DataOptions, seed: int | None) -> dict[str, Any]:
    """What `open_tasks` takes."""
    options: dict[str, Any] = _given(data, seed)
    for key in ("features", "ignore", "categorical", "date_format", "missing", "text"):
        if key in options:
            options[key] = names(options[key])
    targets = names(data.target)
    if targets and len(targets) > 1:
        options["target"] = targets
    return options


def _given(data: DataOptions, seed: int | None) -> dict[str, object]:
    """The options that were asked for, the shares of a split as numbers."""
    options = data.given() | ({} if seed is None else {"seed": seed})
    options.pop("folds", None)
    if data.split and "," in data.split:
        options["split"] = _shares(data.split)
    return options


def _known_options(name: str, data: DataOptions, seed: int | None) -> dict[str, Any]:
    """The options that a built-in data set takes; any other is refused."""
    import inspect

    from ..tasks.datasets import catalogue as datasets

    accepted = inspect.signature(datasets.DATASETS[name].load).parameters
    options = _given(data, seed if "seed" in accepted else None)
    senseless = next((key for key in options if key not in accepted), None)
    if senseless:
        ours = {*data.settings(), "seed"}
        known = ", ".join(option_name(key) for key in accepted if key in ours)
        option = "--split and --folds have" if senseless == "split" else f"{option_name(senseless)} has"
        raise UsageError(f"{option} no meaning for the built-in {name!r}, which knows {known}")
    return options


def names(text: str | None) -> list[str] | None:
    """Column names separated by commas; a name that holds a comma stands in quotation marks.

    Example:
        >>> names('a, b, "age, years"')
        ['a', 'b', 'age, years']
    """
    if text is None:
        return None
    try:
        parts = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error as error:
        raise UsageError(f"{text!r} is no list of names ({error}): separate names by commas") from None
    return [part.strip() for part in parts if part.strip()]


def _shares(text: str) -> tuple[float, float, float]:
    """Three shares written `0.7,0.15,0.15`."""
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--split {text}: give three shares such as 0.7,0.15,0.15") from None
    return first, second, third
