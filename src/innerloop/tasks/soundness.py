"""What makes the score of tasks mean less than it says, whatever they were made of."""

from __future__ import annotations

import numpy as np

from .leaks import twin_names
from .row_source import RowSource
from .splits import SPLITS, Tasks

__all__ = ["doubts", "remarks"]

# share of the tasks in which a target that is the same in every row is a property of the task
_OF_TASKS = 0.9
# tasks from which a mean over the held-out ones says something
_FEW = 20


def doubts(tasks: Tasks) -> tuple[str, ...]:
    """Reasons for which a score would be worthless; the fix stands behind the last colon.

    Example:
        >>> import numpy as np
        >>> from .from_arrays import arrays
        >>> rows = np.arange(40)
        >>> tasks = arrays(rows[:, None] % 7.0, rows // 4 % 2, rows // 4, kind="classification")
        >>> doubts(tasks)[0].partition(", so")[0]
        "the target 'y' is the same in all rows of a task, in 10 of 10 tasks"
    """
    sources = [source for source in (tasks.train, tasks.valid, tasks.test) if isinstance(source, RowSource)]
    if not sources:
        return ()
    names = [""] if tasks.schema is None else [f" {column.name!r}" for column in tasks.schema.target_columns]
    columns = [source.y.reshape(len(source.y), -1).numpy().T for source in sources]
    found = []
    for number in range(len(columns[0])):
        values = [column[number] for column in columns]
        name = names[number] if number < len(names) else ""
        found += _same_in_tasks(values, [source.starts for source in sources], name)
    return tuple(found)


def _same_in_tasks(values: list[np.ndarray], starts: list[np.ndarray], name: str) -> list[str]:
    """The sentence about a target of which nearly every task has one value, and not all tasks the same."""
    low = np.concatenate([np.minimum.reduceat(v, s[:-1]) for v, s in zip(values, starts, strict=True)])
    high = np.concatenate([np.maximum.reduceat(v, s[:-1]) for v, s in zip(values, starts, strict=True)])
    alone = low == high
    if alone.mean() < _OF_TASKS or len(np.unique(low[alone])) < 2:
        return []
    return [
        f"the target{name} is the same in all rows of a task, in {int(alone.sum())} of {len(alone)} tasks, so one "
        "support row gives it away and the score after adaptation means nothing: ask whether it can be told of a "
        "task without a labelled row (the score before adaptation, or an ordinary model on one row a task with "
        "tasks held out)"
    ]


def remarks(tasks: Tasks) -> tuple[str, ...]:
    """What is worth knowing before a score is believed.

    Example:
        >>> import numpy as np
        >>> from .from_arrays import arrays
        >>> x = np.arange(40.0)
        >>> remarks(arrays(x[:, None], np.sin(x), x // 8))
        ('5 tasks are few: with fewer than about 20, scores of the 1 held out vary more than methods differ',)
    """
    if not isinstance(tasks.train, RowSource) or not tasks.splits:
        return ()
    names = [name for part in SPLITS for name in tasks.splits[part]]
    found = [text for _, text in twin_names(names, "task ids", "one task")]
    if len(names) < _FEW:
        found.append(
            f"{len(names)} tasks are few: with fewer than about {_FEW}, scores of the {len(tasks.splits['test'])} held "
            "out vary more than methods differ"
        )
    return tuple(found)
