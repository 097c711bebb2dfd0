"""Random graphs in C against the same in double precision.

    python benchmarks/fuzz_engine.py                         # 20,000 graphs; prints what is wrong, and a summary
    python benchmarks/fuzz_engine.py --first 1234 --graphs 1 # one graph again, with its source

Each seed is a graph of up to ten operators: pointwise ones, reductions, products, convolutions, indexing, views, casts,
and gradients of first and second order, on odd and empty shapes, strided and repeated inputs. Graphs are compiled some
at a time, as most of the time is the compiler's, and called with two sets of numbers, without the check that `il.fast`
makes: a wrong number cannot hide behind a refusal. Whole numbers must be equal; floating ones may be as far from the
truth as torch's own times 8, and 64 roundings. Leaves with 1 if a graph is wrong, and if lowering raises what it should
not.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from innerloop.engine.agreement import differences
from innerloop.engine.c import Program, Unsupported, compile_c, lower
from innerloop.engine.modes import while_checking
from innerloop.engine.run import Executable
from innerloop.engine.trace import Untraceable, graph_of

SIZES = (0, 1, 1, 2, 3, 4, 5, 7, 8, 12, 17, 20, 33, 44, 129)
MOST = 3000  # elements of a tensor
Operation = Callable[..., Tensor]


@dataclass
class Graph:
    """A random graph.

    Arguments:
        seed: that it is made from.
        inputs: its arguments.
        steps: name, function and operands of each operator; operands are inputs and results of earlier steps.
        slope: 0 for the values of the last steps; 1 or 2 for gradients of that order.
    """

    seed: int
    inputs: list[Tensor] = field(default_factory=list)
    steps: list[tuple[str, Operation, tuple[int, ...]]] = field(default_factory=list)
    slope: int = 0

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The results; where inputs are double, everything floating is."""
        values = list(inputs)
        if self.slope:
            values = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
        leaves = [x for x in values if x.requires_grad]
        for _, function, operands in self.steps:
            values.append(function(*(values[operand] for operand in operands)))
        results = values[len(inputs) :][-3:]
        for order in range(self.slope):
            total = sum((r.square().mean() if r.numel() else r.sum()) for r in results if r.requires_grad)
            if not isinstance(total, Tensor):
                break
            slopes = torch.autograd.grad(
                total, leaves, create_graph=order + 1 < self.slope, allow_unused=True
            )
            # no gradient is one of 0
            results = [torch.zeros_like(x) if y is None else y for x, y in zip(leaves, slopes, strict=True)]
        return [result.detach() for result in results]

    def __str__(self) -> str:
        shapes = ", ".join(f"{tuple(x.shape)} {str(x.dtype)[6:]}" for x in self.inputs)
        names = [f"{name}{operands}" for name, _, operands in self.steps]
        return f"seed {self.seed}: inputs {shapes}; {'; '.join(names)}; slope {self.slope}"


class Maker:
    """Draws graphs.

    Arguments:
        seed: of the graph.
    """

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.graph = Graph(seed)
        self.values: list[Tensor] = []

    def integer(self, below: int) -> int:
        """A number below another."""
        return int(torch.randint(max(below, 1), (), generator=self.draw))

    def choice(self, options: Sequence[object]) -> object:
        """One of some options."""
        return options[self.integer(len(options))]

    def shape(self, rank: int) -> list[int]:
        """A shape of few elements."""
        sizes = [int(self.choice(SIZES)) for _ in range(rank)]
        while torch.Size(sizes).numel() > MOST:
            sizes[sizes.index(max(sizes))] //= 2
        return sizes

    def input(self, shape: Sequence[int], below: int | None = None) -> int:
        """Another input: numbers, or indices below something; sometimes strided."""
        if below is None:
            tensor = torch.randn(tuple(shape), generator=self.draw)
            if len(shape) > 1 and self.integer(4) == 0:
                tensor = torch.randn(*reversed(shape), generator=self.draw).permute(*range(len(shape))[::-1])
        else:
            tensor = torch.randint(max(below, 1), tuple(shape), generator=self.draw)
        # operands of steps count inputs first: all inputs come before the first step
        self.graph.inputs.append(tensor)
        self.values.append(tensor)
        return len(self.values) - 1

    def made(self) -> Graph:
        """The graph."""
        for _ in range(1 + self.integer(3)):
            self.input(self.shape(self.integer(4) + (self.integer(4) > 0)))
        if self.integer(8) == 0:
            self.graph.inputs.append(self.graph.inputs[0])
            self.values.append(self.values[0])
        first = self.values[0]
        rank = first.dim()
        index = None
        if rank and first.shape[-1]:
            index = self.input(first.shape, first.shape[-1])
        weight = None
        if rank in (3, 4) and first.shape[1]:  # torch's result without channels has a shape of its own
            taps = [1 + self.integer(min(size, 3)) for size in first.shape[2:]]
            weight = self.input([1 + self.integer(5), first.shape[1], *taps])
        self._first_steps(index, weight)
        tries, wanted = 0, 1 + self.integer(9)
        while len(self.graph.steps) < wanted and tries < 40:
            tries += 1
            self.add(*self.operation())
        self.graph.slope = int(self.choice((0, 0, 0, 1, 2)))
        return self.graph

    def _first_steps(self, index: int | None, weight: int | None) -> None:
        """Steps that need an input of their own: an index, or the weights of a convolution."""
        if index is not None and self.integer(3) == 0:
            self.add("gather", lambda x, i: x.gather(-1, i), (0, index))
        if index is not None and self.integer(5) == 0:
            self.add("scatter", lambda x, i: x.scatter(-1, i[..., :1], 1.5), (0, index))
        if weight is not None and self.integer(2) == 0:
            stride, padding = 1 + self.integer(2), self.integer(2)
            conv = F.conv1d if self.values[0].dim() == 3 else F.conv2d
            name = f"conv stride {stride} padding {padding}"
            self.add(name, lambda x, w: conv(x, w, stride=stride, padding=padding), (0, weight))

    def add(self, name: str, function: Operation, operands: tuple[int, ...]) -> None:
        """Add a step, unless torch refuses it, or its numbers grow beyond what can be compared."""
        try:
            result = function(*(self.values[operand] for operand in operands))
        except (RuntimeError, IndexError, ValueError, TypeError):
            return
        if result.numel() > MOST or (result.is_floating_point() and not (result.abs() < 1e3).all()):
            return
        self.graph.steps.append((name, function, operands))
        self.values.append(result)

    def operation(self) -> tuple[str, Operation, tuple[int, ...]]:
        """A name, a function and its operands, drawn."""
        one, other = self.integer(len(self.values)), self.integer(len(self.values))
        kind = self.choice(
            (*([pointwise] * 3), binary, binary, reduction, view, view, product, indexing, cast)
        )
        name, function, count = kind(self, self.values[one], self.values[other])  # type: ignore[operator]
        return name, function, (one, other)[:count]


Drawn = tuple[str, Operation, int]


def pointwise(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    number = float(maker.choice((0.5, -1.5, 2.0, 0.0, 1.0)))
    options: dict[str, Operation] = {
        "exp": lambda x: (x.clamp(-5, 2)).exp(),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "sqrt": lambda x: (x.abs() + 0.1).sqrt(),
        "log": lambda x: (x.abs() + 0.5).log(),
        "sin": torch.sin,
        "relu": torch.relu,
        "abs": torch.abs,
        "neg": torch.neg,
        "square": torch.square,
        "cube": lambda x: (x / 4) ** 3,
        "reciprocal": lambda x: 1 / (1 + x.abs()),
        "softplus": F.softplus,
        "silu": F.silu,
        f"times {number}": lambda x: x * number,
        f"plus {number}": lambda x: x + number,
        f"minus from {number}": lambda x: number - x,
        "clamp": lambda x: x.clamp(-0.7, 0.9),
        f"above {number}": lambda x: x > number,
        "not": lambda x: ~x,
        "softmax": lambda x: x.softmax(-1),
        "log_softmax": lambda x: x.log_softmax(0),
    }
    name = str(maker.choice(list(options)))
    return name, options[name], 1


def binary(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    options: dict[str, Operation] = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": lambda x, y: x / (1.5 + y.abs()),
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "where": lambda x, y: torch.where(x > y, x, 2 * y),
        "less": lambda x, y: x < y,
        "add by axis": lambda x, y: x.unsqueeze(-1) + y.reshape(-1)[:3],
        "and": lambda x, y: (x > 0) & (y > 0),
        "alpha": lambda x, y: torch.add(x, y, alpha=0.3),
    }
    name = str(maker.choice(list(options)))
    return name, options[name], 2


def reduction(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    axes = sorted({maker.integer(x.dim()) for _ in range(1 + maker.integer(3))})
    keep = bool(maker.integer(2))
    options: dict[str, Operation] = {
        "sum": lambda x: x.sum(axes, keepdim=keep),
        "mean": lambda x: x.mean(axes, keepdim=keep),
        "amax": lambda x: x.amax(axes, keepdim=keep),
        "var": lambda x: x.var(axes, unbiased=False, keepdim=keep),
        "total": torch.sum,
        "any": lambda x: (x > 0).any(axes[0], keepdim=keep),
        "count": lambda x: (x > 0).sum(axes[0]),
        "logsumexp": lambda x: x.logsumexp(axes, keepdim=keep),
    }
    name = str(maker.choice(list(options)))
    return f"{name} {axes} {keep}", options[name], 1


def view(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    order = torch.randperm(x.dim(), generator=maker.draw).tolist()
    axis = maker.integer(x.dim())
    start, step = maker.integer(3), 1 + maker.integer(3)
    options: dict[str, Operation] = {
        f"permute {order}": lambda x: x.permute(order),
        "flatten": lambda x: x.flatten(),
        f"flatten from {axis}": lambda x: x.flatten(axis),
        "halves": lambda x: x.reshape(2, -1),
        f"unsqueeze {axis}": lambda x: x.unsqueeze(axis),
        "squeeze": lambda x: x.squeeze(),
        f"slice {axis} {start} {step}": lambda x: x[(slice(None),) * axis + (slice(start, None, step),)],
        f"select {axis}": lambda x: x.select(axis, -1),
        "expand": lambda x: x.unsqueeze(0).expand(3, *x.shape),
        "diagonal": lambda x: x.diagonal(),
        "contiguous": lambda x: x.mT.contiguous(),
    }
    name = str(maker.choice(list(options)))
    return name, options[name], 1


def product(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    options: dict[str, Operation] = {
        "gram": lambda x: x @ x.mT / 10,
        "outer": lambda x: x.flatten()[:40, None] @ x.flatten()[None, :30],
        "scalar product": lambda x: x.flatten() @ x.flatten() / 10,
        "columns": lambda x: x.flatten(1).T @ x.flatten(1) / 10,
        "batches": lambda x: torch.einsum("...ij,...kj->...ik", x, x) / 10,
    }
    if maker.integer(3) == 0:
        return "matmul", lambda x, y: x @ y / 10, 2
    name = str(maker.choice(list(options)))
    return name, options[name], 1


def indexing(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    axis = maker.integer(x.dim())
    pads = [maker.integer(3) for _ in range(2 * (1 + maker.integer(2)))]
    if maker.integer(3) == 0:
        return f"cat {axis}", lambda x, y: torch.cat([x, y, x], axis), 2
    options: dict[str, Operation] = {
        f"stack {axis}": lambda x: torch.stack([x, x * 2], axis),
        f"pad {pads}": lambda x: F.pad(x, pads, value=0.5),
        f"flip {axis}": lambda x: x.flip(axis),
        "tril": torch.tril,
        f"roll {axis}": lambda x: x.roll(1, axis),
        f"split {axis}": lambda x: x.split(2, axis)[-1],
        "masked": lambda x: x.masked_fill(x > 0.5, -1.0),
        f"cumsum {axis}": lambda x: x.cumsum(axis),
        "ones": lambda x: torch.ones_like(x) + 1,
    }
    name = str(maker.choice(list(options)))
    return name, options[name], 1


def cast(maker: Maker, x: Tensor, y: Tensor) -> Drawn:
    options: dict[str, Operation] = {
        "to int64": lambda x: (x * 3).to(torch.int64),
        "to int32": lambda x: (x * 3).to(torch.int32),
        "to bool": lambda x: (x > 0).bool(),
        "to double": lambda x: x.double(),
        "to float": lambda x: x.to(torch.get_default_dtype()),
    }
    name = str(maker.choice(list(options)))
    return name, options[name], 1


def numbers(graph: Graph, again: int) -> list[Tensor]:
    """Arguments of the graph: those it was made with, or others of the same size, indices as they are."""
    if not again:
        return graph.inputs
    draw = torch.Generator().manual_seed(graph.seed + 2**40)
    return [
        x * (0.5 + torch.rand(x.shape, generator=draw)) if x.is_floating_point() else x for x in graph.inputs
    ]


def in_double(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The results in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return graph(*(x.double() if x.is_floating_point() else x for x in inputs))
    finally:
        torch.set_default_dtype(before)


def lowered(graphs: Sequence[Graph]) -> Program:
    """All results of some graphs, as one program."""

    def every(inputs: list[list[Tensor]]) -> list[list[Tensor]]:
        return [graph(*given) for graph, given in zip(graphs, inputs, strict=True)]

    leaves, structure = pytree.tree_flatten(([graph.inputs for graph in graphs],))
    return lower(graph_of(every, leaves, structure, decomposed=True)[0])


def wrong(graph: Graph, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> str | None:
    """What is wrong with the results; `None` if nothing is."""
    plain, truth = graph(*inputs), in_double(graph, inputs)
    for number, (result, one, exact) in enumerate(zip(results, plain, truth, strict=True)):
        where = f"result {number}"
        if result.shape != one.shape or result.dtype != one.dtype:
            return f"{where} is {result.dtype} {tuple(result.shape)}, not {one.dtype} {tuple(one.shape)}"
        if not one.is_floating_point():
            if torch.equal(one, exact) and not torch.equal(result, one):
                return f"{where}: whole numbers differ"
            continue
        (own,), (error,) = differences([exact], [one]), differences([exact], [result])
        # the exact one lies on the other side of a kink, or one of them is infinite: nothing can be said
        if own < 1e-3 and error > 64 * torch.finfo(torch.float32).eps + 8 * own:
            return f"{where} is off by {error:.1e}, torch by {own:.1e}"
    return None


def refusal(graph: Graph) -> str | None:
    """Why a graph has no program: `no form in C`, `no graph`, `crash: ...`, `wrong: ...`; `None` if it has one."""
    try:
        count = len(lowered([graph]).outputs)
        if count != len(graph(*graph.inputs)):
            return f"wrong: {count} results"
    except Unsupported:
        return "no form in C"
    except Untraceable:
        return "no graph"
    except Exception as error:
        return f"crash: {type(error).__name__}: {error}"
    return None


def outcomes(graphs: Sequence[Graph]) -> Iterator[tuple[Graph, str]]:
    """What becomes of some graphs that have a program: `right`, `wrong: ...` or `crash: ...`."""
    if not graphs:
        return
    try:
        program = lowered(graphs)
        run = Executable(program, compile_c(program.source))
    except Exception as error:
        if len(graphs) > 1:  # which one is it?
            for graph in graphs:
                yield from outcomes([graph])
        else:
            yield graphs[0], f"crash: {type(error).__name__}: {error}"
        return
    reasons: dict[int, str] = {}
    for again in (0, 1):
        given = [numbers(graph, again) for graph in graphs]
        with while_checking():
            results = iter(run(pytree.tree_leaves(given)))
        for graph, inputs in zip(graphs, given, strict=True):
            mine = [next(results) for _ in graph(*inputs)]
            if (reason := wrong(graph, inputs, mine)) is not None:
                reasons.setdefault(graph.seed, f"wrong: {reason}, call {again + 1}")
    yield from ((graph, reasons.get(graph.seed, "right")) for graph in graphs)


def batches(first: int, count: int, together: int) -> Iterator[tuple[Graph, str]]:
    """What becomes of the graphs of some seeds; `together` of them are one program."""
    waiting: list[Graph] = []
    for seed in range(first, first + count):
        graph = Maker(seed).made()
        if not graph.steps:
            yield graph, "empty"
        elif (reason := refusal(graph)) is not None:
            yield graph, reason
        else:
            waiting.append(graph)
        if len(waiting) == together:
            yield from outcomes(waiting)
            waiting = []
    yield from outcomes(waiting)


def fuzz(first: int, count: int, together: int = 16) -> Counter[str]:
    """Make graphs and compare them; what is wrong is printed.

    Arguments:
        first: seed of the first graph.
        count: how many.
        together: how many are one program.
    """
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about odd shapes
        for graph, outcome in batches(first, count, together):
            kind = outcome.partition(":")[0]
            counts[kind] += 1
            if kind in ("wrong", "crash"):
                print(f"{outcome}\n  {graph}", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--graphs", type=int, default=20_000)
    parser.add_argument("--together", type=int, default=16, help="graphs in one program")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.graphs == 1:
        print(Maker(options.first).made())
    counts = fuzz(options.first, options.graphs, options.together)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    sys.exit(1 if counts["wrong"] or counts["crash"] else 0)


if __name__ == "__main__":
    main()
