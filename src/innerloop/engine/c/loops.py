"""C of the loops that compute an expression, or a sum of one, with constant shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from .expressions import Apply, Read, Value, reads
from .matmul import SQUARE, transposition
from .pointwise import C_TYPES, REDUCTIONS, cast, number

FLOATS = (torch.float32, torch.float64)
# axes of at most this length are written out, so that the next one becomes vector code
_SHORT = 4
# numbers that are added up by themselves before they join the sum: long sums keep their digits
_RUN = 128


class Pointers:
    """Names of the pointers of a kernel: `o` is written, `a0`, `a1`, ... are read."""

    def __init__(self, target: Read, found: Sequence[Read]) -> None:
        self.target = target
        self.reads: dict[tuple[int, float, torch.dtype, int], str] = {}
        for read in found:
            if read.buffer is not None:
                self.reads.setdefault(self._key(read), f"a{len(self.reads)}")

    @staticmethod
    def _key(read: Read) -> tuple[int, float, torch.dtype, int]:
        assert read.buffer is not None
        return read.buffer, read.offset, read.dtype, read.step

    def signature(self) -> str:
        """The parameters of the C function."""
        given = [f"{C_TYPES[self.target.dtype]} *restrict o"]
        given += [f"const {C_TYPES[key[2]]} *restrict {name}" for key, name in self.reads.items()]
        return f"({', '.join(given)})"

    def places(self) -> list[tuple[int, int, int]]:
        """Buffer, offset and step from task to task of every pointer, the written one first."""
        target = self.target
        assert target.buffer is not None
        found = [(buffer, int(offset), step) for buffer, offset, _, step in self.reads]
        return [(target.buffer, int(target.offset), target.step), *found]

    def name(self, read: Read) -> str:
        """The pointer of a read."""
        return self.reads[self._key(read)]


# what a kernel is: from the names of its pointers, the target and its operands to parameters and body
Writer = Callable[..., str]


def function(pointers: Pointers, body: str) -> str:
    """Parameters and body of a C function."""
    return f"{pointers.signature()}\n{{\n{body}\n}}"


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


class Scope:
    """Turns an expression into C under some loops, once the axes have been merged."""

    def __init__(self, value: Value, pointers: Pointers, columns: Sequence[Sequence[int]]) -> None:
        self.pointers = pointers
        self.columns = {id(read): column for read, column in zip(reads(value), columns, strict=True)}

    def text(self, value: Value) -> str:
        """The expression in C."""
        if isinstance(value, Apply):
            texts = [self.text(arg) for arg in value.args]
            return value.op.text(texts, [arg.dtype for arg in value.args], value.dtype)
        column = self.columns[id(value)]
        terms = [term(f"i{axis}", stride) for axis, stride in enumerate(column) if stride]
        terms += [f"within({self.text(index)}, {size}) * {stride}" for index, stride, size in value.gathered]
        if value.buffer is None:
            if not terms:
                return number(value.offset, value.dtype)
            return f"({C_TYPES[value.dtype]})({' + '.join([*terms, str(int(value.offset))])})"
        return f"{self.pointers.name(value)}[{' + '.join(terms) or '0'}]"


def term(index: str, stride: int) -> str:
    """One term of a place."""
    return index if stride == 1 else f"{index} * {stride}"


def place(column: Sequence[int]) -> str:
    """A place from the indices `i0`, `i1`, ... and their strides."""
    return " + ".join(term(f"i{axis}", stride) for axis, stride in enumerate(column) if stride) or "0"


def distinct(value: Value) -> Value:
    """The same expression in which every read is an object of its own, so that it can be looked up."""
    if isinstance(value, Apply):
        return replace(value, args=tuple(distinct(arg) for arg in value.args))
    return replace(value, gathered=tuple((distinct(i), stride, size) for i, stride, size in value.gathered))


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


# ---- expressions into memory -----------------------------------------------------------------------------------


def loop_nest(pointers: Pointers, target: Read, value: Value) -> str:
    """A kernel that computes an expression into memory, in the order of the target."""
    own = distinct(value)
    order = sorted(range(len(target.shape)), key=lambda axis: -target.strides[axis])
    strides = [[read.strides[axis] for axis in order] for read in (target, *reads(own))]
    sizes, (out, *columns) = merged([value.shape[axis] for axis in order], *strides)
    scope = Scope(own, pointers, columns)
    body = f"o[{place(out)}] = {cast(scope.text(own), own.dtype, target.dtype)};"
    if len(sizes) > 1 and sizes[-1] <= _SHORT < sizes[-2]:
        body = unrolled(f"i{len(sizes) - 1}", sizes.pop(), body)
    return function(pointers, loops(sizes, body))


def turned(read: Read) -> bool:
    """Whether the last two axes are a matrix in memory that is read down its columns."""
    if read.buffer is None or read.gathered or len(read.shape) < 2 or read.dtype not in FLOATS:
        return False
    side = SQUARE[C_TYPES[read.dtype]]
    batches, _ = merged(read.shape[:-2], read.strides[:-2])
    large = min(read.shape[-2:]) >= side and len(batches) <= 1
    return large and read.strides[-2] == 1 and read.strides[-1] >= read.shape[-2]


def turning(pointers: Pointers, target: Read, read: Read) -> str:
    """A kernel that copies matrices which are read down their columns."""
    sizes, (steps,) = merged(read.shape[:-2], read.strides[:-2])
    batch, each = (sizes[0], steps[0]) if sizes else (1, 0)
    apart = (each, read.strides[-1])
    rows, columns = read.shape[-2:]
    body = transposition(batch, rows, columns, apart, C_TYPES[read.dtype], pointers.name(read))
    return function(pointers, body)


# ---- reductions ------------------------------------------------------------------------------------------------


def reduction(kept: Sequence[int], axes: Sequence[int], kind: str, *, adds: bool = False) -> Writer:
    """A kernel for the sum or largest element over some axes, or one that adds the sum to what is there."""

    def write(pointers: Pointers, target: Read, value: Value) -> str:
        own = distinct(value)
        found = reads(own)
        # the axes of the target are the kept ones, in order
        order = _by_stride([target.strides], range(len(kept)))
        outer, (out, *over) = merged(
            [value.shape[kept[a]] for a in order],
            [target.strides[a] for a in order],
            *([r.strides[kept[a]] for a in order] for r in found),
        )
        inward = _by_stride([r.strides for r in found], axes)
        inner, within = merged(
            [value.shape[a] for a in inward], *([r.strides[a] for a in inward] for r in found)
        )
        scope = Scope(own, pointers, [[*a, *b] for a, b in zip(over, within, strict=True)])
        added = cast(scope.text(own), own.dtype, target.dtype)
        typed, sign = C_TYPES[target.dtype], "+=" if adds else "="
        if adds and not inner:
            return function(pointers, loops(outer, f"o[{place(out)}] += {added};"))
        # where neighbours in the result are neighbours in memory, add whole rows instead of single numbers
        if outer and outer[-1] >= 4 and kind == "sum" and _prefers_rows(over, within, inner):
            return function(pointers, _rows(typed, outer, inner, out, added, sign))
        return function(pointers, _numbers(kind, typed, target.dtype, outer, inner, out, added, sign))

    return write


def _by_stride(strides: Sequence[Sequence[int]], axes: Sequence[int]) -> list[int]:
    """Axes by their largest stride, so that the last loop goes through neighbours in memory."""
    return sorted(axes, key=lambda axis: -max((column[axis] for column in strides), default=0))


def _numbers(
    kind: str,
    typed: str,
    dtype: torch.dtype,
    outer: Sequence[int],
    inner: Sequence[int],
    out: Sequence[int],
    added: str,
    sign: str,
) -> str:
    """One result after the other."""
    n, kernel = len(outer), REDUCTIONS[kind]
    step = kernel.step.format(value=added)
    short = len(inner) == 1 and inner[0] <= _SHORT and n > 0
    step = unrolled(f"i{n}", inner[0], step) if short else loops(inner, step, first=n, simd=kernel.simd)
    each = f"{typed} acc = {kernel.start[dtype]};\n{step}\no[{place(out)}] {sign} acc;"
    return loops(outer, each, simd="#pragma omp simd" if short else "")


def _rows(
    typed: str, outer: Sequence[int], inner: list[int], out: Sequence[int], added: str, sign: str
) -> str:
    """A whole row of results at once, a few summands by themselves at a time."""
    n, width = len(outer), outer[-1]
    index, last = f"i{n - 1}", f"i{n + len(inner) - 1}"

    def along(body: str) -> str:
        return loops([width], body, first=n - 1)

    if width > 256 or inner[-1] <= 2:
        rows = loops(inner, along(f"o[{place(out)}] += {added};"), first=n, simd="")
        start = along(f"o[{place(out)}] = 0;") if sign == "=" else ""
        return loops(outer[:-1], f"{start}\n{rows}", simd="")
    run = min(inner[-1], _RUN)
    few = (
        f"{typed} few[{width}];\n{along(f'few[{index}] = 0;')}\n"
        f"const int64_t end = start + {run} < {inner[-1]} ? start + {run} : {inner[-1]};\n"
        f"for (int64_t {last} = start; {last} < end; ++{last}) {{\n{along(f'few[{index}] += {added};')}\n}}\n"
        f"{along(f'all[{index}] += few[{index}];')}"
    )
    rows = f"for (int64_t start = 0; start < {inner[-1]}; start += {run}) {{\n{few}\n}}"
    rows = loops(inner[:-1], rows, first=n, simd="")
    start, end = along(f"all[{index}] = 0;"), along(f"o[{place(out)}] {sign} all[{index}];")
    whole = f"{typed} all[{width}];\n{start}\n{rows}\n{end}"
    return loops(outer[:-1], f"{{ {whole} }}", simd="")


def _prefers_rows(over: Sequence[Sequence[int]], within: Sequence[Sequence[int]], inner: list[int]) -> bool:
    along = sum(bool(column) and column[-1] == 1 for column in over)
    across = sum(bool(column) and column[-1] == 1 for column in within)
    return bool(inner) and along > across
