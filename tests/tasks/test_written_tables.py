"""Tables as people write them: understood as they were meant, or refused with the place; never silently different."""

from collections import Counter
from pathlib import Path

from toolkit.written_tables import difference, written_table


def test_a_hundred_tables_are_understood_or_refused(tmp_path: Path) -> None:
    path, ends = tmp_path / "written.csv", Counter[str]()
    for seed in range(100):
        table = written_table(seed)
        path.write_bytes(table.data)
        end, what = difference(table, str(path))
        assert end != "wrong", f"table {seed}, {table.options}: {what}"
        if end == "refused":
            assert "written.csv" in what or "column '" in what, what
            assert ": " in what, what
        ends[end] += 1
    # a reader that refuses everything is of no use: plain numbers and clear dates are read
    assert ends["right"] > 40, ends
