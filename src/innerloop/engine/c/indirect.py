r"""A product of matrices whose rows and columns are anywhere in memory: the kernel of every convolution.

$O_{ij} = \sum_k A[r_i + s_k] B[q_k]_j$: tables say where the row `i` of `A` begins, how far from there the
`k`-th number is, and where the row `k` of `B` is; the rows of `B` and `O` are in order. A convolution, its
transpose and its gradient by the weights are all of this form, without a copy of the neighbourhoods (Dukhan, 2019,
*The Indirect Convolution Algorithm*). A block of the result stays in registers while `k` runs; one C function does
the blocks of all products of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from .compiler import vector_bytes

# summands of one result before it is written; the next ones are added to it, so that long sums keep their digits
_RUN = 512


@dataclass(frozen=True)
class Indirect:
    """Sizes and tables, in numbers.

    Arguments:
        rows: where each row of `A` begins.
        inner: how far from there each summand is; without any the result is 0.
        right: where the row of `B` for each summand begins.
        out: where each row of the result begins.
        columns: numbers of a row of the result.
        outer: loops around it: their count, and the steps of `A`, `B` and the result; a result that does not step is
            the sum over the loop.
    """

    rows: tuple[int, ...]
    inner: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    columns: int
    outer: tuple[tuple[int, int, int, int], ...]


def indirect(product: Indirect, typed: str, a: str, b: str) -> str:
    """Statements that write the products to `o`, by the functions of `blocks`."""
    lines = ["{"]
    for name in ("rows", "inner", "right", "out"):
        table = ", ".join(map(str, getattr(product, name)))
        lines.append(f"static const int32_t {name}[] = {{{table}}};")
    places = {"A": a, "B": b, "O": "o"}
    added = []
    for depth, (count, *steps) in enumerate(product.outer):
        lines.append(f"for (int64_t u{depth} = 0; u{depth} < {count}; ++u{depth}) {{")
        for name, step in zip(places, steps, strict=True):
            places[name] += f" + u{depth} * {step}" if step else ""
        if not steps[-1] and count > 1:
            added.append(f"u{depth} > 0")
    lines += [f"const {typed} *A = {places['A']}, *B = {places['B']};", f"{typed} *O = {places['O']};"]
    size, count = len(product.rows), len(product.inner)
    start = 0
    for lanes, vectors in _covering(product.columns, typed):
        for first in range(0, max(count, 1), _RUN):
            here = [*added, "1"] if first else added
            sizes = f"{size}, {min(_RUN, count - first)}, {' || '.join(here) or '0'}"
            tables = f"rows, inner + {first}, right + {first}, out"
            lines.append(f"{_name(typed, lanes, vectors)}({sizes}, {tables}, A, B + {start}, O + {start});")
        start += lanes * vectors
    return "\n".join([*lines, *("}" for _ in product.outer), "}"])


def blocks(product: Indirect, typed: str) -> dict[str, str]:
    """The functions that a product calls, by name."""
    shapes = dict.fromkeys(_covering(product.columns, typed))
    return {_name(typed, *shape): _function(typed, *shape) for shape in shapes}


def _name(typed: str, lanes: int, vectors: int) -> str:
    return f"indirect_{typed}_{lanes}_{vectors}"


def _covering(columns: int, typed: str) -> list[tuple[int, int]]:
    """Lanes and number of the vectors of the blocks that cover the columns, from the first one on."""
    lanes = vector_bytes() // (4 if typed == "float" else 8)
    most = 4 if vector_bytes() == 64 else 2
    found, start = [], 0
    while start < columns:
        while lanes > columns - start:
            lanes //= 2
        found.append((lanes, min(most, (columns - start) // lanes)))
        start += lanes * found[-1][1]
    return found


def _function(typed: str, lanes: int, vectors: int) -> str:
    """Blocks of as many rows as the registers hold, and one of what is left."""
    # of 32 registers 24 hold results, of 16 12: the others hold rows of `B` and numbers of `A`
    height = min(12, (24 if vector_bytes() == 64 else 12) // vectors)
    given = f"const {typed} *restrict A, const {typed} *restrict B, {typed} *restrict O"
    tables = "const int32_t *rows, const int32_t *inner, const int32_t *right, const int32_t *out"
    lines = [
        f"static __attribute__((noinline)) void {_name(typed, lanes, vectors)}"
        f"(int64_t size, int64_t count, int added, {tables}, {given}) {{",
        f"int64_t i = 0;\nfor (; i + {height} <= size; i += {height})",
        *_block(typed, height, lanes, vectors),
        "switch (size - i) {",
    ]
    for left in range(1, height):
        lines += [f"case {left}:", *_block(typed, left, lanes, vectors), "break;"]
    return "\n".join([*lines, "}", "}"])


def _block(typed: str, height: int, lanes: int, vectors: int) -> list[str]:
    """Some rows and vectors of the result, held in registers."""
    kind = f"{typed}{lanes}" if lanes > 1 else typed
    memory = f"{kind}u" if lanes > 1 else typed
    every = [(r, v) for r in range(height) for v in range(vectors)]
    lines = ["{", *(f"const {typed} *p{r} = A + rows[i + {r}];" for r in range(height))]
    lines += [f"{kind} c{r}_{v} = {'{0}' if lanes > 1 else '0'};" for r, v in every]
    lines += ["for (int64_t k = 0; k < count; ++k) {", "const int64_t s = inner[k];"]
    lines += [f"const {typed} *q = B + right[k];"]
    lines += [f"const {kind} x{v} = *(const {memory} *)(q + {v * lanes});" for v in range(vectors)]
    for r in range(height):
        lines += [f"const {typed} a{r} = p{r}[s];", *(f"c{r}_{v} += a{r} * x{v};" for v in range(vectors))]
    spots = [f"*({memory} *)(O + out[i + {r}] + {v * lanes})" for r, v in every]
    summed = [f"c{r}_{v} += {spot};" for (r, v), spot in zip(every, spots, strict=True)]
    written = [f"{spot} = c{r}_{v};" for (r, v), spot in zip(every, spots, strict=True)]
    return [*lines, "}", "if (added) {", *summed, "}", *written, "}"]
