"""The rounds of refinement: held-out gradients, top-k selection, a step, early stopping, cross-fitting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from ..algorithms.gradient_based import inner_rule
from ..errors import DivergedError
from ..models.losses import task_losses
from ..models.network import Params
from ..tasks.episodes import Batch, unsqueeze
from ..tasks.support import stream
from .candidates import Objective, accuracy, draw_candidates, fisher, held_out_gradients, piece, stacked
from .folds import combination, fold_numbers, take
from .selection import Evidence, Selection
from .settings import Settings

__all__ = ["Callback", "Descent", "RoundEntry", "changed_mask", "crossfit_rounds", "descend", "score"]


class RoundEntry(TypedDict):
    """The log entry of a round.

    `loss` and `accuracy` are those of the rows held out, `selected` and `changed` shares of the parameters that may
    move, `moved` is the movement of the averaged iterate over its length, `valid_...` there with a third split.
    """

    round: int
    loss: float
    accuracy: float
    selected: float
    changed: float
    lr: float
    moved: NotRequired[float]
    valid_loss: NotRequired[float]
    valid_accuracy: NotRequired[float]


Callback = Callable[[RoundEntry], None]

# streams of one seed: the folds of a round and what is drawn in it, the folds of cross-fitting
_ROUND, _NOISE, _CROSS = 0, 1, 2
# a held-out loss this many times the first one (or 1, if that is less) is no longer descending
_EXPLODED = 20.0


@dataclass(frozen=True, eq=False)
class Descent:
    """What the rounds did.

    Arguments:
        theta: the moving parameters that are kept.
        best_round: the round they come from; 0 is the start.
        log: one entry a round.
        chosen: how often each parameter was chosen, by name.
        stopped: why the rounds ended, in words.
    """

    theta: Params
    best_round: int
    log: list[RoundEntry] = field(repr=False)
    chosen: Params = field(repr=False)
    stopped: str


def descend(
    objective: Objective,
    rows: Batch,
    settings: Settings,
    *,
    valid: Batch | None = None,
    rounds: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Descent:
    r"""Repeat: candidates from a part of the rows, held-out gradients from the rest, change what scores highest.

    Arguments:
        objective: the loss as a function of the parameters that may move.
        rows: the data $S$.
        settings: see `Settings`.
        valid: rows that only stop: the best round by their loss is kept, else the last one.
        rounds: in place of those of the settings.
        callbacks: called with the log entry of every round.

    Returns:
        What the rounds did.

    Raises:
        DivergedError: the loss is not finite before anything has changed.
    """
    theta = start = objective.start()
    select = Selection(settings.score, settings.budget, settings.scope)
    rule = inner_rule(settings.rule, settings.lr, None, None)
    state = rule.init(theta, {})
    watch = _Watch(objective, theta, settings, valid)
    chosen = {name: torch.zeros_like(value, dtype=torch.int64) for name, value in theta.items()}
    for t in range(settings.rounds if rounds is None else rounds):
        evidence, loss, right = _evidence(objective, theta, rows, settings, t)
        # M: the top k of the score
        mask = select(evidence, objective.allowed)
        # theta <- theta - lr_t * M * mean h, where the rule is sgd
        share = 1 / (1 + settings.decay * t)
        moved, state = rule.update(evidence.mean_held, state, theta, {})
        new = {name: value + share * mask[name] * (moved[name] - value) for name, value in theta.items()}
        entry: RoundEntry = {
            "round": t + 1,
            "loss": loss,
            "accuracy": right,
            "selected": _share(mask),
            "changed": _share(changed_mask(start, new)),
            "lr": share * settings.lr,
        }
        if watch(entry, theta, new):
            theta = new
            chosen = {name: count + (mask[name] > 0) for name, count in chosen.items()}
        for callback in callbacks:
            callback(entry)
        if watch.stopped:
            break
    return Descent(*watch.best, watch.log, chosen, watch.stopped or f"all {len(watch.log)} rounds were taken")


def _evidence(
    objective: Objective, theta: Params, rows: Batch, settings: Settings, t: int
) -> tuple[Evidence, float, float]:
    """What round `t` learns of every parameter, and loss and accuracy of the rows held out."""
    # dynamic combination: a fresh random partition of the rows into folds
    drawn = _some(rows, settings.batch_size, stream(settings.seed, _ROUND, t, 1))
    combine, n_folds = combination(settings.moves), min(settings.folds, len(drawn.y))
    folds = combine(drawn, n_folds, stream(settings.seed, _ROUND, t))
    generator = stream(settings.seed, _NOISE, t)
    # a_j and phi_j: the candidate distribution
    information = fisher(objective, theta, drawn) if settings.needs_fisher else None
    candidates = draw_candidates(
        objective,
        theta,
        folds,
        lr=settings.candidate_lr,
        reach=settings.reach,
        tau=settings.tau if settings.noise == "laplace" else None,
        information=information,
        generator=generator,
    )
    # h_j: the held-out gradients
    held, losses, predictions = held_out_gradients(objective, candidates.draws, folds)
    evidence = Evidence(held, candidates.moved_by, information, generator)
    return evidence, float(losses.mean()), accuracy(predictions, folds.query)


class _Watch:
    """Looks at every round: keeps the log and the best parameters, and says when to stop, and why."""

    def __init__(self, objective: Objective, theta: Params, settings: Settings, valid: Batch | None) -> None:
        self.objective, self.settings, self.valid = objective, settings, valid
        self.log: list[RoundEntry] = []
        self.stopped = ""
        self.best = self.verified = theta, 0
        self.average, self.still, self.limit = theta, 0, math.inf
        self.best_loss, self.worse = math.inf, 0
        if valid is not None:
            self.best_loss = score(objective, theta, valid)["loss"]

    def __call__(self, entry: RoundEntry, old: Params, new: Params) -> bool:
        """Whether the new parameters are good; if not, those before them are the last good ones."""
        t = entry["round"]
        if not math.isfinite(entry["loss"]) and t == 1:
            raise DivergedError(
                "the held-out loss is not finite before anything has changed: check the model and the scale of "
                "the data, or lower candidate_lr"
            )
        if t == 1:
            self.limit = _EXPLODED * max(entry["loss"], 1.0)
        self.log.append(entry)
        exploded = not entry["loss"] <= self.limit
        if exploded or not all(bool(torch.isfinite(value).all()) for value in new.values()):
            entry["moved"] = math.nan
            if self.valid is None:
                # the loss of a round is that of the weights before it
                self.best = self.verified if exploded else (old, t - 1)
            what = f"held-out loss {entry['loss']:.3g}" if exploded else "a step that is not finite"
            self.stopped = f"diverged in round {t} ({what}): the last good weights were kept; lower lr"
            return False
        entry["moved"] = self._moved(new, t)
        if self.valid is None:
            self.verified, self.best = (old, t - 1), (new, t)
        else:
            self._validate(self.valid, entry, new)
        self._settle(entry)
        return True

    def _moved(self, new: Params, t: int) -> float:
        """How far the average of all iterates moved, over its length."""
        average = {name: value + (new[name] - value) / (t + 1) for name, value in self.average.items()}
        step = _length({name: average[name] - value for name, value in self.average.items()})
        self.average = average
        return step / max(_length(average), 1e-12)

    def _settle(self, entry: RoundEntry) -> None:
        """Stop where the averaged parameters hardly move any more."""
        self.still = self.still + 1 if entry["moved"] < self.settings.tolerance else 0
        if self.still >= self.settings.patience and not self.stopped:
            self.stopped = (
                f"the averaged parameters moved less than {self.settings.tolerance:g} of their length for "
                f"{self.still} rounds"
            )

    def _validate(self, valid: Batch, entry: RoundEntry, new: Params) -> None:
        """Score the rows that only stop: keep the best parameters, stop where none comes for long."""
        scores = score(self.objective, new, valid)
        entry["valid_loss"] = scores["loss"]
        if "accuracy" in scores:
            entry["valid_accuracy"] = scores["accuracy"]
        if scores["loss"] < self.best_loss:
            self.best, self.best_loss, self.worse = (new, entry["round"]), scores["loss"], 0
            return
        self.worse += 1
        if self.worse >= self.settings.worse:
            self.stopped = f"the validation loss has not fallen for {self.worse} rounds"


def crossfit_rounds(objective: Objective, rows: Batch, settings: Settings) -> int:
    """How many rounds to take, by cross-fitting: every fold stops a run on the others, and the curves are averaged.

    Stone, 1974, *Cross-Validatory Choice and Assessment of Statistical Predictions*, for the number of rounds:
    all rows can then be refined on, and none of them has been both refined on and stopped with.
    """
    n_folds = min(settings.folds, len(rows.y))
    numbers = fold_numbers(rows.y, n_folds, stream(settings.seed, _CROSS))
    total = torch.zeros(settings.rounds + 1, dtype=torch.float64, device="cpu")
    for fold in range(n_folds):
        inside, outside = take(rows, numbers != fold), take(rows, numbers == fold)
        if len(inside.y) < 2:
            return 0
        descent = descend(objective, inside, settings, valid=outside)
        curve = [score(objective, objective.start(), outside)["loss"]]
        curve += [entry.get("valid_loss", math.inf) for entry in descent.log]
        # a run that has stopped would go on to be as good as it was when it stopped
        curve += [curve[-1]] * (settings.rounds + 1 - len(curve))
        total += len(outside.y) * torch.tensor(curve, dtype=torch.float64, device="cpu")
    return int(total.argmin())


def score(objective: Objective, theta: Params, rows: Batch, *, at_once: int = 1024) -> dict[str, float]:
    """Mean loss, and accuracy where targets are classes, of the rows.

    Example:
        >>> from innerloop.algorithms import plain
        >>> from innerloop.models import build
        >>> learner = plain(build("mlp", n_in=2), loss="mse")
        >>> objective = Objective(learner, meta := learner.init(), tuple(meta))
        >>> sorted(score(objective, objective.start(), Batch(torch.zeros(3, 2), torch.zeros(3, 1))))
        ['loss']
    """
    loss = right = 0.0
    count = len(rows.y)
    for first in range(0, count, at_once):
        part = unsqueeze(piece(rows, first, at_once))
        with torch.no_grad():
            prediction = objective.predictions(stacked(theta, 1), part.x)
            share = part.y.shape[1] / count
            loss += share * float(task_losses(objective.learner.criterion, prediction, part))
            right += share * accuracy(prediction, part)
    return {"loss": loss} if math.isnan(right) else {"loss": loss, "accuracy": right}


def _some(rows: Batch, most: int, generator: torch.Generator) -> Batch:
    """At most so many of the rows, drawn anew."""
    count = len(rows.y)
    return rows if count <= most else take(rows, torch.randperm(count, generator=generator)[:most])


def _share(values: Params) -> float:
    """The share of what is not 0."""
    return sum(int((value != 0).sum()) for value in values.values()) / sum(v.numel() for v in values.values())


def _length(values: Params) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in values.values()))


def changed_mask(start: Params, theta: Params) -> dict[str, Tensor]:
    """True where a parameter is not what it was."""
    return {name: value != start[name] for name, value in theta.items()}
