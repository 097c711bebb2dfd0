"""The self-test of the C compiler: a wrong number is seen, and a compiler that makes one gets other flags."""

import pytest

from innerloop.engine.c import compiler as build
from innerloop.engine.c import selftest
from toolkit.compiler import compiles


@compiles
@pytest.mark.parametrize(
    ("right", "wrong"), [("i < 20", "i < 19"), ("(double)(float)a[i]", "(double)(double)a[i]")]
)
def test_one_wrong_loop_is_seen(right, wrong):
    compiler = build._compiler()
    flags = build._flags(compiler)
    assert selftest.passes(build._load(compiler, selftest.source(), flags))
    assert not selftest.passes(build._load(compiler, selftest.source().replace(right, wrong, 1), flags))


@compiles
def test_a_compiler_that_fails_gets_safer_flags_or_none(monkeypatch):
    answers = iter([False, True])
    build._tested.cache_clear()
    monkeypatch.setattr(build, "passes", lambda run: next(answers))
    assert build._flags(build._compiler()) == (*build._FLAGS, *build._SAFER[1])
    assert build.command() == " ".join([build._compiler(), *build._FLAGS, *build._SAFER[1]])
    build._tested.cache_clear()
    monkeypatch.setattr(build, "passes", lambda run: False)
    with pytest.raises(build.CannotBuild, match="compiles loops wrongly on this machine"):
        build._flags(build._compiler())
    build._tested.cache_clear()
