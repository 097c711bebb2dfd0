"""Whether this machine can compile C, decided by compiling some, as the engine does it."""

import pytest

from innerloop.engine.c import CannotBuild, compile_c


def compiler_works() -> bool:
    try:
        compile_c("int run(char **p, long width, long calls) { return 0; }")
    except CannotBuild:
        return False
    return True


compiles = pytest.mark.skipif(not compiler_works(), reason="there is no C compiler")
