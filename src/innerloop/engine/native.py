"""A traced step as one C function: shapes are constants, a chain of pointwise operators is one loop.

`lower` walks the graph once. A view is arithmetic on strides and costs nothing. A pointwise operator stays an
expression until something needs its values; then the whole expression becomes one loop nest. Sums, products of
matrices, gathers and scatters are loops of their own. Equal loops are one C function, called from many places, so
that five inner steps compile as quickly as one. Buffers live in an arena and are reused as soon as they are dead.
An operator without a rule raises `Unsupported`, and the step runs in another gear.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from .kernels import (
    POINTWISE,
    PRELUDE,
    REDUCTIONS,
    SQUARE,
    Pointwise,
    Product,
    cast,
    matmul,
    number,
    transposition,
)

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.bool: "uint8_t",
}
_FLOATS = (torch.float32, torch.float64)
_aten = torch.ops.aten
# an expression with more reads than this is stored, so that a loop keeps within the registers
_MOST_READS = 12
# axes of at most this length are written out, so that the next one becomes vector code
_SHORT = 4


class Unsupported(Exception):
    """An operator or type has no rule here."""


@dataclass(frozen=True)
class Read:
    """Strided numbers in a buffer, or, without a buffer, the numbers `offset + sum(i * stride)` themselves.

    Arguments:
        buffer: number of the buffer, or `None`.
        shape, strides: as of a tensor.
        offset: of the first element; the first number where there is no buffer.
        dtype: of the elements.
        gathered: further terms of the place: an index value of the same shape, and its stride.
    """

    buffer: int | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: float
    dtype: torch.dtype
    gathered: tuple[tuple[Value, int], ...] = ()


@dataclass(frozen=True)
class Apply:
    """A pointwise operator on values of its own shape; computed where it is read."""

    op: Pointwise
    args: tuple[Value, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


Value = Read | Apply


@dataclass(frozen=True)
class Program:
    """C source of a step, and what the function wants to be given.

    Arguments:
        source: of `void run(char **p)`; `p` holds the inputs, the outputs and the arena.
        outputs: shape and type of every output.
        arena: bytes of scratch memory.
        constants: tensors of the graph, given as inputs after the others.
    """

    source: str
    outputs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    arena: int
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
    return _Lowering(graph).program()


class _Lowering:
    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        self.sizes: list[int] = []  # bytes of every buffer
        self.types: list[torch.dtype] = []
        self.inputs: list[int] = []
        self.constants: list[Tensor] = []
        self.outputs: dict[int, int] = {}  # buffer -> number of the output it is
        self.calls: list[tuple[str, list[tuple[int, int]]]] = []  # kernel, (buffer, offset) of its pointers
        self.kernels: dict[str, str] = {}  # text of a kernel -> its name
        self.copies: dict[Read, Read] = {}
        self.last: set[fx.Node] = set()

    def program(self) -> Program:
        nodes = list(self.graph.graph.nodes)
        wanted = list(nodes[-1].args[0])
        self.last = {n for n in wanted if isinstance(n, fx.Node)}
        for node in nodes[:-1]:
            if node.op == "placeholder":
                self.values[node] = self._given(node.meta["val"])
                self.inputs.append(self.values[node].buffer)
        for node in nodes[:-1]:
            if node.op == "get_attr":
                constant = operator.attrgetter(str(node.target))(self.graph)
                self.values[node] = self._given(constant)
                self.constants.append(constant.detach().contiguous())
                self.inputs.append(self.values[node].buffer)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
        shapes = []
        for place, node in enumerate(wanted):
            value = self.values[node]
            target = self.stored(value)
            if target.buffer in self.inputs or target.buffer in self.outputs or not self._whole(target):
                target = self._new(value.shape, value.dtype)
                self._store_into(target, value)
            assert target.buffer is not None
            self.outputs[target.buffer] = place
            shapes.append((value.shape, value.dtype))
        return self._assembled(tuple(shapes))

    # ---- nodes -------------------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> Any:
        target: Any = node.target
        if target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        args = fx.map_arg(node.args, lambda n: self.values[n])
        if target in _VIEWS:
            return self._view(target, args, node.kwargs)
        if target in _SPECIAL:
            value = _SPECIAL[target](self, node, *args, **node.kwargs)
        elif target in POINTWISE:
            value = self._pointwise(node, args)
        else:
            raise Unsupported(str(target))
        if isinstance(value, Apply) and not self._stays_lazy(node, value):
            return self.stored(value)
        return value

    def _pointwise(self, node: fx.Node, args: Sequence[Any]) -> Value:
        op, wanted = POINTWISE[node.target](args, node.kwargs)
        fake = node.meta["val"]
        self._require(fake.dtype)
        shape = tuple(fake.shape)
        common = fake.dtype
        if "o" in op.casts:
            common = torch.result_type(*(_like(a) for a in wanted))
            op = replace(op, common=common)
        if node.target is _aten.add.Tensor:  # zeros are where a gradient has no part
            kept = [a for a in wanted if not (isinstance(a, Read) and a.buffer is None and a.offset == 0)]
            if len(kept) == 1 and len(wanted) == 2 and kept[0].dtype == fake.dtype:
                return expand(kept[0], shape)
        operands = [a if isinstance(a, (Read, Apply)) else self.constant(a, common) for a in wanted]
        return Apply(op, tuple(expand(o, shape) for o in operands), shape, fake.dtype)

    def _stays_lazy(self, node: fx.Node, value: Apply) -> bool:
        """One reader that computes elementwise or sums, and an expression of modest size."""
        if len(reads(value)) > _MOST_READS:
            return False
        if all(r.buffer is None and not r.gathered for r in reads(value)):
            return True
        while True:
            if len(node.users) != 1 or node in self.last:
                return False
            (user,) = node.users
            if user.target not in _REINDEXING:
                break
            node = user
        if user.target in _REDUCTIONS:
            return True
        return user.target in POINTWISE and user.meta["val"].shape.numel() == math.prod(value.shape)

    def _view(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        value, *rest = args
        if isinstance(value, Apply):
            moved = _reindexed(value, target, rest, kwargs)
            if moved is not None:
                return moved
            value = self.stored(value)
        elif value.gathered:
            value = self.stored(value)
        try:
            return seen_through(value, target, rest, kwargs)
        except RuntimeError:  # no strides describe this view: it needs a copy
            return seen_through(self.stored(value), target, rest, kwargs)

    # ---- values ------------------------------------------------------------------------------------------

    def _require(self, dtype: torch.dtype) -> None:
        if dtype not in C_TYPES:
            raise Unsupported(str(dtype))

    def _given(self, tensor: Tensor) -> Read:
        if tensor.device.type != "cpu":
            raise Unsupported(f"a tensor on {tensor.device}")
        return self._new(tuple(tensor.shape), tensor.dtype)

    def _new(self, shape: Sequence[int], dtype: torch.dtype) -> Read:
        self._require(dtype)
        self.sizes.append(max(math.prod(shape), 1) * dtype.itemsize)
        self.types.append(dtype)
        return Read(len(self.sizes) - 1, tuple(shape), contiguous(shape), 0, dtype)

    def constant(self, value: float, dtype: torch.dtype) -> Read:
        """A number as a value without memory."""
        return Read(None, (), (), value, dtype)

    def stored(self, value: Value) -> Read:
        """The value in a buffer of its own, in order; the same where it is so already."""
        whole = isinstance(value, Read) and value.buffer is not None and not value.gathered
        if whole and isinstance(value, Read) and value.strides == contiguous(value.shape):
            return value
        if isinstance(value, Read) and _turned(value):
            return self.copied(value)
        target = self._new(value.shape, value.dtype)
        self._store_into(target, value)
        return target

    def copied(self, read: Read) -> Read:
        """A copy in order, made once however often it is asked for."""
        if read not in self.copies:
            target = self._new(read.shape, read.dtype)
            if _turned(read):
                self.emit(_turning(read), target, read)
            else:
                self.emit(_loop_nest(target, read), target, read)
            self.copies[read] = target
        return self.copies[read]

    def ordered(self, value: Value) -> Value:
        """The same expression, in which no matrix is read down its columns."""
        return _mapped(value, lambda read: self.copied(read) if _turned(read) else read)

    def _whole(self, read: Read) -> bool:
        """Whether the read is all of its buffer."""
        assert read.buffer is not None
        return self.sizes[read.buffer] == max(math.prod(read.shape), 1) * read.dtype.itemsize

    def in_memory(self, value: Value) -> Read:
        """The value in some buffer, with any strides."""
        if isinstance(value, Read) and value.buffer is not None and not value.gathered:
            return value
        return self.stored(value)

    def _store_into(self, target: Read, value: Value) -> None:
        if math.prod(value.shape):
            value = self.ordered(value)
            self.emit(_loop_nest(target, value), target, value)

    def emit(self, text: Callable[[_Pointers], str], target: Read, *values: Value) -> None:
        """Add a call of the kernel that `text` writes, given the pointers."""
        pointers = _Pointers(target, [r for value in values for r in reads(value)])
        body = text(pointers)
        name = self.kernels.setdefault(body, f"k{len(self.kernels)}")
        self.calls.append((name, pointers.places()))

    # ---- the whole ---------------------------------------------------------------------------------------

    def _assembled(self, shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...]) -> Program:
        places, arena = self._placed()
        text = [PRELUDE]
        for body, name in self.kernels.items():
            text.append(f"static void {name}{body}")
        text.append("void run(char **p)\n{")
        for name, pointers in self.calls:
            given = ", ".join(
                f"(void *)({places[buffer]} + {offset * self.types[buffer].itemsize})"
                for buffer, offset in pointers
            )
            text.append(f"  {name}({given});")
        text.append("}\n")
        return Program("\n".join(text), shapes, arena, tuple(self.constants))

    def _placed(self) -> tuple[dict[int, str], int]:
        """Where every buffer is: given, returned, or in the arena while it is alive."""
        places = {buffer: f"p[{place}]" for place, buffer in enumerate(self.inputs)}
        count = len(self.inputs)
        places |= {buffer: f"p[{count + place}]" for buffer, place in self.outputs.items()}
        arena = f"p[{count + len(self.outputs)}]"
        born: dict[int, int] = {}
        dead: dict[int, int] = {}
        for time, (_, pointers) in enumerate(self.calls):
            for buffer, _ in pointers:
                born.setdefault(buffer, time)
                dead[buffer] = time
        live: list[tuple[int, int, int]] = []  # start, end, time of death; sorted by start
        top = 0
        for buffer in sorted(born, key=born.__getitem__):
            if buffer in places:
                continue
            live = sorted(block for block in live if block[2] >= born[buffer])
            size = -(-self.sizes[buffer] // 64) * 64
            start = _first_gap(live, size)
            live.append((start, start + size, dead[buffer]))
            top = max(top, start + size)
            places[buffer] = f"{arena} + {start}"
        return places, top


def _first_gap(live: Sequence[tuple[int, int, int]], size: int) -> int:
    start = 0
    for begin, end, _ in live:
        if begin - start >= size:
            break
        start = max(start, end)
    return start


# ---- values --------------------------------------------------------------------------------------------------


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor in order."""
    strides = [1] * len(shape)
    for place in range(len(shape) - 2, -1, -1):
        strides[place] = strides[place + 1] * max(shape[place + 1], 1)
    return tuple(strides)


def reads(value: Value) -> list[Read]:
    """Everything an expression reads, in order."""
    if isinstance(value, Apply):
        return [read for arg in value.args for read in reads(arg)]
    return [read for index, _ in value.gathered for read in reads(index)] + [value]


def expand(value: Value, shape: Sequence[int]) -> Value:
    """The value broadcast to a shape."""
    if value.shape == tuple(shape):
        return value
    return _mapped(value, lambda read: seen_through(read, _aten.expand.default, [list(shape)], {}))


def _like(value: Any) -> Any:
    """Something that torch promotes as it would the value."""
    return (
        torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, (Read, Apply))
        else value
    )


def _mapped(value: Value, move: Callable[[Read], Read]) -> Value:
    """The same expression with every read moved; the moves agree on the shape."""
    if isinstance(value, Apply):
        args = tuple(_mapped(arg, move) for arg in value.args)
        return Apply(value.op, args, args[0].shape, value.dtype)
    gathered = tuple((_mapped(index, move), stride) for index, stride in value.gathered)
    return replace(move(replace(value, gathered=())), gathered=gathered)


def seen_through(read: Read, view: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a view operator of torch makes of strided memory, found by applying it to a tensor without data.

    Raises:
        RuntimeError: no strides describe the result.
    """
    found = view(torch.empty_strided(read.shape, read.strides, device="meta"), *args, **kwargs)

    def moved(one: Tensor) -> Read:
        offset = read.offset + int(one.storage_offset())
        return replace(read, shape=tuple(one.shape), strides=tuple(one.stride()), offset=offset)

    return moved(found) if isinstance(found, Tensor) else [moved(one) for one in found]


def _reindexed(value: Apply, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Value | None:
    """A view of an expression as an expression, where it only renames or drops axes; else `None`."""
    if target not in _REINDEXING:
        return None
    try:
        return _mapped(value, lambda read: seen_through(read, target, args, kwargs))
    except RuntimeError:
        return None


# ---- loops ---------------------------------------------------------------------------------------------------


class _Pointers:
    """Names of the pointers of a kernel: `o` is written, `a0`, `a1`, ... are read."""

    def __init__(self, target: Read, found: Sequence[Read]) -> None:
        self.target = target
        self.names: dict[tuple[int, float, torch.dtype], str] = {}
        for read in found:
            if read.buffer is not None:
                key = (read.buffer, read.offset, read.dtype)
                self.names.setdefault(key, f"a{len(self.names)}")

    def signature(self) -> str:
        given = [f"{C_TYPES[self.target.dtype]} *restrict o"]
        given += [f"const {C_TYPES[dtype]} *restrict {name}" for (_, _, dtype), name in self.names.items()]
        return f"({', '.join(given)})"

    def places(self) -> list[tuple[int, int]]:
        assert self.target.buffer is not None
        read = [(buffer, int(offset)) for buffer, offset, _ in self.names]
        return [(self.target.buffer, int(self.target.offset)), *read]

    def name(self, read: Read) -> str:
        assert read.buffer is not None
        return self.names[read.buffer, read.offset, read.dtype]


def merged(shape: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The fewest loops over a shape: neighbouring axes become one where all strides allow it."""
    keep = [axis for axis, size in enumerate(shape) if size != 1]
    sizes = [shape[axis] for axis in keep]
    columns = [[stride[axis] for axis in keep] for stride in strides]
    axis = 0
    while axis + 1 < len(sizes):
        if all(column[axis] == column[axis + 1] * sizes[axis + 1] for column in columns):
            sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
            for column in columns:
                del column[axis]
        else:
            axis += 1
    return sizes, columns


class _Scope:
    """Turns an expression into C under some loops, once the axes have been merged."""

    def __init__(self, value: Value, pointers: _Pointers, columns: Sequence[Sequence[int]]) -> None:
        self.pointers = pointers
        self.columns = {id(read): column for read, column in zip(reads(value), columns, strict=True)}

    def text(self, value: Value) -> str:
        if isinstance(value, Apply):
            texts = [self.text(arg) for arg in value.args]
            return value.op.text(texts, [arg.dtype for arg in value.args], value.dtype)
        column = self.columns[id(value)]
        terms = [term(f"i{axis}", stride) for axis, stride in enumerate(column) if stride]
        terms += [f"{self.text(index)} * {stride}" for index, stride in value.gathered]
        if value.buffer is None:
            if not terms:
                return number(value.offset, value.dtype)
            return f"({C_TYPES[value.dtype]})({' + '.join([*terms, str(int(value.offset))])})"
        return f"{self.pointers.name(value)}[{' + '.join(terms) or '0'}]"


def term(index: str, stride: int) -> str:
    """One term of a place."""
    return index if stride == 1 else f"{index} * {stride}"


def _distinct(value: Value) -> Value:
    """The same expression in which every read is an object of its own, so that it can be looked up."""
    if isinstance(value, Apply):
        return replace(value, args=tuple(_distinct(arg) for arg in value.args))
    return replace(value, gathered=tuple((_distinct(index), stride) for index, stride in value.gathered))


def loops(sizes: Sequence[int], body: str, *, first: int = 0, simd: str = "#pragma omp simd") -> str:
    """Nested loops `i0`, `i1`, ... around a body; the innermost becomes vector code."""
    text = body
    for axis in range(len(sizes) - 1, -1, -1):
        index = f"i{axis + first}"
        pragma = f"{simd}\n" if axis == len(sizes) - 1 and simd else ""
        text = f"{pragma}for (int64_t {index} = 0; {index} < {sizes[axis]}; ++{index}) {{\n{text}\n}}"
    return text


def unrolled(index: str, size: int, body: str) -> str:
    """A body written once for every value of an index."""
    return "\n".join(f"{{ enum {{ {index} = {value} }};\n{body} }}" for value in range(size))


def _loop_nest(target: Read, value: Value) -> Callable[[_Pointers], str]:
    """A kernel that computes an expression into memory."""

    def text(pointers: _Pointers) -> str:
        own = _distinct(value)
        sizes, (out, *columns) = merged(value.shape, target.strides, *(r.strides for r in reads(own)))
        scope = _Scope(own, pointers, columns)
        place = " + ".join(term(f"i{a}", s) for a, s in enumerate(out) if s) or "0"
        body = f"o[{place}] = {cast(scope.text(own), own.dtype, target.dtype)};"
        if len(sizes) > 1 and sizes[-1] <= _SHORT < sizes[-2]:
            body = unrolled(f"i{len(sizes) - 1}", sizes.pop(), body)
        return f"{pointers.signature()}\n{{\n{loops(sizes, body)}\n}}"

    return text


def _turned(read: Read) -> bool:
    """Whether the last two axes are a matrix in memory that is read down its columns."""
    if read.buffer is None or read.gathered or len(read.shape) < 2 or read.dtype not in _FLOATS:
        return False
    side = SQUARE[C_TYPES[read.dtype]]
    batches, _ = merged(read.shape[:-2], read.strides[:-2])
    large = min(read.shape[-2:]) >= side and len(batches) <= 1
    return large and read.strides[-2] == 1 and read.strides[-1] >= read.shape[-2]


def _turning(read: Read) -> Callable[[_Pointers], str]:
    sizes, (steps,) = merged(read.shape[:-2], read.strides[:-2])
    batch, each = (sizes[0], steps[0]) if sizes else (1, 0)
    rows, columns = read.shape[-2:]

    def text(pointers: _Pointers) -> str:
        apart = (each, read.strides[-1])
        body = transposition(batch, rows, columns, apart, C_TYPES[read.dtype], pointers.name(read))
        return f"{pointers.signature()}\n{{\n{body}\n}}"

    return text


def _reduced(
    low: _Lowering, value: Value, axes: Sequence[int], keep: bool, dtype: torch.dtype, kind: str
) -> Read:
    """Sum or largest element over some axes."""
    rank = len(value.shape)
    axes = sorted(axis % rank for axis in axes) if axes else list(range(rank))
    kept = [axis for axis in range(rank) if axis not in axes]
    shape = tuple(value.shape[axis] for axis in kept)
    target = low._new(shape, dtype)
    value = low.ordered(value)
    if math.prod(value.shape) == 0 and kind == "max":
        raise Unsupported("the largest of no elements")
    low.emit(_reduction(target, value, kept, axes, kind), target, value)
    if not keep:
        return target
    full = tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))
    return replace(target, shape=full, strides=contiguous(full))


def _reduction(
    target: Read, value: Value, kept: Sequence[int], axes: Sequence[int], kind: str
) -> Callable[[_Pointers], str]:
    def text(pointers: _Pointers) -> str:
        own = _distinct(value)
        found = reads(own)
        outer, (_, *over) = merged(
            [value.shape[a] for a in kept],
            contiguous([value.shape[a] for a in kept]),
            *([r.strides[a] for a in kept] for r in found),
        )
        inner, within = merged([value.shape[a] for a in axes], *([r.strides[a] for a in axes] for r in found))
        n = len(outer)
        scope = _Scope(own, pointers, [[*a, *b] for a, b in zip(over, within, strict=True)])
        place = " + ".join(term(f"i{a}", s) for a, s in enumerate(contiguous(outer))) or "0"
        kernel = REDUCTIONS[kind]
        typed = C_TYPES[target.dtype]
        term_text = cast(scope.text(own), own.dtype, target.dtype)
        # where neighbours in the result are neighbours in memory, add whole rows instead of single numbers
        if n and outer[-1] >= 4 and kind == "sum" and _prefers_rows(over, within, inner):
            start = loops([outer[-1]], f"o[{place}] = 0;", first=n - 1)
            rows = loops(
                inner, loops([outer[-1]], f"o[{place}] += {term_text};", first=n - 1), first=n, simd=""
            )
            body = loops(outer[:-1], f"{start}\n{rows}", simd="")
        else:
            step = kernel.step.format(value=term_text)
            short = len(inner) == 1 and inner[0] <= _SHORT and n > 0
            step = (
                unrolled(f"i{n}", inner[0], step) if short else loops(inner, step, first=n, simd=kernel.simd)
            )
            each = f"{typed} acc = {kernel.start[target.dtype]};\n{step}\no[{place}] = acc;"
            body = loops(outer, each, simd="#pragma omp simd" if short else "")
        return f"{pointers.signature()}\n{{\n{body}\n}}"

    return text


def _prefers_rows(over: Sequence[Sequence[int]], within: Sequence[Sequence[int]], inner: list[int]) -> bool:
    along = sum(bool(column) and column[-1] == 1 for column in over)
    across = sum(bool(column) and column[-1] == 1 for column in within)
    return bool(inner) and along > across


# ---- operators that are not pointwise ------------------------------------------------------------------------


def _sum(
    low: _Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False, *, dtype: Any = None
) -> Value:
    return _reduced(low, x, axes or (), keep, node.meta["val"].dtype, "sum")


def _mean(
    low: _Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False, *, dtype: Any = None
) -> Value:
    return _scaled_sum(low, x, axes, keep, 0)


def _var(low: _Lowering, node: fx.Node, x: Value, axes: Any, correction: float = 1, **_: Any) -> Value:
    mean = _scaled_sum(low, x, axes, True, 0)
    gap = Apply(Pointwise("sq_{s}({0} - {1})"), (x, expand(mean, x.shape)), x.shape, x.dtype)
    return _scaled_sum(low, gap, axes, len(node.meta["val"].shape) == len(x.shape), correction)


def _scaled_sum(low: _Lowering, x: Value, axes: Any, keep: bool, correction: float) -> Value:
    """Sum over axes, divided by their size less a correction."""
    total = _reduced(low, x, axes or (), keep, x.dtype, "sum")
    count = math.prod(x.shape) / max(math.prod(total.shape), 1) - correction
    scale = expand(low.constant(1 / count if count > 0 else math.nan, total.dtype), total.shape)
    return Apply(Pointwise("{0} * {1}"), (total, scale), total.shape, total.dtype)


def _amax(low: _Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False) -> Value:
    return _reduced(low, x, axes or (), keep, x.dtype, "max")


def _any(low: _Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False) -> Value:
    true = Apply(Pointwise("{0}"), (x,), x.shape, torch.bool)
    return _reduced(low, true, [axes] if isinstance(axes, int) else axes, keep, torch.bool, "max")


def _matmul(low: _Lowering, node: fx.Node, a: Value, b: Value) -> Value:
    """Products of matrices, one for each leading index."""
    left, right = low.in_memory(a), low.in_memory(b)
    if left.dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"a matrix product of {left.dtype}")
    shape = tuple(node.meta["val"].shape)
    if math.prod(shape) == 0 or left.shape[-1] == 0:
        return low.stored(expand(low.constant(0, left.dtype), shape))
    if _only_transposed(node):  # written as its readers want it
        turned = _multiplied(low, _transposed(right), _transposed(left))
        return _transposed(turned)
    return _multiplied(low, left, right)


def _multiplied(low: _Lowering, left: Read, right: Read) -> Read:
    rows, columns = left.shape[-2], right.shape[-1]
    target = low._new((*left.shape[:-1], columns), left.dtype)
    out = (columns, 1)
    if columns < 8 <= rows:  # vectors along the longer side
        left, right, out = _transposed(right), _transposed(left), (1, columns)
    if right.strides[-1] != 1 and right.shape[-1] > 1:
        right = low.copied(right)
    batch = left.shape[0] if len(left.shape) == 3 else 1
    rows, inner, columns = *left.shape[-2:], right.shape[-1]

    def text(pointers: _Pointers) -> str:
        product = Product(batch, rows, inner, columns, _steps(left), _steps(right), out)
        body = matmul(product, C_TYPES[left.dtype], pointers.name(left), pointers.name(right))
        return f"{pointers.signature()}\n{{\n{body}\n}}"

    low.emit(text, target, left, right)
    return target


def _transposed(matrix: Read) -> Read:
    *shape, rows, columns = matrix.shape
    *strides, down, across = matrix.strides
    return replace(matrix, shape=(*shape, columns, rows), strides=(*strides, across, down))


def _only_transposed(node: fx.Node) -> bool:
    """Whether every reader exchanges the last two axes first."""
    rank = node.meta["val"].dim()
    turn = [*range(rank - 2), rank - 1, rank - 2]
    ways = (
        (_aten.permute.default, (turn,)),
        (_aten.t.default, ()),
        (_aten.transpose.int, (rank - 2, rank - 1)),
    )
    return bool(node.users) and all((user.target, tuple(user.args[1:])) in ways for user in node.users)


def _steps(matrix: Read) -> tuple[int, int, int]:
    """Strides of the batch, the rows and the columns."""
    *batch, down, across = matrix.strides
    return (batch[0] if batch else 0, down, across)


def _addmm(
    low: _Lowering, node: fx.Node, c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1
) -> Value:
    if beta != 1 or alpha != 1:
        raise Unsupported("addmm with factors")
    product = _matmul(low, node, a, b)
    return Apply(Pointwise("{0} + {1}"), (product, expand(c, product.shape)), product.shape, product.dtype)


def _full(low: _Lowering, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """Constant tensors of every kind; the number is the one the operator names."""
    fake = node.meta["val"]
    low._require(fake.dtype)
    value = _CONSTANTS[node.target](args)
    return expand(low.constant(value, fake.dtype), tuple(fake.shape))


def _arange(low: _Lowering, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    fake = node.meta["val"]
    numbers = [arg for arg in args if isinstance(arg, (int, float))]
    start = numbers[0] if len(numbers) > 1 else 0
    step = numbers[2] if len(numbers) > 2 else 1
    if fake.dtype != torch.int64:
        raise Unsupported(f"arange of {fake.dtype}")
    return Read(None, tuple(fake.shape), (int(step),), int(start), fake.dtype)


def _gather(low: _Lowering, node: fx.Node, x: Value, axis: int, index: Value, **_: Any) -> Value:
    base = low.in_memory(x)
    axis %= len(base.shape)
    strides = tuple(0 if a == axis else s for a, s in enumerate(base.strides))
    place = low.in_memory(index)
    found = replace(base, shape=place.shape, strides=strides, gathered=((place, base.strides[axis]),))
    return low.stored(found)


def _scatter(low: _Lowering, node: fx.Node, x: Value, axis: int, index: Value, source: Any) -> Value:
    """A copy of `x` in which some places along an axis hold other values; later ones win."""
    target = low._new(x.shape, x.dtype)
    low._store_into(target, x)
    places = low.in_memory(index)
    axis %= len(x.shape)
    value = low.constant(source, x.dtype) if isinstance(source, (int, float)) else low.in_memory(source)
    for other, size in enumerate(places.shape if value.shape else ()):
        value = seen_through(value, _aten.slice.Tensor, [other, 0, size], {})
    spread = expand(value, places.shape)
    low.emit(_scattering(target, places, spread, axis), target, places, spread)
    return target


def _scattering(target: Read, places: Read, value: Value, axis: int) -> Callable[[_Pointers], str]:
    def text(pointers: _Pointers) -> str:
        own, where = _distinct(value), replace(places)
        columns = [list(r.strides) for r in reads(own)]
        scope, at = _Scope(own, pointers, columns), _Scope(where, pointers, [list(where.strides)])
        terms = [term(f"i{a}", s) for a, s in enumerate(target.strides) if a != axis]
        place = " + ".join([*terms, f"{at.text(where)} * {target.strides[axis]}"])
        body = f"o[{place}] = {cast(scope.text(own), own.dtype, target.dtype)};"
        return f"{pointers.signature()}\n{{\n{loops(places.shape, body, simd='')}\n}}"

    return text


def _cat(low: _Lowering, node: fx.Node, parts: Sequence[Value], axis: int = 0) -> Value:
    fake = node.meta["val"]
    target = low._new(tuple(fake.shape), fake.dtype)
    axis %= len(target.shape)
    start = 0
    for part in parts:
        if part.shape == (0,) and len(fake.shape) != 1:
            continue
        size = part.shape[axis]
        hole = seen_through(target, _aten.slice.Tensor, [axis, start, start + size], {})
        low._store_into(hole, part)
        start += size
    return target


def _slice_scatter(low: _Lowering, node: fx.Node, x: Value, source: Value, *where: Any, **kw: Any) -> Value:
    return _written(low, x, source, _aten.slice.Tensor, where, kw)


def _select_scatter(low: _Lowering, node: fx.Node, x: Value, source: Value, *where: Any, **kw: Any) -> Value:
    return _written(low, x, source, _aten.select.int, where, kw)


def _written(
    low: _Lowering, x: Value, source: Value, view: Any, where: Sequence[Any], kw: dict[str, Any]
) -> Read:
    target = low._new(x.shape, x.dtype)
    low._store_into(target, x)
    low._store_into(seen_through(target, view, where, kw), source)
    return target


def _pad(low: _Lowering, node: fx.Node, x: Value, pads: Sequence[int], fill: float = 0.0) -> Value:
    if min(pads, default=0) < 0:
        raise Unsupported("padding that cuts")
    fake = node.meta["val"]
    target = low._new(tuple(fake.shape), fake.dtype)
    low._store_into(target, expand(low.constant(fill, fake.dtype), target.shape))
    hole = target
    for back in range(len(pads) // 2):
        axis = len(x.shape) - 1 - back
        begin = pads[2 * back]
        hole = seen_through(hole, _aten.slice.Tensor, [axis, begin, begin + x.shape[axis]], {})
    low._store_into(hole, x)
    return target


_VIEWS = {
    *(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.expand.default),
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.select.int, _aten.slice.Tensor),
    *(_aten.alias.default, _aten.detach.default, _aten.unbind.int, _aten.split.Tensor),
    *(_aten.split_with_sizes.default, _aten.diagonal.default, _aten.lift_fresh_copy.default),
    *(_aten.as_strided.default, _aten.lift.default),
}
# views that a loop over an expression can follow without a copy
_REINDEXING = {
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.alias.default,
        _aten.detach.default,
    ),
}
_REDUCTIONS = {
    _aten.sum.default,
    _aten.sum.dim_IntList,
    _aten.mean.default,
    _aten.mean.dim,
    _aten.amax.default,
}
_CONSTANTS: dict[Any, Callable[[Sequence[Any]], float]] = {
    _aten.full.default: lambda args: args[1],
    _aten.full_like.default: lambda args: args[1],
    _aten.new_full.default: lambda args: args[2],
    _aten.scalar_tensor.default: lambda args: args[0],
    **{
        op: lambda args: 0
        for op in (
            *(
                _aten.zeros.default,
                _aten.zeros_like.default,
                _aten.new_zeros.default,
                _aten.empty.memory_format,
            ),
            *(_aten.empty_like.default, _aten.new_empty.default),
        )
    },
    **{op: lambda args: 1 for op in (_aten.ones.default, _aten.ones_like.default, _aten.new_ones.default)},
}
_SPECIAL: dict[Any, Callable[..., Any]] = {
    _aten.sum.default: _sum,
    _aten.sum.dim_IntList: _sum,
    _aten.mean.default: _mean,
    _aten.mean.dim: _mean,
    _aten.amax.default: _amax,
    _aten.any.default: _any,
    _aten.any.dim: _any,
    _aten.any.dims: _any,
    torch.ops.prims.var.default: _var,
    _aten.mm.default: _matmul,
    _aten.bmm.default: _matmul,
    _aten.addmm.default: _addmm,
    _aten.baddbmm.default: _addmm,
    _aten.arange.default: _arange,
    _aten.arange.start: _arange,
    _aten.arange.start_step: _arange,
    _aten.gather.default: _gather,
    _aten.scatter.value: _scatter,
    _aten.scatter.src: _scatter,
    _aten.cat.default: _cat,
    _aten.slice_scatter.default: _slice_scatter,
    _aten.select_scatter.default: _select_scatter,
    _aten.constant_pad_nd.default: _pad,
    **dict.fromkeys(_CONSTANTS, _full),
}
