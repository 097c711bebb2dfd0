r"""Candidate distributions of parameters, their held-out gradients, and the diagonal Fisher information.

For every draw $j$ of a round, with the rows $A_j$ that move the candidate and the rows $B_j$ held out from it:

$a_j = \nabla L(A_j; \theta)$, $\quad \phi_j = \theta - \beta a_j + \sigma \varepsilon_j$, $\quad
h_j = \nabla L(B_j; \phi_j)$

with $\sigma_i^2 = 1 / (N F_i + \tau)$ for Laplace noise and 0 without, where $F$ is the diagonal of the Fisher
information at $\theta$ and $N$ the number of rows that move a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation import metrics
from ..inner.plain import PlainLearner
from ..models.losses import task_losses
from ..models.network import Params
from ..tasks.episodes import Batch, Episode, map_tensors, unsqueeze

__all__ = [
    "Candidates",
    "Objective",
    "accuracy",
    "draw_candidates",
    "fisher",
    "held_out_gradients",
    "mean_statistics",
    "moving_rows",
    "piece",
    "row_gradients",
    "stacked",
]

# values, rows times parameters, that gradients of single rows may hold at once
_AT_ONCE = 2**24


@dataclass(frozen=True, eq=False)
class Objective:
    r"""The mean loss $L(B; \phi)$ of an ordinary model as a function of the parameters that may move.

    Arguments:
        learner: an ordinary model, see `algorithms.plain`.
        meta: all of its parameters and statistics; those that do not move keep these values.
        names: the parameters that may move.
        allowed: 0 where one of these may not change after all, by name; nothing is held back unless given.
    """

    learner: PlainLearner
    meta: Params
    names: tuple[str, ...]
    allowed: Params | None = None

    def start(self) -> Params:
        r"""The moving parameters $\theta$ as they are in `meta`."""
        return {name: self.meta[name] for name in self.names}

    def predictions(self, own: Params, x: object) -> Tensor:
        """Predictions `(T, n, *out)` for `T` values of the moving parameters, each with its own rows."""
        return torch.as_tensor(self.learner.predict(self.meta, own, x))

    def gradients(self, own: Params, batch: Batch) -> tuple[Params, Tensor, Tensor]:
        r"""$\nabla L$ for `T` values of the moving parameters, each on its own rows.

        Arguments:
            own: `(T, ...)` values.
            batch: `T` stacked sets of rows.

        Returns:
            Gradients `(T, ...)` by name, losses `(T,)`, and predictions `(T, n, *out)`.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in own.items()}
        with torch.enable_grad():
            prediction = self.predictions(leaves, batch.x)
            losses = task_losses(self.learner.criterion, prediction, batch)
            values = torch.autograd.grad(
                losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        return dict(zip(leaves, values, strict=True)), losses.detach(), prediction.detach()


def stacked(values: Params, count: int) -> Params:
    """The same values `count` times, along a new leading axis.

    Example:
        >>> stacked({"w": torch.ones(2)}, 3)["w"].shape
        torch.Size([3, 2])
    """
    return {name: value.expand(count, *value.shape) for name, value in values.items()}


def row_gradients(objective: Objective, theta: Params, rows: Batch) -> Params:
    r"""The gradient of every single row's loss, $g_n = \nabla \ell_n(\theta)$, by `vmap` over rows.

    Arguments:
        objective: the loss.
        theta: the moving parameters.
        rows: `N` rows.

    Returns:
        `(N, ...)` by name.

    Example:
        >>> from innerloop.algorithms import plain
        >>> from innerloop.models import build
        >>> learner = plain(build("mlp", n_in=2), loss="mse")
        >>> objective = Objective(learner, meta := learner.init(), tuple(meta))
        >>> rows = Batch(torch.zeros(5, 2), torch.zeros(5, 1))
        >>> row_gradients(objective, objective.start(), rows)["0.weight"].shape
        torch.Size([5, 40, 2])
    """
    alone: Batch = map_tensors(lambda t: t.unsqueeze(1), rows)
    grads, _, _ = objective.gradients(stacked(theta, len(rows.y)), alone)
    return grads


def fisher(objective: Objective, theta: Params, rows: Batch) -> Params:
    r"""The diagonal of the Fisher information of one row, averaged over the rows.

    $F_i = \frac1N \sum_n E_{y \sim p(y | x_n, \theta)} (\partial_i \log p(y | x_n, \theta))^2$, exact for
    `cross_entropy` (all classes in turn) and `mse` (targets with variance one half around every output, whose
    negative log density this loss is). For a loss of one's own it is the empirical one, with the targets as
    they are, which is biased away from the optimum (Kunstner, Balles & Hennig, 2019, *Limitations of the
    Empirical Fisher Approximation*).

    Arguments:
        objective: the loss.
        theta: the moving parameters.
        rows: `N` rows.

    Returns:
        One value for each parameter, not negative.
    """
    size = sum(value.numel() for value in theta.values())
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    for first in range(0, len(rows.y), step := max(1, _AT_ONCE // size)):
        part = piece(rows, first, step)
        for weights, targets in _possible_targets(objective, theta, part):
            grads = row_gradients(objective, theta, part._replace(y=targets))
            for name, grad in grads.items():
                total[name] += torch.einsum("n,n...->...", weights, grad.square())
    return {name: value / len(rows.y) for name, value in total.items()}


def _possible_targets(objective: Objective, theta: Params, rows: Batch) -> list[tuple[Tensor, Tensor]]:
    """Targets and their weights `(n,)`, over which squared gradients sum to an expectation."""
    loss, count = objective.learner.criterion, len(rows.y)
    if not isinstance(loss, str):
        return [(next(iter(theta.values())).new_ones(count), rows.y)]
    with torch.no_grad():
        prediction = objective.predictions(stacked(theta, 1), unsqueeze(rows).x)[0]
    if loss == "cross_entropy":
        chances = F.softmax(prediction, -1)
        return [(chances[:, c], torch.full_like(rows.y, c)) for c in range(prediction.shape[-1])]
    outputs = prediction.flatten(1).shape[1]
    pairs = []
    for output in range(outputs):
        # the loss is (y - f)^2 / C summed over C outputs: a target one off in one of them gives 2 f' / C, and
        # the expectation of the square under a variance of C / 2 is 2 f'^2 / C
        off = torch.zeros_like(prediction).flatten(1)
        off[:, output] = 1.0
        weights = prediction.new_full((count,), outputs / 2)
        pairs.append((weights, prediction + off.reshape(prediction.shape)))
    return pairs


@dataclass(frozen=True, eq=False)
class Candidates:
    r"""A candidate distribution of parameters: `J` draws, each moved by other rows.

    Its density is taken as that of independent normal variables with the mean and variance of the draws:
    $m_i = \frac1J \sum_j \mu_{ji}$ and $v_i = \frac1J \sum_j (\mu_{ji} - m_i)^2 + \sigma_i^2$, where
    $\mu_j = \theta - \beta a_j$ is a draw without its noise.

    Arguments:
        centres: $\mu_j$, `(J, ...)` by name.
        noise: $\sigma^2$, the variance of the noise around each centre.
        draws: $\phi_j$, `(J, ...)` by name.
        moved_by: the gradients $a_j$, `(J, ...)` by name.

    Example:
        >>> one = {"w": torch.tensor([[0.0], [2.0]])}
        >>> candidates = Candidates(one, {"w": torch.zeros(1)}, one, one)
        >>> candidates.mean["w"].item(), candidates.variance["w"].item()
        (1.0, 1.0)
    """

    centres: Params
    noise: Params
    draws: Params
    moved_by: Params

    @property
    def mean(self) -> Params:
        """$m$, by name."""
        return {name: value.mean(0) for name, value in self.centres.items()}

    @property
    def variance(self) -> Params:
        """$v$, the variance of every parameter: between the draws, and of the noise of each."""
        return {name: value.var(0, unbiased=False) + self.noise[name] for name, value in self.centres.items()}

    def log_density(self, draw: Params) -> float:
        r"""The log of the joint density of a draw, $\sum_i \log N(\phi_i; m_i, v_i)$.

        A parameter of variance 0 is certain: it adds nothing where the draw has its value, and makes the
        density 0 where it has not.

        Arguments:
            draw: values of the moving parameters, by name.

        Returns:
            The log density; minus infinity for what cannot be drawn.

        Example:
            >>> one = {"w": torch.tensor([[-1.0], [1.0]])}
            >>> candidates = Candidates(one, {"w": torch.zeros(1)}, one, one)
            >>> round(candidates.log_density({"w": torch.zeros(1)}), 4)
            -0.9189
        """
        total, mean, variance = 0.0, self.mean, self.variance
        for name, value in draw.items():
            v, off = variance[name].double(), (value - mean[name]).double()
            free = v > 0
            # the mean of equal numbers is theirs up to rounding
            rounding = 8 * torch.finfo(value.dtype).eps * mean[name].double().abs()
            if bool((off.abs() > rounding)[~free].any()):
                return -math.inf
            total -= float((off[free].square() / v[free] + (2 * math.pi * v[free]).log()).sum() / 2)
        return total

    def sample(self, generator: torch.Generator) -> Params:
        """A draw from the distribution: one of the centres, and noise."""
        count = len(next(iter(self.centres.values())))
        chosen = int(torch.randint(count, (), generator=generator))
        centre = {name: value[chosen] for name, value in self.centres.items()}
        return _noisy(centre, self.noise, generator)


def draw_candidates(
    objective: Objective,
    theta: Params,
    folds: Episode,
    *,
    lr: float,
    reach: float = math.inf,
    tau: float | None = None,
    information: Params | None = None,
    generator: torch.Generator | None = None,
) -> Candidates:
    r"""Move a candidate by the support rows of every draw: $\phi_j = \theta - \beta a_j + \sigma \varepsilon_j$.

    Arguments:
        objective: the loss.
        theta: the moving parameters.
        folds: `J` stacked episodes, see `folds`.
        lr: the step $\beta$ of a candidate.
        reach: how far a candidate may go, as a share of the length of $\theta$; a longer step is cut to that.
        tau: precision of the prior of Laplace noise (MacKay, 1992, *A Practical Bayesian Framework for
            Backpropagation Networks*); `None` for no noise.
        information: the diagonal Fisher information, which Laplace noise needs.
        generator: of the noise.

    Returns:
        The candidate distribution.
    """
    count = folds.n_tasks
    gradients, _, _ = objective.gradients(stacked(theta, count), folds.support)
    far = lr * _lengths(gradients) / (reach * _lengths(stacked(theta, count))).clamp(min=1e-30)
    step = lr / far.clamp(min=1)
    centres = {
        name: value - step.reshape(-1, *(1 for _ in value.shape)) * gradients[name]
        for name, value in theta.items()
    }
    noise = {name: torch.zeros_like(value) for name, value in theta.items()}
    draws = centres
    if tau is not None and information is not None:
        rows = moving_rows(folds)
        noise = {name: 1 / (rows * value + tau) for name, value in information.items()}
        draws = _noisy(centres, noise, generator)
    return Candidates(centres, noise, draws, gradients)


def _lengths(values: Params) -> Tensor:
    """The length of each of `T` stacked sets of values, `(T,)`."""
    return torch.stack([value.flatten(1).square().sum(1) for value in values.values()]).sum(0).sqrt()


def moving_rows(folds: Episode) -> float:
    """`N`, the rows that move a candidate, on average over the draws."""
    support = folds.support
    return float(support.y.shape[1] if support.weight is None else support.weight.sum(1).mean())


def held_out_gradients(objective: Objective, draws: Params, folds: Episode) -> tuple[Params, Tensor, Tensor]:
    r"""The gradient of the query rows of every draw at its candidate, $h_j = \nabla L(B_j; \phi_j)$.

    Arguments:
        objective: the loss.
        draws: the candidates `(J, ...)`.
        folds: the episodes that they were drawn from.

    Returns:
        Gradients `(J, ...)`, held-out losses `(J,)` and predictions.
    """
    return objective.gradients(draws, folds.query)


def _noisy(centre: Params, noise: Params, generator: torch.Generator | None) -> Params:
    """Normal noise of a variance around values; drawn on the CPU, so that every device gives the same."""

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    return {name: value + noise[name].sqrt() * drawn(value) for name, value in centre.items()}


def piece(rows: Batch, first: int, count: int) -> Batch:
    """So many rows from the first one on.

    Example:
        >>> piece(Batch(torch.zeros(5, 1), torch.arange(5)), 3, 10).y.tolist()
        [3, 4]
    """
    part: Batch = map_tensors(lambda t: t[first : first + count], rows)
    return part


def mean_statistics(learner: PlainLearner, meta: Params, rows: Batch, layers: Sequence[str]) -> Params:
    """BatchNorm statistics of the rows at these parameters, for layers whose module keeps none."""
    with torch.no_grad():
        _, statistics = learner.network(meta, {}, unsqueeze(rows).x)
    return {name: value[0] for name, value in statistics.items() if name.rpartition(".")[0] in layers}


def accuracy(prediction: Tensor, batch: Batch) -> float:
    """The share of rows whose largest output is that of their class; NaN where targets are no classes."""
    if batch.y.is_floating_point() or prediction.dim() != batch.y.dim() + 1:
        return math.nan
    weight = None if batch.weight is None else batch.weight.reshape(1, -1)
    every = Batch(batch.x, batch.y.reshape(1, -1), weight)
    return float(metrics.accuracy(prediction.reshape(1, -1, prediction.shape[-1]), every))
