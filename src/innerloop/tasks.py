"""The front door for data: tables, labelled arrays, functions and single data sets become splits of tasks."""

from __future__ import annotations

from .data.arrays import arrays
from .data.check import check
from .data.functions import function, sinusoid
from .data.layouts import open_tasks as open
from .data.nway import class_table, classes, classes_from_schema
from .data.single import single
from .data.splits import Fold, Tasks, folds
from .data.tables import from_schema, table

__all__ = [
    "Fold",
    "Tasks",
    "arrays",
    "check",
    "class_table",
    "classes",
    "classes_from_schema",
    "folds",
    "from_schema",
    "function",
    "open",
    "single",
    "sinusoid",
    "table",
]
