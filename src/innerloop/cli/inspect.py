"""`innerloop inspect`: what a model directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .common import Json, Notes, cell, columns, emit


def inspect(
    directory: Annotated[Path, Parameter(help="What innerloop train or innerloop adapt left.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Show what a model directory holds; nothing in it is run.

    Examples:
      innerloop inspect runs/schools
      innerloop inspect runs/schools --json
    """
    from ..checkpoint import describe, load

    notes = Notes(quiet=True)
    found = describe(load(directory))
    if json:
        emit("inspect", found["settings"].get("seed"), notes, {"directory": str(directory)}, **{
            key: value for key, value in found.items() if key != "settings"
        }, trained_with=found["settings"])  # fmt: skip
        return
    print(columns([row for key, value in found.items() for row in _rows(key, value)]))


def _rows(key: str, value: Any) -> list[list[str]]:
    """One row for each thing there is to say; the name stands in the first of them."""
    name = key.replace("_", " ")
    if value is None or value in ({}, []):
        return []
    if key == "scores":
        lines = [_score(row) for row in value if row["headline"]]
    elif key == "tasks":
        lines = [f"{len(value)}: {_listed([entry['id'] for entry in value], 6)}"]
    elif isinstance(value, dict):
        lines = [line for inner, entry in value.items() for line in _item(inner, entry)]
    elif isinstance(value, list):
        lines = [_listed(value, 12)]
    else:
        lines = [str(value)]
    return [[name if number == 0 else "", line] for number, line in enumerate(lines)]


def _item(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, dict):
        return [line for inner, entry in value.items() for line in _item(inner, entry)]
    text = _listed(value, 12) if isinstance(value, list) else str(value)
    return [f"{name.replace('_', ' ')}: {text}"]


def _score(row: dict[str, Any]) -> str:
    value = (row["mean"], *row["ci95"])
    text = "undefined" if None in value else cell(value, row["metric"])
    return f"{row['metric']} {text} after {row['inner_steps']} inner steps on {row['n_tasks']} tasks"


def _listed(values: list[Any], most: int) -> str:
    """The first values, and how many there are."""
    more = f", ... ({len(values)})" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
