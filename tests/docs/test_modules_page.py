"""docs/modules.md has every module of its benchmark; none is slower than eager, and gradients are exact."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_every_module_of_the_benchmark():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import modules
    finally:
        sys.path.pop(0)
    text = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (\w+).*? \| (\S+) \|$", text, re.MULTILINE)
    gears = {name: gear for name, gear, _ in rows}
    wanted = {*modules.VECTORS, *modules.IMAGES}
    assert {name for name in gears if name != "module"} == wanted
    assert "eager" not in gears.values()
    assert sum(gear == "compiled" for gear in gears.values()) >= 36
    times = [int(factor) for factor in re.findall(r"ms \| (\d+) \| \S+ \|$", text, re.MULTILINE)]
    assert len(times) == len(wanted)
    assert min(times) >= 1, "a gear that is slower than eager"
    errors = [float(error) for name, _, error in rows if name in wanted]
    assert max(errors) < 1e-8
