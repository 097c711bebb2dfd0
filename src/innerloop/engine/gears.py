"""Gears: the same function as it is, as one graph, or compiled; chosen by a rule before the first call.

The result never depends on the gear beyond rounding, and numbers too small to have all their digits, which are 0 in
C: whatever a graph computes on the first arguments is compared with the plain function, and a graph that disagrees is
not used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ..errors import UsageError
from .agreement import _ELSEWHERE, _KINK, _moved, agree, differences
from .c.compiler import CannotBuild, built
from .c.expressions import Unsupported
from .c.program import lower
from .modes import frugal, while_checking
from .nests import builder, flattened
from .run import Machine, Run, inductor, interpreted
from .trace import Untraceable, graph_of

GEARS = ("auto", "eager", "traced", "compiled")

# fewer calls than these do not pay for writing a graph down, or for compiling it: about 1 s and 4 s against
# 20 ms a plain call of a small net and 5 ms a traced one
_TRACE_FROM, _COMPILE_FROM = 60, 600
# multiplications of convolutions, over all calls, from which compiling pays however few the calls are
_COMPILE_WORK = 2e11
# graphs of one function; further shapes run as they are
_MOST_GRAPHS = 16

_OPS = torch.ops.innerloop
T = TypeVar("T")


@dataclass
class Report:
    """What became of a function.

    Arguments:
        gear: of the last graph made: `eager`, `traced` or `compiled`.
        reason: why it is not the gear asked for, or what `auto` went by.
        seconds: spent on tracing and compiling.
        graphs: shapes that were traced.
    """

    gear: str = "eager"
    reason: str = ""
    seconds: float = 0.0
    graphs: int = 0

    def __str__(self) -> str:
        """In words, for people."""
        made = f", made in {self.seconds:.1f} s" if self.graphs else ""
        return f"{self.gear}{made}{f' ({self.reason})' if self.reason else ''}"


@dataclass
class _Path(Generic[T]):
    """How calls of one shape are run: a graph, and the nest that its results are put into."""

    run: Run
    build: Callable[[Sequence[Tensor]], T]
    # of a result that is a pair, the first half: its key, see `flattened`
    first: Any = None

    def __call__(self, leaves: Sequence[Any]) -> T:
        """The function's result."""
        return self.build(self.run(_tensors(leaves)))

    def scan(self, carry: Any, rows: Any, constants: Any) -> T:
        """See `Fast.scan`, for a carry that it `scans`."""
        assert isinstance(self.run, Machine)
        return self.build(
            self.run.scan(*(_tensors(pytree.tree_leaves(part)) for part in (carry, rows, constants)))
        )

    def scans(self, carry: Any) -> bool:
        """Whether results begin with something like a carry, and a program passes it on."""
        return isinstance(self.run, Machine) and self.first is not None and flattened(carry)[1] == self.first


@dataclass
class Fast(Generic[T]):
    """A function with gears; see `fast`."""

    function: Callable[..., T]
    gear: str
    planned: int
    report: Report = field(default_factory=Report)
    _paths: dict[Any, _Path[T] | None] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any) -> T:
        """The function's result."""
        if self.gear == "eager":
            return self.function(*args)
        leaves, key = flattened(args)
        try:
            known = key in self._paths
        except TypeError:
            self.report.gear, self.report.reason = (
                "eager",
                "an argument has no constant value to make a graph of",
            )
            return self.function(*args)
        if not known:
            began = time.perf_counter()
            self._paths[key], first = self._path(args, leaves)
            self.report.seconds += time.perf_counter() - began
            return first
        path = self._paths[key]
        return self.function(*args) if path is None else path(leaves)

    def scan(self, carry: Any, rows: Any, *constants: Any) -> Any:
        """Calls in a row, each with what the one before it returned first.

        `carry, out = function(carry, *row, *constants)` for every row, as `jax.lax.scan`. In C all calls are one.

        Arguments:
            carry: the first argument of the first call; the function returns a nest of the same kind.
            rows: the further arguments, a tuple of nests of tensors with a leading axis of calls.
            constants: arguments of every call after these.

        Returns:
            The last carry, and a nest of everything else with a leading axis of calls. The numbers are those of one
            call after the other, to the bit.

        Raises:
            UsageError: there is no call to make, or the leading axes differ.

        Example:
            >>> def step(weight, x, rate):
            ...     return weight - rate * 2 * x * (weight * x - 1), weight * x
            >>> quick = fast(step, gear="traced")
            >>> weight, seen = quick.scan(torch.zeros(()), (torch.tensor([1.0, 2.0, 1.0]),), 0.1)
            >>> weight, seen
            (tensor(0.5520), tensor([0.0000, 0.4000, 0.4400]))
        """
        sizes = {leaf.shape[:1] for leaf in _tensors(pytree.tree_leaves(rows))}
        if len(sizes) != 1 or not all(sum(size) for size in sizes):
            given = ", ".join(str(tuple(size)) for size in sizes)
            raise UsageError(f"rows: give tensors with one leading axis of calls, not {given or 'none'}")
        parts: list[Any] = []
        out: Any
        for call in range(sum(sizes.pop())):
            args = (carry, *_at(call, rows), *constants)
            path = self._known(args)
            if path is not None and path.scans(carry):
                carry, out = path.scan(carry, _at(slice(call, None), rows), constants)  # type: ignore[misc]
                parts.append(out)
                break
            carry, out = self(*args)  # type: ignore[misc]
            parts.append(_at(None, out))
        return carry, pytree.tree_map(_joined, *parts)

    def _known(self, args: Sequence[Any]) -> _Path[T] | None:
        """How a call is run, if it is known and there is a graph."""
        if self.gear == "eager":
            return None
        try:
            return self._paths.get(flattened(args)[1])
        except TypeError:
            return None

    def _path(self, args: Sequence[Any], leaves: list[Any]) -> tuple[_Path[T] | None, T]:
        """How calls of this shape are run from now on (`None`: as they are), and the result of the first one."""
        if self.gear == "auto" and self.planned < _TRACE_FROM:
            self.report.reason = f"{self.planned} calls do not pay for a graph"
            return None, self.function(*args)
        with while_checking(), frugal():
            plain = self.function(*args)
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(plain)):
            self.report.gear, self.report.reason = "eager", "its result is going to be differentiated"
            return None, plain
        try:
            return self._graphed(plain, leaves, pytree.tree_structure(args))
        except Untraceable as error:
            self.report.gear, self.report.reason = "eager", str(error)
            return None, plain

    def _graphed(self, plain: T, leaves: list[Any], structure: Any) -> tuple[_Path[T], T]:
        if len(self._paths) >= _MOST_GRAPHS:
            raise Untraceable(f"more than {_MOST_GRAPHS} different shapes")
        run, nest, gear, reason = self._made(leaves, structure)
        path: _Path[T] = _Path(run, builder(*nest))
        with while_checking():
            first = path(leaves)
        if not agree(plain, first) and not self._agree_somewhere(plain, first, path, leaves, structure):
            raise Untraceable(f"the {gear} graph gives another result than the function")
        self.report.gear, self.report.reason = gear, reason
        self.report.graphs += 1
        if isinstance(first, tuple) and len(first) == 2:
            path.first = flattened(first[0])[1]
        return path, first

    def _agree_somewhere(self, plain: T, graph: T, path: _Path[T], leaves: list[Any], structure: Any) -> bool:
        """Whether graph and function differ no more than rounding explains, here or a little way off.

        The gradient of a bias before BatchNorm, for instance, is 0, and all that is computed of it is rounding: how
        much of a result is, tells the function itself when its arguments are rounded otherwise.
        """

        def value(leaves: list[Any]) -> T:
            with while_checking(), frugal():
                return self.function(*pytree.tree_unflatten(leaves, structure))

        rounding = differences(plain, value([_moved(leaf, None) for leaf in leaves]))
        if agree(plain, graph, rounding):
            return True
        if not agree(plain, graph, rounding, most=_KINK):
            return False
        for away in _ELSEWHERE:
            there = [_moved(leaf, away) for leaf in leaves]
            try:
                with while_checking():
                    plain, graph = value(there), path(there)
                found = differences(plain, value([_moved(leaf, None) for leaf in there]))
            except Exception:  # nobody said that the function is defined there
                return False
            rounding = [min(pair) for pair in zip(rounding, found, strict=True)]
            if agree(plain, graph, rounding):
                return True
        return False

    def _made(self, leaves: list[Any], structure: Any) -> tuple[Run, Any, str, str]:
        """The best way to run a graph that the gear allows: function, nest of the results, gear, reason."""
        reason, graph = "", None
        on_cpu = all(leaf.device.type == "cpu" for leaf in leaves if isinstance(leaf, Tensor))
        compiling = self.gear == "compiled" or (self.gear == "auto" and self.planned >= _COMPILE_FROM)
        if on_cpu and self.gear == "auto" and not compiling:
            graph, nest = graph_of(self.function, leaves, structure)
            compiling = convolutions(graph) * self.planned >= _COMPILE_WORK
        if on_cpu and compiling:
            simple, nest = graph_of(self.function, leaves, structure, decomposed=True)
            try:
                program = lower(simple)
                return Machine(program, built(program.source)), nest, "compiled", ""
            except (Unsupported, CannotBuild) as error:
                reason = f"not compiled: {error}"
            except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
                # a rule that did not think of a case must not be the user's trouble
                reason = f"not compiled: {type(error).__name__}: {error}"
        if graph is None:
            graph, nest = graph_of(self.function, leaves, structure)
        if self.gear == "compiled":
            return inductor(graph), nest, "compiled", f"by inductor; {reason}" if reason else "by inductor"
        return interpreted(graph), nest, "traced", reason


def fast(function: Callable[..., T], *, gear: str = "auto", planned: int = 1000) -> Fast[T]:
    """The same function, faster: written down as one graph of operators and, where it pays, compiled.

    The function must be pure: a result that depends on its arguments alone, which it does not change. It may take
    gradients inside, of any order. Arguments and results are nests (dicts, lists, tuples) of tensors; anything
    else among the arguments is a constant of the graph. A function that decides by the values of tensors cannot be
    written down: it runs as it is, and `report.reason` says why.

    Arguments:
        function: any function of tensors, a whole meta-step for instance.
        gear: `eager` (as it is), `traced` (one graph, no compiler), `compiled` (machine code, made in a few
            seconds and kept on disk), or `auto`: the last that the function allows and `planned` calls pay for.
        planned: calls that are going to be made.

    Returns:
        A callable with the same arguments; its `report` says which gear it took, and why.

    Raises:
        UsageError: the gear is unknown.

    Example:
        >>> def step(weight, x, y):
        ...     weight = weight.requires_grad_()
        ...     loss = (x @ weight - y).square().mean()
        ...     (slope,) = torch.autograd.grad(loss, weight)
        ...     return weight.detach() - 0.1 * slope
        >>> quick = fast(step, gear="traced")
        >>> x, y = torch.ones(4, 2), torch.ones(4)
        >>> quick(torch.zeros(2), x, y), quick.report.gear
        (tensor([0.2000, 0.2000]), 'traced')
    """
    if gear not in GEARS:
        raise UsageError(f"gear={gear!r} is unknown: choose one of {', '.join(GEARS)}")
    return Fast(function, gear, planned)


def convolutions(graph: fx.GraphModule) -> float:
    """Multiplications in the convolutions of a graph: those of its weights at every place of the result."""
    total = 0.0
    for node in graph.graph.nodes:
        if node.target in (_OPS.conv.default, _OPS.conv_input.default, _OPS.conv_weight.default):
            first, second = (one.meta["val"].shape for one in node.args[:2])
            places = len(node.args[2])
            shapes = {"conv": (node.meta["val"].shape, second), "conv_input": (first, second)}
            kind = node.target._schema.name.partition("::")[2]
            result, weight = shapes.get(kind, (first, node.meta["val"].shape))
            total += math.prod(result) * math.prod(weight[-places - 1 :])
    return total


def _at(place: Any, tree: Any) -> Any:
    """The tensors of a nest, indexed."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[place], tree)


def _joined(*leaves: Any) -> Any:
    return torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0]


def _tensors(leaves: Sequence[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
