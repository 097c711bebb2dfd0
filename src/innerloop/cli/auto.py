"""`--algorithm auto`: a short race on meta-validation tasks decides what is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from .common import Notes
from .text import LABELS, cell, columns

if TYPE_CHECKING:
    from ..compare.race import Race
    from ..tasks.splits import Tasks
    from .options import AlgorithmOptions
    from .request import Request

__all__ = ["AUTO", "laps", "raced", "table"]

AUTO = "auto"


def raced(request: Request, tasks: Tasks, notes: Notes) -> tuple[AlgorithmOptions, Race | None]:
    """The algorithm that a race chose, and the race; `None` where only one applies."""
    from ..compare.race import race, runners

    options, training = request.algorithm, request.training
    given, model = options.arguments(), options.network_arguments()
    if options.init is not None:
        # weights of a file are those of a net
        notes("note: there is no race with --init: maml is trained; name another with --algorithm")
        return replace(options, algorithm="maml"), None
    every = runners(tasks, given, network=bool(model))
    if len(every) == 1:
        return replace(options, algorithm=every[0][1]), None
    result = race(
        tasks,
        steps=training.steps or 0,
        seed=training.seed,
        training=request.source(tasks),
        given=given,
        model=model,
        device=training.device,
        tell=lambda what, share: notes(f"race: {what}"),
    )
    winner = replace(options, algorithm=result.winner.algorithm)
    if result.winner.settings:
        # one net for all tasks: no inner step, so nothing to learn about steps
        winner = replace(winner, inner_steps=0, learn_lr="none", inner_clip=0.0)
    return winner, result


def laps(race: Race) -> list[dict[str, object]]:
    """The race as it is stored with the model.

    Example:
        >>> from innerloop.compare.race import Lap, Race
        >>> from innerloop.compare.result import Estimate
        >>> laps(Race((Lap("MAML", "maml", {}, Estimate(0.5, 0.4, 0.6), 1.0),), "accuracy"))[0]["algorithm"]
        'maml'
    """
    return [
        {
            "label": lap.label,
            "algorithm": lap.algorithm,
            "metric": race.metric,
            "mean": lap.score.mean,
            # a single task has no interval
            "ci95": [end if math.isfinite(end) else None for end in lap.score[1:]],
            "seconds": lap.seconds,
        }
        for lap in race.laps
    ]


def table(race: Race) -> str:
    """The race as text, the winner first."""
    head = ["race on meta-validation tasks", LABELS[race.metric]]
    body = [[lap.label, cell(lap.score, race.metric)] for lap in race.laps]
    return f"{columns([head, *body])}\ntrained: {race.winner.label}"
