"""The common checks of scikit-learn, all of them: none is skipped, and none is expected to fail."""

import json

import pytest

from toolkit.commands import run_python

# scipy decides when it is imported whether it knows arrays of other libraries, so that the checks need a Python of
# their own
CHECKS = """
import json, os, sys, warnings
os.environ["SCIPY_ARRAY_API"] = "1"
import innerloop as il
from sklearn.utils.estimator_checks import check_estimator
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    results = check_estimator(eval(name), on_fail=None, on_skip=None)
    print(json.dumps({r["check_name"]: [r["status"], repr(r["exception"])] for r in results}))
"""

ESTIMATORS = [
    "il.MetaRegressor()",
    "il.MetaClassifier(algorithm='ridge', hidden=(16,), steps=5)",
    "il.MetaEmbedding(il.MetaRegressor(algorithm='ridge', hidden=(8,), steps=2))",
]


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, list[str]]]:
    """What became of each check of each estimator."""
    done = run_python(CHECKS, *ESTIMATORS)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(ESTIMATORS, lines, strict=True))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_check_passes(estimator: str, results: dict[str, dict[str, list[str]]]) -> None:
    assert len(results[estimator]) > 40
    assert {check: told for check, told in results[estimator].items() if told[0] != "passed"} == {}
