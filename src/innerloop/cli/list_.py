"""`innerloop list`: what there is to choose from."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, TypedDict

from cyclopts import Parameter

from .common import Notes, emit
from .options import Json
from .text import say

if TYPE_CHECKING:
    from ..tasks.datasets.catalogue import Dataset

__all__ = ["list_"]


class Entry(TypedDict):
    """What there is to choose; the last four fields are those of data sets."""

    name: str
    about: str
    size: NotRequired[str]
    licence: NotRequired[str]
    needs: NotRequired[str]
    here: NotRequired[bool]


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
    listed = {
        "algorithms": [_entry(name, item) for name, item in ALGORITHMS.items()],
        "metagrads": [_entry(name, item) for name, item in METAGRADS.items()],
        "models": [_entry(name, item) for name, item in MODELS.items()],
        "baselines": [_entry(name, item) for name, item in BASELINES.items()],
        "data": [_data_entry(each) for each in DATASETS.values()],
    }
    chosen = {title: entries for title, entries in listed.items() if what in ("all", title)}
    if json:
        emit("list", None, notes, {"what": what}, **chosen)
        return
    for title, entries in chosen.items():
        say(title)
        width = max(len(entry["name"]) for entry in entries) + 4
        for entry in entries:
            say(_lines(entry, width))


def _entry(name: str, item: object) -> Entry:
    first = (item.__doc__ or "").strip().splitlines()[0]
    # an equation is for the documentation, not for a terminal
    return {"name": name, "about": re.sub(r"[,:]? *\$[^$]*\$", "", first)}


def _data_entry(data: Dataset) -> Entry:
    here = data.here()
    return {
        "name": data.name,
        "about": data.about,
        "size": data.size,
        "licence": data.licence,
        "needs": "" if here else data.needs,
        "here": here,
    }


def _lines(entry: Entry, indent: int) -> str:
    """An entry in lines of at most 100 columns, what it is beside its name."""
    parts = [entry["about"]]
    if "here" in entry:
        needs = f", needs: {entry['needs']}" if entry["needs"] else ""
        parts += [
            f"{entry['size']}; licence: {entry['licence']}",
            f"{'' if entry['here'] else 'not '}here{needs}",
        ]
    lines = [line for part in parts for line in textwrap.wrap(part, 100 - indent)]
    head = f"  {entry['name']}".ljust(indent)
    return "\n".join([head + lines[0], *(" " * indent + line for line in lines[1:])])
