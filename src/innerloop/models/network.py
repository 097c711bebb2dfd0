"""Any `nn.Module` as a function of its parameters, evaluated for many tasks at once.

`Network` holds a private copy of the module. Parameters that tasks share are used as they are; those a task
owns carry a leading task axis and are mapped over with `vmap` around the forward only. Gradients are taken
outside of it: `vmap` around `torch.func.grad` is wrong in second order through BatchNorm and LayerNorm
(torch 2.13).

Two kinds of layers cannot be pure functions of their input and are replaced in the copy: BatchNorm, whose
statistics become explicit values, and dropout, whose masks come from a counter so that a stack of tasks and a
loop over them draw the same ones. Fused kernels without a (right) second derivative are avoided.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..engine.modes import any_rows, tracing
from ..errors import UsageError, check_known
from ..tasks.episodes import map_tensors, tensors
from .checkpoints import without_checkpoints
from .entry import entry_of, independent, watch_entry
from .foreign import Watched, in_words, is_foreign, refuse_wrapped
from .layers import (
    Context,
    refuse_hooks,
    refuse_lazy,
    replace_layers,
    statistics_names,
    trained_statistics,
)
from .precision import multiplying, products
from .randomness import CounterRandom

__all__ = ["Features", "Network", "Params", "reference"]

Params = dict[str, Tensor]
Features = Any  # a tensor `(T, n, *feature)`, or a pytree of such tensors

BATCHNORM_POLICIES = ("auto", "support", "transductive", "per_step", "frozen", "refuse")
MAPPINGS = ("vmap", "loop")


class Network:
    """A module made functional, for `T` tasks at once.

    Arguments:
        module: any `nn.Module`; it is copied and never changed.
        batchnorm: where BatchNorm takes its statistics: `support` (the task's support set, so that a single
            query can be predicted), `transductive` (the rows at hand, the papers' practice), `per_step`
            (support rows their own; query rows running averages of each inner step, with scales and
            biases of their own a step, as in MAML++), `frozen` (the running statistics that the module has, for
            all rows), `auto` (`frozen` where the module was trained before, else `support`), `refuse`.
        mapping: `vmap` runs the tasks of a stack at once, `loop` one by one with the same result.

    Raises:
        UsageError: a layer cannot be made a function, a policy or mapping is unknown, or nothing is
            trainable.

    Example:
        >>> network = Network(nn.Linear(2, 1))
        >>> shared = network.params()
        >>> own = {"bias": torch.tensor([[0.0], [1.0], [2.0]])}
        >>> y, _ = network(shared, own, torch.zeros(3, 4, 2))
        >>> y[:, 0, 0].tolist()
        [0.0, 1.0, 2.0]
    """

    def __init__(self, module: nn.Module, *, batchnorm: str = "support", mapping: str = "vmap") -> None:
        refuse_wrapped(module)
        check_known("batchnorm", batchnorm, BATCHNORM_POLICIES)
        check_known("mapping", mapping, MAPPINGS)
        if batchnorm == "auto":
            batchnorm = "frozen" if trained_statistics(module) else "support"
            if batchnorm == "frozen":
                warnings.warn(
                    "the model's BatchNorm layers hold statistics of an earlier training: they are kept as they are "
                    "(batchnorm='frozen' says so without this warning; 'support' takes those of each support set)",
                    stacklevel=2,
                )
        self.batchnorm, self.mapping = batchnorm, mapping
        self.context = Context()
        self.context.observes = batchnorm == "per_step"
        self.context.frozen = batchnorm == "frozen"
        refuse_hooks(module)
        refuse_lazy(module)
        self.original, self.module = module, copy.deepcopy(module)
        # layers that the user put into evaluation mode stay in it
        training = {layer for layer in self.module.modules() if layer.training}
        # of the module as it was given, before layers are replaced
        self.entries = dict(self.module.state_dict(keep_vars=True))
        self.normalizers = replace_layers(self.module, self.context)
        self.module.eval()
        left = list(self.module.modules())
        # of code that is not torch's own it is not known whether it draws random numbers, or asks for `training`
        foreign = [layer for layer in left if is_foreign(layer)]
        self._draws, self._asking = bool(foreign), [layer for layer in foreign if layer in training]
        self._one_by_one = False
        # vmap has no rule for fused recurrence: these models run task by task
        self._recurrent = any(isinstance(layer, nn.RNNBase) for layer in self.module.modules())
        if self.normalizers and batchnorm == "refuse":
            raise UsageError(
                f"batchnorm='refuse', but the model has BatchNorm at {self.normalizers[0]!r}: "
                "choose 'support', 'transductive' or 'per_step', or use GroupNorm"
            )
        self._interact: bool | None = None
        self._entries: dict[tuple[str, ...], str] = {}
        self.constants = {
            name: value.detach()
            for name, value in (*self.module.named_parameters(), *self.module.named_buffers())
            if not value.requires_grad
        }
        statistics = {name for layer in self.normalizers for name in statistics_names(layer)}
        self._watched = (
            Watched(self.module) if dict(self.module.named_buffers()).keys() - statistics else None
        )

    def params(self) -> Params:
        """Copies of the trainable parameters, by name; scales that are learned a step are not among them."""
        scales = self._scales()
        named = self.module.named_parameters()
        return {n: value.detach().clone() for n, value in named if value.requires_grad and n not in scales}

    def step_params(self, rows: int) -> Params:
        """What policy `per_step` adds to the meta-parameters: `rows` of everything, one an inner step.

        Scales and biases `inner/bn/...` learn by gradients, statistics `state/bn/...` by watching.
        """
        if not self.keeps_statistics:
            return {}
        entries = {f"inner/bn/{n}": v.detach().repeat(rows, 1) for n, v in self._scales().items()}
        buffers = dict(self.module.named_buffers())
        for name in (name for layer in self.normalizers for name in statistics_names(layer)):
            entries[f"state/bn/{name}"] = buffers[name].repeat(rows, 1)
        like = next(iter(entries.values()))
        return entries | {"state/updates": like.new_zeros(())}

    def at_step(self, meta: Params, step: int) -> Params:
        """The row of `step_params` for a step, by the names of the module; later steps use the last."""
        row = {}
        for name, value in meta.items() if self.keeps_statistics else ():
            kind, _, rest = name.partition("/bn/")
            if kind in ("inner", "state") and rest:
                row[rest] = value[min(step, len(value) - 1)]
        return row

    def statistics_like(self, like: Tensor) -> Params:
        """Zeros in the shape of the BatchNorm values that one task owns, with a leading axis of 1."""
        if not self.needs_statistics:
            return {}
        buffers = dict(self.module.named_buffers())
        shapes = {n: buffers[n].shape for layer in self.normalizers for n in statistics_names(layer)}
        shapes |= {name: value.shape for name, value in self._scales().items()}
        return {name: like.new_zeros(1, *shape) for name, shape in shapes.items()}

    @property
    def needs_statistics(self) -> bool:
        """Whether query rows are normalised with statistics that a task owns."""
        return bool(self.normalizers) and self.batchnorm in ("support", "per_step")

    @property
    def keeps_statistics(self) -> bool:
        """Whether these are running averages among the meta-parameters."""
        return bool(self.normalizers) and self.batchnorm == "per_step"

    def rows_interact(self, x: Features) -> bool:
        """Whether the output of a row depends on the other rows, BatchNorm aside: tried once.

        The first row is run beside two different others, with parameters away from their start (a layer of zeros
        would hide it). Such modules see padding, so tasks of different sizes must not be padded for them.

        Arguments:
            x: stacked rows `(T, n, *feature)`, two different ones among them.
        """
        if self._interact is None:
            rows = map_tensors(lambda t: t.detach().flatten(0, 1), x)
            first, *rest = tensors(rows)
            moved = next(
                (i for i in range(2, len(first)) if any((t[i] != t[1]).any() for t in (first, *rest))), 1
            )
            pairs = map_tensors(lambda t: torch.stack([t[[0, 1]], t[[0, moved]]]), rows)
            generator = torch.Generator().manual_seed(0)
            away = {
                n: v + 0.1 * torch.randn(v.shape, generator=generator).to(v)
                for n, v in self.module.named_parameters()
            }
            with torch.no_grad():
                y, _ = self(_matching(away, first), {}, pairs, given_statistics=True)
            self._interact = any(
                not torch.allclose(one[0], two[0], rtol=1e-4, atol=1e-6, equal_nan=True)
                for one, two in (t.unbind(0) for t in tensors(y))
            )
        return self._interact

    def entry(self, names: tuple[str, ...], shared: Params, x: Features) -> str:
        """The layer that holds these parameters, if what it is called with depends on none of them: tried once.

        Arguments:
            names: of parameters.
            shared: values of the others.
            x: stacked rows `(T, n, *feature)`, one at least.

        Returns:
            Its name; empty where there is none, or it is called otherwise than once with one tensor.
        """
        if names not in self._entries and tracing():  # no value can be looked at
            return ""
        if names not in self._entries:
            layer = entry_of(self.module, names)
            if layer:
                watch_entry(self.module.get_submodule(layer), layer, self.context)
                rows = map_tensors(lambda t: t[:1, :2].detach(), x)
                values = {**self.params(), **{name: value.detach() for name, value in shared.items()}}
                before = partial(self.before, layer, own={}, x=rows)
                layer = layer if independent(before, values, names) else ""
            self._entries[names] = layer
        return self._entries[names]

    def before(
        self,
        layer: str,
        shared: Params,
        own: Params,
        x: Features,
        *,
        weight: Tensor | None = None,
        key: Tensor | None = None,
    ) -> Tensor | None:
        """What a layer found by `entry` is called with in a pass, `(T, ...)`; `None` if it is called otherwise."""
        self.context.entry = layer
        reached = self(shared, own, x, weight=weight, key=key)[0]
        return reached if isinstance(reached, Tensor) else None

    def sees_other_rows(self, x: Features) -> bool:
        """Whether a prediction depends on the rows that are predicted with it."""
        return (bool(self.normalizers) and self.batchnorm == "transductive") or self.rows_interact(x)

    def _scales(self) -> Params:
        """Trainable scales and biases of BatchNorm layers, where each step has its own."""
        if not self.keeps_statistics:
            return {}
        params = dict(self.module.named_parameters())
        names = [f"{layer}.{kind}" for layer in self.normalizers for kind in ("weight", "bias")]
        return {name: params[name] for name in names if name in params and params[name].requires_grad}

    def __call__(
        self,
        shared: Params,
        own: Params,
        x: Features,
        *,
        weight: Tensor | None = None,
        key: Tensor | None = None,
        given_statistics: bool = False,
        inside: tuple[str, Tensor] | None = None,
    ) -> tuple[Any, Params]:
        """Predict for a stack of tasks.

        Arguments:
            shared: parameters all tasks share, by name.
            own: values each task owns, leading axis `T`; they take precedence.
            x: `(T, n, *feature)`, or a dict (keywords of the module) or tuple (its positions) of such.
            weight: `(T, n)`, 0 marks rows that BatchNorm must not see.
            key: `(T,)` int64, one dropout stream a task; `None` switches dropout off.
            given_statistics: take BatchNorm statistics from `own` instead of from `x`.
            inside: a layer, and what it is called with in this pass, known from an earlier one; see `before`.

        Returns:
            Predictions `(T, n, *out)` and the BatchNorm statistics of these rows, by buffer name, leading axis
            `T`; none where they are given, unless there are running averages.
        """
        names = self._names
        base = {k: v for k, v in shared.items() if k in names and k not in own}
        mine = {k: v for k, v in own.items() if k in names}
        constants = self._constants_like(next(tensors(x)))
        layer, known = inside or (self.context.entry, None)

        def one_task(
            mine: Params, x: Features, weight: Tensor | None, key: Tensor | None, known: Tensor | None
        ) -> tuple[Any, Params]:
            context = self.context
            context.weight, context.key, context.given = weight, key, given_statistics
            context.statistics, context.inside, context.reached = {}, known, []
            values = {**constants, **base, **mine}
            args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
            with self._randomness(key, next(tensors(x)).device):
                y = self._called(values, args, kwargs)
            if layer and known is None:
                y = context.reached[0] if len(context.reached) == 1 and context.reached[0] is not None else ()
            return y, context.statistics

        floating = (v for v in (*mine.values(), *base.values(), *tensors(x)) if v.is_floating_point())
        like = next(floating, torch.zeros((), device="cpu"))
        kernels, training = self._kernels(), self._training(key is not None)
        with self._pass_through(layer), kernels, multiplying(like), in_words(x), training:
            # rules of vmap for some operators, `cat` among them, fix the number of rows
            if self.mapping == "loop" or self._recurrent or self._one_by_one or any_rows():
                y, statistics = _loop(one_task, (mine, x, weight, key, known))
            else:
                y, statistics = self._vmapped(one_task, (mine, x, weight, key, known))
        if products() != "float32":
            y = map_tensors(lambda t: t.to(like.dtype) if t.is_floating_point() else t, y)
        return y, statistics

    @contextmanager
    def _pass_through(self, layer: str) -> Iterator[None]:
        """What layers read during a pass is gone after it; `layer` is watched in it."""
        context = self.context
        context.entry = layer
        try:
            yield
        finally:
            context.weight, context.key, context.statistics = None, None, {}
            context.entry, context.inside, context.reached = "", None, []

    @contextmanager
    def _training(self, training: bool) -> Iterator[None]:
        """Layers that ask for `self.training` see it during a pass, and are as before after it."""
        for layer in self._asking:
            layer.training = training
        try:
            yield
        finally:
            for layer in self._asking:
                layer.training = False

    def _vmapped(
        self,
        one_task: Callable[..., object],
        arguments: tuple[Any, ...],
    ) -> Any:
        axes = tuple(None if argument is None else 0 for argument in arguments)
        try:
            return vmap(one_task, in_dims=axes)(*arguments)
        except RuntimeError as error:
            text = str(error)
            if "vmap" not in text and "Batching rule" not in text and "functorch" not in text:
                raise
            reason = text.splitlines()[0]
        self._one_by_one = True
        warnings.warn(
            f"this model cannot be mapped over tasks, so they run one after the other ({reason}): "
            "mapping='loop' says so without this warning",
            stacklevel=4,
        )
        return _loop(one_task, arguments)

    def _called(self, values: Params, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """The module with these values as its parameters and buffers."""
        if self._watched is None or not self._asking:
            return functional_call(self.module, values, args, kwargs)
        inside = {f"module.{name}": value for name, value in values.items()}
        return functional_call(self._watched, inside, args, kwargs)

    def _randomness(self, key: Tensor | None, device: torch.device) -> AbstractContextManager[object]:
        """Where code that is not torch's own draws random numbers: the stream of a task, at prediction a fixed one."""
        if not self._draws:
            return nullcontext()
        return CounterRandom(torch.zeros((), dtype=torch.int64, device=device) if key is None else key)

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        """Kernels that can be differentiated twice in place of fused ones; the caller's choice comes back."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH), self._without_fused_recurrence(), without_checkpoints():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    @contextmanager
    def _without_fused_recurrence(self) -> Iterator[None]:
        if not self._recurrent:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the flags warn of hardware that is not there
            with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                yield

    @property
    def _names(self) -> set[str]:
        module = self.module
        return {name for name, _ in (*module.named_parameters(), *module.named_buffers())}

    def _constants_like(self, x: Tensor) -> Params:
        """Frozen values, as the data want them."""
        return _matching(self.constants, x)


def reference(values: Params) -> Tensor:
    """An empty tensor on the device of the values and in their real precision: what data are converted to.

    Example:
        >>> reference({"w": torch.zeros(2, dtype=torch.complex64), "b": torch.zeros(1)}).dtype
        torch.float32
    """
    floating = next((v for v in values.values() if v.is_floating_point()), None)
    like = next(iter(values.values()), torch.zeros((), device="cpu")) if floating is None else floating
    return torch.empty((), dtype=like.dtype.to_real(), device=like.device)


def _matching(values: Params, x: Tensor) -> Params:
    """Values on the device, and floating ones in the precision, of the data."""

    def match(value: Tensor) -> Tensor:
        dtype = x.dtype if value.is_floating_point() and x.is_floating_point() else value.dtype
        return value.to(x.device, dtype)

    return {name: match(value) for name, value in values.items()}


def _loop(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """`vmap(function)(*arguments)` by a loop over the leading axis."""
    count = next(tensors(arguments)).shape[0]
    split: list[list[Tensor]] = [list(t.unbind(0)) for t in tensors([a for a in arguments if a is not None])]
    results = []
    for task in range(count):
        parts = iter([column[task] for column in split])
        results.append(function(*(_refilled(a, parts) for a in arguments)))
    columns = zip(*(tuple(tensors(result)) for result in results), strict=True)
    stacked = iter([torch.stack(column) for column in columns])
    return _refilled(results[0], stacked)


def _refilled(tree: object, values: Iterator[Tensor]) -> object:
    """The same pytree with other tensors."""
    return map_tensors(lambda _: next(values), tree)
