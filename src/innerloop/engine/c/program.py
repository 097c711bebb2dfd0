"""A traced step as one C function: shapes are constants, a chain of pointwise operators is one loop.

`lower` walks the graph once. A view is arithmetic on strides and costs nothing. A pointwise operator stays an
expression until something needs its values; then the whole expression becomes one loop nest (`loops`). Sums,
products of matrices, gathers and scatters (`operators`), linear systems (`solving`) and convolutions (`spatial`)
are kernels of their own. Equal kernels are one C function, called from many places, so that five inner steps
compile as quickly as one. What runs in which order, and where buffers are, is found at the end (`calls`): large
steps run task by task, so that what a task computes stays in the cache. An operator without a rule raises
`Unsupported`, and the step runs in another gear.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from .borders import in_frame
from .builder import Lowering
from .convolution import SPATIAL
from .expressions import REINDEXING, Apply, Read, Unsupported, Value, expand, reads
from .linalg import SOLVING
from .operators import REDUCED, SPECIAL, VIEWS, view
from .pointwise import C_TYPES, POINTWISE
from .pooling import POOLS
from .prelude import PRELUDE
from .runtime import FLUSH_TO_ZERO, THREADS
from .schedule import Band, Layout, banded, laid_out

_aten = torch.ops.aten
_RULES = SPECIAL | SPATIAL | POOLS | SOLVING
# an expression with more reads than this is stored, so that a loop keeps within the registers
_MOST_READS = 12
_RUN = """int run(char **p, int64_t width, int64_t calls)
{
for (int64_t i = 0; i < calls; ++i) if (once(p + i * width)) return 1;
return 0;
}
"""
# a step that writes more bytes than this leaves the cache, and runs task by task
_LARGE = 8 * 2**20
# and one that writes more than this takes long enough for threads to be started for it
_LONG = 256 * 2**20


@dataclass(frozen=True)
class Program:
    """C source of a step, and what the function wants to be given.

    Arguments:
        source: of `int run(char **p, int64_t width, int64_t calls)`. `p` holds the inputs, the outputs, the arena and
            the number of threads of a call, and those of the next one `width` places on. It returns whether an index
            was out of range, and stops there.
        given: number of tensors that it takes.
        outputs: shape and type of every output.
        arena: bytes of scratch memory.
        worker: bytes of it for each thread, besides.
        constants: tensors of the graph, given as inputs after the others.
    """

    source: str
    given: int
    outputs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    arena: int
    worker: int
    constants: tuple[Tensor, ...]


def lower(graph: fx.GraphModule) -> Program:
    """The C program of a traced graph.

    Arguments:
        graph: of tensors to a flat list of tensors, with `meta["val"]` on every node.

    Returns:
        The program.

    Raises:
        Unsupported: an operator, type or device has no rule.
    """
    nodes = list(graph.graph.nodes)
    tasks, written = _tasks(nodes)
    low = Lowering(tasks if written > _LARGE else 0)
    wanted = list(nodes[-1].args[0])
    last = {node for node in wanted if isinstance(node, fx.Node)}
    values: dict[fx.Node, Any] = {}
    inputs: list[int] = []
    constants: list[Tensor] = []
    for node in nodes[:-1]:
        if node.op == "placeholder":
            values[node] = low.given(node.meta["val"])
            inputs.append(values[node].buffer)
    for node in nodes[:-1]:
        if node.op == "get_attr":
            constant = operator.attrgetter(str(node.target))(graph)
            values[node] = low.given(constant)
            constants.append(constant.detach().contiguous())
            inputs.append(values[node].buffer)
        elif node.op == "call_function":
            values[node] = _called(low, node, values, last)
    outputs = _returned(low, [values[node] for node in wanted], inputs)
    shapes = tuple((values[node].shape, values[node].dtype) for node in wanted)
    return _assembled(low, inputs, outputs, shapes, tuple(constants), threads=written > _LONG)


def _tasks(nodes: Sequence[fx.Node]) -> tuple[int, int]:
    """The size of the leading axis that most of what is computed has, and the bytes of that."""
    count: Counter[int] = Counter()
    for node in nodes:
        found = node.meta.get("val")
        if node.op == "call_function" and isinstance(found, Tensor) and found.dim() > 1:
            count[found.shape[0]] += found.numel() * found.element_size()
    del count[1]
    return max(count.items(), key=lambda item: item[1], default=(0, 0))


# ---- nodes -----------------------------------------------------------------------------------------------------


def _called(low: Lowering, node: fx.Node, values: dict[fx.Node, Any], last: set[fx.Node]) -> Any:
    """The value of an operator."""
    target: Any = node.target
    if target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    args = fx.map_arg(node.args, lambda n: values[n])
    if target in VIEWS:
        return view(low, node, args)
    if target in _RULES:
        value = _RULES[target](low, node, *args, **node.kwargs)
    elif target in POINTWISE:
        value = _pointwise(low, node, args)
    else:
        raise Unsupported(str(target))
    if isinstance(value, Apply) and not _stays_lazy(node, value, last):
        return in_frame(low, node, value)
    return value


def _pointwise(low: Lowering, node: fx.Node, args: Sequence[Any]) -> Value:
    op, wanted = POINTWISE[node.target](args, node.kwargs)
    fake = node.meta["val"]
    low.require(fake.dtype)
    shape = tuple(fake.shape)
    common = fake.dtype
    if "o" in op.casts:
        common = torch.result_type(*(_like(a) for a in wanted))
        op = replace(op, common=common)
    if node.target is _aten.add.Tensor:  # zeros are where a gradient has no part
        kept = [a for a in wanted if not (isinstance(a, Read) and a.buffer is None and a.offset == 0)]
        if len(kept) == 1 and len(wanted) == 2 and kept[0].dtype == fake.dtype:
            return expand(kept[0], shape)
    operands = [a if isinstance(a, (Read, Apply)) else low.constant(a, common) for a in wanted]
    return Apply(op, tuple(expand(o, shape) for o in operands), shape, fake.dtype)


def _like(value: Any) -> Any:
    """Something that torch promotes as it would the value."""
    if not isinstance(value, (Read, Apply)):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def _stays_lazy(node: fx.Node, value: Apply, last: set[fx.Node]) -> bool:
    """One reader that computes elementwise or sums, and an expression of modest size."""
    if len(reads(value)) > _MOST_READS:
        return False
    if all(r.buffer is None and not r.gathered for r in reads(value)):
        return True
    while True:
        if len(node.users) != 1 or node in last:
            return False
        (user,) = node.users
        if user.target not in REINDEXING:
            break
        node = user
    if user.target in REDUCED:
        return True
    return user.target in POINTWISE and user.meta["val"].shape.numel() == math.prod(value.shape)


# ---- the whole -------------------------------------------------------------------------------------------------


def _returned(low: Lowering, wanted: Sequence[Value], inputs: Sequence[int]) -> dict[int, int]:
    """A buffer in order for every result, by its place among them."""
    outputs: dict[int, int] = {}
    for place, value in enumerate(wanted):
        target = low.stored(value)
        taken = target.buffer in inputs or target.buffer in outputs or target.buffer in low.sums
        if taken or not low.whole(target):
            target = low.new(value.shape, value.dtype)
            low.store_into(target, value)
        assert target.buffer is not None
        outputs[target.buffer] = place
    return outputs


def _assembled(
    low: Lowering,
    inputs: Sequence[int],
    outputs: dict[int, int],
    shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...],
    constants: tuple[Tensor, ...],
    *,
    threads: bool,
) -> Program:
    fixed = {buffer: f"p[{place}]" for place, buffer in enumerate(inputs)}
    fixed |= {buffer: f"p[{len(inputs) + place}]" for buffer, place in outputs.items()}
    bands = banded(low.calls)
    layout = laid_out(bands, low.sizes, fixed, low.sums, max(low.tasks, 1))
    text = [PRELUDE, FLUSH_TO_ZERO, *low.functions.values()]
    text += [f"static __attribute__((noinline)) void {name}{body}" for body, name in low.kernels.items()]
    text += [_band(number, band, layout, low.tasks) for number, band in enumerate(bands)]
    starts, sums = layout.sums
    if low.tasks:
        text.append(THREADS.format(tasks=low.tasks, own=layout.private, sums=sums, added=_added(low, starts)))
    count = len(inputs) + len(outputs)
    text.append(
        f"static int once(char **p)\n{{\nchar *shared = p[{count}], *sums = shared + {layout.shared};"
    )
    text.append(f"char *own = sums + {sums};\nuint64_t before = flush();\nout_of_range = 0;")
    for number, band in enumerate(bands):
        given = "p, shared, sums, own"
        workers = f"(int64_t)p[{count + 1}]" if threads else "1"
        many = f"for_tasks(band{number}, {workers}, {given});"
        text.append(many if band.split else f"band{number}({given}, 0);")
    text.append("restore(before);\nreturn out_of_range;\n}")
    text.append(_RUN)
    arena, worker = layout.shared + sums, layout.private + sums
    sizes = (arena, worker) if threads else (arena + worker, 0)
    return Program("\n".join(text), len(inputs) - len(constants), shapes, *sizes, constants)


def _added(low: Lowering, starts: dict[int, int]) -> str:
    """C that adds the sums of a thread to those of the first one."""
    lines = []
    for buffer, start in starts.items():
        typed, size = C_TYPES[low.types[buffer]], low.sizes[buffer] // low.types[buffer].itemsize
        pair = f"{typed} *a = ({typed} *)(to + {start}), *b = ({typed} *)(from + {start});"
        lines.append(f"{{ {pair}\nfor (int64_t i = 0; i < {size}; ++i) a[i] += b[i]; }}")
    return "\n".join(lines)


def _band(number: int, band: Band, layout: Layout, tasks: int) -> str:
    """A C function that runs the calls of a band, for one task where it is split."""
    lines = [f"static void band{number}(char **p, char *shared, char *sums, char *own, int64_t t)\n{{"]
    for call in band.calls:
        given = []
        for buffer, offset, step in call.pointers:
            moves = f" + t * {step}" if step and buffer not in layout.private_buffers else ""
            place = layout.places[buffer]
            if buffer != call.target and buffer in layout.sums[0]:
                # what is read is the sum of all tasks, not the part of it that this thread adds to
                place = f"shared + {layout.shared + layout.sums[0][buffer]}"
            given.append(f"(void *)({place} + {offset}{moves})")
        every = f"for (t = 0; t < {tasks}; ++t) " if call.split and not band.split else ""
        lines.append(f"  {every}{call.kernel}({', '.join(given)});")
    return "\n".join([*lines, "}"])
