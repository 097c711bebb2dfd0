"""Run the proofs of the test suite and write docs/proofs.md: algorithm, check, figure.

    python benchmarks/proofs.py            # about three minutes on one core

Every figure is what a test measured in this run, beside the bound that the test holds it under; the script fails where
a test fails or an identity has no test any more.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "proofs.md"
# file below tests/ -> the title of its part of the page
SECTIONS = {
    "algorithms/test_contract.py": "Every algorithm, by one list",
    "algorithms/test_identities.py": "Identities of the meta-gradients",
    "algorithms/test_formulas.py": "Published formulas",
    "algorithms/test_plain_numpy.py": "An implementation in plain numpy",
    "inner/test_heads.py": "Closed forms",
    "algorithms/test_closed_form.py": "Closed forms as learners",
    "models/test_any_module.py": "Any module",
    "models/test_batchnorm.py": "BatchNorm",
    "inner/test_rows_that_interact.py": "Rows that see each other",
}
# the identities that a meta-learning library can be wrong by; each with the tests that hold it
IDENTITIES = (
    (
        "zero inner steps give the plain gradient of the query loss",
        "test_zero_steps_give_the_plain_gradient_of_the_query_loss",
    ),
    (
        "the meta-gradient is the finite difference of the query loss",
        "test_unrolled_gradient_equals_finite_differences",
    ),
    ("first order is the loop over tasks, one by one", "test_gradient_equals_a_plain_loop_over_tasks"),
    ("first order differs from unrolled", "test_first_order_differs_from_unrolled"),
    (
        "a detached rule is the query gradient at the adapted point (MAML)",
        "test_first_order_is_the_query_gradient_at_the_adapted_point[all]",
    ),
    (
        "the same where the head alone adapts (ANIL)",
        "test_first_order_is_the_query_gradient_at_the_adapted_point[head]",
    ),
    (
        "Reptile with one step is the rate times the support gradient",
        "test_reptile_with_one_step_is_the_rate_times_the_support_gradient",
    ),
    (
        "Meta-SGD at a constant rate is MAML, and its rates get a gradient",
        "test_learned_rates_at_a_constant_equal_maml_and_get_a_gradient",
    ),
    ("ANIL: the body stays in adaptation and is trained", "test_only_the_head_moves_and_the_body_is_trained"),
    (
        "implicit is the closed form of a quadratic, and unrolling an exact solve",
        "test_the_implicit_gradient_of_a_quadratic_is_the_closed_form",
    ),
    ("tasks at once are tasks in a loop", "test_vmap_equals_the_loop"),
    (
        "the order of the support rows does not matter (prototypes)",
        "test_the_order_of_support_rows_does_not_matter",
    ),
    ("the dual ridge is the primal", "test_the_dual_ridge_equals_the_primal_and_scikit_learn"),
    (
        "prototypes: meta-gradient and finite differences",
        "test_the_meta_gradient_equals_finite_differences[protonet",
    ),
    ("ridge: meta-gradient and finite differences", "test_the_meta_gradient_equals_finite_differences[ridge"),
)


def measured() -> tuple[list[dict[str, Any]], list[str], str]:
    """What the tests noted, the names of those that passed, and the last line."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "figures.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
        command += [f"tests/{file}" for file in SECTIONS]
        environment = {**os.environ, "INNERLOOP_PROOFS": str(notes)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-1000:])
        figures = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    passed = re.findall(r"^PASSED (.*)$", done.stdout, flags=re.MULTILINE)
    return figures, passed, done.stdout.strip().splitlines()[-1]


class Case(NamedTuple):
    """One figure: the file of the test, its words, the parameters it ran with."""

    file: str
    check: str
    subject: str
    figure: float
    bound: float

    @staticmethod
    def of(row: dict[str, Any]) -> "Case":
        """From what a test noted."""
        file, _, rest = row["test"].partition("::")
        name, _, case = rest.rstrip("]").partition("[")
        check = name.removeprefix("test_").replace("_", " ")
        # cases of the contract are numbered, 0-maml-regression: their settings are one algorithm
        subject = re.sub(r"^\d+-", "", case)
        return Case(file.removeprefix("tests/"), check, subject, row["figure"], row["bound"])


def by_algorithm(cases: list[Case]) -> list[str]:
    """Algorithms in rows, checks in columns."""
    checks = sorted({(case.check, case.bound) for case in cases})
    lines = ["| | " + " | ".join(check for check, _ in checks) + " |", "|---" * (len(checks) + 1) + "|"]
    lines.append("| bound | " + " | ".join(f"{bound:.0e}" for _, bound in checks) + " |")
    for subject in sorted({case.subject for case in cases}):
        row = []
        for check in checks:
            values = [c.figure for c in cases if c.subject == subject and (c.check, c.bound) == check]
            row.append(f"{max(values):.0e}" if values else "")
        lines.append(f"| {subject} | " + " | ".join(row) + " |")
    return lines


def by_check(cases: list[Case]) -> list[str]:
    """A row a check, its worst case."""
    lines = ["| check | cases | worst | figure | bound |", "|---|---|---|---|---|"]
    for check, bound in sorted({(case.check, case.bound) for case in cases}):
        alike = [case for case in cases if (case.check, case.bound) == (check, bound)]
        worst = max(alike, key=lambda case: case.figure)
        lines.append(f"| {check} | {len(alike)} | {worst.subject} | {worst.figure:.0e} | {bound:.0e} |")
    return lines


def page(figures: list[dict[str, Any]], passed: list[str], last: str) -> str:
    """The page."""
    lines = [
        "# Proofs",
        "",
        "What the test suite measures of the gradients and the arithmetic of every algorithm, in float64: the",
        "largest error that a check found, and the bound that the test holds it under. An empty cell: the check does",
        "not apply; a meta-gradient that is an approximation on purpose is held against its published formula.",
        f"`python benchmarks/proofs.py` runs the tests and writes this page. {_count(last)}",
        "",
        "## Fifteen identities",
        "",
        "| | identity | held by | cases |",
        "|---|---|---|---|",
    ]
    for number, (text, test) in enumerate(IDENTITIES, 1):
        count = sum(f"::{test}" in name for name in passed)
        if not count:
            sys.exit(f"identity {number} ({text}): no test {test} has passed")
        lines.append(f"| {number} | {text} | `{test.partition('[')[0]}` | {count} |")
    cases = [Case.of(row) for row in figures]
    for file, title in SECTIONS.items():
        of_file = [case for case in cases if case.file == file]
        table = by_algorithm(of_file) if file.endswith("contract.py") else by_check(of_file)
        lines += ["", f"## {title}", "", f"`tests/{file}`", "", *table]
    return "\n".join(lines) + "\n"


def _count(last: str) -> str:
    count = re.search(r"(\d+) passed", last)
    return f"In the run this page comes from {count[1] if count else 'no'} of these tests passed and none failed."


if __name__ == "__main__":
    PAGE.write_text(page(*measured()), encoding="utf-8")
    print(f"written: {PAGE}")
