"""Where training and scoring run under `device="auto"`: the device that is estimated to be faster for the work."""

from __future__ import annotations

import torch

from ..engine.devices import Choice, Work, counted, resolve_device
from ..inner.learner import Learner, Step
from ..inner.model import Model
from ..models.network import Params
from ..tasks.episodes import Episode, select, to
from ..tasks.sources import EVALUATION_SEED, Source

__all__ = ["adaptation_work", "placed", "update_work"]

# evaluation episodes that are scored together
_SCORED_TOGETHER = 32


def update_work(learner: Learner, meta: Params, episode: Episode) -> Work:
    """The work of the meta-gradient of a stack of episodes, counted on the first of its tasks.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=1)
        >>> rows = il.Batch(torch.ones(4, 5, 1), torch.ones(4, 5, 1))
        >>> update_work(learner, learner.init(), Episode(rows, rows)).flops > 0
        True
    """
    one = _first(meta, episode)
    learner, one = learner.unwrap(one)
    key = torch.zeros(1, dtype=torch.int64, device=one.query.target.device)
    work = counted(lambda: learner.metagrad(learner, meta, one, Step(0, learner.metagrad.phase(0)), key))
    return work.times(episode.n_tasks)


def adaptation_work(model: Model, episode: Episode) -> Work:
    """The work of adapting to each of a stack of episodes and predicting its query rows, counted on the first."""
    one, learner = _first(model.meta, episode), model.learner

    def adapt_and_predict() -> None:
        with torch.no_grad():
            learner.predict(model.meta, learner.adapt(model.meta, one.support), one.query.x)

    return counted(adapt_and_predict).times(max(episode.n_tasks, _SCORED_TOGETHER))


def placed(model: Model, source: Source, device: str) -> tuple[Model, Choice]:
    """The model on the device that scores it on a source: the one named, for `auto` the faster one.

    Arguments:
        model: what is scored.
        source: the tasks.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        UsageError: there is no such device.
    """

    def work() -> Work:
        _, episode = next(iter(source.fixed(EVALUATION_SEED)))
        return adaptation_work(model, episode)

    choice = resolve_device(device, work, what="adapting and predicting")
    return model.to(choice.device), choice


def _first(meta: Params, episode: Episode) -> Episode:
    """The first task of a stack, where the meta-parameters are."""
    reference = next(iter(meta.values()))
    return to(select(episode, slice(0, 1)), reference.device, reference.dtype)
