"""docs/engine-internals.md is true: its worked example adds an operator, and what it names exists."""

import re
from pathlib import Path

import pytest
import torch

from innerloop.engine import fast
from innerloop.engine.c import pointwise, prelude, program
from toolkit.compiler import compiles

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "engine-internals.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "innerloop" / "engine"


def block(language):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return text


def test_the_operator_of_the_example_has_no_rule_before(capsys):
    exec(block("python"), {})
    assert capsys.readouterr().out == "['aten.hypot.default']\n"


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_two_lines_of_the_example_compile_an_operator_and_its_derivatives(monkeypatch, dtype):
    space = {}
    exec(block("python"), space)
    x = torch.linspace(-3, 3, 41, dtype=dtype)
    before = fast(space["step"], gear="auto", planned=10**6)
    before(x)
    assert "aten.hypot.default" in before.report.reason

    (entry,) = eval(f"{{{block('text')}}}", {"_aten": torch.ops.aten, "_plain": pointwise._plain}).items()
    monkeypatch.setitem(pointwise.POINTWISE, *entry)
    line = block("c")
    added = prelude._typed(line, "float", "f", "f") + prelude._typed(line, "double", "d")
    monkeypatch.setattr(program, "PRELUDE", f"{program.PRELUDE}\n{added}")

    quick = fast(space["step"], gear="auto", planned=10**6)
    quick(x)
    assert quick.report.gear == "compiled", quick.report
    results = quick(-2 * x)
    expected = space["step"](-2 * x)
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_file_and_name_of_the_description_exists():
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    names = re.findall(r"`([\w./]+)`", TEXT.partition("### Example")[0])
    for name in names:
        if name.startswith("tests/"):
            assert (ROOT / name).is_file(), name
        elif name.endswith(".py"):
            assert [path for path in sources if path.as_posix().endswith(f"/{name}")], name
        else:
            last = re.split(r"[./]", name.rstrip("/"))[-1]
            inside = any(re.search(rf"\b{last}\b", text) for text in sources.values())
            assert inside or last == "engine" or list(PACKAGE.rglob(f"{last}*")), name
