"""C templates of matrix products, tiled for registers and cache, and of transposition.

A GEMM library pays for packing and dispatch, and cannot know the shapes; matrices here are small and many, and every
size is a constant, so that the compiler unrolls and vectorises. A register tile of the result (`_register_tile`) stays
in vector registers while the inner axis runs; around it stand loops over rows and columns (`_row_blocks`), and, for a
right-hand matrix that leaves the cache, over panels of its rows (`_row_panels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TILE", "WIDER", "Product", "matmul", "transpose_body", "transpose_tile"]

# rows and vectors of a register tile
_ROWS, _VECTORS = 4, 3
# rows of it where a row is a single vector: as many sums as hide the latency of an addition
_ROWS_ALONE = 8
# bytes of a right-hand matrix that does not stay in the cache until the next rows read it
_LARGE = 2**19
# and how many of its rows are a panel
_PANEL = 64
# summands that are added up by themselves before they join the sum: long sums keep their digits
_RUN = 128
# types with more digits, of the sums of such sums
WIDER = {"float": "double", "double": "long double"}
# more register tiles along a row than these are a loop: every tile written out takes time to compile
_WRITTEN_OUT = 4


@dataclass(frozen=True)
class Product:
    """Sizes and strides of `batch` products of matrices, `(rows, inner) @ (inner, columns)`.

    Arguments:
        batch: number of products.
        rows: of the left-hand matrix and of the result.
        inner: the axis that is summed over.
        columns: of the right-hand matrix and of the result.
        left: strides of the batch, the rows and the columns of the left-hand matrix.
        right: likewise of the right-hand one; that of its columns is 1.
        out: strides of the rows and columns of the result; `(1, rows)` writes it transposed.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    left: tuple[int, int, int]
    right: tuple[int, int, int]
    out: tuple[int, int]


def matmul(product: Product, typed: str, a: str, b: str) -> str:
    """Body of a function that writes the products to `o`.

    Vectors run along the columns, so that the right-hand matrix must have unit stride there; four rows share one load
    of it. What does not divide evenly is covered by a last tile that overlaps the one before it: the same numbers are
    written twice.

    Arguments:
        product: sizes and strides.
        typed: C type of the elements.
        a: the pointer of the left-hand matrices.
        b: that of the right-hand ones.
    """
    lines = [
        f"for (int64_t t = 0; t < {product.batch}; ++t) {{",
        f"const {typed} *A = {a} + t * {product.left[0]};",
        f"const {typed} *B = {b} + t * {product.right[0]};",
        f"{typed} *C = o + t * {product.rows * product.columns};",
    ]
    bytes_ = product.inner * product.columns * (4 if typed == "float" else 8)
    body = (
        _row_panels(product, typed)
        if bytes_ > _LARGE and product.out[1] == 1
        else _row_blocks(product, typed)
    )
    return "\n".join([*lines, *body, "}"])


def _row_blocks(product: Product, typed: str) -> list[str]:
    """For each block of rows, register tiles along all columns."""
    starts = _cover(product.columns, typed)
    rows = min(_ROWS if len(starts) > 1 else _ROWS_ALONE, product.rows)
    lines = [
        f"for (int64_t r = 0; r < {product.rows}; r += {rows}) {{",
        f"const int64_t i = r + {rows} > {product.rows} ? {product.rows - rows} : r;",
    ]
    alike = (len(starts) - 1) // _VECTORS  # the last vector may overlap
    if alike > _WRITTEN_OUT:
        step = _VECTORS * starts[0][1]
        lines += [f"for (int64_t s = 0; s < {alike * step}; s += {step})"]
        lines += _register_tile(
            product, typed, rows, [(f"(s + {s})", lanes) for s, lanes in starts[:_VECTORS]]
        )
        starts = starts[alike * _VECTORS :]
    for first in range(0, len(starts), _VECTORS):
        lines += _register_tile(product, typed, rows, starts[first : first + _VECTORS])
    return [*lines, "}"]


def _row_panels(product: Product, typed: str) -> list[str]:
    """Cache blocking of the inner axis: a panel of the right-hand matrix is read once, for all rows of the result.

    Sums wait in the result for the next panel, so nothing may be added twice: what does not divide evenly has smaller
    tiles of its own in place of overlapping ones.
    """
    lanes = 64 // (4 if typed == "float" else 8)
    step = _VECTORS * lanes
    even, left = product.columns - product.columns % step, product.columns % step
    wide: list[tuple[int | str, int]] = [(f"(s + {v * lanes})", lanes) for v in range(_VECTORS)]
    panels = [(f"for (int64_t s = 0; s < {even}; s += {step})", wide)]
    while left:
        start, lanes = product.columns - left, min(lanes, 1 << (left.bit_length() - 1))
        panels.append(("", [(start, lanes)]))
        left -= lanes
    panel = _PANEL if product.inner <= _PANEL * _PANEL else _RUN
    lines = [
        f"for (int64_t p = 0; p < {product.inner}; p += {panel}) {{",
        f"const int64_t end = p + {panel} < {product.inner} ? p + {panel} : {product.inner};",
    ]
    whole = product.rows - product.rows % _ROWS
    for along, vectors in panels:
        lines += [along, "{"]
        lines += [f"for (int64_t i = 0; i < {whole}; i += {_ROWS})"]
        lines += _register_tile(product, typed, _ROWS, vectors, "p", "end")
        if product.rows > whole:
            lines += [f"{{ const int64_t i = {whole};"]
            lines += [*_register_tile(product, typed, product.rows - whole, vectors, "p", "end"), "}"]
        lines += ["}"]
    return [*lines, "}"]


def _cover(columns: int, typed: str) -> list[tuple[int, int]]:
    """First column and lanes of the vectors that cover a row; the last one may overlap its neighbour."""
    lanes = 64 // (4 if typed == "float" else 8)
    while lanes > columns:
        lanes //= 2
    return [(min(start, columns - lanes), lanes) for start in range(0, columns, lanes)]


def _register_tile(
    product: Product,
    typed: str,
    rows: int,
    vectors: Sequence[tuple[int | str, int]],
    begin: int | str = 0,
    end: int | str = 0,
) -> list[str]:
    """A register tile: some rows and vectors of the result, accumulated in registers from row `i` on.

    Arguments:
        product: sizes and strides.
        typed: C type of the elements.
        rows: of the tile.
        vectors: first column, a number or an expression, and lanes of each vector of a row.
        begin: of the inner axis; what was summed before it stands in the result.
        end: of the inner axis; all of it unless given.
    """
    tile = _Tile(product, typed, rows, tuple(vectors))
    if end:
        return ["{", *tile.sums(begin, end), *tile.stored(begin), "}"]
    if product.inner <= _RUN:
        return ["{", *tile.sums(0, product.inner), *tile.stored(), "}"]
    return ["{", *tile.long_sums(), "}"]


@dataclass(frozen=True)
class _Tile:
    """The parts of a register tile; see `_register_tile`."""

    product: Product
    typed: str
    rows: int
    vectors: tuple[tuple[int | str, int], ...]

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return self.vectors[0][1]

    @property
    def sites(self) -> list[tuple[int, int]]:
        """Row and vector of every register."""
        return [(r, v) for r in range(self.rows) for v in range(len(self.vectors))]

    def _index(self, r: int, v: int) -> str:
        """Where a register belongs in the result."""
        down, across = self.product.out
        return f"(i + {r}) * {down} + {self.vectors[v][0]} * {across}"

    def sums(self, begin: int | str, end: int | str) -> list[str]:
        """Sums over a part of the inner axis in registers `c`.

        Each step of the loop loads its vectors of the right-hand matrix once, and multiplies them by one broadcast
        element of each row of the left-hand one.
        """
        kind, load, zero = self.typed, "*", "0"
        if self.lanes > 1:
            kind = f"{self.typed}{self.lanes}"
            load, zero = f"*(const {kind}u *)", "{0}"
        lines = [f"{kind} c{r}_{v} = {zero};" for r, v in self.sites]
        lines += [f"for (int64_t k = {begin}; k < {end}; ++k) {{"]
        down, across = self.product.right[1], self.product.left[2]
        for v, (start, _) in enumerate(self.vectors):
            lines += [f"const {kind} x{v} = {load}(B + k * {down} + {start});"]
        for r in range(self.rows):
            lines += [f"const {self.typed} a{r} = A[(i + {r}) * {self.product.left[1]} + k * {across}];"]
        return [*lines, *(f"c{r}_{v} += a{r} * x{v};" for r, v in self.sites), "}"]

    def stored(self, begin: int | str = 0) -> list[str]:
        """The registers to the result, added to what stands there if `begin` is not 0."""
        across, kind = self.product.out[1], f"{self.typed}{self.lanes}"
        lines: list[str] = []
        for r, v in self.sites:
            slot = f"*({kind}u *)(C + {self._index(r, v)})" if self.lanes > 1 else f"C[{self._index(r, v)}]"
            if begin:  # in panels, whose results are not transposed
                lines += [f"if ({begin}) c{r}_{v} += {slot};", f"{slot} = c{r}_{v};"]
            elif self.lanes == 1 or across == 1:
                lines += [f"{slot} = c{r}_{v};"]
            else:
                lines += [self._each(f"C[{self._index(r, v)} + j * {across}] = c{r}_{v}[j];")]
        return lines

    def long_sums(self) -> list[str]:
        """All of a long inner axis: `_RUN` summands in registers, and these sums in a wider type."""
        inner, across = self.product.inner, self.product.out[1]
        lane = "[j]" if self.lanes > 1 else ""
        added = [
            self._each(f"wide[{number}][j] += c{r}_{v}{lane};") for number, (r, v) in enumerate(self.sites)
        ]
        written = [
            self._each(f"C[{self._index(r, v)} + j * {across}] = wide[{number}][j];")
            for number, (r, v) in enumerate(self.sites)
        ]
        return [
            f"{WIDER[self.typed]} wide[{len(self.sites)}][{self.lanes}] = {{0}};",
            f"for (int64_t p = 0; p < {inner}; p += {_RUN}) {{",
            f"const int64_t end = p + {_RUN} < {inner} ? p + {_RUN} : {inner};",
            *(*self.sums("p", "end"), *added, "}", *written),
        ]

    def _each(self, body: str) -> str:
        """C for every lane."""
        return f"for (int64_t j = 0; j < {self.lanes}; ++j) {body}"


def transpose_body(batch: int, rows: int, columns: int, strides: tuple[int, int], typed: str, a: str) -> str:
    """Body of a function that writes `batch` transposed matrices contiguously, `(rows, columns)`.

    Square tiles of `TILE` elements a side are transposed in registers, so that both sides move whole vectors; the last
    ones may overlap their neighbours.

    Arguments:
        batch: number of matrices.
        rows: of the result.
        columns: of the result.
        strides: from matrix to matrix, and from column to column, of what is read; that of its rows is 1.
        typed: C type of the elements.
        a: the pointer of what is read.
    """
    side = TILE[typed]
    each, apart = strides
    return f"""for (int64_t t = 0; t < {batch}; ++t)
for (int64_t r = 0; r < {rows}; r += {side})
for (int64_t c = 0; c < {columns}; c += {side}) {{
const int64_t i = r + {side} > {rows} ? {rows - side} : r, j = c + {side} > {columns} ? {columns - side} : c;
transpose_{typed}({a} + t * {each} + j * {apart} + i, {apart}, o + t * {rows * columns} + i * {columns} + j, {columns});
}}"""


# elements a side of a tile that is transposed in registers, for each C type
TILE = {"float": 8, "double": 4}


def transpose_tile(typed: str) -> str:
    """The C function `transpose_float` or `transpose_double` of one tile, a vector a row.

    Blocks off the diagonal are exchanged by shuffles, of length 1, then 2, then 4.
    """
    side = TILE[typed]
    kind, index = f"{typed}{side}", "int32_t" if typed == "float" else "int64_t"
    bits = side * (4 if typed == "float" else 8)
    lines = [
        f"typedef {index} index_{typed} __attribute__((vector_size({bits})));",
        f"static inline void transpose_{typed}(const {typed} *in, int64_t down, {typed} *out, int64_t over) {{",
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
