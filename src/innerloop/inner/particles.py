"""Bayesian MAML: an ensemble of initialisations that adapt together by Stein variational gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UsageError
from ..models.losses import LOSSES, mean_rows
from ..models.network import Features, Network, Params, reference
from ..models.randomness import fold
from ..tasks.episodes import Batch, Episode, all_draws, at_step, join_rows, map_tensors
from .derivatives import as_leaves, gradient
from .learner import Learner, MetaGradient, Metrics, Recipe, Step, require_steps
from .statistics import running_average
from .streams import for_query, for_step

__all__ = ["ParticleLearner", "chaser", "svgd_direction"]

_LEAST_NOISE = 1e-6
_CRITERIA = ("mse", "cross_entropy")


def _weights(meta: Params) -> Params:
    """The meta-parameters that are particles."""
    return {name: value for name, value in meta.items() if not name.startswith("state/")}


@dataclass(frozen=True, eq=False)
class ParticleLearner(Learner):
    r"""Adapts `P` particles a task by SVGD; their mean predicts, their spread says how sure it is.

    $\phi_i \leftarrow \phi_i - \frac{\alpha}{P} \sum_j \big( k(\phi_j, \phi_i)\, \nabla L(\phi_j)
    - \nabla_{\phi_j} k(\phi_j, \phi_i) / n \big)$, with the kernel $k = \exp(-\lVert\phi_j-\phi_i\rVert^2 / h)$,
    $h$ the median squared distance over $\log P$, $L$ the mean support loss and $n$ the support rows. The initial
    particles are the prior.

    Arguments:
        network: the model.
        criterion: `mse` or `cross_entropy`.
        particles: `P`, at least 2.
        inner_lr: $\alpha$.
        inner_steps: inner steps.
        metagrad: `chaser` or `unrolled`.
        seed: of the initial particles, which must differ.
        recipe: see `Learner.recipe`.
    """

    network: Network
    criterion: str
    particles: int
    inner_lr: float
    inner_steps: int = field()  # without the default of the base class
    metagrad: MetaGradient = field()
    seed: int = 0
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse sizes and losses without meaning."""
        require_steps(self.inner_steps)
        if self.particles < 2 or not self.inner_lr > 0:
            raise UsageError(
                f"particles={self.particles}, inner_lr={self.inner_lr}: give two particles or more and a positive rate"
            )
        if self.criterion not in _CRITERIA:
            raise UsageError(f"loss={self.criterion!r}: particles need one of {', '.join(_CRITERIA)}")
        if self.network.keeps_statistics:
            raise UsageError(
                "batchnorm='per_step' with particles: choose 'support' or 'transductive'; a particle has no "
                "scales of its own a step"
            )
        self.metagrad.check(self)

    def init(self) -> Params:
        """The module's initial parameters, each particle disturbed by a tenth of their spread."""
        generator = torch.Generator().manual_seed(self.seed)

        def around(value: Tensor) -> Tensor:
            spread = 0.1 * value.std() if value.numel() > 1 else value.new_tensor(0.1)
            noise = torch.randn((self.particles, *value.shape), generator=generator, dtype=value.dtype)
            return value + spread.clamp(min=0.01) * noise.to(value.device)

        meta = {name: around(value) for name, value in self.network.params().items()}
        if self.criterion == "mse":
            like = reference(meta)
            meta |= {"state/noise": like.new_ones(()), "state/updates": like.new_zeros(())}
        return meta

    def own_like(self, meta: Params) -> Params:
        like = reference(meta)
        meta = _weights(meta)
        statistics = self.network.statistics_like(like).items()
        wide = {name: value.repeat(1, self.particles, 1) for name, value in statistics}
        return {name: torch.zeros_like(value).unsqueeze(0) for name, value in meta.items()} | wide

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """Values have axes `(T, P, ...)`."""
        count = support.y.shape[0]
        fast = {name: value.expand(count, *value.shape) for name, value in _weights(meta).items()}
        yield self._with_statistics(fast, support)
        for step in range(self.inner_steps if steps is None else steps):
            fast = self._step(fast, at_step(support, step), for_step(key, step))
            yield self._with_statistics(fast, support)

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Tensor:
        """The mean of the particles: of their values, or of their probabilities as logits."""
        outputs = self.outputs(adapted, x, key=key)
        if self.criterion == "cross_entropy":
            return outputs.log_softmax(-1).logsumexp(1) - math.log(self.particles)
        return outputs.mean(1)

    def disagreement(self, meta: Params, adapted: Params, x: Features) -> Tensor:
        """Variance over the particles of values, or of probabilities, `(T, n, *out)`."""
        outputs = self.outputs(adapted, x)
        return (outputs.softmax(-1) if self.criterion == "cross_entropy" else outputs).var(1, unbiased=False)

    def variance(self, meta: Params, adapted: Params, x: Features) -> Tensor | None:
        """Disagreement of the particles plus a noise: what it left unexplained of the query errors of training."""
        if self.criterion == "cross_entropy":
            return None
        return self.disagreement(meta, adapted, x) + meta["state/noise"]

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """Loss of the mean prediction, `(T,)`."""
        rows = LOSSES[self.criterion](self.predict(meta, adapted, batch.x, key=key), batch.y)
        return mean_rows(rows, batch.weight)

    def observe(self, meta: Params, episode: Episode) -> Params:
        """The noise of values, a running average: mean squared error of the prediction less the disagreement."""
        if self.criterion == "cross_entropy":
            return {}
        query, adapted = episode.query, self.adapt(meta, episode.support)
        error = (self.predict(meta, adapted, query.x) - query.y).square()
        left = (error - self.disagreement(meta, adapted, query.x)).flatten(2).mean(-1)
        moved = running_average(meta, {"state/noise": mean_rows(left, query.weight).mean()})
        return moved | {"state/noise": moved["state/noise"].clamp(min=_LEAST_NOISE)}

    def outputs(self, adapted: Params, x: Features, *, key: Tensor | None = None) -> Tensor:
        """What each particle predicts, `(T, P, n, *out)`."""
        given = self.network.needs_statistics
        return self._forward(adapted, x, None, for_query(key), given=given)[0]

    def _forward(
        self, fast: Params, x: Features, weight: Tensor | None, key: Tensor | None, *, given: bool = False
    ) -> tuple[Tensor, Params]:
        """Every particle of every task as a task of its own."""
        count = self.particles

        def repeat(t: Tensor) -> Tensor:
            return t.unsqueeze(1).expand(t.shape[0], count, *t.shape[1:]).flatten(0, 1)

        keys = None if key is None else torch.stack([fold(key, p) for p in range(count)], 1).flatten()
        flat = {name: value.flatten(0, 1) for name, value in fast.items()}
        y, statistics = self.network(
            {},
            flat,
            map_tensors(repeat, x),
            weight=map_tensors(repeat, weight),
            key=keys,
            given_statistics=given,
        )

        def unflatten(t: Tensor) -> Tensor:
            return t.reshape(t.shape[0] // count, count, *t.shape[1:])

        return unflatten(y), {name: unflatten(value) for name, value in statistics.items()}

    def _with_statistics(self, fast: Params, support: Batch) -> Params:
        support = all_draws(support)
        if not self.network.needs_statistics:
            return fast
        return {**fast, **self._forward(fast, support.x, support.weight, None)[1]}

    def _step(self, fast: Params, support: Batch, key: Tensor | None) -> Params:
        """One step of SVGD, differentiable where gradients are on."""
        differentiable, fast = torch.is_grad_enabled(), as_leaves(fast)
        with torch.enable_grad():
            outputs, _ = self._forward(fast, support.x, support.weight, key)
            rows = LOSSES[self.criterion](outputs.flatten(0, 1), self._repeated(support.y))
            losses = mean_rows(rows, None if support.weight is None else self._repeated(support.weight))
            grads = gradient(losses.sum(), fast, create_graph=differentiable)
        shapes = [value.shape[2:] for value in fast.values()]
        flat = torch.cat([value.flatten(2) for value in fast.values()], 2)
        slope = torch.cat([grad.flatten(2) for grad in grads.values()], 2)
        rows_of_task: Tensor | int = max(support.y.shape[1], 1)
        if support.weight is not None:
            rows_of_task = support.weight.sum(1).clamp(min=1).reshape(-1, 1, 1)
        moved = flat - self.inner_lr * svgd_direction(flat, slope, rows_of_task)
        parts = torch.split(moved, [shape.numel() for shape in shapes], 2)
        return {
            name: part.reshape(*part.shape[:2], *shape)
            for name, part, shape in zip(fast, parts, shapes, strict=True)
        }

    def _repeated(self, t: Tensor) -> Tensor:
        return t.repeat_interleave(self.particles, 0)


def svgd_direction(particles: Tensor, slope: Tensor, rows: Tensor | int) -> Tensor:
    r"""The direction that SVGD descends: $\frac1P \sum_j (k_{ji}\, g_j - \nabla_{\phi_j} k_{ji} / n)$.

    Liu & Wang, 2016, *Stein Variational Gradient Descent*; the bandwidth is a constant of the step.

    Arguments:
        particles: `(T, P, D)`.
        slope: gradient of the mean loss at each, `(T, P, D)`.
        rows: rows `n` that the mean is over.

    Returns:
        `(T, P, D)`.

    Example:
        >>> one = torch.zeros(1, 2, 1)
        >>> svgd_direction(one, torch.ones(1, 2, 1), 1).flatten().tolist()
        [1.0, 1.0]
    """
    count = particles.shape[1]
    apart = particles.unsqueeze(2) - particles.unsqueeze(1)  # (T, j, i, D)
    square = apart.square().sum(-1)
    median = square.detach().flatten(1).median(1).values.reshape(-1, 1, 1)
    width = (median / math.log(count + 1)).clamp(min=1e-12)
    kernel = (-square / width).exp()
    attracted = kernel.mT @ slope
    # the derivative of k(j, i) in particle j pushes i away from j
    repelled = (-2 / width * kernel).unsqueeze(-1).mul(apart).sum(1)
    return (attracted - repelled / rows) / count


def chaser(leader_steps: int = 1) -> MetaGradient:
    r"""The chaser loss: particles adapted to the support follow those adapted to the query as well.

    $\frac1T \sum_t \sum_i \lVert \phi^{chaser}_{t,i} - \mathrm{stopgrad}(\phi^{leader}_{t,i}) \rVert^2$, where the
    leader takes `leader_steps` more steps on support and query rows together.
    Yoon, Kim, Dia, Kim, Bengio & Ahn, 2018, *Bayesian Model-Agnostic Meta-Learning*.

    Arguments:
        leader_steps: steps the leader is ahead, at least 1.

    Raises:
        UsageError: `leader_steps` is not positive.

    Example:
        >>> chaser().name
        'chaser'
    """
    if leader_steps < 1:
        raise UsageError(f"leader_steps={leader_steps}: give 1 or more")

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        particles = _with_particles(learner)
        meta = {name: value.detach().requires_grad_() for name, value in _weights(meta).items()}
        with torch.enable_grad():
            adapted = learner.adapt(meta, episode.support, key=key)
            following = {name: adapted[name] for name in meta}
            rows = join_rows(all_draws(episode.support), episode.query)
            with torch.no_grad():
                leading = {name: value.detach() for name, value in following.items()}
                for _ in range(leader_steps):
                    leading = particles._step(leading, rows, None)
            apart = [(following[name] - leading[name]).square().flatten(1).sum(1) for name in meta]
            distance = torch.stack(apart).sum(0)
            grads = gradient(distance.mean(), meta)
        with torch.no_grad():
            losses = learner.loss(meta, adapted, episode.query, key=key)
        return grads, {"losses": losses, "distance": distance.detach()}

    def check(learner: Learner) -> None:
        _with_particles(learner)

    return MetaGradient("chaser", compute, check)


def _with_particles(learner: Learner) -> ParticleLearner:
    if not isinstance(learner, ParticleLearner):
        raise UsageError("the chaser loss needs particles: this learner has none")
    return learner
