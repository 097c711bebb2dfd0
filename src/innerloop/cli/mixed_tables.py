"""A linear mixed model as statisticians print it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.mixed_model import MixedSummary, TargetSummary

__all__ = ["mixed_tables"]

_NAMES = {"ml": "maximum likelihood", "reml": "restricted maximum likelihood (REML)"}
_LOG = {"ml": "log likelihood", "reml": "restricted log likelihood"}


def mixed_tables(summary: MixedSummary, task: str | None) -> Iterator[tuple[str, list[list[str]]]]:
    """Titles and rows: what was fitted, then fixed and random effects of each target.

    Arguments:
        summary: the numbers.
        task: name of the task column.
    """
    yield (
        f"Linear mixed model, fitted by {_NAMES[summary.likelihood]}, in the units of the table",
        [
            ["rows", str(summary.n_rows)],
            [f"tasks{f' ({task})' if task else ''}", str(summary.n_tasks)],
            [_LOG[summary.likelihood], f"{summary.log_likelihood:.4f}"],
            ["intraclass correlation (ICC)", f"{summary.icc:.4f}"],
        ],
    )
    fixed = summary.fixed()
    for each in summary.targets:
        of = f" of {each.target}"
        rows = fixed[fixed["target"] == each.target].itertuples(index=False, name=None)
        body = [[term, _number(value), _number(error), _number(z)] for _, term, value, error, z in rows]
        yield f"Fixed effects{of}", [["", "estimate", "std. error", "z"], *body]
        yield f"Random effects{of}", _random(summary, each)


def _random(summary: MixedSummary, each: TargetSummary) -> list[list[str]]:
    """Variance, standard deviation and correlations with the effects before, as `lmer` has them."""
    correlation = summary.correlation(each.target).to_numpy()
    count = len(summary.random)
    rows = []
    for number, name in enumerate(summary.random):
        variance = each.covariance[number][number]
        before = [_correlation(value) for value in correlation[number, :number]]
        rows.append([name, *_spread(variance), *before, *[""] * (count - 1 - number)])
    rows.append(["residual", *_spread(each.residual), *[""] * (count - 1)])
    return [["", "variance", "std. dev.", *["correlation", *[""] * (count - 2)][: count - 1]], *rows]


def _spread(variance: float) -> list[str]:
    return [_number(variance), _number(math.sqrt(max(variance, 0.0)))]


def _correlation(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""


def _number(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else ""
