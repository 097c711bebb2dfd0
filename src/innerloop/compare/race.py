"""A short race on meta-validation tasks that decides which algorithm is trained: `--algorithm auto`.

Where tasks hardly differ, one net that never adapts may win: then that is what is trained.
"""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, replace

import numpy as np

from ..algorithms import ALGORITHMS
from ..errors import DivergedError, UsageError
from ..evaluation.intervals import Estimate, mean_interval
from ..evaluation.scores import ERRORS, evaluate
from ..tasks.sources import Source
from ..tasks.splits import Tasks
from .contest import Progress, silent
from .methods import LABELS, entrant, numbered_anew
from .nets import NO_ADAPTATION, Bench, Settings
from .search import HEADLINE, headline

__all__ = ["Lap", "Race", "race", "runners"]

# share of the meta-updates of a training that each runner of a race gets
SHARE = 0.125


@dataclass(frozen=True)
class Lap:
    """What one algorithm did in a race.

    Arguments:
        label: for people.
        algorithm: its name.
        settings: that it ran with, beside those given.
        score: error over variance, or accuracy, on the meta-validation tasks with its interval.
        seconds: time taken.
    """

    label: str
    algorithm: str
    settings: Settings
    score: Estimate
    seconds: float


@dataclass(frozen=True)
class Race:
    """A race and its winner.

    Arguments:
        laps: best first.
        metric: what decided.
    """

    laps: tuple[Lap, ...]
    metric: str

    @property
    def winner(self) -> Lap:
        """The best one."""
        return self.laps[0]


def runners(
    tasks: Tasks, given: Settings | None = None, *, network: bool = False
) -> list[tuple[str, str, Settings]]:
    """Label, algorithm and settings of what applies to the tasks and takes the settings given, simplest first.

    With `network`, one was asked for: it is not to be passed over by what has none.

    Raises:
        UsageError: none does.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> [algorithm for _, algorithm, _ in runners(sinusoid())]
        ['maml', 'mixed', 'gaussian', 'ridge', 'maml']
    """
    # scales and classes of each task are kept by a network
    network = network or bool(tasks.schema and tasks.schema.n_way)
    anew, classes = numbered_anew(tasks), tasks.targets.kind == "classification"
    names = [] if anew or network or len(tasks.feature_shape) != 1 else ["mixed"]
    names += (["protonet", "ridge"] if classes else ["gaussian", "ridge"]) + ["maml"]
    if classes and not anew:
        names.insert(-2, "gaussian")
    wanted = set(given or {})
    entered: list[tuple[str, str, Settings]] = []
    of_net = wanted <= set(inspect.signature(ALGORITHMS["maml"]).parameters)
    if not anew and of_net and not wanted & {*NO_ADAPTATION, "inner_lr", "adapt"}:
        entered.append(("one net, no adaptation", "maml", NO_ADAPTATION))
    for name in names:
        accepted = inspect.signature(ALGORITHMS[name]).parameters
        if wanted <= set(accepted) and not entrant(tasks, name).refuses(tasks):
            entered.append((LABELS.get(name, name), name, {}))
    if not entered:
        raise UsageError(
            f"no algorithm of the race takes {', '.join(sorted(wanted))} together: name one with --algorithm"
        )
    return entered


def race(
    tasks: Tasks,
    *,
    steps: int,
    seed: int = 0,
    training: Source | None = None,
    given: Settings | None = None,
    model: Settings | None = None,
    device: str = "auto",
    tell: Progress = silent,
) -> Race:
    """Train what applies for a short time and score it on the meta-validation tasks.

    Arguments:
        tasks: what to learn; its meta-test tasks are not looked at.
        steps: meta-updates of the training that follows; each runner gets a share of them.
        seed: of parameters and episodes.
        training: where training episodes come from, where they are composed or augmented; `tasks.train` unless given.
        given: settings of the algorithm that were asked for; only what takes them runs.
        model: options of the network.
        device: see `meta_train`.
        tell: see `Progress`.

    Returns:
        The race, best first; the simpler one first where two are equal.

    Raises:
        UsageError: nothing runs, or nothing came to the end.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> result = race(sinusoid(n_support=5, episodes=20), steps=8, given={"inner_steps": 2})
        >>> result.winner.algorithm
        'maml'
    """
    wanted = dict(given or {})
    every = runners(tasks, wanted, network=bool(model))
    bench = Bench(tasks, seed, max(1, round(steps * SHARE)), dict(model or {}), device)
    course = bench if training is None else replace(bench, tasks=replace(tasks, train=training))
    metric, laps = HEADLINE[tasks.targets.kind], []
    for number, (label, algorithm, settings) in enumerate(every):
        tell(label, number / len(every))
        began = time.perf_counter()
        try:
            learner = bench.learner(algorithm, wanted | dict(settings))
            scores = headline(evaluate(course.train(learner, {}).model, tasks.valid, path=False))
        except DivergedError:
            continue
        if np.isfinite(scores).all():
            score = mean_interval(scores, errors=metric in ERRORS)
            laps.append(Lap(label, algorithm, settings, score, time.perf_counter() - began))
    if not laps:
        raise UsageError(
            "every algorithm of the race diverged: name one with --algorithm and lower --inner-lr"
        )
    sign = 1 if tasks.targets.kind == "regression" else -1
    laps.sort(key=lambda lap: sign * lap.score.mean)
    return Race(tuple(replace(lap, seconds=round(lap.seconds, 3)) for lap in laps), metric)
