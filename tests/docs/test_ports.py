"""The page of ports is what was measured, and ports agree with loops by hand."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ports():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import ports
    finally:
        sys.path.pop(0)
    return ports


def test_the_page_has_the_table_of_what_was_measured(ports):
    assert ports.table(ports.read()) in ports.PAGE.read_text(encoding="utf-8")


def test_every_measured_row_is_at_least_level_in_time_and_agrees(ports):
    for row in ports.read().values():
        assert row["port_ms"] <= row["ms"]
        assert row["apart"] < 1e-6


@pytest.mark.parametrize("name", ["sine", "reptile"])
def test_first_updates_are_those_of_a_loop_by_hand(ports, name):
    original, ours, _, _ = ports.both(ports.ROWS[name], Path("no folder"), "eager", torch.float64)
    for number in range(3):
        assert ours(number) == pytest.approx(original(number), rel=1e-9)


def test_lines_of_code_leave_out_comments_and_blanks(ports):
    assert ports.code_lines("# a\n\nx = 1\n    # b\ny = 2  # c\n") == 2
