"""`--algorithm auto`: what applies is trained, and what is good on meta-validation tasks is combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .common import Notes
from .text import LABELS, cell, columns, counted

if TYPE_CHECKING:
    from ..combining import Choice
    from ..outer.state import Checkpointer
    from ..outer.training import Callback, Run
    from ..tasks.splits import Tasks
    from .request import Request

__all__ = ["AUTO", "decided", "table", "trained"]

AUTO = "auto"


def decided(request: Request, tasks: Tasks, notes: Notes) -> Request:
    """The request with the name of the algorithm, where there is only one to choose."""
    from ..combining.candidates import entries

    options = request.algorithm
    if request.method != AUTO:
        return request
    if options.init is not None:
        # weights of a file are those of a net
        notes("note: nothing is combined with --init: maml is trained; name another with --algorithm")
        return replace(request, algorithm=replace(options, algorithm="maml"))
    every = entries(tasks, options.arguments(), network=bool(options.network_arguments()))
    if len(every) > 1 or every[0].settings:
        return request
    return replace(request, algorithm=replace(options, algorithm=every[0].algorithm))


def trained(
    request: Request,
    tasks: Tasks,
    notes: Notes,
    *,
    what: str = "",
    callbacks: Sequence[Callback] = (),
    checkpoints: Checkpointer | None = None,
) -> tuple[Run, Choice | None]:
    """The training that was asked for, and the choice where the algorithm was left open."""
    from ..combining import choose
    from ..outer.interrupts import interruption_unsaid

    if request.method != AUTO:
        asked_for = request.complete(tasks)
        return asked_for.train(tasks, notes, what=what, callbacks=callbacks, checkpoints=checkpoints), None
    options, asked = request.algorithm, request.training.arguments()
    further: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    for name in ("steps", "seed"):
        further.pop(name, None)
    with interruption_unsaid():  # the remarks of the run say it
        choice = choose(
            tasks,
            steps=request.complete(tasks).training.steps or 0,
            seed=request.training.seed,
            single=options.single,
            training=request.source(tasks),
            given=options.arguments(),
            model=options.network_arguments(),
            options={**further, "callbacks": callbacks, "checkpoints": checkpoints},
            tell=lambda label: notes(f"training{what}: {label}"),
        )
    for remark in choice.run.remarks:
        notes(f"note: {remark}")
    return choice.run, choice


def table(choice: Choice) -> str:
    """The candidates as text, the heaviest first, and what was chosen.

    Example:
        >>> import innerloop as il
        >>> from innerloop.combining import choose
        >>> choice = choose(il.tasks.sinusoid(n_support=5, episodes=5), steps=2, given={"inner_steps": 1})
        >>> print(table(choice).splitlines()[-1])
        chosen: MAML
    """
    sizes = [f"{size:.3g}" for size in choice.sizes]
    head = ["meta-validation tasks", LABELS[choice.metric], *(f"weight, {counted(size)}" for size in sizes)]
    body = [
        [
            each.label,
            cell(each.score, choice.metric),
            *("-" if not any(each.weights) else f"{100 * weight:.0f} %" for weight in each.weights),
        ]
        for each in choice.candidates
    ]
    kept = [each.label for each in choice.candidates if any(each.weights)]
    if len(kept) == 1:
        last = f"chosen: {kept[0]}"
    else:
        body.append(
            ["their combination, cross-validated", cell(choice.score, choice.metric), *("" for _ in sizes)]
        )
        last = f"chosen: a combination of {len(kept)}; --single keeps one"
    return f"{columns([head, *body])}\n{last}"
