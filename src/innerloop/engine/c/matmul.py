"""C that multiplies matrices, and that turns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# rows and vectors of the result that are worked on at once, in registers
_ROWS, _VECTORS = 4, 3
# rows at once where a row is a single vector: as many sums as hide the time that each addition takes
_ROWS_ALONE = 8
# bytes of a right-hand matrix that does not stay in the cache until the next rows want it
_LARGE = 2**19
# and how many of its rows are read at a time
_SLICE = 64
# more blocks of columns than these are a loop: every block written out takes its time to compile
_WRITTEN_OUT = 16


@dataclass(frozen=True)
class Product:
    """Sizes and strides of `batch` products of matrices, `(rows, inner) @ (inner, columns)`."""

    batch: int
    rows: int
    inner: int
    columns: int
    left: tuple[int, int, int]
    right: tuple[int, int, int]
    out: tuple[int, int]

    def turned(self) -> Product:
        """The same as `right.T @ left.T`, written to the transposed place."""
        (a0, a1, a2), (b0, b1, b2) = self.left, self.right
        return Product(
            self.batch, self.columns, self.inner, self.rows, (b0, b2, b1), (a0, a2, a1), self.out[::-1]
        )


def matmul(product: Product, typed: str, a: str, b: str) -> str:
    """Body of a function that writes the products to `o`; the right-hand matrix, or the left one turned, is in order.

    Vectors run along the columns; four rows share one read of the right-hand matrix. What does not divide evenly is
    covered by a last block that overlaps the one before it: the same numbers are written twice.
    """
    lines = [
        f"for (int64_t t = 0; t < {product.batch}; ++t) {{",
        f"const {typed} *A = {a} + t * {product.left[0]};",
        f"const {typed} *B = {b} + t * {product.right[0]};",
        f"{typed} *C = o + t * {product.rows * product.columns};",
    ]
    bytes_ = product.inner * product.columns * (4 if typed == "float" else 8)
    body = _in_slices(product, typed) if bytes_ > _LARGE and product.out[1] == 1 else _whole(product, typed)
    return "\n".join([*lines, *body, "}"])


def _whole(product: Product, typed: str) -> list[str]:
    """Rows after rows, each block of them with all columns."""
    starts = _covering(product.columns, typed)
    rows = min(_ROWS if len(starts) > 1 else _ROWS_ALONE, product.rows)
    lines = [
        f"for (int64_t r = 0; r < {product.rows}; r += {rows}) {{",
        f"const int64_t i = r + {rows} > {product.rows} ? {product.rows - rows} : r;",
    ]
    alike = (len(starts) - 1) // _VECTORS  # the last vector may overlap
    if alike > _WRITTEN_OUT:
        step = _VECTORS * starts[0][1]
        lines += [f"for (int64_t s = 0; s < {alike * step}; s += {step})"]
        lines += _block(product, typed, rows, [(f"(s + {s})", lanes) for s, lanes in starts[:_VECTORS]])
        starts = starts[alike * _VECTORS :]
    for first in range(0, len(starts), _VECTORS):
        lines += _block(product, typed, rows, starts[first : first + _VECTORS])
    return [*lines, "}"]


def _in_slices(product: Product, typed: str) -> list[str]:
    """Rows of a large right-hand matrix are read in order and once, some at a time, for all rows of the result.

    Sums wait in the result for the next slice, so nothing may be added twice: what does not divide evenly has blocks of
    its own.
    """
    lanes = 64 // (4 if typed == "float" else 8)
    step = _VECTORS * lanes
    even, left = product.columns - product.columns % step, product.columns % step
    panels: list[tuple[str, list[tuple[int | str, int]]]] = [
        (
            f"for (int64_t s = 0; s < {even}; s += {step})",
            [(f"(s + {v * lanes})", lanes) for v in range(_VECTORS)],
        )
    ]
    while left:
        start, lanes = product.columns - left, min(lanes, 1 << (left.bit_length() - 1))
        panels.append(("", [(start, lanes)]))
        left -= lanes
    lines = [
        f"for (int64_t p = 0; p < {product.inner}; p += {_SLICE}) {{",
        f"const int64_t end = p + {_SLICE} < {product.inner} ? p + {_SLICE} : {product.inner};",
    ]
    whole = product.rows - product.rows % _ROWS
    for along, vectors in panels:
        lines += [along, "{"]
        lines += [f"for (int64_t i = 0; i < {whole}; i += {_ROWS})"]
        lines += _block(product, typed, _ROWS, vectors, "p", "end")
        if product.rows > whole:
            lines += [f"{{ const int64_t i = {whole};"]
            lines += [*_block(product, typed, product.rows - whole, vectors, "p", "end"), "}"]
        lines += ["}"]
    return [*lines, "}"]


def _covering(columns: int, typed: str) -> list[tuple[int, int]]:
    """Start and lanes of the vectors that cover a row; the last one may overlap its neighbour."""
    lanes = 64 // (4 if typed == "float" else 8)
    while lanes > columns:
        lanes //= 2
    return [(min(start, columns - lanes), lanes) for start in range(0, columns, lanes)]


def _block(
    product: Product,
    typed: str,
    rows: int,
    vectors: Sequence[tuple[int | str, int]],
    begin: int | str = 0,
    end: int | str = 0,
) -> list[str]:
    """Some rows and vectors of the result, held in registers; where a vector starts may be an expression.

    From `begin` to `end` of the inner axis; what was summed before `begin` stands in the result.
    """
    lanes = vectors[0][1]
    kind = f"{typed}{lanes}" if lanes > 1 else typed
    load = f"*(const {kind}u *)" if lanes > 1 else "*"
    zero = "{0}" if lanes > 1 else "0"
    down, across = product.out
    every = [(r, v) for r in range(rows) for v in range(len(vectors))]
    spots = {(r, v): f"(i + {r}) * {down} + {vectors[v][0]} * {across}" for r, v in every}
    lines = ["{"]
    for r, v in every:
        lines += [f"{kind} c{r}_{v} = {zero};"]
    if begin:
        lines += [f"if ({begin}) {{", *(f"c{r}_{v} = {load}(C + {spots[r, v]});" for r, v in every), "}"]
    lines += [f"for (int64_t k = {begin}; k < {end or product.inner}; ++k) {{"]
    lines += [
        f"const {kind} x{v} = {load}(B + k * {product.right[1]} + {s});" for v, (s, _) in enumerate(vectors)
    ]
    for r in range(rows):
        lines += [f"const {typed} a{r} = A[(i + {r}) * {product.left[1]} + k * {product.left[2]}];"]
    lines += [*(f"c{r}_{v} += a{r} * x{v};" for r, v in every), "}"]
    for r, v in every:
        if lanes == 1:
            lines += [f"C[{spots[r, v]}] = c{r}_{v};"]
        elif across == 1:
            lines += [f"*({kind}u *)(C + {spots[r, v]}) = c{r}_{v};"]
        else:
            lines += [f"for (int64_t j = 0; j < {lanes}; ++j) C[{spots[r, v]} + j * {across}] = c{r}_{v}[j];"]
    return [*lines, "}"]


def transposition(batch: int, rows: int, columns: int, strides: tuple[int, int], typed: str, a: str) -> str:
    """Body of a function that writes `batch` matrices `(rows, columns)` in order; they are read down their columns.

    Squares of `SQUARE` numbers a side are turned in registers; the last ones may overlap their neighbours.
    """
    side = SQUARE[typed]
    each, apart = strides
    return f"""for (int64_t t = 0; t < {batch}; ++t)
for (int64_t r = 0; r < {rows}; r += {side})
for (int64_t c = 0; c < {columns}; c += {side}) {{
const int64_t i = r + {side} > {rows} ? {rows - side} : r, j = c + {side} > {columns} ? {columns - side} : c;
turn_{typed}({a} + t * {each} + j * {apart} + i, {apart}, o + t * {rows * columns} + i * {columns} + j, {columns});
}}"""


SQUARE = {"float": 8, "double": 4}


def turn(typed: str) -> str:
    """Transpose a square in registers: exchange the blocks off the diagonal, of length 1, then 2, then 4."""
    side = SQUARE[typed]
    kind, places = f"{typed}{side}", "int32_t" if typed == "float" else "int64_t"
    bits = side * (4 if typed == "float" else 8)
    lines = [
        f"typedef {places} places_{typed} __attribute__((vector_size({bits})));",
        f"static inline void turn_{typed}(const {typed} *in, int64_t down, {typed} *out, int64_t over) {{",
        *(f"{kind} v{i} = *(const {kind}u *)(in + {i} * down);" for i in range(side)),
        f"{kind} low;",
    ]
    length = 1
    while length < side:
        upper = [(i - length + side) if i & length else i for i in range(side)]
        lower = [i + side if i & length else i + length for i in range(side)]
        for i in range(side):
            if not i & length:
                pair = f"v{i}, v{i + length}"
                lines += [
                    f"low = SHUFFLE({typed}, {pair}, {', '.join(map(str, lower))});",
                    f"v{i} = SHUFFLE({typed}, {pair}, {', '.join(map(str, upper))});",
                    f"v{i + length} = low;",
                ]
        length *= 2
    lines += [f"*({kind}u *)(out + {i} * over) = v{i};" for i in range(side)]
    return "\n".join([*lines, "}"])
