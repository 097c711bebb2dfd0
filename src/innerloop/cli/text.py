"""What the command prints: numbers as text, tables, and `say`, which prints what may come from anyone."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from ..errors import visible

if TYPE_CHECKING:
    from ..evaluation.conformal import Calibration
    from ..evaluation.scores import Evaluation
    from ..inner.learner import Learner
    from ..tasks.sources import Source

__all__ = [
    "LABELS",
    "batchnorm_line",
    "cell",
    "columns",
    "counted",
    "dependence_text",
    "harmless",
    "interval_line",
    "labels_table",
    "say",
    "scored",
    "steps_table",
]

LABELS = {
    "rmse": "RMSE",
    "r2": "R2",
    "error_over_variance": "error / variance",
    "accuracy": "accuracy",
    "auc": "AUC",
    "calibration_error": "calibration error",
    "loss": "loss",
    "log_likelihood": "log likelihood",
    "coverage_90": "in 90 % interval",
    "coverage_95": "in 95 % interval",
    "interval_coverage_90": "in 90 % conformal interval",
    "interval_width_90": "width of it",
    "set_coverage_90": "in 90 % prediction set",
    "set_size_90": "classes in it",
}
# metrics of predictive intervals
_PREDICTIVE = ("log_likelihood", "coverage_90", "coverage_95")
# metrics that are printed in percent
_SHARES = ("accuracy", "coverage_90", "coverage_95", "interval_coverage_90", "set_coverage_90")


def say(text: object = "", *, file: TextIO | None = None) -> None:
    r"""Print a line for people; what steers a terminal is written out, and so is what it cannot show.

    Example:
        >>> say("task \x1b[2J")
        task \x1b[2J
    """
    stream = sys.stdout if file is None else file
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = visible(str(text)).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=stream is sys.stderr)


def cell(value: Sequence[float], metric: str) -> str:
    """Mean and interval as people read them.

    Example:
        >>> cell((0.9312, 0.92, 0.94), "accuracy")
        '93.1 % [92.0, 94.0]'
    """
    mean, low, high = value
    if not math.isfinite(mean):
        return "undefined"
    share = metric in _SHARES
    if not math.isfinite(low):
        return f"{100 * mean:.1f} %" if share else f"{mean:.3f}"
    if share:
        return f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    digits = 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def counted(rows: str) -> str:
    """A number of rows in words.

    Example:
        >>> counted("1"), counted("3")
        ('1 row', '3 rows')
    """
    return f"{rows} row{'' if rows == '1' else 's'}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as aligned columns, a line each.

    Example:
        >>> print(columns([["a", "b"], ["long", "1"]]))
        a     b
        long  1
    """
    rows = [[visible(text).replace("\n", "\\n").replace("\t", "\\t") for text in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def steps_table(scores: Evaluation) -> str:
    """Scores by number of inner steps."""
    metrics = (*scores.metrics[:3], *(name for name in _PREDICTIVE if name in scores.metrics))
    rows = [["inner steps", *(LABELS[metric] for metric in metrics)]]
    for position, steps in enumerate(scores.steps):
        label = f"{steps} (before adaptation)" if steps == 0 else str(steps)
        rows.append([label, *(cell(scores.metric(metric, position), metric) for metric in metrics)])
    return columns(rows)


def interval_line(scores: Evaluation, calibration: Calibration | None) -> str:
    """What conformal intervals hold on the tasks that were scored, or why there are none.

    Example:
        >>> from innerloop.tasks.sources import SupportSize, Targets
        >>> from innerloop.evaluation.scores import Evaluation
        >>> none = Evaluation((), (0,), {}, Targets("regression", 1), SupportSize(1, 1))
        >>> interval_line(none, None)
        'no intervals for new tasks: there is no calibration'
    """
    from ..evaluation.conformal import needed_tasks

    if calibration is None:
        return "no intervals for new tasks: there is no calibration"
    count = calibration.n_tasks
    if count < (least := needed_tasks(0.9)):
        return (
            f"no 90 % intervals for new tasks: they need {least} meta-validation tasks, and there are {count}"
        )
    kinds = {
        "interval": ("intervals", "width", "of the query values, mean width {}"),
        "set": ("prediction sets", "size", "of the query rows, {} classes on average"),
    }
    for kind, (what, measure, words) in kinds.items():
        if f"{kind}_coverage_90" in scores.metrics:
            held, size = (scores.metric(f"{kind}_{name}_90") for name in ("coverage", measure))
            found = words.format(cell(size, measure))
            return (
                f"90 % {what} for new tasks hold {cell(held, f'{kind}_coverage_90')} {found}; calibrated on "
                f"{count} meta-validation tasks"
            )
    return "no 90 % intervals for new tasks were measured: they hold for the inner steps of training"


def labels_table(labels: Mapping[int, Evaluation]) -> str:
    """Scores by number of labelled rows."""
    first = next(iter(labels.values()))
    metrics = (*first.metrics[:3], *(name for name in _PREDICTIVE if name in first.metrics))
    unit = "class" if first.support.per_class else "task"
    rows = [[f"labelled rows a {unit}", *(LABELS[metric] for metric in metrics)]]
    for count, scores in labels.items():
        rows.append([str(count), *(cell(scores.metric(metric), metric) for metric in metrics)])
    return columns(rows)


def scored(scores: Evaluation, source: Source) -> str:
    """What was scored: how many tasks, and what each adapted on."""
    count, support = len(scores.ids), scores.support
    what = "held-out tasks"
    if source.n_tasks is None:
        what = "episodes of held-out classes" if hasattr(source, "n_way") else "episodes"
    unit = "class" if support.per_class else "task"
    rows = "row" if support.high == 1 else "rows"
    seen, every = getattr(source, "trained_classes", None) or (0, 0)
    known = f"; {seen} of their {every} classes occur in training" if seen else ""
    return f"{count} {what}, support {support} {rows} a {unit}, 95 % intervals over them{known}"


_NORMALISED = {
    "support": "each task's support set; a prediction does not depend on the other queries",
    "per_step": "running averages of training, for each inner step; a prediction does not depend on the others",
    "frozen": "running statistics of an earlier training; a prediction does not depend on the other queries",
    "transductive": "the rows at hand: a prediction depends on the other queries asked with it",
}


def batchnorm_line(learner: Learner) -> str:
    """A line that says what BatchNorm normalises queries with; empty for a model without it.

    Example:
        >>> from innerloop import maml, models
        >>> batchnorm_line(maml(models.mlp(1), loss="mse"))
        ''
    """
    network = learner.network
    if not network.normalizers:
        return ""
    return f"BatchNorm: {network.batchnorm} ({_NORMALISED[network.batchnorm]})\n"


def dependence_text(change: float) -> str:
    """What the leak test found.

    Example:
        >>> dependence_text(0.0)
        'does not change with the other queries (tried: largest change 0.0e+00)'
    """
    if change < 1e-3:
        return f"does not change with the other queries (tried: largest change {change:.1e})"
    return f"CHANGES with the other queries asked with it (tried: by up to {100 * change:.2g} %)"


def harmless(label: str) -> str:
    """A label that a spreadsheet program would run as a formula, marked as text; numbers stay as they are.

    The rows of the user are not changed, but labels come from the training data of somebody else, perhaps.

    Example:
        >>> harmless("=1+1"), harmless("-1"), harmless("plain")
        ("'=1+1", '-1', 'plain')
    """
    from ..tasks.tables.cells import parse

    return f"'{label}" if label[:1] in tuple("=+-@\t\r") and parse(label) is None else label
