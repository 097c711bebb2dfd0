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
results = check_estimator(eval(sys.argv[1]), on_fail=None, on_skip=None)
print(json.dumps({r["check_name"]: [r["status"], repr(r["exception"])] for r in results}))
"""

ESTIMATORS = {
    "regressor": "il.MetaRegressor()",
    "classifier": "il.MetaClassifier(algorithm='ridge', hidden=(16,), steps=5)",
    "embedding": "il.MetaEmbedding(il.MetaRegressor(algorithm='ridge', hidden=(8,), steps=2))",
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_check_passes(name: str) -> None:
    done = run_python(CHECKS, ESTIMATORS[name])
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results) > 40
    assert {check: told for check, told in results.items() if told[0] != "passed"} == {}
