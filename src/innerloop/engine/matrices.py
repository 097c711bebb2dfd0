"""C that multiplies matrices, and that turns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# rows and vectors of the result that are worked on at once, in registers
_ROWS, _VECTORS = 4, 3
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
    rows = min(_ROWS, product.rows)
    starts = _covering(product.columns, typed)
    lines = [
        f"for (int64_t t = 0; t < {product.batch}; ++t) {{",
        f"const {typed} *A = {a} + t * {product.left[0]};",
        f"const {typed} *B = {b} + t * {product.right[0]};",
        f"{typed} *C = o + t * {product.rows * product.columns};",
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
    return "\n".join([*lines, "}", "}"])


def _covering(columns: int, typed: str) -> list[tuple[int, int]]:
    """Start and lanes of the vectors that cover a row; the last one may overlap its neighbour."""
    lanes = 64 // (4 if typed == "float" else 8)
    while lanes > columns:
        lanes //= 2
    return [(min(start, columns - lanes), lanes) for start in range(0, columns, lanes)]


def _block(product: Product, typed: str, rows: int, vectors: Sequence[tuple[int | str, int]]) -> list[str]:
    """Some rows and vectors of the result, held in registers; where a vector starts may be an expression."""
    lanes = vectors[0][1]
    kind = f"{typed}{lanes}" if lanes > 1 else typed
    load = f"*(const {kind}u *)" if lanes > 1 else "*"
    zero = "{0}" if lanes > 1 else "0"
    every = [(r, v) for r in range(rows) for v in range(len(vectors))]
    lines = ["{", *(f"{kind} c{r}_{v} = {zero};" for r, v in every)]
    lines += [f"for (int64_t k = 0; k < {product.inner}; ++k) {{"]
    lines += [
        f"const {kind} x{v} = {load}(B + k * {product.right[1]} + {s});" for v, (s, _) in enumerate(vectors)
    ]
    for r in range(rows):
        lines += [f"const {typed} a{r} = A[(i + {r}) * {product.left[1]} + k * {product.left[2]}];"]
    lines += [*(f"c{r}_{v} += a{r} * x{v};" for r, v in every), "}"]
    down, across = product.out
    for r, v in every:
        spot = f"(i + {r}) * {down} + {vectors[v][0]} * {across}"
        if lanes == 1:
            lines += [f"C[{spot}] = c{r}_{v};"]
        elif across == 1:
            lines += [f"*({kind}u *)(C + {spot}) = c{r}_{v};"]
        else:
            lines += [f"for (int64_t j = 0; j < {lanes}; ++j) C[{spot} + j * {across}] = c{r}_{v}[j];"]
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
