"""`refine`: from a trained model and data to refined parameters and a record of every round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..algorithms.ordinary import plain, plain_learner
from ..engine.devices import Work, counted, resolve_device
from ..engine.threads import threads_for
from ..errors import DataError, UsageError
from ..inner.model import Adapted, Model
from ..inner.partition import select_names
from ..inner.plain import PlainLearner
from ..models.losses import KNOWN, Loss
from ..models.network import Params
from ..tasks.episodes import Batch, map_tensors, to, unsqueeze
from ..tasks.single_set import items
from ..tasks.support import stream
from .candidates import Objective, mean_statistics, stacked
from .folds import split_off, take
from .rounds import Callback, Descent, RoundEntry, changed_mask, crossfit_rounds, descend, score
from .settings import Settings

__all__ = ["Refined", "as_rows", "learned_mask", "refine", "state_dict"]

_SPLIT = 3
# rows from which on a third split is worth its rows: a fifth of fewer says too little of when to stop
_ROWS_TO_SPLIT, _SHARE_TO_STOP = 250, 0.2
# rows that the work of all is counted on
_COUNTED = 8


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined model, and what was done to it.

    Arguments:
        model: an ordinary model with the refined parameters: `model.base()(x)` predicts.
        log: one entry a round, see `RoundEntry`.
        mask: true where a parameter is not what it was, by name.
        chosen: in how many rounds each parameter was chosen, by name.
        best_round: the round that the parameters come from; 0 is the start.
        stopped: why the rounds ended, in words.
        scores: `before` and `after`: mean loss, and accuracy for classes, of the test rows; empty without any.
        seconds: time taken.

    Example:
        >>> refined = refine(
        ...     nn.Sequential(nn.Linear(3, 2)), (torch.rand(8, 3), torch.arange(8) % 2), rounds=1
        ... )
        >>> refined.model.base()(torch.rand(5, 3)).shape
        torch.Size([5, 2])
    """

    model: Model
    log: list[RoundEntry] = field(repr=False)
    mask: dict[str, Tensor] = field(repr=False)
    chosen: Params = field(repr=False)
    best_round: int
    stopped: str
    scores: dict[str, dict[str, float]]
    seconds: float

    def state_dict(self) -> Params:
        """The refined parameters for the original module: its keys, its types.

        Example:
            >>> net = nn.Linear(3, 2).half()
            >>> refined = refine(nn.Sequential(net), (torch.rand(8, 3), torch.arange(8) % 2), rounds=1)
            >>> {name: value.dtype for name, value in refined.state_dict().items()}
            {'0.weight': torch.float16, '0.bias': torch.float16}
        """
        return state_dict(self.model)


def state_dict(model: Model | Adapted) -> Params:
    """The parameters of a model as a plain state dict of the module it was made with: its keys, its types.

    Arguments:
        model: of a run, `run.model`; of a model directory, `innerloop.load(DIR).model`; or a task adapted from one.

    Returns:
        What `module.load_state_dict` takes; what the algorithm learns beside the module is left out.

    Raises:
        UsageError: the model has no module, or one with additions of its own.

    Example:
        >>> import innerloop as il
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> learner = il.maml(net, loss="mse")
        >>> net.load_state_dict(state_dict(il.Model(learner, learner.init())))
        <All keys matched successfully>
    """
    if isinstance(model, Adapted):
        return model.state_dict()
    network = model.learner.network
    if not network.params():
        raise UsageError("this model has no module with parameters, so there is no state dict to give back")
    # a parameter that stands twice, under two names, is named once by the module
    names = {id(parameter): name for name, parameter in network.module.named_parameters()}
    state = {
        key: model.meta.get(names.get(id(value), key), value).detach().to(value.dtype, copy=True)
        for key, value in network.entries.items()
    }
    added = [name for name in state if ".lora_a." in name]
    if added:
        raise UsageError(
            f"this model has low-rank additions ({added[0]!r}), which the original module has no place for"
        )
    return state


def refine(
    model: nn.Module | Model,
    data: object,
    *,
    loss: Loss | None = None,
    valid: object = None,
    test: object = None,
    adapt: str = "all",
    mask: Params | None = None,
    mapping: str = "vmap",
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    **settings: object,
) -> Refined:
    r"""Refine a trained model: held-out gradients choose what to change.

    In every round the rows $S$ are divided anew into folds $S_j$; a candidate moves by the rows outside of a
    fold, $\phi_j = \theta - \beta \nabla L(S \setminus S_j; \theta)$; the fold gives its gradient there,
    $h_j = \nabla L(S_j; \phi_j)$; and the parameters with the largest score, a mask $M$, take the step
    $\theta \leftarrow \theta - \alpha_t\, M \circ \frac1J \sum_j h_j$. See `docs/refine.md`.

    The module is used as it is outside of training: no dropout, and BatchNorm with its running statistics (with
    those of the rows at the start, for a layer that keeps none). It is copied, never changed.

    Arguments:
        model: a trained module, or a `Model` whose parameters are those of a module.
        data: the rows: a pair `(x, y)`, a `Batch`, a data set with a length or a `DataLoader` over one.
        loss: `cross_entropy` for classes and `mse` for numbers unless given; or a function, see
            `losses.task_losses`.
        valid: rows that only stop; taken out of `data` unless given, see `stop` of `Settings`.
        test: rows to score before and after; nothing else is done with them.
        adapt: which parameters may move: `all`, `head`, `body` or name patterns, see
            `selection.select_names`; frozen ones never do.
        mask: 0 where a parameter may not change, by name; such as what sparse-MAML has learned, see
            `learned_mask`.
        mapping: `vmap`, or `loop` for models that cannot be mapped.
        device: `cpu`, `cuda`, ..., or `auto`: the GPU where a round is estimated to be faster there.
        callbacks: called with the log entry of every round.
        settings: the fields of `refining.Settings`: `folds`, `budget`, `score`, `lr`, ...

    Returns:
        The refined model, with a record of every round.

    Raises:
        UsageError: an argument has no meaning.
        DataError: the rows cannot be used.
        DivergedError: the loss is not finite before anything has changed.

    Example:
        >>> import innerloop as il
        >>> x = torch.rand(40, 3)
        >>> refined = il.refine(il.models.mlp(3, [8], 2), (x, (x[:, 0] > 0.5).long()), rounds=3, stop="none")
        >>> refined.best_round, len(refined.log)
        (3, 3)
    """
    began = time.perf_counter()
    chosen = _settings(settings)
    rows = as_rows(data)
    learner, meta = _ordinary(model, loss, rows.y, mapping)
    meta = {name: _precise(value) for name, value in meta.items()}
    names = select_names(learner.network, adapt)
    a_round = chosen.folds * min(len(rows.y), chosen.batch_size)
    on = resolve_device(
        device, lambda: _work(model, learner, meta, names, rows).times(a_round), what="a round"
    ).device
    meta = to(meta, on)
    rows = _like(rows, meta, learner.criterion)
    stop_rows, test_rows = (
        None if part is None else _like(as_rows(part), meta, learner.criterion) for part in (valid, test)
    )
    with threads_for(meta):
        meta |= _missing_statistics(model, learner, meta, rows)
        objective = Objective(learner, meta, names, _allowed(mask, meta, names))
        _require_fit(objective, rows)
        descent = _descend(objective, rows, stop_rows, chosen, callbacks)
        scores = {}
        if test_rows is not None:
            scores["before"] = score(objective, objective.start(), test_rows)
            scores["after"] = score(objective, descent.theta, test_rows)
    return Refined(
        Model(learner, {**meta, **descent.theta}),
        descent.log,
        changed_mask(objective.start(), descent.theta),
        descent.chosen,
        descent.best_round,
        descent.stopped,
        scores,
        time.perf_counter() - began,
    )


def _work(
    model: nn.Module | Model, learner: PlainLearner, meta: Params, names: tuple[str, ...], rows: Batch
) -> Work:
    """The work of a row in a round, counted on the gradient of a few."""
    few = _like(take(rows, np.arange(min(len(rows.y), _COUNTED))), meta, learner.criterion)
    objective = Objective(learner, meta | _missing_statistics(model, learner, meta, few), names)
    _require_fit(objective, few)
    work = counted(lambda: objective.gradients(stacked(objective.start(), 1), unsqueeze(few)))
    return Work(work.operators, work.flops / len(few.y), work.bytes / len(few.y))


def _descend(
    objective: Objective, rows: Batch, valid: Batch | None, settings: Settings, callbacks: Sequence[Callback]
) -> Descent:
    """The rounds, stopped as the settings say."""
    stop = "split" if valid is not None else settings.stop
    if stop == "auto":
        stop = "split" if len(rows.y) >= _ROWS_TO_SPLIT else "crossfit"
    if stop == "crossfit":
        rounds = crossfit_rounds(objective, rows, settings)
        descent = descend(objective, rows, settings, rounds=rounds, callbacks=callbacks)
        if descent.stopped.startswith("diverged"):
            return descent
        return replace(descent, stopped=f"cross-fitting found {rounds} rounds to be best")
    if stop == "split" and valid is None:
        rows, valid = split_off(rows, _SHARE_TO_STOP, stream(settings.seed, _SPLIT))
    return descend(objective, rows, settings, valid=valid, callbacks=callbacks)


def learned_mask(model: Model) -> Params:
    """The mask that sparse-MAML has learned: 1 for the parameters that its inner loop changes.

    Arguments:
        model: a model of `sparse_maml`.

    Returns:
        The mask, by name, for `refine(..., mask=)`.

    Raises:
        UsageError: the model has none.

    Example:
        >>> from innerloop.algorithms import sparse_maml
        >>> learner = sparse_maml(nn.Sequential(nn.Linear(1, 1)), loss="mse")
        >>> learned_mask(Model(learner, learner.init()))["0.bias"]
        tensor([1.])
    """
    start = "inner/mask/"
    mask = {k.removeprefix(start): (v >= 0).to(v) for k, v in model.meta.items() if k.startswith(start)}
    if not mask:
        raise UsageError("this model has learned no mask: train one with sparse_maml")
    return mask


def _allowed(mask: Params | None, meta: Params, names: Sequence[str]) -> Params:
    """The mask of what may change, 1 everywhere unless one is given."""
    allowed = {name: torch.ones_like(meta[name]) for name in names}
    for name, value in (mask or {}).items():
        if name not in meta or meta[name].shape != value.shape:
            raise UsageError(f"mask: {name!r} of shape {tuple(value.shape)} is no parameter of the model")
        if name in allowed:
            allowed[name] = (value != 0).to(meta[name])
    return allowed


def _settings(given: dict[str, Any]) -> Settings:
    known = Settings.__dataclass_fields__
    for name in given:
        if name not in known:
            raise UsageError(f"refine() has no argument {name!r}: settings are {', '.join(known)}")
    return Settings(**given)


def as_rows(data: Any) -> Batch:
    """Rows from a pair `(x, y)`, a `Batch`, a data set or a loader.

    Raises:
        DataError: there is no row, or features and targets have different numbers of them.

    Example:
        >>> as_rows((torch.zeros(3, 2), torch.zeros(3))).rows
        3
    """
    rows = data if isinstance(data, Batch) else Batch(*items(data))
    if rows.weight is not None:
        raise DataError("rows with weights cannot be refined on: leave weight out")
    if not len(rows.y):
        raise DataError("there is no row: give at least two")
    return rows


def _ordinary(
    model: nn.Module | Model, loss: Loss | None, y: Tensor, mapping: str
) -> tuple[PlainLearner, Params]:
    """The model as a learner that adapts nothing, and its parameters."""
    values = KNOWN if bool(y.isnan().any()) else "mse"
    natural: Loss = values if y.is_floating_point() else "cross_entropy"
    if isinstance(model, nn.Module):
        learner = plain(model, loss=loss or natural, mapping=mapping)
        assert isinstance(learner, PlainLearner)
        return learner, learner.init()
    if not isinstance(model, Model):
        raise UsageError(f"refine(model, data) takes a module or a Model, not {type(model).__name__}")
    given = model.learner
    criterion = given.plain_loss
    if criterion is None:
        name = (given.recipe or {}).get("algorithm", type(given).__name__)
        raise UsageError(
            f"a model of {name} predicts through a part that is made anew from support rows, so it has no "
            "parameters of an ordinary model to refine: use the module itself, or a model of maml"
        )
    if given.network.keeps_statistics:
        raise UsageError(
            "this model has BatchNorm statistics and scales of its own for every inner step (batchnorm='per_step'), "
            "so it is no ordinary model: refine one that was trained with batchnorm='support'"
        )
    if isinstance(given, PlainLearner) and loss in (None, criterion):
        return given, model.meta
    recipe = None
    if given.recipe is not None:
        spelled = loss or criterion
        settings = {"loss": spelled if isinstance(spelled, str) else "external", "mapping": mapping}
        recipe = {**given.recipe, "algorithm": "plain", "settings": settings}
    learner = plain_learner(given.network, loss or criterion, recipe)
    return learner, {name: model.meta.get(name, value) for name, value in learner.init().items()}


def _precise(value: Tensor) -> Tensor:
    """Half precision has too few digits for small steps."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _like(rows: Batch, meta: Params, loss: Loss) -> Batch:
    """Rows on the device and in the precision of the parameters; bytes become 0 to 1."""
    like = next(value for value in meta.values() if value.is_floating_point())

    def match(t: Tensor) -> Tensor:
        if t.dtype == torch.uint8:
            t = t.to(like.dtype) / 255
        return t.to(like.device, like.dtype) if t.is_floating_point() else t.to(like.device)

    x, y = map_tensors(match, rows.x), rows.y
    y = y.to(like.device, like.dtype) if y.is_floating_point() else y.to(like.device, torch.int64)
    if loss in ("mse", KNOWN):
        y = y.to(like.dtype).reshape(len(y), -1)
    return Batch(x, y)


def _missing_statistics(model: nn.Module | Model, learner: PlainLearner, meta: Params, rows: Batch) -> Params:
    """Statistics of the rows for BatchNorm layers that keep none of their own."""
    network = learner.network
    layers = [layer for layer in network.normalizers if f"{layer}.running_mean" not in network.entries]
    known = isinstance(model, Model) and set(learner.statistics) <= set(model.meta)
    return mean_statistics(learner, meta, rows, layers) if layers and not known else {}


def _require_fit(objective: Objective, rows: Batch) -> None:
    """Refuse rows that the model or the loss cannot take, in words."""
    one: Batch = map_tensors(lambda t: t[:2].unsqueeze(0), rows)
    try:
        with torch.no_grad():
            prediction = objective.predictions(stacked(objective.start(), 1), one.x)
    except (RuntimeError, UsageError) as error:
        shapes = [tuple(t.shape[1:]) for t in (rows.x.values() if isinstance(rows.x, dict) else [rows.x])]
        raise DataError(
            f"the model cannot take rows of shape {shapes[0]}: {str(error).splitlines()[0]}"
        ) from error
    if objective.learner.criterion == "cross_entropy":
        largest = int(rows.y.max())
        if rows.y.min() < 0 or largest >= prediction.shape[-1]:
            raise DataError(
                f"a row has the class number {largest if rows.y.min() >= 0 else int(rows.y.min())}, and the "
                f"model has {prediction.shape[-1]} outputs: classes are numbered from 0"
            )
