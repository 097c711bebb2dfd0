"""Options that several verbs share, and what they mean together."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..errors import ResourceError, UsageError

if TYPE_CHECKING:
    from ..tasks.splits import Tasks


DATA = Group("Data", sort_key=1)


ALGORITHM = Group("Algorithm", sort_key=2)


TRAINING = Group("Training", sort_key=3)


OUTPUT = Group("Output", sort_key=4)


FLAG = Parameter(negative="", group=OUTPUT, show_default=False)


Json = Annotated[bool, FLAG, Parameter(help="Print one JSON object on stdout.")]


Quiet = Annotated[bool, FLAG, Parameter(help="No progress and no notes on stderr.")]


Replace = Annotated[bool, FLAG, Parameter(help="Replace the model that is in the directory.")]


Device = Annotated[str, Parameter(help="auto (a GPU if there is one), cpu, cuda, ...")]


Steps = Annotated[int | None, Parameter(help="Inner steps; as in training unless given.")]


# what verbs that read tables and images have in common
D = Parameter(group=DATA)


Features = Annotated[str | None, D, Parameter(help="Columns to use: A,B,C. All others unless given.")]


Ignore = Annotated[str | None, D, Parameter(help="Columns not to use: A,B.")]


Categorical = Annotated[str | None, D, Parameter(help="Columns whose values are names: A,B.")]


Kind = Annotated[str | None, D, Parameter(help="regression or classification; found out unless given.")]


ImageSize = Annotated[int | None, D, Parameter(help="Side of the images in pixels.")]


SkipBad = Annotated[bool, D, Parameter(negative="", help="Leave damaged images out, and count them.")]


# settings of `train` that say which tasks there are; stored with the model: `evaluate` finds them again
DATA_SETTINGS = (
    "tasks", "task", "target", "n_support", "n_shot", "n_way", "n_query", "features", "ignore",
    "categorical", "kind", "support", "split", "split_by", "date_format", "decimal", "labels", "image_size",
    "skip_bad", "data", "seed",
)  # fmt: skip


def names(text: str | None) -> list[str] | None:
    """Column names separated by commas; a name that holds a comma stands in quotation marks.

    Example:
        >>> names('a, b, "age, years"')
        ['a', 'b', 'age, years']
    """
    if text is None:
        return None
    parts = next(csv.reader([text], skipinitialspace=True), [])
    return [part.strip() for part in parts if part.strip()]


def read_tasks(settings: dict[str, Any]) -> Tasks:
    """The tasks that the data settings of `train` describe.

    Raises:
        UsageError: options contradict each other, or a built-in name is unknown.
        DataError: the table cannot be used.
    """
    from ..tasks.datasets import catalogue as datasets

    found = {key: settings.get(key) for key in DATA_SETTINGS if key != "tasks"}
    given = {key: value for key, value in found.items() if value is not None and value is not False}
    name = str(settings["tasks"])
    if name in datasets.DATASETS:
        return datasets.load(name, **_known_options(name, given))
    path = Path(name)
    if not path.exists() and path.suffix == "" and "/" not in name:
        return datasets.load(name)  # says what is known
    from ..tasks.recognise import open_tasks

    return open_tasks(path, **data_options(given))


def data_options(given: dict[str, Any]) -> dict[str, Any]:
    """Settings as text become what `layouts.open_tasks` takes."""
    options = dict(given)
    for key in ("features", "ignore", "categorical", "date_format"):
        if key in options:
            options[key] = names(options[key])
    targets = names(options.get("target"))
    if targets and len(targets) > 1:
        options["target"] = targets
    if "split" in options and "," in options["split"]:
        options["split"] = shares(options["split"])
    return options


def _known_options(name: str, given: dict[str, Any]) -> dict[str, Any]:
    import inspect

    from ..tasks.datasets import catalogue as datasets

    accepted = inspect.signature(datasets.DATASETS[name].load).parameters
    options = dict(given)
    if "seed" not in accepted:
        options.pop("seed", None)
    senseless = [key for key in options if key not in accepted]
    if senseless:
        known = ", ".join(option_name(key) for key in accepted if key in DATA_SETTINGS)
        option = "--split and --folds have" if senseless[0] == "split" else f"{option_name(senseless[0])} has"
        raise UsageError(f"{option} no meaning for the built-in {name!r}, which knows {known}")
    if "split" in options and "," in options["split"]:
        options["split"] = shares(options["split"])
    return options


def network_options(settings: dict[str, Any]) -> dict[str, Any]:
    """The options of the network that were asked for, `hidden` as numbers.

    Example:
        >>> network_options({"model": None, "hidden": "40,40", "width": None})
        {'hidden': [40, 40]}
    """
    names = ("model", "activation", "width", "pool")
    found = {key: settings[key] for key in names if settings.get(key) is not None}
    if settings.get("scaling", "shared") not in (None, "shared"):
        found["scaling"] = settings["scaling"]
    if settings["hidden"]:
        try:
            found["hidden"] = [int(width) for width in settings["hidden"].split(",")]
        except ValueError:
            raise UsageError(f"--hidden {settings['hidden']}: give widths such as 40,40") from None
    return found


def option_name(key: str) -> str:
    """The name of a setting on the command line.

    Example:
        >>> option_name("n_support")
        '--n-support'
    """
    return f"--{key.replace('_', '-')}"


def shares(text: str | tuple[float, ...]) -> tuple[float, float, float]:
    """Three shares written `0.7,0.15,0.15`.

    Example:
        >>> shares("0.6,0.2,0.2")
        (0.6, 0.2, 0.2)
    """
    try:
        first, second, third = (float(part) for part in text.split(",")) if isinstance(text, str) else text
    except ValueError:
        raise UsageError(f"--split {text}: give three shares such as 0.7,0.15,0.15") from None
    return first, second, third


def require_steps(inner_steps: int | None) -> None:
    """Refuse a negative number of inner steps."""
    if inner_steps is not None and inner_steps < 0:
        raise UsageError(f"--inner-steps {inner_steps}: give 0 or more")


def require_place(place: Path) -> None:
    """Refuse a place nothing can be written to, before hours of work and not after them."""
    folder = place.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{place}: {folder} is a file, not a folder: choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(f"{place}: you may not write to {folder}: choose another place")
