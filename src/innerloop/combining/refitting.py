"""Fitting members once more with the meta-validation tasks, after these have decided what each member counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..tasks.sources import RowSource

__all__ = ["joined"]


def joined(one: RowSource, other: RowSource) -> RowSource:
    """The tasks of two sources as one.

    Arguments:
        one: tasks; sizes and choice of support and query rows are theirs.
        other: further tasks with the same features and targets.

    Example:
        >>> from innerloop.tasks import arrays
        >>> tasks = arrays(np.zeros((40, 1)), np.arange(40.0), np.arange(40) // 4, n_support=2)
        >>> joined(tasks.train, tasks.valid).n_tasks == tasks.train.n_tasks + tasks.valid.n_tasks
        True
    """
    rows = len(one.y)
    blocks = None
    if one.blocks is not None and other.blocks is not None:
        blocks = np.concatenate([one.blocks[:-1], other.blocks + rows])
    return replace(
        one,
        x=torch.cat([one.x, other.x]),
        y=torch.cat([one.y, other.y]),
        starts=np.concatenate([one.starts[:-1], other.starts + rows]),
        ids=(*one.ids, *other.ids),
        blocks=blocks,
    )
