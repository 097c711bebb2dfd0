"""A model, a learner with its meta-parameters, and what adaptation to one task makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.network import Features, Params, reference
from ..notebook import as_html
from ..tasks.episodes import Batch, as_tensors, map_tensors, tensors, to, unsqueeze
from .exported import as_graph
from .given_rows import refuse_unknown, warn_of_raw_rows
from .learner import Learner

__all__ = ["Adapted", "Model", "TaskModule", "require_model"]


@dataclass(frozen=True, eq=False)
class Model:
    """A learner with its meta-parameters: what training returns and a model directory holds.

    Arguments:
        learner: the recipe.
        meta: the meta-parameters.
        standardised: it was trained on rows that were standardised when they were read, as tables are: `adapt` and
            `evaluate` warn of values that are not.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> task = model.adapt(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0]]))
        >>> task(torch.tensor([[2.0]])).shape
        torch.Size([1, 1])
    """

    learner: Learner
    meta: Params
    standardised: bool = False

    def adapt(self, x: Features, y: Tensor, *, steps: int | None = None) -> Adapted:
        """Adapt to one task, whose values are scaled as those of training were.

        The model knows nothing of columns and units: of a table, `tasks.schema.encode` and `encode_target` make the
        arrays, and `tasks.schema.decode` turns predictions back. `il.load(dir).predict_frame` does all of it. A
        model that was trained on a table warns of values that are far from standardised.

        Arguments:
            x: support features `(n, *feature)`, tensors or numpy arrays.
            y: support targets `(n, *target)`.
            steps: inner steps; as in training unless given.

        Returns:
            A callable from query features to predictions; the model itself does not change.

        Raises:
            UsageError: a target is NaN, and the learner needs all targets of a row.
        """
        rows = Batch(as_tensors(x), as_tensors(y))
        if self.standardised:
            warn_of_raw_rows(rows.x, rows.y)
        if not self.learner.takes_partial:
            refuse_unknown(rows.y)
        support = self._like(unsqueeze(rows))
        with torch.no_grad():
            return Adapted(self, self.learner.adapt(self.meta, support, steps=steps))

    def adapting(self, x: Features, y: Tensor, query: Features) -> nn.Module:
        """Adaptation as a module for fixed shapes: support features and targets and query features to predictions.

        All of it, gradients of the inner loop included, is one graph of torch's operators without autograd, which
        `torch.export.export(module, (x, y, query))` takes.

        Arguments:
            x: support features `(n, *feature)`.
            y: support targets `(n, *target)`.
            query: features to predict for, `(m, *feature)`.

        Raises:
            UsageError: the model decides by values, and has no graph.

        Example:
            >>> from innerloop.algorithms import mixed
            >>> learner = mixed(1)
            >>> model = Model(learner, learner.init())
            >>> x, y, query = torch.rand(5, 1), torch.rand(5, 1), torch.rand(3, 1)
            >>> module = model.adapting(x, y, query)
            >>> torch.allclose(module(2 * x, y, query), model.adapt(2 * x, y)(query))
            True
        """

        def adapted(x: Features, y: Any, query: Features) -> Any:
            own = self.learner.adapt(self.meta, unsqueeze(Batch(x, y)))
            stacked = map_tensors(lambda t: t.unsqueeze(0), query)
            return map_tensors(lambda t: t.squeeze(0), self.learner.predict(self.meta, own, stacked))

        return as_graph(adapted, *(self._like(as_tensors(one)) for one in (x, y, query)))

    def state_dict(self) -> Params:
        """The meta-parameters by name, as `torch.save` writes and `torch.load(weights_only=True)` reads them."""
        return dict(self.meta)

    def base(self) -> Adapted:
        """What predicts without any support row: the meta-parameters as they are."""
        return Adapted(self, {})

    @property
    def device(self) -> torch.device:
        """Where the meta-parameters are."""
        return reference(self.meta).device

    def to(self, device: torch.device | str) -> Model:
        """The same model on another device."""
        return replace(self, meta={name: value.to(device) for name, value in self.meta.items()})

    def _repr_html_(self) -> str:
        """What notebooks show: the algorithm and the meta-parameters with their shapes."""
        count = sum(value.numel() for value in self.meta.values())
        facts = {"meta-parameters": f"{count:,}", "device": self.device}
        shapes = [[name, "x".join(map(str, value.shape)) or "1"] for name, value in self.meta.items()]
        return as_html(f"Model: {self.learner.called}", facts, [["meta-parameter", "shape"], *shapes])

    def _like(self, tree: Any) -> Any:
        """Tensors of data on the device and in the precision of the meta-parameters."""
        like = reference(self.meta)
        return to(tree, like.device, like.dtype)


def require_model(model: object) -> None:
    """Refuse what is no model, with the way from a run or a learner to one.

    Raises:
        UsageError: it is none.
    """
    if isinstance(model, Model):
        return
    way = "make one of a learner with il.Model(learner, meta)" if isinstance(model, Learner) else ""
    if isinstance(getattr(model, "model", None), Model):
        way = "of a run or a directory, give its .model, as in run.model"
    raise UsageError(
        f"a {type(model).__name__} is no model: {way or 'give run.model of il.meta_train, or il.Model(learner, meta)'}"
    )


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model adapted to one task; call it with query features.

    Arguments:
        model: the model it came from.
        own: values of this task, with a leading axis of 1; empty for the base.
    """

    model: Model
    own: Params

    def __call__(self, x: Features) -> Any:
        """Predict `(n, *out)` for features `(n, *feature)`: values, or logits of classes."""
        model = self.model
        with torch.no_grad():
            own, stacked = self._prepared(x)
            return map_tensors(lambda t: t.squeeze(0), model.learner.predict(model.meta, own, stacked))

    def module(self) -> nn.Module:
        """An ordinary module that predicts as the task does: for hooks, `torch.export`, programs without this package.

        Where gradient steps adapt a module, it is one of the same class with the names of the original, in evaluation
        mode, and copies of all values; BatchNorm has the statistics that the task is normalised with. Of any other
        algorithm (heads in closed form, particles, scales of each task) it is a `TaskModule`.

        Example:
            >>> import innerloop as il
            >>> learner = il.maml(nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), loss="mse")
            >>> task = il.Model(learner, learner.init()).adapt(torch.zeros(3, 1), torch.ones(3, 1))
            >>> type(task.module()).__name__, list(task.module().state_dict())
            ('Sequential', ['0.weight', '0.bias', '2.weight', '2.bias'])
            >>> torch.allclose(task.module()(torch.ones(2, 1)), task(torch.ones(2, 1)))
            True
        """
        module = self.model.learner.module_of(self.model.meta, self.own)
        return TaskModule(self) if module is None else module

    def state_dict(self) -> Params:
        """The values that the task predicts with, by the names of the module that the algorithm was made with.

        Raises:
            UsageError: the algorithm predicts with more than a module, a head in closed form say.
        """
        module = self.module()
        if isinstance(module, TaskModule):
            raise UsageError(
                "this task predicts with more than the values of a module (a head in closed form, particles, or scales "
                "of its own), so it has no state dict: torch.export takes task.module(), and il.save keeps the model"
            )
        return dict(module.state_dict())

    def deviation(self, x: Features) -> Tensor:
        """Predictive standard deviation of each value, `(n, C)`, in the units of the targets adapted to.

        Raises:
            UsageError: the algorithm says nothing of it.

        Example:
            >>> from innerloop.algorithms import mixed
            >>> learner = mixed(1)
            >>> task = Model(learner, learner.init()).adapt(torch.zeros(3, 1), torch.ones(3, 1))
            >>> round(
            ...     task.deviation(torch.zeros(1, 1)).item(), 3
            ... )  # noise 1, and a mean known from 3 rows and a prior
            1.118
        """
        model = self.model
        with torch.no_grad():
            own, stacked = self._prepared(x)
            variance = model.learner.variance(model.meta, own, stacked)
        if variance is None:
            raise UsageError(
                "this learner does not say how sure it is of a value: use gp, gaussian, mixed or bmaml; of classes, "
                "every learner gives probabilities"
            )
        return variance.squeeze(0).sqrt()

    def _prepared(self, x: Features) -> tuple[Params, Any]:
        """Values of the task and features as a stack of one."""
        model = self.model
        stacked = model._like(map_tensors(lambda t: t.unsqueeze(0), as_tensors(x)))
        return self.own or next(iter(model.learner.path(model.meta, _no_rows(stacked), steps=0))), stacked

    def classify(self, x: Features) -> Tensor:
        """The most likely class number of each row, `(n,)`."""
        numbers: Tensor = self(x).argmax(-1)
        return numbers


class TaskModule(nn.Module):
    """An adapted model as a module, whatever its algorithm: features `(n, *feature)` in, predictions `(n, *out)` out.

    Arguments:
        task: the adapted model.
    """

    def __init__(self, task: Adapted) -> None:
        super().__init__()
        self.task = task

    def forward(self, x: Features) -> Any:
        """Predict."""
        return self.task(x)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskModule:
        """What `to`, `double` and `cuda` do to parameters, done to the values of the task."""
        model, own = self.task.model, self.task.own
        meta = {name: function(value) for name, value in model.meta.items()}
        self.task = Adapted(
            Model(model.learner, meta), {name: function(value) for name, value in own.items()}
        )
        return self


def _no_rows(x: Features) -> Batch:
    """An empty support set for one task with features like `x`."""
    empty = map_tensors(lambda t: t[:, :0], x)
    return Batch(empty, torch.zeros(1, 0, device=next(tensors(empty)).device))
