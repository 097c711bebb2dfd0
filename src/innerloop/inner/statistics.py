"""BatchNorm statistics in the inner loop: those that a task owns, and running averages over tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..models.network import Features, Network, Params
from ..tasks.episodes import Batch, Episode
from .learner import Learner, empty
from .streams import for_query

__all__ = ["observed", "of_each_task", "query_outputs", "require_support", "running_average"]

# share of the newest statistics in a running average; the first ones are averaged evenly
_NEWEST = 0.1


def running_average(meta: Params, seen: Params) -> Params:
    """New values of `state/...` entries: a little of what was just seen, and the count of updates.

    Example:
        >>> meta = {"state/updates": torch.tensor(0.0), "state/a": torch.tensor(1.0)}
        >>> running_average(meta, {"state/a": torch.tensor(3.0)})["state/a"]
        tensor(3.)
    """
    count = meta["state/updates"]
    share = (1 / (count + 1)).clamp(min=_NEWEST)
    moved = {name: meta[name] + share * (value - meta[name]) for name, value in seen.items()}
    return {**moved, "state/updates": count + 1}


def observed(learner: Learner, meta: Params, episode: Episode) -> Params:
    """Running statistics of policy `per_step`: for each inner step the mean over tasks of the query rows' own."""
    network = learner.network
    if not network.keeps_statistics:
        return {}
    query, steps = episode.query, []
    for adapted in learner.path(meta, episode.support):
        _, seen = network(meta, adapted, query.x, weight=query.weight, given_statistics=True)
        steps.append({name: value.detach().mean(0) for name, value in seen.items()})
    rows = {}
    for name in steps[0]:
        stored = f"state/bn/{name}"
        rows[stored] = torch.stack([step[name] for step in steps[: len(meta[stored])]])
    return running_average(meta, rows)


def query_outputs(
    network: Network,
    meta: Params,
    adapted: Params,
    x: Features,
    *,
    weight: Tensor | None = None,
    key: Tensor | None = None,
) -> Any:
    """What the network returns for query rows, normalised with the statistics that their tasks own."""
    given = network.needs_statistics
    return network(meta, adapted, x, weight=weight, key=for_query(key), given_statistics=given)[0]


def of_each_task(values: Params, support: Batch) -> Params:
    """Shared values as those of each task, with a leading task axis."""
    count = support.target.shape[0]
    return {name: value.expand(count, *value.shape) for name, value in values.items()}


def require_support(support: Batch) -> None:
    """Refuse a task without rows where BatchNorm normalises with them."""
    if empty(support):
        raise DataError(
            "batchnorm='support' normalises with the support set, and a task has no support row: "
            "give it a labelled row, or use a model without BatchNorm"
        )
