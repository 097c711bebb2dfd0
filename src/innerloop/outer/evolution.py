"""Evolution strategies: a meta-gradient from differences of query losses, where derivatives fail or mislead."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from ..inner.learner import Learner, MetaGradient, Metrics, Step
from ..models.network import Params
from ..models.randomness import CounterRandom, fold
from ..tasks.episodes import Episode

__all__ = ["evolution"]


def evolution(deviation: float = 0.01, *, pairs: int = 16, seed: int = 0) -> MetaGradient:
    r"""Evolution strategies: the gradient of a smoothed objective from query losses alone, in antithetic pairs.

    $\frac1{2\sigma P}\sum_{p=1}^P \bigl[L(\theta + \sigma\epsilon_p) - L(\theta - \sigma\epsilon_p)\bigr]\,\epsilon_p,
    \quad \epsilon_p \sim N(0, I)$, with $L$ the mean query loss after adaptation.

    Its mean is the gradient of $E_\epsilon L(\theta + \sigma\epsilon)$ at any deviation, and of $L$ itself where $L$ is
    quadratic; its variance grows with the number of meta-parameters, so it is for few of them or many pairs. No inner
    step is differentiated twice: memory does not grow with the inner steps, and long or chaotic inner loops, steps in
    the loss, and operators without a second derivative do no harm.
    Salimans, Ho, Chen, Sidor & Sutskever, 2017, *Evolution Strategies as a Scalable Alternative to Reinforcement
    Learning*; Song et al., 2020, *ES-MAML: Simple Hessian-Free Meta Learning*.

    Arguments:
        deviation: $\sigma$, of the noise on every meta-parameter.
        pairs: $P$, of evaluations; one update adapts every task $2P$ times.
        seed: of the noise, which is the same for all tasks and depends on the seed and the number of the update alone.

    Raises:
        UsageError: an argument has no meaning.

    Example:
        >>> import innerloop as il
        >>> from innerloop.algorithms import gradient_learner
        >>> from innerloop.inner import sgd
        >>> net = il.models.mlp(1, [4], 1)
        >>> learner = gradient_learner(net, "mse", sgd(0.1), 2, metagrad=evolution(0.1))
        >>> rows = il.Batch(torch.ones(1, 5, 1), torch.ones(1, 5, 1))
        >>> grads, figures = learner.metagrad(learner, learner.init(), il.Episode(rows, rows))
        >>> figures["losses"].shape
        torch.Size([1])
    """
    if not deviation > 0:
        raise UsageError(f"deviation={deviation!r}: give a positive number")
    if pairs < 1:
        raise UsageError(f"pairs={pairs}: give 1 or more")

    def compute(
        learner: Learner, meta: Params, episode: Episode, step: Step, key: Tensor | None
    ) -> tuple[Params, Metrics]:
        meta = {name: value.detach() for name, value in meta.items()}
        moved = [name for name, value in meta.items() if not name.startswith("state/")]
        grads = {name: torch.zeros_like(value) for name, value in meta.items()}

        def losses(sign: float, noise: Params) -> Tensor:
            there = {**meta, **{name: meta[name] + sign * deviation * noise[name] for name in moved}}
            return learner.loss(there, learner.adapt(there, episode.support, key=key), episode.query, key=key)

        seen = []
        with torch.no_grad():
            for pair in range(pairs):
                noise = _noise({name: meta[name] for name in moved}, step.number, seed, pair)
                above, below = losses(1.0, noise), losses(-1.0, noise)
                slope = (above - below).mean() / (2 * deviation * pairs)
                grads |= {name: grads[name] + slope * noise[name] for name in moved}
                seen += [above, below]
        return grads, {"losses": torch.stack(seen).mean(0)}

    return MetaGradient("evolution", compute)


def _noise(like: Params, number: int | Tensor, seed: int, pair: int) -> Params:
    """Standard normal numbers of an update and a pair, in the shapes of these values."""
    device = next(iter(like.values())).device
    key = fold(torch.as_tensor(number, device=device).to(torch.int64), seed)
    with CounterRandom(fold(key, pair)):
        return {name: torch.randn_like(value) for name, value in like.items()}
