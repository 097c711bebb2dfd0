"""`innerloop list`: what there is to choose from."""

from __future__ import annotations

import re
import textwrap
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from .common import Notes, emit
from .options import Json


def list_(
    what: Annotated[
        Literal["algorithms", "metagrads", "models", "baselines", "data", "all"],
        Parameter(help="What to list."),
    ] = "all",
    /,
    *,
    json: Json = False,
) -> None:
    """List algorithms, meta-gradients, models, baselines and built-in data sets.

    Examples:
      innerloop list
      innerloop list algorithms
      innerloop list data --json
    """
    from ..algorithms import ALGORITHMS
    from ..algorithms.baselines import BASELINES
    from ..models.builtin import MODELS
    from ..outer.metagrad import METAGRADS
    from ..tasks.datasets.catalogue import DATASETS

    notes = Notes(quiet=True)
    found = {
        "algorithms": [_entry(name, item) for name, item in ALGORITHMS.items()],
        "metagrads": [_entry(name, item) for name, item in METAGRADS.items()],
        "models": [_entry(name, item) for name, item in MODELS.items()],
        "baselines": [_entry(name, item) for name, item in BASELINES.items()],
        "data": [
            {
                "name": d.name,
                "about": d.about,
                "size": d.size,
                "licence": d.licence,
                "needs": "" if (here := d.here()) else d.needs,
                "here": here,
            }
            for d in DATASETS.values()
        ],
    }
    chosen = {title: entries for title, entries in found.items() if what in ("all", title)}
    if json:
        emit("list", None, notes, {"what": what}, **chosen)
        return
    for title, entries in chosen.items():
        print(title)
        width = max(len(entry["name"]) for entry in entries) + 4
        for entry in entries:
            print(_lines(entry, width))


def _lines(entry: dict[str, Any], indent: int) -> str:
    """An entry in lines of at most 100 columns, what it is beside its name."""
    needs = f"needs: {entry['needs']}" if entry.get("needs") else ""
    data = f"{entry['size']}; licence: {entry['licence']}" if "size" in entry else ""
    state = "" if "here" not in entry else "here" if entry["here"] else "not here"
    parts = [entry["about"], data, f"{state}, {needs}" if needs else state]
    lines = [line for part in parts for line in textwrap.wrap(part, 100 - indent)]
    head = f"  {entry['name']}".ljust(indent)
    return "\n".join([head + lines[0], *(" " * indent + line for line in lines[1:])])


def _entry(name: str, item: object) -> dict[str, Any]:
    first = (item.__doc__ or "").strip().splitlines()[0]
    # an equation is for the documentation, not for a terminal
    return {"name": name, "about": re.sub(r"[,:]? *\$[^$]*\$", "", first)}
