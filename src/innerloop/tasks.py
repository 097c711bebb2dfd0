"""The front door for data: tables, labelled arrays, functions and single data sets become splits of tasks."""

from __future__ import annotations

from .arrays import arrays
from .check import check
from .functions import function, sinusoid
from .layouts import open_tasks as open
from .nway import class_table, classes, classes_from_schema
from .single import single
from .splits import Tasks
from .tables import from_schema, table

__all__ = [
    "Tasks",
    "arrays",
    "check",
    "class_table",
    "classes",
    "classes_from_schema",
    "from_schema",
    "function",
    "open",
    "single",
    "sinusoid",
    "table",
]
