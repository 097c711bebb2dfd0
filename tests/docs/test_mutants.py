"""Every planted fault of benchmarks/mutants.py can still be planted: its passage and its tests exist."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "mutants.py"
if not SCRIPT.is_file():
    pytest.skip("benchmarks/ is not part of the source distribution", allow_module_level=True)
spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
assert spec is not None
assert spec.loader is not None
mutants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutants)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_still_be_planted(mutant):
    reason = mutants.stale(mutant)
    assert reason is None, reason


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"file": "adaptation.py"}, "there is no adaptation.py"),
        ({"old": "a passage that moved"}, "the passage stands 0 times"),
        ({"old": "import"}, "times in"),
        ({"tests": "test_gone.py"}, "there is no tests/test_gone.py"),
        ({"tests": "algorithms/test_formulas.py::test_gone"}, "has no test_gone"),
    ],
)
def test_a_fault_that_cannot_be_planted_says_why(change, complaint):
    reason = mutants.stale(mutants.MUTANTS[0]._replace(**change))
    assert complaint in reason
    assert reason.startswith(mutants.MUTANTS[0].name)


def test_every_fault_has_its_line_in_the_document():
    text = (SCRIPT.parents[1] / "docs" / "mutants.md").read_text(encoding="utf-8")
    lines = {f"| {m.name} | `{m.file}` | `{m.tests}` | caught |" for m in mutants.MUTANTS}
    assert lines == {line for line in text.splitlines() if line.endswith(" caught |")}
