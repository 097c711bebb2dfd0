"""The numbers that a statistician asks of a linear mixed model, in the units of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..errors import UsageError
from ..inner.head import HeadLearner
from ..inner.heads import GaussianHead
from ..inner.heads.base import counted_rows, row_weights, with_constant
from ..inner.heads.evidence import basis_of
from ..inner.model import Model
from ..models.builtin import Polynomial
from ..tasks.episodes import to
from ..tasks.sources import Source, rows_of
from ..tasks.tables.schema import Schema
from .natural_units import NaturalTerms, complete_categories, natural_terms

__all__ = ["MixedSummary", "TargetSummary", "has_mixed_summary", "mixed_summary"]


@dataclass(frozen=True)
class TargetSummary:
    """What a linear mixed model says of one target, in the units of the table.

    Arguments:
        target: its name.
        estimates: of the fixed effects, one a term.
        standard_errors: of the estimates, given the variances.
        covariance: of the random effects, one row and column each.
        residual: variance of the noise.
    """

    target: str
    estimates: list[float]
    standard_errors: list[float]
    covariance: list[list[float]]
    residual: float


@dataclass(frozen=True)
class MixedSummary:
    r"""A linear mixed model $y = x^\top\beta + z^\top b_t + \epsilon$ as statisticians print it.

    Arguments:
        likelihood: `ml` or `reml`.
        log_likelihood: of all targets, restricted where it is `reml`.
        n_rows: rows that it was fitted on.
        n_tasks: tasks that it was fitted on.
        icc: intraclass correlation: the share of the variance given the features that is between tasks, the variance
            of $z^\top b_t$ averaged over the rows (Johnson, 2014, *Extension of Nakagawa & Schielzeth's R2 to Random
            Slopes Models*); with a random constant alone it is the usual one.
        terms: names of the fixed effects.
        random: names of the random effects.
        targets: the numbers of each target.
    """

    likelihood: str
    log_likelihood: float
    n_rows: int
    n_tasks: int
    icc: float
    terms: list[str]
    random: list[str]
    targets: list[TargetSummary]

    def fixed(self) -> pd.DataFrame:
        """Fixed effects, one row each: `target`, `term`, `estimate`, `standard_error` and `z`, their ratio."""
        rows = [
            (each.target, term, estimate, error, estimate / error if error > 0 else math.nan)
            for each in self.targets
            for term, estimate, error in zip(self.terms, each.estimates, each.standard_errors, strict=True)
        ]
        return pd.DataFrame(rows, columns=["target", "term", "estimate", "standard_error", "z"])

    def covariance(self, target: str | None = None) -> pd.DataFrame:
        """The covariance of the random effects of a target, the first unless named."""
        return pd.DataFrame(self._target(target).covariance, index=self.random, columns=self.random)

    def correlation(self, target: str | None = None) -> pd.DataFrame:
        """The correlations of the random effects; NaN where one does not vary."""
        covariance = torch.tensor(self._target(target).covariance, dtype=torch.float64, device="cpu")
        deviation = covariance.diagonal().sqrt()
        return pd.DataFrame(
            (covariance / deviation.outer(deviation)).numpy(), index=self.random, columns=self.random
        )

    def _target(self, name: str | None) -> TargetSummary:
        for each in self.targets:
            if name in (None, each.target):
                return each
        known = ", ".join(each.target for each in self.targets)
        raise UsageError(f"target {name!r} is not predicted by this model: choose among {known}")

    def plain(self) -> dict[str, object]:
        """The summary as plain data."""
        return asdict(self)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> MixedSummary:
        """What `plain` returned, as a summary again."""
        return MixedSummary(**{**plain, "targets": [TargetSummary(**each) for each in plain["targets"]]})


def has_mixed_summary(model: Model) -> bool:
    """Whether a model is a linear mixed model of numbers."""
    learner = model.learner
    return (
        isinstance(learner, HeadLearner)
        and isinstance(learner.network.module, Polynomial)
        and type(learner.head) is GaussianHead
    )


def mixed_summary(model: Model, source: Source, *, schema: Schema | None = None) -> MixedSummary:
    """The statistician's numbers of a linear mixed model: fixed effects, random effects, likelihood.

    The variances are those of the model; fixed effects and their standard errors follow from them and the rows by
    generalised least squares. Of a category the first level is what the others are compared with.

    Arguments:
        model: what `mixed` was trained to.
        source: its meta-train tasks.
        schema: what the columns mean; without it names are numbers and units those of training.

    Returns:
        The summary.

    Raises:
        UsageError: the model is no linear mixed model of numbers, or its fixed effects were drawn, as there were fewer
            than two rows a column.

    Example:
        >>> import innerloop as il, numpy as np
        >>> draw = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"site": np.repeat(np.arange(40), 6), "dose": draw.uniform(2, 9, 240)})
        >>> frame["risk"] = (
        ...     5 + 3 * frame["dose"] + np.repeat(draw.normal(0, 2, 40), 6) + draw.normal(0, 0.1, 240)
        ... )
        >>> tasks = il.tasks.table(frame, task="site", target="risk", n_support=3)
        >>> run = il.meta_train(il.mixed(1, random=[], likelihood="reml"), tasks.train, device="cpu")
        >>> summary = mixed_summary(run.model, tasks.train, schema=tasks.schema)
        >>> summary.fixed()["term"].tolist(), summary.fixed()["estimate"].round(1).tolist()[1:]
        (['(Intercept)', 'dose'], [3.0])
    """
    learner = model.learner
    if not has_mixed_summary(model):
        raise UsageError("only a linear mixed model of numbers (mixed) has fixed and random effects to print")
    assert isinstance(learner, HeadLearner)
    head, module = learner.head, learner.network.module
    assert isinstance(head, GaussianHead)
    assert isinstance(module, Polynomial)
    meta, rows = to(model.meta, "cpu"), to(rows_of(source), "cpu")
    with torch.no_grad():
        features, _ = learner.network(meta, {}, rows.x, weight=rows.weight)
        design = with_constant(features).double()
        count = int(row_weights(rows, design).sum())
        if head.draws_mean(count):
            raise UsageError(
                f"{count} rows are fewer than two for each of {head.n_features + 1} columns: the fixed effects are "
                "drawn from a Gaussian, and have no estimates with standard errors; name fewer columns (--features)"
            )
        positions, root = head.random_effects(meta)
        evidence = head.evidence(design, rows, positions)
        profile, basis = evidence.profile(root.double()), basis_of(evidence.gram)
        value, mean, noise = profile.best(basis, restricted=head.likelihood == "reml")
        real = counted_rows(rows.x, row_weights(rows, design)).flatten(0, 1)[
            row_weights(rows, design).flatten() > 0
        ]
        complete = () if schema is None else complete_categories(schema, real)
        natural = natural_terms(schema, module.products, n_features=rows.x.shape[-1], complete=complete)
        placed = torch.zeros(
            len(natural.weights), len(positions), dtype=torch.float64, device=natural.weights.device
        )
        placed[positions, range(len(positions))] = 1.0
        ratio = placed @ root.double() @ (placed @ root.double()).mT
        between = float((ratio * evidence.gram).sum() / count)
        touched = [
            n for n, used in enumerate((natural.weights.mT @ placed).abs().sum(1).tolist()) if used > 0
        ]
        spread = basis @ torch.linalg.inv(basis.mT @ profile.information @ basis) @ basis.mT
        scales = _scales(schema, len(noise))
        targets = [
            _of_target(name, unit, shift, (mean[:, n], noise[n]), natural, (spread, ratio), touched)
            for n, (name, unit, shift) in enumerate(scales)
        ]
        counted = count - (basis.shape[1] if head.likelihood == "reml" else 0)
        log_likelihood = -value.item() - counted * sum(math.log(unit) for _, unit, _ in scales)
        if head.likelihood == "reml":
            # the integral over the mean is in the units of the table
            log_likelihood += len(noise) * _log_volume(natural.weights.mT @ basis)
    return MixedSummary(
        head.likelihood, log_likelihood, count, len(design), between / (between + 1), natural.names,
        [natural.names[n] for n in touched], targets,
    )  # fmt: skip


def _scales(schema: Schema | None, count: int) -> list[tuple[str, float, float]]:
    """Name, unit and mean of each target."""
    if schema is None:
        return [("y" if count == 1 else f"y{number}", 1.0, 0.0) for number in range(count)]
    return [(column.name, column.scale, column.mean) for column in schema.target_columns]


def _of_target(
    name: str,
    unit: float,
    shift: float,
    fitted: tuple[Tensor, Tensor],
    natural: NaturalTerms,
    spreads: tuple[Tensor, Tensor],
    touched: list[int],
) -> TargetSummary:
    """The numbers of one target; `spreads` are the covariances of mean and coefficients in units of the noise."""
    mean, noise = fitted
    back, (spread, ratio) = natural.weights.mT, spreads
    estimates = unit * (back @ mean)
    estimates[0] += shift
    variance = noise * unit**2
    errors = (variance * (back @ spread @ back.mT).diagonal()).clamp(min=0).sqrt()
    covariance = variance * (back @ ratio @ back.mT)[touched][:, touched]
    return TargetSummary(name, estimates.tolist(), errors.tolist(), covariance.tolist(), float(variance))


def _log_volume(matrix: Tensor) -> float:
    """Half the log determinant of M'M."""
    return float(torch.linalg.qr(matrix, mode="r").R.diagonal().abs().log().sum())
