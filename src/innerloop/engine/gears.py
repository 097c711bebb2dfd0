"""Gears: the same function as it is (eager), as one graph (traced), or as machine code (compiled).

`fast` wraps a pure function. At the first call with a static key (structure, shapes, types; see `pytrees`) a rule
chooses the gear, the function is traced and perhaps compiled, and the graph is compared with the plain function on
these arguments: a graph that disagrees is not used, and the next slower way takes its turn. The outcome is cached by
that key and by the state of what the function closes over (`guards`), and later calls only look it up.

The result never depends on the gear beyond rounding, and subnormal numbers, which C flushes to zero.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ..errors import UsageError
from .agreement import agree, agree_nearby
from .c import CannotBuild, Unsupported, command, compile_c, lower
from .guards import Closure, Reading
from .modes import frugal, while_checking
from .pytrees import flatten, unflattener
from .run import Executable, Run, inductor, interpreted
from .trace import Untraceable, graph_of

__all__ = ["GEARS", "Fast", "Report", "convolutions", "fast"]

GEARS = ("auto", "eager", "traced", "compiled")
# fewer calls than these do not pay for tracing, or for compiling: about 1 s and 4 s against 20 ms a plain call of a
# small net and 5 ms a traced one
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
        compiler: the C compiler and its flags, of what runs compiled to C.
    """

    gear: str = "eager"
    reason: str = ""
    seconds: float = 0.0
    graphs: int = 0
    compiler: str = ""

    def __str__(self) -> str:
        """In words, for people."""
        made = f", made in {self.seconds:.1f} s" if self.graphs else ""
        return f"{self.gear}{made}{f' ({self.reason})' if self.reason else ''}"


class _Lowered(NamedTuple):
    """A graph that can be run, and how its result is put together; the gear, and why it is no faster one.

    Arguments:
        run: the graph.
        result: see `graph_of`.
        gear: it runs in.
        reason: why it is not the gear asked for.
        compiler: see `Report`.
    """

    run: Run
    result: tuple[pytree.TreeSpec, list[object]]
    gear: str
    reason: str
    compiler: str = ""


@dataclass
class _Specialization(Generic[T]):
    """How calls with one static key are run: a graph, and the pytree that its results are put into."""

    run: Run
    build: Callable[[Sequence[Tensor]], T]
    # of a result that is a pair, the static key of its first half: see `scans`
    carry_key: Hashable = None

    def __call__(self, leaves: Sequence[object]) -> T:
        """The function's result."""
        return self.build(self.run(_tensors(leaves)))

    def scan(self, carry: object, rows: object, constants: object) -> T:
        """See `Fast.scan`, for a carry that it `scans`."""
        assert isinstance(self.run, Executable)
        parts = (_tensors(pytree.tree_leaves(part)) for part in (carry, rows, constants))
        return self.build(self.run.scan(*parts))

    def scans(self, carry: object) -> bool:
        """Whether results begin with something like a carry, and a program passes it on."""
        passes = isinstance(self.run, Executable) and self.carry_key is not None
        return passes and flatten(carry)[1] == self.carry_key


@dataclass
class Fast(Generic[T]):
    """A function with gears; see `fast`.

    Arguments:
        function: the plain function.
        gear: that was asked for.
        planned: calls that are going to be made.
        report: which gear was taken, and why.
    """

    # what is looked at where another function closes over this one: not the report
    watched: ClassVar[tuple[str, ...]] = ("function",)

    function: Callable[..., T]
    gear: str
    planned: int
    report: Report = field(default_factory=Report)
    # by static key and number of the closure's state; `None`: calls with this key run the plain function
    _specialized: dict[Hashable, _Specialization[T] | None] = field(default_factory=dict, repr=False)
    _closure: Closure | None = field(default=None, repr=False)

    def __call__(self, *args: object) -> T:
        """The function's result."""
        if self.gear == "eager":
            return self.function(*args)
        leaves, key = flatten(args)
        try:
            specialized = self._specialized[key, self._state()]
        except KeyError:
            return self._first(args, leaves, key)
        except TypeError:
            self._eager("an argument has no constant value to make a graph of")
            return self.function(*args)
        return self.function(*args) if specialized is None else specialized(leaves)

    def _state(self) -> int:
        """The number of the present state of what the function closes over."""
        if self._closure is None:
            self._closure = Closure(self.function)
        return self._closure.number if self._closure.unchanged() else self._closure.look()

    def _first(self, args: Sequence[object], leaves: list[object], key: Hashable) -> T:
        """The first call with a key: a graph is made, if the gear asks for one and few enough were made."""
        assert self._closure is not None
        if len(self._specialized) >= _MOST_GRAPHS:
            states = "different shapes, constant arguments or states of what it closes over"
            self._eager(f"more than {_MOST_GRAPHS} {states}")
            return self.function(*args)
        began = time.perf_counter()
        self._closure.watch(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        specialized, first = self._specialize(args, leaves)
        # the state as it is now: the first call of all may have filled a cache
        self._specialized[key, self._state()] = specialized
        self.report.seconds += time.perf_counter() - began
        return first

    def scan(self, carry: object, rows: object, *constants: object) -> Any:
        """Calls in a row, each with what the one before it returned first.

        `carry, out = function(carry, *row, *constants)` for every row, as `jax.lax.scan`. In C all calls are one.

        Arguments:
            carry: the first argument of the first call; the function returns a pytree of the same kind.
            rows: the further arguments, a tuple of pytrees of tensors with a leading axis of calls.
            constants: arguments of every call after these.

        Returns:
            The last carry, and a pytree of everything else with a leading axis of calls. The numbers are those of one
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
        parts: list[object] = []
        out: object
        for call in range(sum(sizes.pop())):
            args = (carry, *_indexed(rows, call), *constants)
            specialized = self._lookup(args)
            if specialized is not None and specialized.scans(carry):
                rest = _indexed(rows, slice(call, None))
                carry, out = specialized.scan(carry, rest, constants)  # type: ignore[misc]
                parts.append(out)
                break
            carry, out = self(*args)  # type: ignore[misc]
            parts.append(_indexed(out, None))
        return carry, pytree.tree_map(_joined, *parts)

    def _lookup(self, args: Sequence[object]) -> _Specialization[T] | None:
        """How a call is run, if its key is known and there is a graph."""
        if self.gear == "eager":
            return None
        try:
            return self._specialized.get((flatten(args)[1], self._state()))
        except TypeError:
            return None

    def _eager(self, reason: str) -> None:
        self.report.gear, self.report.reason = "eager", reason

    def _specialize(
        self, args: Sequence[object], leaves: list[object]
    ) -> tuple[_Specialization[T] | None, T]:
        """How calls with this key are run from now on (`None`: as they are), and the result of the first one."""
        if self.gear == "auto" and self.planned < _TRACE_FROM:
            self.report.reason = f"{self.planned} calls do not pay for a graph"
            return None, self.function(*args)
        with while_checking(), frugal():
            plain = self.function(*args)
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(plain)):
            self._eager("its result is going to be differentiated")
            return None, plain
        try:
            return self._checked(plain, leaves, pytree.tree_structure(args))
        except Untraceable as error:
            self._eager(str(error))
            return None, plain

    def _checked(
        self, plain: T, leaves: list[object], structure: pytree.TreeSpec
    ) -> tuple[_Specialization[T], T]:
        """The fastest graph that agrees with the plain function on the first arguments, and its result for them."""

        def function(leaves: list[object]) -> T:
            return self.function(*pytree.tree_unflatten(leaves, structure))

        refused = ""
        for lowered in self._lowered(leaves, structure):
            specialized: _Specialization[T] = _Specialization(lowered.run, unflattener(*lowered.result))
            with while_checking():
                first = specialized(leaves)
            if agree(plain, first) or agree_nearby(
                function, specialized, leaves=leaves, results=(plain, first)
            ):
                break
            refused = f"the {lowered.gear} graph gives another result than the function"
        else:
            raise Untraceable(refused)
        self.report.gear, self.report.compiler = lowered.gear, lowered.compiler
        self.report.reason = "; ".join(filter(None, (refused, lowered.reason)))
        self.report.graphs += 1
        if isinstance(first, tuple) and len(first) == 2:
            specialized.carry_key = flatten(first[0])[1]
        return specialized, first

    def _lowered(self, leaves: list[object], structure: pytree.TreeSpec) -> Iterator[_Lowered]:
        """The ways to run a graph that the gear allows, the fastest first: C, else inductor or by operators."""
        reason, graph = "", None
        on_cpu = all(leaf.device.type == "cpu" for leaf in _tensors(leaves))
        compiling = self.gear == "compiled" or (self.gear == "auto" and self.planned >= _COMPILE_FROM)
        if on_cpu and self.gear == "auto" and not compiling:
            graph, result = self._graph(leaves, structure)
            compiling = convolutions(graph) * self.planned >= _COMPILE_WORK
        if on_cpu and compiling:
            lowered = _in_c(*self._graph(leaves, structure, decomposed=True))
            if isinstance(lowered, _Lowered):
                yield lowered
            else:
                reason = lowered
        if graph is None:
            graph, result = self._graph(leaves, structure)
        if self.gear == "compiled":
            why = f"by inductor; {reason}" if reason else "by inductor"
            yield _Lowered(inductor(graph), result, "compiled", why)
        else:
            yield _Lowered(interpreted(graph), result, "traced", reason)

    def _graph(
        self, leaves: list[object], structure: pytree.TreeSpec, *, decomposed: bool = False
    ) -> tuple[fx.GraphModule, tuple[pytree.TreeSpec, list[object]]]:
        """See `graph_of`; tensors on which the graph depends beside its arguments are watched."""
        reading = Reading()

        def function(*args: object) -> object:
            with reading:
                return self.function(*args)

        graph, result = graph_of(function, leaves, structure, decomposed=decomposed)
        if self._closure is not None:
            self._closure.hold(_constants(graph), reading.tensors)
        return graph, result


def _in_c(graph: fx.GraphModule, result: tuple[pytree.TreeSpec, list[object]]) -> _Lowered | str:
    """A graph compiled to C, or why it is not."""
    try:
        program = lower(graph)
        run = Executable(program, compile_c(program.source))
        return _Lowered(run, result, "compiled", "", command())
    except (Unsupported, CannotBuild) as error:
        return f"not compiled: {error}"
    except Exception as error:  # a rule that did not think of a case must not be the user's trouble
        return f"not compiled: {type(error).__name__}: {error}"


def _constants(graph: fx.GraphModule) -> list[Tensor]:
    """Tensors that a graph reads beside its arguments: those that the function closes over."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [tensor for name in names if isinstance(tensor := operator.attrgetter(name)(graph), Tensor)]


def fast(function: Callable[..., T], *, gear: str = "auto", planned: int = 1000) -> Fast[T]:
    """The same function, faster: traced to one graph of operators and, where it pays, compiled.

    The function must be pure: a result that depends on its arguments alone, which it does not change. It may take
    gradients inside, of any order. Arguments and results are pytrees (dicts, lists, tuples) of tensors; anything
    else among the arguments is a constant of the graph. A function that decides by the values of tensors cannot be
    traced: it runs as it is, and `report.reason` says why.

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
    """Multiplications in the convolutions of a graph: for each, the kernel's at every element of the result."""
    # result and weights of each, among first operand, second operand and value
    roles = {_OPS.conv.default: (2, 1), _OPS.conv_input.default: (0, 1), _OPS.conv_weight.default: (0, 2)}
    total = 0.0
    for node in graph.graph.nodes:
        if node.target in roles:
            shapes = [one.meta["val"].shape for one in (*node.args[:2], node)]
            result, weight = (shapes[role] for role in roles[node.target])
            total += math.prod(result) * math.prod(weight[-len(node.args[2]) - 1 :])
    return total


def _indexed(tree: Any, index: int | slice | None) -> Any:
    """The tensors of a pytree, indexed."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[index], tree)


def _joined(*leaves: Any) -> Any:
    """Tensors along their leading axis; what is none is the same everywhere."""
    return torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0]


def _tensors(leaves: Sequence[object]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
