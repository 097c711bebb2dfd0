"""Lowering: a traced graph as one C function; shapes are constants, a chain of pointwise operators is one loop nest.

`lower` walks the graph once. A view is arithmetic on strides and costs nothing. A pointwise operator stays a lazy
expression until something needs its values; then the whole expression is fused into one loop nest (`loops`), or into
the loop of a reduction. Reductions, matrix products, gathers and scatters (`operators`), linear systems (`linalg`),
convolutions and pooling are kernels of their own. Equal kernels are one C function, called from many places, so that
five inner steps compile as quickly as one. What runs in which order, and where buffers are, is decided at the end
(`schedule`): large steps run task by task, so that what a task computes stays in the cache. An operator without a rule
raises `Unsupported`, and the step runs in another gear.
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

from .convolution import CONVOLUTIONS
from .expressions import REINDEXING, Apply, Read, Unsupported, Value, expand, reads
from .indexing import INDEXING
from .linalg import LINALG
from .lowering import Lowering, Rule
from .operators import REDUCED, SPECIAL, VIEWS, view
from .padding import store_padded
from .pointwise import C_TYPES, POINTWISE, Operator, Pointwise
from .pooling import POOLING
from .prelude import PRELUDE
from .runtime import FLUSH_TO_ZERO, THREADS
from .schedule import Band, MemoryPlan, into_bands, plan_memory

__all__ = ["Program", "lower"]

_aten = torch.ops.aten
_RULES: dict[Operator, Rule] = SPECIAL | INDEXING | CONVOLUTIONS | POOLING | LINALG
# an expression with more reads than this is materialized, so that a loop keeps within the registers
_MOST_READS = 12
_RUN = """int run(char **p, int64_t width, int64_t calls)
{
for (int64_t i = 0; i < calls; ++i) if (once(p + i * width)) return 1;
return 0;
}
"""
# a step that writes more bytes than this leaves the cache: it runs task by task
_LARGE = 8 * 2**20
# and one that writes more than this takes long enough for threads to be started for it
_LONG = 256 * 2**20


@dataclass(frozen=True)
class Program:
    """C source of a step, and what the function takes.

    Arguments:
        source: of `int run(char **p, int64_t width, int64_t calls)`. `p` is a table with a row of `width` pointers for
            each call: the inputs, the outputs, the arena, and the number of threads. It returns whether an index was
            out of range, and stops there.
        inputs: number of tensors that it takes.
        outputs: shape and type of every output.
        arena: bytes of scratch memory.
        worker: bytes of it for each thread, besides.
        constants: tensors of the graph, given as inputs after the others, with what they hold at the call.
    """

    source: str
    inputs: int
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
    tasks, written = _task_axis(nodes)
    low = Lowering(tasks if written > _LARGE else 0)
    wanted = list(nodes[-1].args[0])
    returned = {node for node in wanted if isinstance(node, fx.Node)}
    values: dict[fx.Node, Any] = {}
    inputs: list[int] = []
    constants: list[Tensor] = []
    for node in nodes[:-1]:
        if node.op == "placeholder":
            values[node] = low.input_buffer(node.meta["val"])
            inputs.append(values[node].buffer)
    for node in nodes[:-1]:
        if node.op == "get_attr":
            constant = operator.attrgetter(str(node.target))(graph)
            values[node] = low.input_buffer(constant)
            constants.append(constant.detach())
            inputs.append(values[node].buffer)
        elif node.op == "call_function":
            values[node] = _lower_node(low, node, values, returned)
    outputs = _output_buffers(low, [values[node] for node in wanted], inputs)
    shapes = tuple((values[node].shape, values[node].dtype) for node in wanted)
    return _program(low, inputs, outputs, shapes, tuple(constants), threads=written > _LONG)


def _task_axis(nodes: Sequence[fx.Node]) -> tuple[int, int]:
    """The number of tasks, and the bytes computed for them: the leading size that most of what is computed has."""
    written: Counter[int] = Counter()
    for node in nodes:
        fake = node.meta.get("val")
        if node.op == "call_function" and isinstance(fake, Tensor) and fake.dim() > 1:
            written[fake.shape[0]] += fake.numel() * fake.element_size()
    del written[1]
    return max(written.items(), key=lambda item: item[1], default=(0, 0))


def _lower_node(low: Lowering, node: fx.Node, values: dict[fx.Node, Any], returned: set[fx.Node]) -> Any:
    """The value of an operator, by the rule for it; an expression is materialized where it cannot be fused."""
    target: Any = node.target
    if target is operator.getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index]
    args = fx.map_arg(node.args, lambda n: values[n])
    if target in VIEWS:
        return view(low, node, args)
    if target in _RULES:
        value = _RULES[target](low, node, *args, **node.kwargs)
    elif target in POINTWISE:
        value = _pointwise(low, node, POINTWISE[target](args, node.kwargs))
    else:
        raise Unsupported(str(target))
    if isinstance(value, Apply) and not _can_fuse(node, value, returned):
        return store_padded(low, node, value)
    return value


def _pointwise(low: Lowering, node: fx.Node, rule: tuple[Pointwise, list[Any]]) -> Value:
    """A lazy expression of the operands, converted as torch would and broadcast."""
    op, operands = rule
    fake = node.meta["val"]
    low.require(fake.dtype)
    shape = tuple(fake.shape)
    common = fake.dtype
    if "o" in op.casts:
        common = torch.result_type(*map(_promotes_like, operands))
        op = replace(op, common=common)
    if node.target is _aten.add.Tensor:  # zeros are where a gradient has no part
        nonzero = [a for a in operands if not _is_zero(a)]
        only = nonzero[0] if len(nonzero) == 1 and len(operands) == 2 else None
        if isinstance(only, (Read, Apply)) and only.dtype == fake.dtype:
            return expand(only, shape)
    values = [a if isinstance(a, (Read, Apply)) else low.constant(a, common) for a in operands]
    return Apply(op, tuple(expand(value, shape) for value in values), shape, fake.dtype)


def _is_zero(value: object) -> bool:
    """Whether a value is the constant 0; an `arange` begins with it and goes on."""
    return isinstance(value, Read) and value.buffer is None and not value.offset and not any(value.strides)


def _promotes_like(value: Any) -> Any:
    """Something that torch promotes as it would the value."""
    if not isinstance(value, (Read, Apply)):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def _can_fuse(node: fx.Node, value: Apply, returned: set[fx.Node]) -> bool:
    """Whether an expression is fused into its reader: one reader, pointwise or a reduction, and not too many reads."""
    if len(reads(value)) > _MOST_READS:
        return False
    if all(r.buffer is None and not r.gathered for r in reads(value)):
        return True
    while True:
        if len(node.users) != 1 or node in returned:
            return False
        (user,) = node.users
        if user.target not in REINDEXING:
            break
        node = user
    if user.target in REDUCED:
        return True
    return user.target in POINTWISE and user.meta["val"].shape.numel() == math.prod(value.shape)


def _output_buffers(low: Lowering, wanted: Sequence[Value], inputs: Sequence[int]) -> dict[int, int]:
    """A contiguous buffer of its own for every result, with its index among them."""
    outputs: dict[int, int] = {}
    for index, value in enumerate(wanted):
        target = low.contiguous(value)
        shared = target.buffer in inputs or target.buffer in outputs or target.buffer in low.accumulators
        if shared or not low.fills_buffer(target):
            target = low.new(value.shape, value.dtype)
            low.store(target, value)
        assert target.buffer is not None
        outputs[target.buffer] = index
    return outputs


def _program(
    low: Lowering,
    inputs: Sequence[int],
    outputs: dict[int, int],
    shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...],
    constants: tuple[Tensor, ...],
    *,
    threads: bool,
) -> Program:
    """Decide order and memory, and put the source together."""
    fixed = {buffer: f"p[{index}]" for index, buffer in enumerate(inputs)}
    fixed |= {buffer: f"p[{len(inputs) + index}]" for buffer, index in outputs.items()}
    bands = into_bands(low.calls)
    plan = plan_memory(bands, low.buffer_bytes, fixed, low.accumulators, max(low.tasks, 1))
    offsets, sums = plan.sums
    text = [PRELUDE, FLUSH_TO_ZERO, *low.functions.values()]
    text += [f"static __attribute__((noinline)) void {name}{body}" for body, name in low.kernels.items()]
    text += [_band_function(number, band, plan, low.tasks) for number, band in enumerate(bands)]
    if low.tasks:
        added = _add_accumulators(low, offsets)
        text.append(THREADS.format(tasks=low.tasks, own=plan.private, sums=sums, added=added))
    count = len(inputs) + len(outputs)
    text += [_once_function(bands, plan, count, f"(int64_t)p[{count + 1}]" if threads else "1"), _RUN]
    arena, worker = plan.shared + sums, plan.private + sums
    sizes = (arena, worker) if threads else (arena + worker, 0)
    return Program("\n".join(text), len(inputs) - len(constants), shapes, *sizes, constants)


def _once_function(bands: Sequence[Band], plan: MemoryPlan, arena: int, workers: str) -> str:
    """The C function of one call: cut the arena, flush subnormals to zero, run the bands, restore the mode.

    Arguments:
        bands: what runs.
        plan: of the arena.
        arena: index of the arena among the pointers.
        workers: C of the number of threads.
    """
    given = "p, shared, sums, own"
    lines = [
        f"static int once(char **p)\n{{\nchar *shared = p[{arena}], *sums = shared + {plan.shared};",
        f"char *own = sums + {plan.sums[1]};\nuint64_t before = flush();\nout_of_range = 0;",
    ]
    for number, band in enumerate(bands):
        for_tasks = f"for_tasks(band{number}, {workers}, {given});"
        lines.append(for_tasks if band.split else f"band{number}({given}, 0);")
    return "\n".join([*lines, "restore(before);\nreturn out_of_range;\n}"])


def _add_accumulators(low: Lowering, offsets: dict[int, int]) -> str:
    """C that adds the accumulators of a thread to those of the first one."""
    lines = []
    for buffer, start in offsets.items():
        typed, size = C_TYPES[low.dtypes[buffer]], low.buffer_bytes[buffer] // low.dtypes[buffer].itemsize
        pair = f"{typed} *a = ({typed} *)(to + {start}), *b = ({typed} *)(from + {start});"
        lines.append(f"{{ {pair}\nfor (int64_t i = 0; i < {size}; ++i) a[i] += b[i]; }}")
    return "\n".join(lines)


def _band_function(number: int, band: Band, plan: MemoryPlan, tasks: int) -> str:
    """A C function that runs the calls of a band, for one task `t` where it is split."""
    lines = [f"static void band{number}(char **p, char *shared, char *sums, char *own, int64_t t)\n{{"]
    for call in band.calls:
        given = []
        for buffer, offset, stride in call.pointers:
            task = f" + t * {stride}" if stride and buffer not in plan.private_buffers else ""
            base = plan.pointers[buffer]
            if buffer != call.target and buffer in plan.sums[0]:
                # what is read is the sum of all tasks, not the part of it that this thread adds to
                base = f"shared + {plan.shared + plan.sums[0][buffer]}"
            given.append(f"(void *)({base} + {offset}{task})")
        every = f"for (t = 0; t < {tasks}; ++t) " if call.split and not band.split else ""
        lines.append(f"  {every}{call.kernel}({', '.join(given)});")
    return "\n".join([*lines, "}"])
