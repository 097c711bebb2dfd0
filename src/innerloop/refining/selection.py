r"""Top-k selection of the parameters that change: a score for each of them, and a mask of the largest.

With the held-out gradients $h_j$ and the gradients $a_j$ that moved the candidates, both `(J, ...)`, and
$\bar h$, $\bar a$ their means over $j$:

| name | score | known as |
|---|---|---|
| `gradient` | $\lvert\bar h\rvert$ | the Gauss-Southwell rule (Nutini et al., 2015) |
| `agreement` | $\bar h\,\bar a$ | training and held-out rows want the same |
| `snr` | $\lvert\bar h\rvert / (\mathrm{std}_j h_j + d)$ | signal to noise |
| `fisher` | $\bar h^2 / (F + d)$ | second-order approximation (Fu et al., 2023) |
| `learned` | $\sum_t \frac1J \sum_j h_j a_j$ | sparse-MAML (von Oswald et al., 2021), see `learned` |
| `static` | `gradient` of the first round, for all rounds | gradient-based parameter selection (Zhang et al., 2024) |
| `random` | a number drawn anew each round | the control |
| `all` | every parameter | cross-fit gradient descent |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.network import Params

__all__ = ["CONTROLS", "SCOPES", "SCORES", "Evidence", "Selection", "largest", "per_fold_agreement"]

SCOPES = ("global", "tensor", "neuron")
_DAMPING = 0.1  # of the typical size of what a score divides by


class Evidence(NamedTuple):
    """What a round knows of every parameter.

    Arguments:
        held: the held-out gradients $h_j$, `(J, ...)` by name.
        moved_by: the gradients $a_j$ that moved the candidates, `(J, ...)` by name.
        fisher: the diagonal Fisher information, where the score needs it.
        generator: of what is drawn.
    """

    held: Params
    moved_by: Params
    fisher: Params | None
    generator: torch.Generator

    @property
    def mean_held(self) -> Params:
        """The mean held-out gradient, by name."""
        return {name: value.mean(0) for name, value in self.held.items()}


def gradient(evidence: Evidence) -> Params:
    """The size of the mean held-out gradient."""
    return {name: value.abs() for name, value in evidence.mean_held.items()}


def agreement(evidence: Evidence) -> Params:
    """The product of the mean held-out and the mean moving gradient: negative where they disagree."""
    return {name: value * evidence.moved_by[name].mean(0) for name, value in evidence.mean_held.items()}


def per_fold_agreement(evidence: Evidence) -> Params:
    r"""The mean over draws of $h_j a_j$.

    Minus the step of a candidate times this is the gradient of the mean held-out loss in a mask over that step,
    $\phi = \theta - \beta\, m \circ a$: what a learned mask descends (von Oswald et al., 2021).
    """
    return {name: (value * evidence.moved_by[name]).mean(0) for name, value in evidence.held.items()}


def snr(evidence: Evidence) -> Params:
    """The size of the mean held-out gradient over its spread between draws."""
    spread = {name: value.std(0, unbiased=False) for name, value in evidence.held.items()}
    damping = _DAMPING * _typical(spread)
    return {name: value.abs() / (spread[name] + damping) for name, value in evidence.mean_held.items()}


def fisher(evidence: Evidence) -> Params:
    """What a step of Newton's method along one parameter would gain, with the Fisher information for curvature."""
    if evidence.fisher is None:
        raise UsageError("score='fisher' needs the Fisher information: see candidates.fisher")
    damping = _DAMPING * _typical(evidence.fisher)
    return {
        name: value.square() / (evidence.fisher[name] + damping) for name, value in evidence.mean_held.items()
    }


def random(evidence: Evidence) -> Params:
    """A number drawn anew for every parameter."""
    return {
        name: torch.rand(value.shape[1:], generator=evidence.generator).to(value)
        for name, value in evidence.held.items()
    }


def everything(evidence: Evidence) -> Params:
    """The same for every parameter."""
    return {name: torch.ones_like(value[0]) for name, value in evidence.held.items()}


def _typical(values: Params) -> float:
    """The mean over all parameters, and never 0."""
    count = sum(value.numel() for value in values.values())
    return float(sum(value.sum() for value in values.values())) / count or 1.0


SCORES: dict[str, Callable[[Evidence], Params]] = {
    "gradient": gradient,
    "agreement": agreement,
    "snr": snr,
    "fisher": fisher,
    "learned": per_fold_agreement,
    "static": gradient,
    "random": random,
    "all": everything,
}
CONTROLS = ("random", "static", "all")


def largest(scores: Params, budget: float, scope: str) -> Params:
    """A mask of 1 for the parameters with the largest scores and 0 for the others.

    Arguments:
        scores: a score for each parameter, by name.
        budget: the share of the parameters to choose, above 0 and at most 1; one of them at least.
        scope: `global` chooses among all parameters; `tensor` the same share of each tensor; `neuron` the same
            share of the weights that lead to each output of a layer.

    Returns:
        The mask, by name.

    Example:
        >>> largest({"w": torch.tensor([0.3, 0.1]), "b": torch.tensor([0.2])}, 0.67, "global")
        {'w': tensor([1., 0.]), 'b': tensor([1.])}
    """
    if scope == "global":
        flat = torch.cat([value.flatten() for value in scores.values()])
        chosen = torch.split(_top(flat[None], budget)[0], [value.numel() for value in scores.values()])
        return {name: part.reshape(scores[name].shape) for name, part in zip(scores, chosen, strict=True)}
    masks = {}
    for name, value in scores.items():
        rows = value.flatten(1) if scope == "neuron" and value.dim() > 1 else value.reshape(1, -1)
        masks[name] = _top(rows, budget).reshape(value.shape)
    return masks


def _top(rows: Tensor, budget: float) -> Tensor:
    """1 at the largest of each row, `budget` of them, one at least."""
    count = max(1, math.floor(budget * rows.shape[1] + 1e-9))
    return torch.zeros_like(rows).scatter_(1, rows.topk(count, dim=1).indices, 1.0)


@dataclass
class Selection:
    """Which parameters change in each round.

    Arguments:
        score: one of `SCORES`.
        budget: see `largest`; `all` changes every parameter, whatever the budget.
        scope: see `largest`.

    Raises:
        UsageError: a name is unknown, or the budget is no share.

    Example:
        >>> held = {"w": torch.tensor([[1.0, -3.0], [1.0, -1.0]])}
        >>> Selection("gradient", 0.5)(Evidence(held, held, None, torch.Generator()))
        {'w': tensor([0., 1.])}
    """

    score: str
    budget: float
    scope: str = "global"
    # of the rounds before: the mask of `static`, the sum of scores of `learned`
    _before: Params | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.score not in SCORES:
            raise UsageError(f"score={self.score!r} is unknown: choose one of {', '.join(SCORES)}")
        if self.scope not in SCOPES:
            raise UsageError(f"scope={self.scope!r} is unknown: choose one of {', '.join(SCOPES)}")
        if not 0 < self.budget <= 1:
            raise UsageError(f"budget={self.budget}: give a share of the parameters, above 0 and at most 1")
        if self.score == "all":
            self.budget = 1.0

    def __call__(self, evidence: Evidence, allowed: Params | None = None) -> Params:
        """The mask of this round, 0 wherever `allowed` is."""
        before = self._before
        if self.score == "static" and before is not None:
            return before
        scores = SCORES[self.score](evidence)
        if self.score == "learned":
            scores = {n: v if before is None else before[n] + v for n, v in scores.items()}
            self._before = scores
        if allowed is not None:
            scores = {n: v.masked_fill(allowed[n] == 0, -math.inf) for n, v in scores.items()}
        mask = largest(scores, self.budget, self.scope)
        if allowed is not None:
            mask = {name: value * allowed[name] for name, value in mask.items()}
        if self.score == "static":
            self._before = mask
        return mask
