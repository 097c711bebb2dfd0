"""`--algorithm auto`: a short race on meta-validation tasks decides what is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .common import Notes
from .options import network_options
from .text import LABELS, cell, columns

if TYPE_CHECKING:
    from ..compare.race import Race
    from ..tasks.sources import Source
    from ..tasks.splits import Tasks

AUTO = "auto"


def raced(
    data: Tasks, training: Source, settings: dict[str, Any], given: dict[str, Any], notes: Notes
) -> tuple[dict[str, Any], Race | None]:
    """The settings that a race chose, and the race; `None` where one algorithm applies.

    Arguments:
        data: the tasks.
        training: where training episodes come from, composed and augmented.
        settings: those of `train`, complete.
        given: settings of the algorithm that were asked for.
        notes: where progress is told.
    """
    from ..compare.race import race, runners

    model = network_options(settings)
    if settings["init"] is not None:
        # weights of a file are those of a net
        notes("note: there is no race with --init: maml is trained; name another with --algorithm")
        return {"algorithm": "maml"}, None
    every = runners(data, given, network=bool(model))
    if len(every) == 1:
        return {"algorithm": every[0][1]}, None
    found = race(
        data,
        steps=settings["steps"],
        seed=settings["seed"],
        training=training,
        given=given,
        model=model,
        device=settings["device"],
        tell=lambda what, share: notes(f"race: {what}"),
    )
    winner = found.winner
    chosen: dict[str, Any] = {"algorithm": winner.algorithm}
    if winner.settings:
        # one net for all tasks: no inner step, so nothing to learn about steps
        chosen |= {"inner_steps": 0, "learn_lr": "none", "inner_clip": 0.0}
    return chosen | {"race": rows(found)}, found


def rows(found: Race) -> list[dict[str, Any]]:
    """The race as it is kept with the model.

    Example:
        >>> from innerloop.compare.race import Lap, Race
        >>> from innerloop.compare.result import Estimate
        >>> rows(Race((Lap("MAML", "maml", {}, Estimate(0.5, 0.4, 0.6), 1.0),), "accuracy"))[0]["algorithm"]
        'maml'
    """
    return [
        {
            "label": lap.label,
            "algorithm": lap.algorithm,
            "metric": found.metric,
            "mean": lap.score.mean,
            # a single task has no interval
            "ci95": [end if math.isfinite(end) else None for end in lap.score[1:]],
            "seconds": lap.seconds,
        }
        for lap in found.laps
    ]


def table(found: Race) -> str:
    """The race as text, the winner first."""
    head = ["race on meta-validation tasks", LABELS[found.metric]]
    body = [[lap.label, cell(tuple(lap.score), found.metric)] for lap in found.laps]  # type: ignore[arg-type]
    return f"{columns([head, *body])}\ntrained: {found.winner.label}"
