"""What a model directory holds of the data it was made from, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .contents import Contents

__all__ = ["Holding", "holdings"]

_REPORT = "report.html"


class Holding(NamedTuple):
    """One kind of thing that a directory holds of its data.

    Arguments:
        what: the kind.
        verbatim: whether values of the data stand there as they are.
        where: the file.
        about: what it is, and how much.
    """

    what: str
    verbatim: bool
    where: str
    about: str


def holdings(stored: Contents) -> list[Holding]:
    """What a model directory holds of the data it was made from.

    Arguments:
        stored: what `load` returned.

    Returns:
        One entry a kind of thing; what there is nothing of is said too where one would look for it.

    Example:
        >>> import tempfile, innerloop as il
        >>> from pathlib import Path
        >>> learner, folder = il.mixed(1), Path(tempfile.mkdtemp()) / "run"
        >>> path = il.save(
        ...     folder, il.Model(learner, learner.init()), splits={"train": ["north"], "test": ["south"]}
        ... )
        >>> [(each.what, each.verbatim) for each in holdings(il.load(path))][:2]
        [('rows', False), ('ids of tasks', False)]
    """
    return [
        _rows(stored),
        *_ids(stored),
        *_columns(stored),
        *_numbers(stored),
        *_tasks(stored),
        *_classes(stored),
        *_origin(stored),
    ]


def _rows(stored: Contents) -> Holding:
    shown = stored.config["settings"].get("report_rows", stored.config["salt"] is None)
    if _REPORT in stored.extra and shown:
        return Holding(
            "rows", True, _REPORT, "pictures and numbers of rows of some held-out tasks, with their names"
        )
    kept = stored.enrolled is not None and not stored.enrolled.means
    return Holding("rows", False, "", f"no row of the data{' it was trained on' if kept else ''}")


def _ids(stored: Contents) -> Iterator[Holding]:
    splits = stored.config["splits"] or {}
    count = sum(map(len, splits.values()))
    if count and stored.config["salt"] is None:
        yield Holding("ids of tasks", True, "config.json", f"{count} as they are, by split")
    elif count:
        about = f"{count} as salted hashes: who knows an id can tell whether it was in training, nobody can read it"
        yield Holding("ids of tasks", False, "config.json", about)


def _columns(stored: Contents) -> Iterator[Holding]:
    schema = stored.schema
    if stored.inputs is not None and stored.inputs.encoder:
        yield Holding("encoder", False, "config.json", f"its name, {stored.inputs.encoder}")
    if schema is None:
        return
    names = [column.name for column in (*schema.columns, *schema.target_columns)]
    yield Holding("names of columns", True, "config.json, README.md", ", ".join(names))
    for column in schema.columns:
        if column.levels:
            merged = f"; {column.merged} rare ones are not among them" if column.merged else ""
            about = f"{len(column.levels)} levels: {', '.join(column.levels)}{merged}"
            yield Holding(f"levels of {column.name}", True, "config.json", about)
        if column.encoder:
            yield Holding(f"encoder of {column.name}", False, "config.json", f"its name, {column.encoder}")
    if schema.classes:
        yield Holding(
            f"classes of {schema.target}", True, "config.json, README.md", ", ".join(schema.classes)
        )
    numbers = [column.name for column in schema.columns if column.kind in ("number", "date")]
    numbers += [column.name for column in schema.target_columns] if schema.kind == "regression" else []
    if numbers:
        about = f"mean and standard deviation over meta-train of {', '.join(numbers)}"
        yield Holding("sums over rows", False, "config.json", about)


def _numbers(stored: Contents) -> Iterator[Holding]:
    count = sum(value.numel() for value in stored.model.meta.values())
    yield Holding(
        "meta-parameters",
        False,
        "model.safetensors",
        f"{count} numbers that all meta-train tasks made together",
    )
    if stored.config["mixed"] is not None:
        yield Holding(
            "a mixed model",
            False,
            "config.json",
            "fixed effects, variances and likelihood over all meta-train rows",
        )
    if stored.config["scores"]:
        yield Holding("scores", False, "config.json, README.md", "means and intervals over held-out tasks")
    if stored.log:
        yield Holding("log", False, "log.jsonl", f"losses of {len(stored.log)} steps, each a mean over tasks")


def _tasks(stored: Contents) -> Iterator[Holding]:
    entries = stored.config["tasks"] or []
    if not entries:
        return
    names = [entry["id"] for entry in entries]
    few = f"{len(names)}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
    yield Holding("ids of adapted tasks", True, "config.json", few)
    own = {name: tuple(value.shape[1:]) for one in stored.tasks.values() for name, value in one.own.items()}
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape)) or '1'}" for name, shape in own.items())
    about = f"what each predicts with, made from its labelled rows: {sizes or 'nothing'}; see docs/privacy.md"
    yield Holding("adapted values", False, "model.safetensors", about)


def _classes(stored: Contents) -> Iterator[Holding]:
    enrolled = stored.enrolled
    if enrolled is None:
        return
    names, counts = enrolled.classes, enrolled.counts
    first = f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
    few = f"{len(names)}: {first}, and how many rows each was given by"
    yield Holding("names of classes", True, "config.json", few)
    if enrolled.means:
        alone = sum(count == 1 for count in counts)
        about = "the mean of the features of each class" + (
            f"; of {alone}, that of a single row" if alone else ""
        )
        yield Holding("means of classes", bool(alone), "model.safetensors", about)
    else:
        about = (
            f"the {sum(counts)} rows that the classes were given by, as they are: this algorithm needs them"
        )
        yield Holding("rows of classes", True, "model.safetensors", about)


def _origin(stored: Contents) -> Iterator[Holding]:
    data = stored.config["data"] or {}
    if data.get("name"):
        about = f"path {data['name']}{', and the sha256 of the file' if data.get('sha256') else ''}"
        yield Holding("where the data was", True, "config.json, README.md", about)
