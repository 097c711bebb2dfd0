"""Settings of `innerloop.refine`, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..algorithms.gradient_based import inner_rule
from ..errors import UsageError
from .folds import combination
from .selection import Selection

__all__ = ["NOISES", "STOPS", "Settings"]

NOISES = ("none", "laplace")
STOPS = ("auto", "split", "crossfit", "none")


@dataclass(frozen=True, kw_only=True)
class Settings:
    r"""How to refine a model.

    Arguments:
        folds: draws a round, `J`; never more than rows, so that few rows are left out one by one.
        moves: which rows move a candidate, the others give the gradient: `most` (all folds but one), `few` (one
            fold), `bootstrap` (a bootstrap sample; the rows it left out give the gradient).
        noise: of the candidates: `none`, or `laplace` of variance $1 / (N F + \tau)$.
        tau: precision $\tau$ of the prior of the Laplace noise.
        score: what decides which parameters change, one of `selection.SCORES`.
        budget: share of the parameters that change in a round, above 0 and at most 1.
        scope: `global`, `tensor` or `neuron`: among which parameters the largest are chosen.
        rule: how the mean held-out gradient becomes a step, one of `algorithms.gradient.RULES`: `sgd`, `adam`, ...
        lr: step size of the first round.
        candidate_lr: step size of a candidate; with 0 the held-out gradients are those of the model itself.
        reach: how far a candidate may go, as a share of the length of all parameters.
        decay: round `t` (from 0) takes a step of length `1 / (1 + decay * t)`.
        rounds: largest number of rounds.
        tolerance: the rounds end when the average of all iterates has moved less than this share of its length
            ...
        patience: ... for so many rounds on end.
        worse: rounds without a lower validation loss after which the rounds end.
        stop: `split` sets rows aside for stopping, `crossfit` finds the number of rounds by cross-fitting and
            refines on all rows, `none` takes all rounds; `auto` is `split` where there are enough rows.
        batch_size: largest number of rows a round, drawn anew each round.
        seed: of everything random.

    Raises:
        UsageError: a value has no meaning.

    Example:
        >>> Settings(budget=0.05).needs_fisher
        False
    """

    folds: int = 5
    moves: str = "most"
    noise: str = "none"
    tau: float = 1e4
    score: str = "snr"
    budget: float = 0.3
    scope: str = "global"
    rule: str = "adam"
    lr: float = 5e-3
    candidate_lr: float = 0.01
    reach: float = 1e-3
    decay: float = 0.01
    rounds: int = 100
    tolerance: float = 1e-5
    patience: int = 10
    worse: int = 20
    stop: str = "auto"
    batch_size: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        combination(self.moves)
        inner_rule(self.rule, self.lr, None, None)
        Selection(self.score, self.budget, self.scope)
        for name, allowed in (("noise", NOISES), ("stop", STOPS)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name}={getattr(self, name)!r} is unknown: choose one of {', '.join(allowed)}"
                )
        for name, least in (
            ("folds", 2), ("rounds", 0), ("patience", 1), ("worse", 1), ("batch_size", 2), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: give {least} or more")
        for name, zero in (
            ("lr", False), ("tau", False), ("reach", False),
            ("candidate_lr", True), ("decay", True), ("tolerance", True),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (0 < value < math.inf or (zero and value == 0)):
                raise UsageError(f"{name}={value}: give a positive number{' or 0' if zero else ''}")

    @property
    def needs_fisher(self) -> bool:
        """Whether the Fisher information is needed."""
        return self.score == "fisher" or self.noise == "laplace"
