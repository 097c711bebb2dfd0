"""Everything the package does gives the CPU's numbers on another device; in a process of its own, which has one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

pytestmark = pytest.mark.long

TOOLKIT = Path(__file__).parent / "toolkit"


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices in Python",
)
@pytest.mark.timeout(600)  # a minute and a half of processor time, on machines that do other things too
def test_the_second_device_gives_the_numbers_of_the_cpu():
    words = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    checks = TOOLKIT / "second_device_checks.py"
    # the tests of a worker of xdist run in a process of their own too
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*words, str(checks)], capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout
