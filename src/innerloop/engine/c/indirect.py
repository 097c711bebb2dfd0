r"""C template of an indirect product, a matrix product whose rows are found through tables: all of convolution.

$O_{ij} = \sum_k A[r_i + s_k] B[q_k]_j$: tables of offsets say where the row `i` of `A` begins, how far from there
the `k`-th element is, and where the row `k` of `B` is; the rows of `B` and `O` have unit stride. A convolution, its
transpose and its gradient by the weights are all of this form, without im2col, a copy of the neighbourhoods (Dukhan,
2019, *The Indirect Convolution Algorithm*). A register tile of the result is accumulated while `k` runs; one C
function does the tiles of all products of a step, as sizes and tables are its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from .compiler import vector_bytes

__all__ = ["Indirect", "indirect", "tile_functions"]

# summands of one result before it is stored; the next ones are added to it, so that long sums keep their digits
_RUN = 128


@dataclass(frozen=True)
class Indirect:
    """Sizes and tables of offsets, in elements.

    Arguments:
        rows: where each row of `A` begins.
        inner: how far from there the factor in `A` of each summand is; without any the result is 0.
        right: where the row of `B` for each summand begins.
        out: where each row of the result begins.
        columns: elements of a row of the result.
        outer: loops around it (tasks, groups of images): their count, and the strides of `A`, `B` and the result; a
            result with stride 0 is the sum over the loop.
    """

    rows: tuple[int, ...]
    inner: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    columns: int
    outer: tuple[tuple[int, int, int, int], ...]


def indirect(product: Indirect, typed: str, a: str, b: str) -> str:
    """Statements that write a product to `o`, by calls of `tile_functions`.

    Arguments:
        product: sizes and tables, which become static arrays.
        typed: C type of the elements.
        a: the pointer of `A`.
        b: the pointer of `B`.
    """
    lines = ["{"]
    for name in ("rows", "inner", "right", "out"):
        table = ", ".join(map(str, getattr(product, name)))
        lines.append(f"static const int32_t {name}[] = {{{table}}};")
    pointers = {"A": a, "B": b, "O": "o"}
    added = []
    for depth, (count, *strides) in enumerate(product.outer):
        lines.append(f"for (int64_t u{depth} = 0; u{depth} < {count}; ++u{depth}) {{")
        for name, stride in zip(pointers, strides, strict=True):
            pointers[name] += f" + u{depth} * {stride}" if stride else ""
        if not strides[-1] and count > 1:
            added.append(f"u{depth} > 0")
    lines += [f"const {typed} *A = {pointers['A']}, *B = {pointers['B']};", f"{typed} *O = {pointers['O']};"]
    size, count = len(product.rows), len(product.inner)
    start = 0
    for lanes, vectors in _cover(product.columns, typed):
        lines.append(f"for (int64_t f = 0; f < {max(count, 1)}; f += {_RUN}) {_name(typed, lanes, vectors)}(")
        lines.append(
            f"{size}, {count} - f < {_RUN} ? {count} - f : {_RUN}, {' || '.join([*added, 'f > 0'])},"
        )
        lines.append(f"rows, inner + f, right + f, out, A, B + {start}, O + {start});")
        start += lanes * vectors
    return "\n".join([*lines, *("}" for _ in product.outer), "}"])


def tile_functions(product: Indirect, typed: str) -> dict[str, str]:
    """The C functions that a product calls, by name: one for each width of a register tile."""
    shapes = dict.fromkeys(_cover(product.columns, typed))
    return {_name(typed, *shape): _tile_function(typed, *shape) for shape in shapes}


def _name(typed: str, lanes: int, vectors: int) -> str:
    return f"indirect_{typed}_{lanes}_{vectors}"


def _cover(columns: int, typed: str) -> list[tuple[int, int]]:
    """Lanes and number of the vectors of the tiles that cover the columns, from the first one on."""
    lanes = vector_bytes() // (4 if typed == "float" else 8)
    most = 4 if vector_bytes() == 64 else 2
    widths, start = [], 0
    while start < columns:
        while lanes > columns - start:
            lanes //= 2
        widths.append((lanes, min(most, (columns - start) // lanes)))
        start += lanes * widths[-1][1]
    return widths


def _tile_function(typed: str, lanes: int, vectors: int) -> str:
    """One width of tile: as many rows at a time as the registers hold, and a switch over those that are left."""
    # of 32 registers 24 hold results, of 16 12: the others hold rows of `B` and numbers of `A`
    height = min(12, (24 if vector_bytes() == 64 else 12) // vectors)
    given = f"const {typed} *restrict A, const {typed} *restrict B, {typed} *restrict O"
    tables = "const int32_t *rows, const int32_t *inner, const int32_t *right, const int32_t *out"
    lines = [
        f"static __attribute__((noinline)) void {_name(typed, lanes, vectors)}"
        f"(int64_t size, int64_t count, int added, {tables}, {given}) {{",
        f"int64_t i = 0;\nfor (; i + {height} <= size; i += {height})",
        *_register_tile(typed, height, lanes, vectors),
        "switch (size - i) {",
    ]
    for left in range(1, height):
        lines += [f"case {left}:", *_register_tile(typed, left, lanes, vectors), "break;"]
    return "\n".join([*lines, "}", "}"])


def _register_tile(typed: str, height: int, lanes: int, vectors: int) -> list[str]:
    """A register tile; for each `k`, one load of `B` for a vector and one broadcast of `A` for a row."""
    kind = f"{typed}{lanes}" if lanes > 1 else typed
    memory = f"{kind}u" if lanes > 1 else typed
    tile = [(r, v) for r in range(height) for v in range(vectors)]
    lines = ["{", *(f"const {typed} *p{r} = A + rows[i + {r}];" for r in range(height))]
    lines += [f"{kind} c{r}_{v} = {'{0}' if lanes > 1 else '0'};" for r, v in tile]
    lines += ["for (int64_t k = 0; k < count; ++k) {", "const int64_t s = inner[k];"]
    lines += [f"const {typed} *q = B + right[k];"]
    lines += [f"const {kind} x{v} = *(const {memory} *)(q + {v * lanes});" for v in range(vectors)]
    for r in range(height):
        lines += [f"const {typed} a{r} = p{r}[s];", *(f"c{r}_{v} += a{r} * x{v};" for v in range(vectors))]
    slots = [f"*({memory} *)(O + out[i + {r}] + {v * lanes})" for r, v in tile]
    summed = [f"c{r}_{v} += {slot};" for (r, v), slot in zip(tile, slots, strict=True)]
    written = [f"{slot} = c{r}_{v};" for (r, v), slot in zip(tile, slots, strict=True)]
    return [*lines, "}", "if (added) {", *summed, "}", *written, "}"]
