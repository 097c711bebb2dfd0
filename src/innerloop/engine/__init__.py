"""The engine: run a pure function of tensors, a whole meta-step for instance, in the fastest way that is exact.

It knows nothing of meta-learning, and imports nothing of the package but `errors` and `files`. Three layers:

- the files here: choose a gear, trace, compare with the plain function, run.
- `ops`: operators closed under differentiation, so that second order needs no further ones.
- `c`: C code of a traced graph.

Files in the order in which a call passes through them:

- `gears`: `fast`, the static key of a call and the cache of graphs; picks eager, traced or compiled.
- `pytrees`: arguments flattened, results put together again, and the key of a call.
- `guards`: what the function closes over: whether it is still as a graph was made for.
- `modes`: whether a function runs for its values, to be traced, or to be checked.
- `trace`: a function and the gradients inside it as one graph (make_fx); CSE and dead code elimination.
- `functionalize`: operators that write into their arguments become operators that do not.
- `c.program`: lowers the graph to C; `c.compiler` compiles it.
- `run`: executes a graph operator by operator, as machine code, or through inductor.
- `agreement`: whether a graph and the plain function agree within rounding.

Beside them: `recompute` (activation checkpointing), `threads` (one thread for small work), `devices` (which device a
step runs on), `timing` (every gear timed), `open_graph` (one graph for any number of rows, to be exported), `onnx_file`
and `onnx_linalg` (such a graph as an ONNX file, and linear systems in it). docs/engine-internals.md tells how a step
becomes C, and what a new operator needs.
"""

from .gears import GEARS, Fast, Report, fast
from .timing import Timing, benchmark

__all__ = ["GEARS", "Fast", "Report", "Timing", "benchmark", "fast"]
