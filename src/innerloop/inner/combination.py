"""Several learners as one: each adapts by itself, and their predictions are averaged with weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.losses import known_targets, mean_rows, task_losses
from ..models.network import Features, Network, Params, reference
from ..tasks.episodes import Batch, all_draws, tensors
from .learner import Learner, MetaGradient, Recipe, resized_recipe

__all__ = ["Combination"]

_WEIGHTS, _NOISE = "weights", "noise"
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Combination(Learner):
    r"""Averages the predictions of its members, with weights that depend on how many support rows a task has.

    Values are $\sum_m w_m(n) f_m(x)$, probabilities $\sum_m w_m(n) p_m(y \mid x)$ with weights on the simplex.
    They are known for some numbers `n` of support rows, and lie on lines in $\log(1 + n)$ between these. The
    predictive distribution is the mixture of the members'. Wolpert, 1992, *Stacked Generalization*; Breiman, 1996,
    *Stacked Regressions*; Yao, Vehtari, Simpson & Gelman, 2018, *Using Stacking to Average Bayesian Predictive
    Distributions*.

    Arguments:
        members: `M` learners that predict the same.
        sizes: `S` numbers of support rows, ascending, whose weights are known.
        kind: `regression` or `classification`.
        n_outputs: values `C`, or classes.
        metagrad: how the gradient comes back, where there is one.
        recipe: see `Learner.recipe`.
    """

    members: tuple[Learner, ...]
    sizes: tuple[float, ...]
    kind: str
    n_outputs: int
    metagrad: MetaGradient
    recipe: Recipe | None = None

    @property
    def network(self) -> Network:  # type: ignore[override]
        """That of a member, one that normalises rows with others if there is any."""
        networks = [member.network for member in self.members]
        return max(networks, key=lambda network: (bool(network.normalizers), bool(network.params())))

    def init(self) -> Params:
        """Those of the members, equal weights, and variances as the members have them."""
        meta = {
            f"{number}/{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.init().items()
        }
        shape = (len(self.sizes), len(self.members))
        meta[_WEIGHTS] = torch.full(shape, 1 / len(self.members))
        if self.kind == "regression":
            meta[_NOISE] = torch.ones(*shape, self.n_outputs)
        return meta

    def part(self, values: Params, member: int) -> Params:
        """The values that belong to a member, by the names it has for them."""
        prefix = f"{member}/"
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    def own_like(self, meta: Params) -> Params:
        owned = [member.own_like(self.part(meta, number)) for number, member in enumerate(self.members)]
        return self._joined(meta, owned, torch.zeros(1, device=reference(meta).device))

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """Without the support set (step 0) and with it (step 1); members take the inner steps of their training."""
        every = list(enumerate(self.members))
        first = [next(iter(m.path(self.part(meta, n), support, steps=0, key=key))) for n, m in every]
        rows = _count(support)
        yield self._joined(meta, first, torch.zeros_like(rows))
        if steps != 0:
            yield self._joined(meta, [m.adapt(self.part(meta, n), support, key=key) for n, m in every], rows)

    def predict(self, meta: Params, adapted: Params, x: Features, *, key: Tensor | None = None) -> Tensor:
        """Values, or logits whose softmax is the average probability, `(T, n, C)`."""
        said = torch.stack(self._predictions(meta, adapted, x, key))
        weights = adapted[_WEIGHTS].T[..., None, None]
        if self.kind == "regression":
            return (weights * said).sum(0)
        return (weights.clamp(min=_LEAST).log() + said.log_softmax(-1)).logsumexp(0)

    def variance(self, meta: Params, adapted: Params, x: Features) -> Tensor | None:
        """The variance of the mixture: what members expect, and how far they disagree; `(T, n, C)`."""
        if self.kind == "classification":
            return None
        said = torch.stack(self._predictions(meta, adapted, x, None))
        spread = torch.stack(self._variances(meta, adapted, x, said))
        weights = adapted[_WEIGHTS].T[..., None, None]
        mean = (weights * said).sum(0)
        return (weights * (spread + (said - mean).square())).sum(0)

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """Mean negative log predictive density or probability of each task, `(T,)`."""
        if self.kind == "classification":
            return task_losses("cross_entropy", self.predict(meta, adapted, batch.x, key=key), batch)
        said = torch.stack(self._predictions(meta, adapted, batch.x, key))
        spread = torch.stack(self._variances(meta, adapted, batch.x, said))
        y, known = known_targets(batch.y)
        error = (y - said).square() / spread + spread.log() + math.log(2 * math.pi)
        error = torch.where(known, error, torch.zeros_like(error))
        weights = adapted[_WEIGHTS].T[..., None].clamp(min=_LEAST)
        return mean_rows(-(weights.log() - 0.5 * error.sum(-1)).logsumexp(0), batch.weight)

    @property
    def takes_partial(self) -> bool:
        return all(member.takes_partial for member in self.members)

    @property
    def closed_form(self) -> bool:
        """Members take the steps they were trained with."""
        return True

    def for_classes(self, meta: Params, count: int) -> tuple[Learner, Params]:
        """The members, each for so many classes."""
        members = []
        resized = {_WEIGHTS: meta[_WEIGHTS]}
        for number, member in enumerate(self.members):
            learner, own = member.for_classes(self.part(meta, number), count)
            members.append(learner)
            resized |= {f"{number}/{name}": value for name, value in own.items()}
        recipe = resized_recipe(self.recipe, count)
        if recipe is not None:
            recipe["members"] = [member.recipe for member in members]
        learner = replace(self, members=tuple(members), n_outputs=count).with_recipe(recipe)
        return learner, {name: resized[name] for name in learner.init()}

    def weights_at(self, values: Tensor, rows: Tensor) -> Tensor:
        """Values `(S, ...)` known at `sizes`, for tasks with so many support rows `(T,)`: `(T, ...)`."""
        known = torch.tensor(self.sizes, dtype=values.dtype, device=values.device).log1p()
        at = rows.to(values.dtype).log1p().clamp(known[0], known[-1])
        upper = torch.searchsorted(known, at).clamp(1, max(1, len(known) - 1))
        if len(known) == 1:
            return values[torch.zeros_like(upper)]
        lower = upper - 1
        share = (at - known[lower]) / (known[upper] - known[lower])
        share = share.reshape(-1, *(1 for _ in values.shape[1:]))
        return values[lower] * (1 - share) + values[upper] * share

    def _joined(self, meta: Params, owned: Sequence[Params], rows: Tensor) -> Params:
        """What the members made, and the weights for so many support rows."""
        own = {f"{n}/{name}": value for n, values in enumerate(owned) for name, value in values.items()}
        names = (_WEIGHTS, _NOISE) if self.kind == "regression" else (_WEIGHTS,)
        return own | {name: self.weights_at(meta[name], rows) for name in names}

    def _predictions(self, meta: Params, adapted: Params, x: Features, key: Tensor | None) -> list[Tensor]:
        return [
            member.predict(self.part(meta, number), self.part(adapted, number), x, key=key)
            for number, member in enumerate(self.members)
        ]

    def _variances(self, meta: Params, adapted: Params, x: Features, said: Tensor) -> list[Tensor]:
        """The variance of each member, in the units that its errors on meta-validation tasks have shown."""
        found = []
        for number, member in enumerate(self.members):
            own = member.variance(self.part(meta, number), self.part(adapted, number), x)
            noise = adapted[_NOISE][:, None, number]
            found.append(noise * (torch.ones_like(said[number]) if own is None else own))
        return found


def _count(support: Batch) -> Tensor:
    """The support rows of each task, `(T,)`."""
    support = all_draws(support)
    if support.weight is not None:
        return support.weight.sum(1)
    like = next(tensors(support.x))
    return torch.full((len(support.y),), float(support.y.shape[1]), device=like.device)
