"""Read many tables as people write them: each is understood as it was meant, or refused; none silently different.

    python benchmarks/written_tables.py 20000
    python benchmarks/written_tables.py 20000 10000    # the tables 10000 to 19999

It prints how many were right, refused and wrong, and what the refusals say. It leaves with 1 if one was wrong.
"""

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from toolkit.written_tables import difference, written_table


def main(count: int, first: int = 0) -> int:
    """Read the tables `first` to `count - 1`."""
    ends, reasons = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.csv"
        for seed in range(first, count):
            table = written_table(seed)
            path.write_bytes(table.data)
            end, what = difference(table, str(path))
            ends[end] += 1
            if end == "wrong":
                print(f"table {seed}, {table.options}: {what}")
            elif end == "refused":
                reasons[re.sub(r"'[^']*'|\d+", "_", what.replace(str(path), "FILE"))[:100]] += 1
            if (seed + 1) % 1000 == 0:
                print(f"up to table {seed}: {dict(ends)}", flush=True)
    print(f"{count - first} tables, {first} to {count - 1}: {dict(ends)}")
    for reason, times in reasons.most_common(20):
        print(f"{times:7d}  {reason}")
    return int(ends["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(*(int(number) for number in sys.argv[1:3] or ["20000"])))
