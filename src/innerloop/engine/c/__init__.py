"""C code: a traced graph becomes one compiled function with constant shapes.

Files in the order in which a graph passes through them:

- `program`: `lower` walks the graph once and puts the C source together.
- `pointwise`, `operators`, `indexing`, `convolution`, `pooling`, `linalg`: the tables of rules, from operator to C.
- `expressions`: values of a program, lazy expressions among them: what fuses pointwise operators into one loop nest.
- `lowering`: buffers and kernel calls so far, which the rules write to.
- `loops`, `matmul`, `indirect`: C templates: loop nests and reductions, matrix products, indirect products.
- `padding`: memory layout (channels last) and halo of zeros of images.
- `schedule`: order of the kernels, bands that run task by task, and memory planning in an arena.
- `prelude`, `runtime`: C that every program contains: elementary functions; flushing subnormals, threads.
- `compiler`: runs the C compiler; `library_cache` holds what it made on disk, `selftest` tests it before it is trusted.

From the rest of the engine it imports `ops` alone (`padding`, for the operators that it has rules for).
"""

from .compiler import command, compile_c
from .expressions import Unsupported
from .library_cache import CannotBuild
from .program import Program, lower

__all__ = ["CannotBuild", "Program", "Unsupported", "command", "compile_c", "lower"]
