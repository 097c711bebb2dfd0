"""C templates of loop nests: a fused pointwise expression into memory, a transposing copy, and reductions.

A template (`Template`) writes the text of one C function, a kernel, for constant shapes and strides. All have the same
form: pointers `o` (written) and `a0`, `a1`, ... (read), all `restrict`; loops `i0`, `i1`, ... over the axes, as few as
strides allow; `#pragma omp simd` on the innermost. Kernels of the same text are one function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .expressions import Apply, Read, Unsupported, Value, reads
from .matmul import TILE, WIDER, transpose_body
from .pointwise import C_TYPES, REDUCTIONS, cast, number

__all__ = [
    "FLOATS",
    "Pointers",
    "Printer",
    "Template",
    "c_function",
    "flat_index",
    "is_transposed",
    "loop_nest",
    "loops",
    "merge_axes",
    "reduction",
    "term",
    "transpose_copy",
    "unshared",
]

FLOATS = (torch.float32, torch.float64)
# axes of at most this length are unrolled, so that the next one becomes the vector loop
_SHORT = 4
# summands that are added up by themselves before they join the sum, which has a wider type (`WIDER`): long sums keep
# their digits
_RUN = 128
# and of a single result; as many lanes of a vector share them
_LONG = 1024
# results of a row that are accumulated at once
_WIDTH = 256
# gcc 12 writes to an array of 48 bytes on the stack as if it were aligned, where it is not: a segmentation fault
_ALIGNED = "__attribute__((aligned(64)))"


class Pointers:
    """The pointers of a kernel: `o` is written, `a0`, `a1`, ... are read; equal reads share one.

    Arguments:
        target: what is written.
        operands: what is read.
    """

    def __init__(self, target: Read, operands: Sequence[Read]) -> None:
        self.target = target
        self.reads: dict[tuple[int, float, torch.dtype, int], str] = {}
        for read in operands:
            if read.buffer is not None:
                self.reads.setdefault(self._key(read), f"a{len(self.reads)}")

    @staticmethod
    def _key(read: Read) -> tuple[int, float, torch.dtype, int]:
        assert read.buffer is not None
        return read.buffer, read.offset, read.dtype, read.task_stride

    def signature(self) -> str:
        """The parameters of the C function."""
        given = [f"{C_TYPES[self.target.dtype]} *restrict o"]
        given += [f"const {C_TYPES[key[2]]} *restrict {name}" for key, name in self.reads.items()]
        return f"({', '.join(given)})"

    def arguments(self) -> list[tuple[int, int, int]]:
        """Buffer, offset and task stride of every pointer in elements, the written one first."""
        target = self.target
        assert target.buffer is not None
        operands = [(buffer, int(offset), stride) for buffer, offset, _, stride in self.reads]
        return [(target.buffer, int(target.offset), target.task_stride), *operands]

    def name(self, read: Read) -> str:
        """The pointer of a read."""
        return self.reads[self._key(read)]


# writes a kernel: from the names of its pointers, the target and its operands to parameters and body
Template = Callable[..., str]


def c_function(pointers: Pointers, body: str) -> str:
    """Parameters and body of a C function."""
    return f"{pointers.signature()}\n{{\n{body}\n}}"


def merge_axes(shape: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The fewest loops over a shape: neighbouring axes are collapsed into one where all strides allow it.

    Arguments:
        shape: of the loop nest.
        strides: of everything that is read or written in it.

    Returns:
        The sizes of the loops, and for each of `strides` those in these loops.

    Example:
        >>> merge_axes((2, 3, 4), (12, 4, 1), (0, 4, 1))
        ([2, 12], [[12, 1], [0, 1]])
    """
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    sizes = [shape[axis] for axis in axes]
    columns = [[stride[axis] for axis in axes] for stride in strides]
    axis = 0
    while axis + 1 < len(sizes):
        if all(column[axis] == column[axis + 1] * sizes[axis + 1] for column in columns):
            sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
            for column in columns:
                del column[axis]
        else:
            axis += 1
    return sizes, columns


class Printer:
    """Prints an expression as C under some loops, once the axes have been merged.

    Arguments:
        value: the expression, `unshared`.
        pointers: of its reads.
        columns: for each read its strides in the loops, in the order of `reads`.
    """

    def __init__(self, value: Value, pointers: Pointers, columns: Sequence[Sequence[int]]) -> None:
        self.pointers = pointers
        self.columns = {id(read): column for read, column in zip(reads(value), columns, strict=True)}

    def text(self, value: Value) -> str:
        """The expression in C; a gathered index is checked by `within`."""
        if isinstance(value, Apply):
            texts = [self.text(arg) for arg in value.args]
            return value.op.text(texts, [arg.dtype for arg in value.args], value.dtype)
        column = self.columns[id(value)]
        terms = [term(f"i{axis}", stride) for axis, stride in enumerate(column) if stride]
        terms += [f"within({self.text(index)}, {size}) * {stride}" for index, stride, size in value.gathered]
        if value.buffer is None:
            if not (value.dtype.is_floating_point or math.isfinite(value.offset)):
                raise Unsupported(f"{value.offset} as a whole number")
            if not terms:
                return number(value.offset, value.dtype)
            return f"({C_TYPES[value.dtype]})({' + '.join([*terms, str(int(value.offset))])})"
        return f"{self.pointers.name(value)}[{' + '.join(terms) or '0'}]"


def term(index: str, stride: int) -> str:
    """One term of a flat index."""
    return index if stride == 1 else f"{index} * {stride}"


def flat_index(column: Sequence[int]) -> str:
    """C of the flat index at `i0`, `i1`, ..., given their strides."""
    return " + ".join(term(f"i{axis}", stride) for axis, stride in enumerate(column) if stride) or "0"


def unshared(value: Value) -> Value:
    """The same expression in which every read is an object of its own, so that it can be looked up by identity."""
    if isinstance(value, Apply):
        return replace(value, args=tuple(unshared(arg) for arg in value.args))
    return replace(value, gathered=tuple((unshared(i), stride, size) for i, stride, size in value.gathered))


def loops(sizes: Sequence[int], body: str, *, first: int = 0, simd: str = "#pragma omp simd") -> str:
    """Nested loops `i0`, `i1`, ... around a body; the innermost becomes vector code.

    Arguments:
        sizes: of the loops, outermost first.
        body: C that uses their indices.
        first: number of the outermost index.
        simd: pragma of the innermost loop; none if empty.
    """
    text = body
    for axis in range(len(sizes) - 1, -1, -1):
        index = f"i{axis + first}"
        pragma = f"{simd}\n" if axis == len(sizes) - 1 and simd else ""
        text = f"{pragma}for (int64_t {index} = 0; {index} < {sizes[axis]}; ++{index}) {{\n{text}\n}}"
    return text


def unrolled(index: str, size: int, body: str) -> str:
    """A body written once for every value of an index."""
    return "\n".join(f"{{ enum {{ {index} = {value} }};\n{body} }}" for value in range(size))


def loop_nest(pointers: Pointers, target: Read, value: Value) -> str:
    """Template of a fused pointwise expression: one loop nest that computes it into memory.

    The loops run in the memory order of the target, its unit stride innermost, so that it is written front to back;
    operands that would be read across that order have been copied before (`Lowering.coalesced`). A short innermost axis
    is unrolled, and the one around it becomes the vector loop.
    """
    own = unshared(value)
    order = sorted(range(len(target.shape)), key=lambda axis: -target.strides[axis])
    strides = [[read.strides[axis] for axis in order] for read in (target, *reads(own))]
    sizes, (out, *columns) = merge_axes([value.shape[axis] for axis in order], *strides)
    printer = Printer(own, pointers, columns)
    body = f"o[{flat_index(out)}] = {cast(printer.text(own), own.dtype, target.dtype)};"
    if len(sizes) > 1 and sizes[-1] <= _SHORT < sizes[-2]:
        body = unrolled(f"i{len(sizes) - 1}", sizes.pop(), body)
    return c_function(pointers, loops(sizes, body))


def is_transposed(read: Read) -> bool:
    """Whether the last two axes are a transposed matrix in memory, large enough for `transpose_copy`."""
    if read.buffer is None or read.gathered or len(read.shape) < 2 or read.dtype not in FLOATS:
        return False
    side = TILE[C_TYPES[read.dtype]]
    batches, _ = merge_axes(read.shape[:-2], read.strides[:-2])
    large = min(read.shape[-2:]) >= side and len(batches) <= 1
    return large and read.strides[-2] == 1 and read.strides[-1] >= read.shape[-2]


def transpose_copy(pointers: Pointers, target: Read, read: Read) -> str:
    """Template of a contiguous copy of transposed matrices, tile by tile in registers (see `transpose_body`).

    A plain loop would either read or write across rows, one cache line an element.
    """
    sizes, (steps,) = merge_axes(read.shape[:-2], read.strides[:-2])
    batch, each = (sizes[0], steps[0]) if sizes else (1, 0)
    rows, columns = read.shape[-2:]
    strides = (each, read.strides[-1])
    body = transpose_body(batch, rows, columns, strides, C_TYPES[read.dtype], pointers.name(read))
    return c_function(pointers, body)


@dataclass(frozen=True)
class _Reduction:
    """What both forms of a reduction are written from.

    Arguments:
        dtype: of the sum.
        outer: sizes of the loops over the result.
        inner: sizes of the loops over the elements that are reduced.
        out: C of the flat index in the result.
        element: C of an element.
        sign: `=`, or `+=` where the result is added to what is there.
    """

    dtype: torch.dtype
    outer: list[int]
    inner: list[int]
    out: str
    element: str
    sign: str


def reduction(
    remaining: Sequence[int], axes: Sequence[int], kind: str, *, adds_in: torch.dtype | None = None
) -> Template:
    """Template of the sum or largest element over some axes.

    Two loop structures, chosen by the memory order of what is read. Where reduced elements are neighbours in memory,
    each result is reduced by itself, the vector loop along the elements. Where neighbours in memory belong to
    neighbouring results, a whole row of results is accumulated at once, the vector loop along the results. The
    expression that is reduced is fused into the loop.

    Arguments:
        remaining: axes of the result.
        axes: axes that are reduced.
        kind: `sum` or `max`.
        adds_in: the type of a sum that is added to what the target holds (each task adds its part); what is there is
            replaced unless given.
    """

    def write(pointers: Pointers, target: Read, value: Value) -> str:
        own = unshared(value)
        operands = reads(own)
        order = _by_stride([target.strides], range(len(remaining)))
        outer, (out, *over) = merge_axes(
            [value.shape[remaining[a]] for a in order],
            [target.strides[a] for a in order],
            *([r.strides[remaining[a]] for a in order] for r in operands),
        )
        inward = _by_stride([r.strides for r in operands], axes)
        inner, within = merge_axes(
            [value.shape[a] for a in inward], *([r.strides[a] for a in inward] for r in operands)
        )
        printer = Printer(own, pointers, [[*a, *b] for a, b in zip(over, within, strict=True)])
        dtype = adds_in or target.dtype
        element = cast(printer.text(own), own.dtype, dtype)
        sign = "+=" if adds_in else "="
        if adds_in and not inner:
            return c_function(pointers, loops(outer, f"o[{flat_index(out)}] += {element};"))
        what = _Reduction(dtype, outer, inner, flat_index(out), element, sign)
        by_rows = outer and outer[-1] >= 4 and kind == "sum" and _prefers_rows(over, within, inner)
        return c_function(pointers, _row_sums(what) if by_rows else _one_by_one(what, kind))

    return write


def _by_stride(strides: Sequence[Sequence[int]], axes: Sequence[int]) -> list[int]:
    """Axes by their largest stride, so that the last loop goes through neighbours in memory."""
    return sorted(axes, key=lambda axis: -max((column[axis] for column in strides), default=0))


def _one_by_one(what: _Reduction, kind: str) -> str:
    """One result after the other in an accumulator; a short reduction is unrolled inside a vector loop over results."""
    n, rule, inner = len(what.outer), REDUCTIONS[kind], what.inner
    step = rule.step.format(value=what.element)
    short = len(inner) == 1 and inner[0] <= _SHORT and n > 0
    start = f"{C_TYPES[what.dtype]} acc = {rule.start[what.dtype]};"
    if short:
        step = f"{start}\n{unrolled(f'i{n}', inner[0], step)}"
    elif kind == "sum" and what.dtype in FLOATS and math.prod(inner) > _LONG:
        step = _long_sum(what, start, loops([inner[-1]], step, first=n + len(inner) - 1, simd=rule.simd))
    else:
        step = f"{start}\n{loops(inner, step, first=n, simd=rule.simd)}"
    return loops(
        what.outer, f"{step}\no[{what.out}] {what.sign} acc;", simd="#pragma omp simd" if short else ""
    )


def _long_sum(what: _Reduction, start: str, row: str) -> str:
    """A sum of which at most `_LONG` summands are added up by themselves, and these sums in a wider type.

    Arguments:
        what: the sum.
        start: C that declares `acc` and sets it to 0.
        row: the loop over the last axis, which adds to it.
    """
    n, inner, size = len(what.outer), what.inner, what.inner[-1]
    index = f"i{n + len(inner) - 1}"
    if size > _LONG:
        bounds = f"const int64_t end = start + {_LONG} < {size} ? start + {_LONG} : {size};"
        row = row.replace(
            f"int64_t {index} = 0; {index} < {size};", f"int64_t {index} = start; {index} < end;", 1
        )
        row = f"for (int64_t start = 0; start < {size}; start += {_LONG}) {{\n{bounds}\n{start}\n{row}\nall += acc;\n}}"
    else:
        row = f"{start}\n{row}\nall += acc;"
    rows = loops(inner[:-1], row, first=n, simd="")
    return f"{WIDER[C_TYPES[what.dtype]]} all = 0;\n{rows}\nconst {C_TYPES[what.dtype]} acc = all;"


def _row_sums(what: _Reduction) -> str:
    """A row of results at once: `_RUN` summands into `few`, the sums of these into `all`, and those into the result.

    Two levels of sums, the second one in a wider type, keep the digits of long ones. Of a wide row `_WIDTH` results at
    a time; of very short rows those of the next axis are added up as well before they join the sum.
    """
    outer, inner, typed = what.outer, what.inner, C_TYPES[what.dtype]
    n, width = len(outer), _width(outer[-1])
    index, last = f"i{n - 1}", f"i{n + len(inner) - 1}"

    def along(body: str) -> str:
        """For every result of the part of the row."""
        bound = "width" if outer[-1] % width else str(width)
        text = f"#pragma omp simd\nfor (int64_t j = 0; j < {bound}; ++j) {{\nBODY\n}}"
        own = f"const int64_t {index} = {'first + j' if outer[-1] > width else 'j'};\n"
        return text.replace("BODY", f"{own if index in body else ''}{body}")

    add, zero, join = along(f"few[j] += {what.element};"), along("few[j] = 0;"), along("all[j] += few[j];")
    if math.prod(inner) <= _RUN:
        rows = f"{zero}\n{loops(inner, add, first=n, simd='')}"
        total = "few"
    else:
        total, wider = "all", WIDER.get(typed, typed)
        if len(inner) > 1 and inner[-1] <= _SHORT:
            short = loops(inner[-1:], add, first=n + len(inner) - 1, simd="")
            rest, last, size = inner[:-2], f"i{n + len(inner) - 2}", inner[-2]
        else:
            short, rest, size = add, inner[:-1], inner[-1]
        run = min(size, _RUN)
        few = (
            f"{zero}\nconst int64_t end = start + {run} < {size} ? start + {run} : {size};\n"
            f"for (int64_t {last} = start; {last} < end; ++{last}) {{\n{short}\n}}\n{join}"
        )
        rows = f"for (int64_t start = 0; start < {size}; start += {run}) {{\n{few}\n}}"
        rows = (
            f"{_ALIGNED} {wider} all[{width}];\n{along('all[j] = 0;')}\n{loops(rest, rows, first=n, simd='')}"
        )
    whole = f"{_ALIGNED} {typed} few[{width}];\n{rows}\n{along(f'o[{what.out}] {what.sign} {total}[j];')}"
    if outer[-1] > width:
        bounds = f"const int64_t width = first + {width} < {outer[-1]} ? {width} : {outer[-1]} - first;\n"
        bounds = bounds if outer[-1] % width else ""
        whole = f"for (int64_t first = 0; first < {outer[-1]}; first += {width}) {{\n{bounds}{whole}\n}}"
    return loops(outer[:-1], f"{{ {whole} }}", simd="")


def _width(size: int) -> int:
    """How many results of a row are accumulated at once: all, or as many as divide it if there is such a number."""
    if size <= _WIDTH:
        return size
    return next((width for width in range(_WIDTH, _WIDTH // 4, -1) if size % width == 0), _WIDTH)


def _prefers_rows(over: Sequence[Sequence[int]], within: Sequence[Sequence[int]], inner: list[int]) -> bool:
    """Whether more operands have unit stride along the results than along what is reduced."""
    along = sum(bool(column) and column[-1] == 1 for column in over)
    across = sum(bool(column) and column[-1] == 1 for column in within)
    return bool(inner) and along > across
