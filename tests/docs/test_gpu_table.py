"""The script that measures on a GPU runs where there is none, so that it runs where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
if not SCRIPT.is_file():
    pytest.skip("benchmarks/ is not part of the source distribution", allow_module_level=True)


@pytest.mark.timeout(600)  # half a minute of processor time, on machines that do other things too
def test_the_table_is_printed_without_a_gpu():
    words = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("|").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert done.stdout.startswith("not measured on a GPU; torch ")
    errors = [
        float(cell) for row in lines if row[0].strip()[:1].isdigit() for cell in row[1:] if cell.strip(" |")
    ]
    assert len(errors) >= 4
    assert max(errors) < 1e-5
    assert "none (" not in done.stdout
    for part in ("| conv4, TF32 off |", "| table, 5 steps |", "| compare | auto |", "| cpu | traced |"):
        assert part in done.stdout
