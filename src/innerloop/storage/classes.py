"""Adapting a model to classes by their names and predicting rows of them: pictures, arrays and tables of classes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import DataError, UsageError
from ..tasks.class_rows import ClassRows
from .describing import versions
from .enrolled import Enrolled

if TYPE_CHECKING:
    from ..tasks.inputs import InputSchema
    from ..tasks.tables.schema import Schema
    from .stored import Stored
    from .tables import Frame
    from .validation import Config

__all__ = ["adapt_classes", "class_schema", "forget_classes", "has_classes", "of_files", "predict_class_frame", "predict_classes"]


def has_classes(stored: Stored) -> bool:
    """Whether the tasks of a model are draws of classes, which have no task column."""
    if stored.inputs is not None:
        return True
    schema = stored.schema
    of_classes = schema is not None and schema.task is None and schema.kind == "classification"
    return of_classes and stored.kind != "refined"


def class_schema(stored: Stored) -> InputSchema | Schema:
    """How rows become features, of a model whose tasks are draws of classes.

    Raises:
        UsageError: it is no such model, or its directory is from before this was stored.
    """
    if stored.inputs is not None:
        return stored.inputs
    if stored.schema is not None and has_classes(stored):
        return stored.schema
    why = "has a task column" if stored.schema is not None else "does not say what its rows are"
    raise UsageError(
        f"{stored.path} was not trained on classes of pictures, arrays or a table ({why}): use predict_frame, or "
        "innerloop.load(...).model.adapt(x, y) from Python"
    )


def adapt_classes(stored: Stored, rows: ClassRows, *, add: bool = False) -> Stored:
    """The model adapted to the classes of labelled rows; with `add` to them beside those it has.

    Raises:
        DataError: no class, or only one, is there.
        UsageError: the model is adapted already, or not yet, or has outputs for fewer classes.
    """
    if add and stored.enrolled is None:
        raise UsageError(f"{stored.path} has no classes to add to: adapt it without add first")
    if not add and stored.kind != "run":
        raise UsageError(f"{stored.path} is {stored.kind} already: add to its classes, or give the run it is from")
    if not rows.labelled.any():
        raise DataError(
            "no row has the name of its class: give a folder for each class, or the label of rows in a table or array"
        )
    return _with_enrolled(stored, _enrolled(stored, rows, add=add))


def _enrolled(stored: Stored, rows: ClassRows, *, add: bool) -> Enrolled:
    targets = stored.targets
    outputs = 0 if targets is None else targets.n_outputs
    before = stored.enrolled if add else None
    return Enrolled.of(stored.model, rows, outputs, beside=before)


def forget_classes(stored: Stored, names: Collection[str]) -> Stored:
    """The model without some of its classes, as if they had never been enrolled.

    Raises:
        UsageError: there is no such class, or fewer than two would be left.
    """
    if stored.enrolled is None:
        raise UsageError(f"{stored.path} has no classes to forget: it is {stored.kind}")
    return _with_enrolled(stored, stored.enrolled.forgetting(names))


def predict_classes(stored: Stored, rows: ClassRows) -> tuple[pd.DataFrame, Enrolled]:
    """The class of rows: of all, by the classes that an adapted model has, else of those whose class is not known.

    Returns:
        `prediction`, the most likely class, and `probability_<class>` of each; a row for each of `rows`, missing where
        it was support. And the classes.

    Raises:
        DataError: there are no classes to predict.
    """
    enrolled = stored.enrolled
    wanted = np.ones(len(rows.labels), dtype=bool)
    if enrolled is None:
        wanted = ~rows.labelled
        if wanted.all():
            raise DataError(
                f"{stored.path} knows no classes yet and none of these rows has one: adapt it to rows with their "
                "classes first, or give some among these"
            )
        enrolled = _enrolled(stored, rows, add=False)
    chance = np.full((len(wanted), len(enrolled.classes)), np.nan)
    names = np.full(len(wanted), None, dtype=object)
    if wanted.any():
        chance[wanted] = enrolled.logits(rows.some(wanted).x).softmax(-1).numpy()
        names[wanted] = np.array(enrolled.classes, dtype=object)[chance[wanted].argmax(1)]
    columns = {f"probability_{name}": chance[:, place] for place, name in enumerate(enrolled.classes)}
    return pd.DataFrame({"prediction": names, **columns}), enrolled


def predict_class_frame(
    stored: Stored, frame: Frame, *, inner_steps: int | None, interval: float | None
) -> Frame:
    """What `Stored.predict_frame` gives for a table of classes that has no task column."""
    from ..tasks.class_rows import rows_of_frame
    from ..tasks.tables.reading import as_frame
    from ..tasks.tables.schema import Schema
    from .tables import with_columns

    if inner_steps is not None or interval is not None:
        name = "interval" if inner_steps is None else "inner_steps"
        raise UsageError(f"{name} has no meaning for classes without a task column: leave it out")
    schema = class_schema(stored)
    if not isinstance(schema, Schema):
        raise UsageError(f"{stored.path} was trained on {schema.source}: use predict_files")
    table = as_frame(frame, reading=schema.reading)
    new, enrolled = predict_classes(stored, rows_of_frame(table, schema))
    new["n_support"] = sum(enrolled.counts)
    if taken := [name for name in new if name in table]:
        raise DataError(f"the table has a column {taken[0]!r} already: rename it or leave it out")
    return with_columns(frame, new.set_axis(table.index))


def of_files(stored: Stored, rows: ClassRows, new: pd.DataFrame) -> pd.DataFrame:
    """The rows that were predicted, each by its file, or by its number in an array or table."""
    inputs = stored.inputs
    name = "file" if inputs is not None and inputs.source == "images" else "row"
    named = pd.DataFrame({name: rows.names, **new})
    return named[new["prediction"].notna()].reset_index(drop=True)


def _with_enrolled(stored: Stored, enrolled: Enrolled) -> Stored:
    config: Config = {
        **stored.config,
        "kind": "adapted",
        "settings": {},
        "data": None,
        "scores": None,
        "parent": stored.config["parent"] if stored.kind == "adapted" else stored.sha256,
        "tasks": [],
        "enrolled": enrolled.entries(),
        "versions": versions(),
    }
    return replace(stored, config=config, sha256="", tasks={}, mask={}, extra={}, log=[], enrolled=enrolled)
