"""What the verbs share: reading tasks by settings, scores as text, progress on stderr, `--json` on stdout."""

from __future__ import annotations

import csv
import json as json_module
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    from ..checkpoint import Stored
    from ..data.sources import Source
    from ..data.splits import Tasks
    from ..evaluation import Evaluation

SCHEMA_VERSION = 1

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
    from .. import datasets

    found = {key: settings.get(key) for key in DATA_SETTINGS if key != "tasks"}
    given = {key: value for key, value in found.items() if value is not None and value is not False}
    name = str(settings["tasks"])
    if name in datasets.DATASETS:
        return datasets.load(name, **_known_options(name, given))
    path = Path(name)
    if not path.exists() and path.suffix == "" and "/" not in name:
        return datasets.load(name)  # says what is known
    from ..data.layouts import open_tasks

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

    from .. import datasets

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


def stored_run(directory: Path, device: str) -> Stored:
    """A model directory, its model on a device."""
    from ..checkpoint import load
    from ..training import resolve_device

    return load(directory, device=resolve_device(device))


class Notes:
    """Notes for people, on stderr unless quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.began = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since the verb began."""
        return round(time.perf_counter() - self.began, 3)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Any]:
        """A callback for `meta_train` that shows step, loss and time left."""
        if self.quiet:
            yield lambda entry: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            yield _PlainProgress(what, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            row = bar.add_task(what, total=total)
            shown = {"text": ""}

            def callback(entry: dict[str, Any]) -> None:
                if "valid_loss" in entry:
                    shown["text"] = f"  validation {entry['valid_loss']:.4f}"
                text = f"{what}  loss {entry['loss']:.4f}{shown['text']}"
                bar.update(row, completed=entry["step"], description=text)

            yield callback


class _PlainProgress:
    """A line every ten seconds where there is no terminal."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.last = what, total, time.perf_counter()

    def __call__(self, entry: dict[str, Any]) -> None:
        now = time.perf_counter()
        if now - self.last > 10 or entry["step"] == self.total:
            self.last = now
            valid = f"  validation {entry['valid_loss']:.4f}" if "valid_loss" in entry else ""
            line = f"{self.what}  step {entry['step']}/{self.total}  loss {entry['loss']:.4f}{valid}"
            print(line, file=sys.stderr, flush=True)


def emit(command: str, seed: int | None, notes: Notes, settings: dict[str, Any], **content: Any) -> None:
    """The one JSON object of a verb."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "seed": seed,
        "seconds": notes.seconds,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
    print(json_module.dumps(_finite(head | content), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value


LABELS = {
    "rmse": "RMSE",
    "r2": "R2",
    "error_over_variance": "error / variance",
    "accuracy": "accuracy",
    "auc": "AUC",
    "calibration_error": "calibration error",
    "loss": "loss",
    "log_likelihood": "log likelihood",
    "coverage_90": "in 90 % interval",
    "coverage_95": "in 95 % interval",
}


def cell(value: tuple[float, float, float], metric: str) -> str:
    """Mean and interval as people read them.

    Example:
        >>> cell((0.9312, 0.92, 0.94), "accuracy")
        '93.1 % [92.0, 94.0]'
    """
    mean, low, high = value
    if not math.isfinite(mean):
        return "undefined"
    if not math.isfinite(low):
        return f"{100 * mean:.1f} %" if metric in _SHARES else f"{mean:.3f}"
    if metric in _SHARES:
        return f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    digits = 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as aligned columns.

    Example:
        >>> print(columns([["a", "b"], ["long", "1"]]))
        a     b
        long  1
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


# how sure a learner says it is, and what of it is right
_SURE = ("log_likelihood", "coverage_90", "coverage_95")
_SHARES = ("accuracy", "coverage_90", "coverage_95")


def steps_table(found: Evaluation) -> str:
    """Scores by number of inner steps."""
    metrics = (*found.metrics[:3], *(name for name in _SURE if name in found.metrics))
    head = ["inner steps", *(LABELS[metric] for metric in metrics)]
    rows = [head]
    for position, steps in enumerate(found.steps):
        label = f"{steps} (before adaptation)" if steps == 0 else str(steps)
        rows.append([label, *(cell(found.metric(metric, position), metric) for metric in metrics)])
    return columns(rows)


def scored(found: Evaluation, source: Source) -> str:
    """What was scored: how many tasks, and what each adapted on."""
    count, support = len(found.ids), found.support
    what = "held-out tasks"
    if source.n_tasks is None:
        what = "episodes of held-out classes" if hasattr(source, "n_way") else "episodes"
    unit = "class" if support.per_class else "task"
    rows = "row" if support.high == 1 else "rows"
    return f"{count} {what}, support {support} {rows} a {unit}, 95 % intervals over them"


_NORMALISED = {
    "support": "each task's support set; a prediction does not depend on the other queries",
    "per_step": "running averages of training, for each inner step; a prediction does not depend on the others",
    "transductive": "the rows at hand: a prediction depends on the other queries asked with it",
}


def batchnorm_line(learner: Any) -> str:
    """A line that says what BatchNorm normalises queries with; empty for a model without it.

    Example:
        >>> from innerloop import maml, models
        >>> batchnorm_line(maml(models.mlp(1), loss="mse"))
        ''
    """
    network = learner.network
    if not network.normalizers:
        return ""
    return f"BatchNorm: {network.batchnorm} ({_NORMALISED[network.batchnorm]})\n"


def dependence_text(change: float) -> str:
    """What the leak test found.

    Example:
        >>> dependence_text(0.0)
        'does not change with the other queries (tried: largest change 0.0e+00)'
    """
    if change < 1e-3:
        return f"does not change with the other queries (tried: largest change {change:.1e})"
    return f"CHANGES with the other queries asked with it (tried: by up to {100 * change:.2g} %)"


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


def require_rows(frame: Any, what: str) -> None:
    """Refuse an empty table."""
    if len(frame) == 0:
        raise DataError(f"{what} has no row")
