"""Learning curves: error against support size, meta-train tasks and inner steps, and where two curves meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..evaluation.intervals import Array, bootstrap_interval, mean_interval
from ..evaluation.scores import Evaluation, evaluate, over_folds
from ..tasks.sources import ClassSource, RowSource, Source, SupportSize, stream
from ..tasks.splits import Tasks
from .contest import Contest, Entry, Progress
from .result import Crossing, Curve
from .search import HEADLINE, adapted, headline
from .verdict import spoken
from .workers import HERE, Workers

__all__ = [
    "TRAIN_TASKS",
    "Line",
    "crossing",
    "inner_steps",
    "some_tasks",
    "support",
    "support_sizes",
    "train_tasks",
]

SIZES = (1, 2, 5, 10, 20, 50)
TRAIN_TASKS = (10, 30, 100, 300)


@dataclass(frozen=True, eq=False)
class Line:
    """The scores of a method along an axis: `values` is `(points, tasks)`, the headline metric after adaptation."""

    method: str
    axis: str
    at: tuple[float, ...]
    labels: tuple[str, ...]
    values: Array

    def curve(self, clusters: Sequence[str], how: str, *, errors: bool) -> Curve:
        """Means with intervals over tasks."""
        means = tuple(mean_interval(row, clusters=clusters, how=how, errors=errors) for row in self.values)
        return Curve(self.method, self.axis, self.at, self.labels, means)


def inner_steps(entries: Mapping[str, Entry]) -> list[Line]:
    """Scores by number of inner steps, up to twice those of training; they were measured with the first seed."""
    lines = []
    for entry in entries.values():
        paths = entry.paths
        if len(paths) < len(entry.scores) or len({path.steps for path in paths}) != 1:
            continue
        whole = over_folds(paths)
        values, steps = whole.values[HEADLINE[whole.targets.kind]].T, whole.steps
        at = tuple(map(float, steps))
        lines.append(Line(entry.name, "inner_steps", at, tuple(map(str, steps)), values))
    return lines


def support_sizes(tasks: Tasks) -> dict[float, str]:
    """Support sizes that the tasks can give, with how to write them; `all` leaves one row a task for the query."""
    source = tasks.test
    if isinstance(source, RowSource):
        if source.support.choice.how == "block":
            return {}
        counts = np.diff(source.starts)
        if source.support.per_class:
            counts = counts // source.targets.n_outputs
        typical = int(np.median(counts)) - 1
        sizes = {float(size): str(size) for size in SIZES if size < typical}
        return sizes | {float(typical): "all"} if typical > 1 else {}
    if isinstance(source, ClassSource) and source.query_index is None:
        most = int((source.index >= 0).sum(1).min()) - source.n_query
        return {float(size): str(size) for size in SIZES if size <= most}
    return {}


def support(contest: Contest, chosen: Sequence[str], tell: Progress, workers: Workers = HERE) -> list[Line]:
    """Scores by support size of some methods.

    What takes meta-updates is trained once in each fold, with support sizes drawn anew each episode from the smallest
    to the largest; a closed form is fitted for each size.
    """
    sizes = support_sizes(contest.folds[0])
    if len(sizes) < 2:
        return []
    calls = [partial(_support_line, contest, contest.entries[name], sizes) for name in chosen]
    return _in_order(calls, workers, lambda done: tell("support sizes", done))


def _support_line(contest: Contest, entry: Entry, sizes: Mapping[float, str]) -> Line:
    folds = [_along(contest, entry, fold, tuple(sizes)) for fold in range(len(contest.folds))]
    rows = [_by_task(adapted(of_size)) for of_size in zip(*folds, strict=True)]
    return Line(entry.name, "support", tuple(sizes), tuple(sizes.values()), np.stack(rows))


def _in_order(
    calls: Sequence[Callable[[], Line]], workers: Workers, tell: Callable[[float], None]
) -> list[Line]:
    """The lines in the order of the calls, whichever ends first."""
    tell(0.0)
    lines: dict[int, Line] = {}
    for number, line in workers.run(calls):
        lines[number] = line
        tell(len(lines) / len(calls))
    return [lines[number] for number in range(len(calls))]


def _along(contest: Contest, entry: Entry, fold: int, sizes: Sequence[float]) -> list[Evaluation]:
    """The scores of a method on one fold, one evaluation a support size."""
    tasks, entrant = contest.folds[fold], entry.entrant
    settings = entry.chosen[fold].settings
    asked = tasks.train.support
    widest = asked._replace(low=int(sizes[0]), high=int(sizes[-1]))
    model = None
    if entrant.kind == "none" or not entrant.sized:
        model = entry.first[fold].model
    elif entrant.trained and not entrant.reuses:
        model = entrant.fit(contest.bench_of(resized(tasks, widest)), settings).model
    evaluations = []
    for size in sizes:
        here = resized(tasks, asked._replace(low=int(size), high=int(size)))
        own = model or entrant.fit(contest.bench_of(here), settings).model
        evaluations.append(evaluate(own, here.test, path=False, start=False))
    return evaluations


def train_tasks(
    contest: Contest, chosen: Sequence[str], tell: Progress, workers: Workers = HERE
) -> list[Line]:
    """Scores by number of meta-train tasks, which are drawn from those of each fold."""
    sources = [tasks.train for tasks in contest.folds]
    if not all(isinstance(source, RowSource) and source.blocks is None for source in sources):
        return []
    fewest = min(int(source.n_tasks or 0) for source in sources)
    counts = [count for count in TRAIN_TASKS if count < fewest]
    calls = [partial(_task_line, contest, contest.entries[name], counts, fewest) for name in chosen]
    return _in_order(calls, workers, lambda done: tell("meta-train tasks", done))


def _task_line(contest: Contest, entry: Entry, counts: Sequence[int], fewest: int) -> Line:
    rows = []
    for count in counts:
        evaluations = []
        for fold, tasks in enumerate(contest.folds):
            fewer = replace(tasks, train=some_tasks(tasks.train, count, seed=fold))
            model = entry.entrant.fit(contest.bench_of(fewer), entry.chosen[fold].settings).model
            evaluations.append(evaluate(model, tasks.test, path=False, start=False))
        rows.append(_by_task(adapted(evaluations)))
    rows.append(_by_task(entry.by_seed()[0]))
    at = (*map(float, counts), float(fewest))
    return Line(entry.name, "train_tasks", at, (*map(str, counts), "all"), np.stack(rows))


def _by_task(evaluation: Evaluation) -> Array:
    """The headline metric in the order of the names, which is the same for every support size."""
    return headline(evaluation)[np.argsort(np.asarray(evaluation.ids))]


def resized(tasks: Tasks, support: SupportSize) -> Tasks:
    """The same tasks with another support size."""

    def other(source: Source) -> Source:
        return replace(source, support=support) if isinstance(source, RowSource | ClassSource) else source

    return replace(tasks, train=other(tasks.train), valid=other(tasks.valid), test=other(tasks.test))


def some_tasks(source: Source, count: int, *, seed: int = 0) -> Source:
    """`count` of the tasks of a table, drawn at random.

    Example:
        >>> import torch
        >>> from innerloop.tasks.sources import SupportSize, Targets
        >>> size, targets = SupportSize(2, 2), Targets("regression", 1)
        >>> x, starts = torch.arange(12.0)[:, None], np.array([0, 4, 8, 12])
        >>> some_tasks(RowSource(x, x, starts, ("a", "b", "c"), size, targets), 2).n_tasks
        2
    """
    assert isinstance(source, RowSource)
    chosen = torch.randperm(source.n_tasks, generator=stream(seed))[:count].sort().values.numpy()
    rows = np.concatenate([np.arange(source.starts[task], source.starts[task + 1]) for task in chosen])
    starts = np.concatenate([[0], np.cumsum(np.diff(source.starts)[chosen])])
    ids = tuple(source.ids[task] for task in chosen)
    return replace(source, x=source.x[rows], y=source.y[rows], starts=starts, ids=ids)


def crossing(
    ours: Line, theirs: Line, *, lower_is_better: bool, labels: tuple[str, str], unit: str
) -> Crossing:
    """From where on the second method is as good as the first, with a bootstrap interval over tasks.

    Both have the same points and tasks. Between two points the mean difference is taken as a line over the
    logarithm of the axis; `labels` of both and `unit`, what the axis counts, are for the sentence.

    Example:
        >>> rows = np.array([[0.5] * 4, [0.4] * 4, [0.4] * 4])
        >>> ours = Line("a", "support", (1.0, 10.0, 100.0), ("1", "10", "100"), rows)
        >>> theirs = replace(ours, values=np.array([[0.9] * 4, [0.4] * 4, [0.2] * 4]))
        >>> crossing(ours, theirs, lower_is_better=True, labels=("a", "b"), unit="rows a task").at
        10.0
    """
    behind = (theirs.values - ours.values) * (1 if lower_is_better else -1)
    position = np.log(np.array(ours.at))
    at = _meets(behind.mean(1), position)
    ends = bootstrap_interval(behind, lambda means: _meets(means, position))
    bounds = (_inside(at), _inside(ends[0]), _inside(ends[1]))
    sentence = _crossing_sentence(bounds, at, ours, labels, unit)
    return Crossing(ours.axis, ours.method, theirs.method, *bounds, sentence)


def _meets(behind: Array, position: Array) -> float:
    """The position where the difference comes to 0 and stays there; -inf: from the start, inf: nowhere."""
    above = np.flatnonzero(behind > 0)
    if not len(above):
        return -math.inf
    left = int(above[-1])
    if left == len(behind) - 1:
        return math.inf
    step = behind[left] / (behind[left] - behind[left + 1])
    return float(position[left] + step * (position[left + 1] - position[left]))


def _inside(value: float) -> float | None:
    """A position as a value of the axis; `None` outside of the curve."""
    return round(float(np.exp(value)), 2) if math.isfinite(value) else None


def _crossing_sentence(
    bounds: tuple[float | None, float | None, float | None],
    at: float,
    ours: Line,
    labels: tuple[str, str],
    unit: str,
) -> str:
    first, second = map(spoken, labels)
    where, low, high = bounds
    least, most = f"{ours.at[0]:g}", f"{ours.at[-1]:g}"
    if where is None:
        start = second[:1].upper() + second[1:]
        if at < 0:
            return f"{start} is as good as {first} from {least} {unit} on."
        return f"Up to {most} {unit}, {second} does not come level with {first}."
    start = f"below {least}" if low is None else f"{low:.0f}"
    ends = f"{start} to {f'beyond {most}' if high is None else f'{high:.0f}'}"
    return f"Above about {where:.0f} {unit} (95 % interval {ends}), {second} is as good as {first}."
