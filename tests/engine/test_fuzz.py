"""Random graphs in C against double precision: a small dose of benchmarks/fuzz_engine.py, and the words it uses."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from toolkit.compiler import compiles

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_engine.py"
if not SCRIPT.is_file():
    pytest.skip("benchmarks/ is not part of the source distribution", allow_module_level=True)
spec = importlib.util.spec_from_file_location("fuzz_engine", SCRIPT)
assert spec is not None
assert spec.loader is not None
fuzz_engine = importlib.util.module_from_spec(spec)
sys.modules["fuzz_engine"] = fuzz_engine  # dataclasses look their module up
spec.loader.exec_module(fuzz_engine)


@compiles
def test_random_graphs_are_right(capsys):
    counts = fuzz_engine.fuzz(100_000, 24)
    assert not capsys.readouterr().out
    assert counts["right"] > 18
    assert counts["wrong"] == counts["crash"] == 0


@compiles
def test_short_rows_of_whole_numbers_are_where_the_compiler_takes_them_for(capsys):
    """gcc 12 takes 48 bytes on the stack for aligned; where they were not, this graph ended the process."""
    assert fuzz_engine.fuzz(100_834, 1)["right"] == 1
    assert not capsys.readouterr().out


@compiles
def test_a_wrong_graph_is_seen(monkeypatch, capsys):
    """A thousandth in one kernel of all of them."""
    compile_c = fuzz_engine.compile_c
    monkeypatch.setattr(
        fuzz_engine,
        "compile_c",
        lambda source: compile_c(source.replace("1 + exp_f(-x)", "1.001f + exp_f(-x)")),
    )
    graph = fuzz_engine.Graph(5, [torch.linspace(-1, 1, 7)], [("sigmoid", torch.sigmoid, (0,))])
    ((_, outcome),) = fuzz_engine.outcomes([graph])
    assert outcome.startswith("wrong: result 0 is off by")


def test_a_seed_is_a_graph():
    one, two, other = (str(fuzz_engine.Maker(seed).made()) for seed in (3, 3, 4))
    assert one == two != other
