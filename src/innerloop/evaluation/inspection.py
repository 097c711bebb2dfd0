"""What a model learned: how far layers move in adaptation, representation similarity (CKA), learned step sizes.

Everything is measured on the fixed evaluation episodes of a source and comes as a data frame: figures draw these
frames, `innerloop inspect` prints them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..engine.threads import threads_for
from ..inner.model import Model
from ..inner.owned import open_axes
from ..models.network import Network, Params, reference
from ..tasks.episodes import Batch, Episode, map_tensors, select, tensors, to
from ..tasks.sources import EVALUATION_SEED, Source
from .intervals import interval
from .members import heaviest, weights_frame
from .scores import Evaluation

__all__ = [
    "Learned",
    "Row",
    "activations",
    "first_episodes",
    "gains",
    "learned",
    "linear_cka",
    "masks",
    "movement",
    "plain_rows",
    "rates",
    "similarity",
]

Row = dict[str, Any]  # cells of one row of a frame, by the name of their column

_PROBES = 256  # rows that representations are compared on
_RATE, _MASK = "inner/lr", "inner/mask/"

_MOVED = ("layer", "kind", "weights", "start", "moved", "relative", "low", "high")
_SIMILAR = ("layer", "kind", "cka", "low", "high")
_RATES = ("parameter", "step", "mean", "lowest", "highest", "negative")
_MASKS = ("parameter", "weights", "adapting")
_GAINS = ("task", "before", "after", "gain")
_FRAMES = {"moved": _MOVED, "similarity": _SIMILAR, "rates": _RATES, "masks": _MASKS}


@dataclass(frozen=True, eq=False)
class Learned:
    """What a model learned, as frames; one without rows says that there is nothing of the kind.

    Arguments:
        moved: see `movement`.
        similarity: see `similarity`.
        rates: see `rates`.
        masks: see `masks`.
        weights: of a combination, see `members.weights_frame`; the other frames are of its heaviest member.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=4)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", learn_lr="tensor", inner_steps=2)
        >>> inside = learned(il.Model(learner, learner.init()), tasks.test)
        >>> list(inside.moved["layer"]), len(inside.similarity), len(inside.rates), len(inside.masks)
        (['0', '2'], 2, 4, 0)
    """

    moved: pd.DataFrame
    similarity: pd.DataFrame
    rates: pd.DataFrame
    masks: pd.DataFrame
    weights: pd.DataFrame = field(default_factory=pd.DataFrame)

    def rows(self) -> dict[str, list[Row]]:
        """The frames as plain data, `None` where a number is undefined."""
        return {name: plain_rows(getattr(self, name)) for name in (*_FRAMES, "weights")}

    @staticmethod
    def of(rows: Mapping[str, Sequence[Row]]) -> Learned:
        """What `rows` returned, as frames again."""
        frames = {name: _frame(columns, rows.get(name, ())) for name, columns in _FRAMES.items()}
        return Learned(**frames, weights=pd.DataFrame(list(rows.get("weights", ()))))


def plain_rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as plain data, `None` where a number is undefined.

    Example:
        >>> plain_rows(pd.DataFrame({"layer": ["0"], "relative": [np.nan]}))
        [{'layer': '0', 'relative': None}]
    """
    return [
        {
            str(name): None if isinstance(value, float) and np.isnan(value) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]


def learned(model: Model, source: Source | None, *, tasks: int = 20, seed: int = EVALUATION_SEED) -> Learned:
    """Everything this module can say of a model.

    Arguments:
        model: what to look at.
        source: tasks to adapt to; without them, only what stands in the meta-parameters is said.
        tasks: how many of them.
        seed: of the episodes.

    Returns:
        The frames.
    """
    weights, model = weights_frame(model), heaviest(model)
    steps, parts = rates(model), masks(model)
    if source is None:
        return Learned(_frame(_MOVED, ()), _frame(_SIMILAR, ()), steps, parts, weights)
    episode = first_episodes(source, tasks, seed=seed)[1]
    return Learned(movement(model, episode), similarity(model, episode), steps, parts, weights)


def first_episodes(source: Source, count: int, *, seed: int = EVALUATION_SEED) -> tuple[list[str], Episode]:
    """Names and the stack of the first fixed episodes of a source, of at most `count` tasks."""
    ids, episode = next(iter(source.fixed(seed)))
    # tasks come in order of their size, once for each draw: take them from all over the first one
    once = len(set(ids))
    chosen = np.unique(np.linspace(0, once - 1, min(count, once)).round().astype(int))
    return [ids[position] for position in chosen], select(episode, torch.from_numpy(chosen))


def movement(model: Model, episode: Episode) -> pd.DataFrame:
    r"""How far adaptation moves each layer: $\lVert\phi_l-\theta_l\rVert / \lVert\theta_l\rVert$, over tasks.

    Arguments:
        model: what adapts.
        episode: `T` stacked episodes; their support sets are adapted to.

    Returns:
        One row a layer: `layer`, `kind`, number of `weights`, norms of the `start` and of what was `moved`,
        and the `relative` movement with its 95 % interval (`low`, `high`) over tasks. A layer that all tasks
        share moves by 0; where the start is 0, the relative movement is NaN.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=4)
        >>> from innerloop.algorithms import ALGORITHMS
        >>> learner = ALGORITHMS["anil"](il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.1)
        >>> frame = movement(il.Model(learner, learner.init()), first_episodes(tasks.test, 4)[1])
        >>> frame["relative"].gt(0).tolist()
        [False, True]
    """
    model, episode = _inside(model, episode)
    before, after = _ends(model, episode)
    network = model.learner.network
    params, statistics = network.params(), network.statistics_like(reference(model.meta))
    layers: dict[str, list[str]] = {}
    for name in dict.fromkeys([*params, *(name for name in after if name not in statistics)]):
        layers.setdefault(_layer_of(name, params), []).append(name)
    rows = []
    for layer, names in layers.items():
        start = _norm([before[name] if name in before else model.meta[name][None] for name in names])
        change = _norm([after[name] - before[name] for name in names if name in before])
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(start > 0, change / start, np.nan) * np.ones(episode.n_tasks)
        mean, low, high = interval(relative)
        weights = sum((after[name][0] if name in after else model.meta[name]).numel() for name in names)
        numbers = (weights, start.mean().item(), change.mean().item(), mean, max(low, 0.0), high)
        rows.append((layer, _kind(layer, network), *numbers))
    return _frame(_MOVED, rows)


def _norm(values: list[Tensor]) -> np.ndarray:
    """Euclidean norm over all of a task's values, `(T,)`; 0 where there are none."""
    if not values:
        return np.zeros(1)
    squares = [value.double().flatten(1).square().sum(1).cpu().numpy() for value in values]
    # of shared values there is one, of those of tasks `T`
    return np.asarray(np.sqrt(sum(squares)))


def similarity(model: Model, episode: Episode) -> pd.DataFrame:
    """Whether representations change in adaptation: linear CKA of each layer's output before and after.

    All tasks are compared on the same rows: up to 256 query rows of all of them. With few rows and many
    features CKA is close to 1 whatever happens, which a task's own few rows would be.

    Arguments:
        model: what adapts.
        episode: `T` stacked episodes.

    Returns:
        One row a layer in the order of computation: `layer`, `kind`, mean `cka` over tasks with its 95 %
        interval. None for a learner without a single network whose parameters adapt.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=4)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.1)
        >>> frame = similarity(il.Model(learner, learner.init()), first_episodes(tasks.test, 4)[1])
        >>> frame["cka"].between(0, 1).all()
        np.True_
    """
    model, episode = _inside(model, episode)
    before, after = _ends(model, episode)
    network = model.learner.network
    names = network.params()
    if any(value.shape[1:] != names[n].shape for n, value in after.items() if n in names):
        return _frame(_SIMILAR, ())  # several particles of the network
    probes = _probe_rows(episode.query)
    by_layer: dict[str, list[float]] = {}
    for task in range(episode.n_tasks):
        one, other = (
            activations(network, model.meta, {n: v[task : task + 1] for n, v in adapted.items()}, probes)
            for adapted in (before, after)
        )
        for layer in one:
            by_layer.setdefault(layer, []).append(linear_cka(one[layer], other[layer]))
    rows = []
    for layer, values in by_layer.items():
        mean, low, high = interval(np.array(values))
        rows.append((layer, _kind(layer, network), mean, low, min(high, 1.0)))
    return _frame(_SIMILAR, rows)


def linear_cka(one: Tensor, other: Tensor) -> float:
    r"""Linear centred kernel alignment of two representations of the same rows.

    $\lVert Y^\top X \rVert_F^2 / (\lVert X^\top X \rVert_F \lVert Y^\top Y \rVert_F)$ with centred columns.
    It is 1 where one is a rotation and scaling of the other. Kornblith, Norouzi, Lee & Hinton, 2019,
    *Similarity of Neural Network Representations Revisited*.

    Arguments:
        one: `(n, F)`.
        other: `(n, G)`.

    Returns:
        A number from 0 to 1; NaN where a representation is constant.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])
        >>> round(linear_cka(x, 3 * x.flip(1)), 6)
        1.0
    """
    x, y = (value.double() - value.double().mean(0) for value in (one, other))
    if max(x.shape[1], y.shape[1]) > len(x):  # the same by Gram matrices, which are smaller here
        k, m = x @ x.T, y @ y.T
        top, left, right = (k * m).sum(), k.norm(), m.norm()
    else:
        top, left, right = (y.T @ x).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
    return (top / (left * right)).item() if left > 0 and right > 0 else float("nan")


def activations(network: Network, meta: Params, adapted: Params, x: object) -> dict[str, Tensor]:
    """What each layer with parameters puts out for the rows of one task.

    Arguments:
        network: the network.
        meta: parameters all tasks share.
        adapted: values of the task, leading axis 1.
        x: `(1, n, *feature)`.

    Returns:
        Name of the layer to `(n, features)`, in the order of computation.
    """
    # vmap hides values from hooks, the loop over tasks does not
    looped = copy.copy(network)
    looped.mapping = "loop"
    rows = next(tensors(x)).shape[1]
    outputs: dict[str, Tensor] = {}

    def hook(layer: nn.Module, args: object, output: object) -> None:
        value = next(tensors(output), None)
        if value is not None and len(value) == rows:
            outputs[names[layer] or "model"] = value.detach().flatten(1)

    layers = dict.fromkeys(name.rpartition(".")[0] for name, _ in network.module.named_parameters())
    names = {network.module.get_submodule(name): name for name in layers}
    with torch.no_grad(), ExitStack() as hooks:
        for layer in names:
            hooks.enter_context(layer.register_forward_hook(hook))
        looped(meta, adapted, x, given_statistics=network.needs_statistics)
    return outputs


def _probe_rows(query: Batch) -> Any:
    """Up to 256 query rows of all tasks as the rows of one, `(1, n, *feature)`."""
    counted = query.y.new_ones(query.y.shape[:2]) if query.weight is None else query.weight
    real = counted.flatten().nonzero().flatten()
    chosen = torch.linspace(0, len(real) - 1, min(_PROBES, len(real)), device="cpu").round().long()
    rows = real[chosen.to(real.device)]
    return map_tensors(lambda t: t.flatten(0, 1)[rows].unsqueeze(0), query.x)


def rates(model: Model) -> pd.DataFrame:
    """The learned inner step sizes.

    Arguments:
        model: what holds them.

    Returns:
        One row a parameter and inner step (`every` where one rate serves all of them): `mean`, `lowest` and
        `highest` rate and the share of `negative` ones, which climb the support loss.

    Example:
        >>> import innerloop as il
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.25, learn_lr="weight")
        >>> rates(il.Model(learner, learner.init()))[["parameter", "step", "mean"]].head(1).values.tolist()
        [['0.weight', 'every', 0.25]]
    """
    by_parameter = {
        name.removeprefix(_RATE).removeprefix("/"): value
        for name, value in model.meta.items()
        if name == _RATE or name.startswith(f"{_RATE}/")
    }
    # one rate a weight has the shape of its parameter; any other axis in front is that of the steps
    by_weight = all(
        name in model.meta and value.shape == model.meta[name].shape for name, value in by_parameter.items()
    )
    rows: list[tuple[object, ...]] = []
    for parameter, value in by_parameter.items():
        each_step = not by_weight and value.dim() > 0
        for number, part in enumerate(value if each_step else [value], 1):
            lr = part.double()
            numbers = (lr.mean().item(), lr.min().item(), lr.max().item(), (lr < 0).double().mean().item())
            rows.append((parameter or "all", str(number) if each_step else "every", *numbers))
    return _frame(_RATES, rows)


def masks(model: Model) -> pd.DataFrame:
    """Which weights may move, where that is learned (sparse-MAML).

    Arguments:
        model: what holds the scores.

    Returns:
        One row a parameter: its number of `weights` and the share of them that is `adapting`.

    Example:
        >>> import innerloop as il
        >>> from innerloop.algorithms import ALGORITHMS
        >>> learner = ALGORITHMS["sparse_maml"](il.models.mlp(1, [8], 1), loss="mse")
        >>> masks(il.Model(learner, learner.init()))["adapting"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    rows = [
        (name.removeprefix(_MASK), score.numel(), (score >= 0).double().mean().item())
        for name, score in model.meta.items()
        if name.startswith(_MASK)
    ]
    return _frame(_MASKS, rows)


def gains(evaluation: Evaluation) -> pd.DataFrame:
    """Which tasks gain from adaptation and which lose, the greatest gain first.

    Arguments:
        evaluation: scores by inner step.

    Returns:
        One row a task: the score `before` and `after` adaptation, accuracy or root mean squared error in
        units of the target, and the `gain`, positive where adapting helped.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=4)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_lr=0.1)
        >>> frame = gains(il.evaluate(il.Model(learner, learner.init()), tasks.test))
        >>> frame["gain"].is_monotonic_decreasing
        True
    """
    classes = evaluation.targets.kind == "classification"
    values = evaluation.values["accuracy"] if classes else np.sqrt(evaluation.values["squared_error"])
    before, after = values[:, 0], values[:, -1]
    gain = (after - before) if classes else (before - after)
    rows = list(zip(evaluation.ids, before.tolist(), after.tolist(), gain.tolist(), strict=True))
    return _frame(_GAINS, rows).sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def _inside(model: Model, episode: Episode) -> tuple[Model, Episode]:
    """The episode on the device of the model; where its tasks are scaled, the model inside and what it sees."""
    like = reference(model.meta)
    episode = to(episode, like.device, like.dtype)
    learner, episode = model.learner.unwrap(episode)
    return Model(learner, model.meta), episode


def _ends(model: Model, episode: Episode) -> tuple[Params, Params]:
    """Adapted values before the first and after the last inner step; rows that are kept begin as zeros."""
    with torch.no_grad(), threads_for(model.meta):
        before, *rest = model.learner.path(model.meta, episode.support)
    after = rest[-1] if rest else before
    kept = open_axes(model.learner.own_like(model.meta))
    return before | {name: torch.zeros_like(after[name]) for name in kept}, after


def _layer_of(name: str, params: Params) -> str:
    """The layer a parameter belongs to; what a closed form solves for is the `head`."""
    return (name.rpartition(".")[0] or "model") if name in params else "head"


def _kind(layer: str, network: Network) -> str:
    """What a layer is, in a word and its sizes."""
    if layer == "head":
        return "closed form"
    module = network.module.get_submodule("" if layer == "model" else layer)
    name = type(module).__name__.replace("_Normalize", "BatchNorm")
    for sizes in (("in_features", "out_features"), ("in_channels", "out_channels")):
        if all(hasattr(module, size) for size in sizes):
            return f"{name} {getattr(module, sizes[0])} to {getattr(module, sizes[1])}"
    return name


def _frame(columns: Sequence[str], rows: Iterable[tuple[object, ...] | Row]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns))
