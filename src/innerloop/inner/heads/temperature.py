"""One temperature for the probabilities of classes: that with the least cross-entropy on episodes of known classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["ClassEpisode", "class_episodes", "log_temperature"]

# support rows of a class in turn, and query rows at most
SHOTS, _QUERIES = (1, 2, 5), 5
# logarithms of the temperatures to choose from
_RANGE = (-4.0, 8.0)


class ClassEpisode(NamedTuple):
    """Positions of the support rows of each class, of query rows, and the number of the class of each of these."""

    support: list[Tensor]
    query: Tensor
    labels: Tensor


def class_episodes(
    of_row: Tensor, n_way: int, *, count: int, generator: torch.Generator, shots: Sequence[int] = SHOTS
) -> Iterator[ClassEpisode]:
    """Episodes of labelled rows, with so many support rows a class in turn, or fewer where there are no more.

    Arguments:
        of_row: class of each row `(N,)`.
        n_way: classes of an episode, at most.
        count: episodes.
        generator: of the draws.
        shots: support rows a class.

    Example:
        >>> rows = torch.tensor([0, 0, 1, 1, 2])
        >>> episode = next(class_episodes(rows, 5, count=1, generator=torch.Generator()))
        >>> len(episode.support), episode.labels.tolist()
        (2, [0, 1])
    """
    rows_of = [torch.nonzero(of_row == each).flatten() for each in range(int(of_row.max()) + 1)]
    usable = [rows for rows in rows_of if len(rows) >= 2]
    if len(usable) < 2:
        return
    for episode in range(count):
        support, query = [], []
        for place in torch.randperm(len(usable), generator=generator)[:n_way].tolist():
            rows = usable[place]
            rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            taken = min(shots[episode % len(shots)], len(rows) - 1)
            support.append(rows[:taken])
            query.append(rows[taken : taken + _QUERIES])
        labels = [torch.full_like(rows, number) for number, rows in enumerate(query)]
        yield ClassEpisode(support, torch.cat(query), torch.cat(labels))


def log_temperature(found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The logarithm of the best temperature, by golden sections: the cross-entropy has one minimum.

    Arguments:
        found: logits `(n, W)` at temperature 1, and the classes that came `(n,)`, of each episode.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 0.0]]).expand(4, 2), torch.tensor([0, 0, 0, 1])
        >>> log_temperature([(logits, labels)]).exp()  # three quarters are right: a logit of log(3)
        tensor(8.1913)
    """
    width = max(logits.shape[-1] for logits, _ in found)
    every = torch.cat([pad(part, (0, width - part.shape[-1]), value=-torch.inf) for part, _ in found])
    place = torch.cat([labels for _, labels in found]).unsqueeze(-1)

    def loss(value: float) -> float:
        scaled = every * math.exp(-value)
        return float(-scaled.log_softmax(-1).gather(-1, place).mean())

    low, high = _RANGE
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(40):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return found[0][0].new_tensor((low + high) / 2)
