"""`innerloop list`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from .common import Json, Notes, columns, emit


def list_(
    what: Annotated[Literal["algorithms", "models", "data", "all"], Parameter(help="What to list.")] = "all",
    /,
    *,
    json: Json = False,
) -> None:
    """List algorithms, models and built-in data sets.

    innerloop list algorithms

    innerloop list data --json
    """
    from ..algorithms import ALGORITHMS
    from ..baselines import BASELINES
    from ..datasets import DATASETS
    from ..models import MODELS

    notes = Notes(quiet=True)
    found = {
        "algorithms": [_entry(name, item) for name, item in {**ALGORITHMS, **BASELINES}.items()],
        "models": [_entry(name, item) for name, item in MODELS.items()],
        "data": [
            {"name": d.name, "about": d.about, "size": d.size, "licence": d.licence, "needs": d.needs}
            for d in DATASETS.values()
        ],
    }
    chosen = {title: entries for title, entries in found.items() if what in ("all", title)}
    if json:
        emit("list", None, notes, {"what": what}, **chosen)
        return
    for title, entries in chosen.items():
        print(title)
        rows = [
            [f"  {e['name']}", e["about"], *(e[k] for k in ("size", "needs") if e.get(k))] for e in entries
        ]
        width = max(len(row) for row in rows)
        print(columns([row + [""] * (width - len(row)) for row in rows]))


def _entry(name: str, item: object) -> dict[str, str]:
    return {"name": name, "about": (item.__doc__ or "").strip().splitlines()[0]}
