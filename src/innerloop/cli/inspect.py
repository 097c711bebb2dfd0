"""`innerloop inspect`: what a model directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .common import Json, Notes, columns, emit


def inspect(
    directory: Annotated[Path, Parameter(help="What innerloop train or innerloop adapt left.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Show what a model directory holds; nothing in it is run.

    innerloop inspect runs/schools
    """
    from ..checkpoint import describe, load

    notes = Notes(quiet=True)
    found = describe(load(directory))
    if json:
        emit("inspect", found["settings"].get("seed"), notes, {"directory": str(directory)}, **{
            key: value for key, value in found.items() if key != "settings"
        }, trained_with=found["settings"])  # fmt: skip
        return
    rows = []
    for key, value in found.items():
        text = _short(key, value)
        if text:
            rows.append([key.replace("_", " "), text])
    print(columns(rows))


def _short(key: str, value: Any) -> str:
    if value is None or value in ({}, []):
        return ""
    if key == "scores":
        best = [row for row in value if row["headline"]]
        return ", ".join(f"{r['metric']} {r['mean']:.4g} {[round(v, 4) for v in r['ci95']]}" for r in best)
    if key == "tasks":
        return (
            f"{len(value)}: "
            + ", ".join(entry["id"] for entry in value[:5])
            + (" ..." if len(value) > 5 else "")
        )
    if isinstance(value, dict):
        return ", ".join(
            f"{name}={_short('', entry) or entry}" for name, entry in value.items() if entry is not None
        )
    if isinstance(value, list):
        return ", ".join(map(str, value[:12])) + (f" ... ({len(value)})" if len(value) > 12 else "")
    return str(value)
