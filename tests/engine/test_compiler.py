"""A C compiler that fails in whatever way ends no run: what it made is proved before it is used, or is not used."""

import os
import shutil
import stat

import pytest
import torch

from innerloop.engine import fast
from innerloop.engine.c import compiler as build
from innerloop.engine.c.library_cache import is_proved
from toolkit.compiler import compiles

SOURCE = "int run(char **p, long width, long calls) { return (int)calls + 1; }"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("INNERLOOP_CACHE", str(folder))
    return folder


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Make a script the C compiler; `$REAL` is the true one, and `$LIBRARY` what it shall write."""

    def write(text: str) -> str:
        path = tmp_path / "compiler"
        real = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "none")
        find = 'for word in "$@"; do [ "$last" = -o ] && LIBRARY=$word; last=$word; done'
        path.write_text(f"#!/bin/sh\nREAL={real}\n{find}\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CC", str(path))
        return str(path)

    return write


def reason() -> str:
    """Why a graph that is to be compiled is not; the result is right."""
    quick = fast(lambda x: x * 2 + 1, planned=10_000)
    for _ in range(2):
        assert quick(torch.ones(3)).tolist() == [3, 3, 3]
    assert quick.report.gear == "traced", quick.report
    assert not quick.report.compiler
    return quick.report.reason


def test_a_compiler_that_writes_nothing(use):
    use("exit 0")
    assert "wrote no library" in reason()


@compiles
def test_a_compiler_that_writes_half_a_file(use, cache):
    use('"$REAL" "$@" && head -c 5000 "$LIBRARY" > "$LIBRARY.half" && mv "$LIBRARY.half" "$LIBRARY"')
    assert "wrote no whole library" in reason()
    assert not list(cache.glob("*.so"))


@compiles
def test_a_compiler_that_writes_something_else(use):
    use('echo "not a library" > "$LIBRARY"')
    assert "wrote no whole library" in reason()


def test_a_compiler_that_never_answers_is_waited_for_aloud_and_not_for_ever(use, monkeypatch, caplog):
    monkeypatch.setattr(build, "_SAID", 0.1)
    monkeypatch.setattr(build, "_LONGEST_TEST", 0.3)
    path = use("echo x >> $0.calls\nsleep 60")
    assert "did not answer within" in reason()
    assert f"waiting for the C compiler {path!r}" in caplog.text
    assert "did not answer within" in reason()  # it is not asked again
    with open(f"{path}.calls") as calls:
        assert len(calls.readlines()) == 1


@pytest.mark.parametrize("named", ["no-such-compiler -O2", "cc '"])
def test_a_name_that_is_no_compiler_is_said(named, monkeypatch):
    monkeypatch.setenv("CC", named)
    assert f"CC names {named!r}, which is no program: correct it, or unset it" in reason()


@compiles
def test_a_compiler_that_fails_is_quoted(use):
    use("echo 'no space left' >&2; exit 3")
    assert "failed: no space left" in reason()


@compiles
@pytest.mark.parametrize("damage", ["half", "other", "none", "unproved"])
def test_a_file_of_the_cache_that_is_not_what_was_proved_is_made_again(damage, cache):
    def load():
        return build._load(build._compiler(), SOURCE, build._FLAGS)

    assert load()(0, 0, 4) == 5
    (library,) = cache.glob("*.so")
    whole = library.read_bytes()
    assert is_proved(library)
    os.unlink(library)
    if damage != "none":
        library.write_bytes({"half": whole[: len(whole) // 2], "other": b"text", "unproved": whole}[damage])
    if damage == "unproved":
        library.with_suffix(".sha256").unlink()
    assert not is_proved(library)
    assert load()(0, 0, 4) == 5
    assert is_proved(library)


def test_a_cache_that_cannot_be_written_ends_nothing(cache):
    cache.write_text("a file")
    assert "the cache of compiled programs" in reason()


@compiles
def test_a_compiler_of_another_version_is_tested_again(use):
    path = use('"$REAL" "$@"')
    before = build._identity(path)
    build._identity.cache_clear()
    use('"$REAL" "$@" # a later version')
    assert build._identity(path) != before


@compiles
def test_the_compiler_and_its_flags_are_in_the_report(monkeypatch):
    quick = fast(lambda x: x * 2, planned=10_000)
    quick(torch.ones(3))
    assert quick.report.compiler == build.command()
    assert quick.report.compiler.startswith(f"{build._compiler()} -O3 -march=native")


def test_whatever_a_rule_raises_there_is_the_graph(monkeypatch):
    def broken(graph):
        raise AttributeError("'int' object has no attribute 'dtype'")

    monkeypatch.setattr("innerloop.engine.gears.lower", broken)
    assert reason() == "not compiled: AttributeError: 'int' object has no attribute 'dtype'"
