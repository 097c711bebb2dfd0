"""How often a call goes from one package into another: the journeys of docs/architecture.md stay short."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "journeys.py"
if not SCRIPT.is_file():
    pytest.skip("benchmarks/ is not part of the source distribution", allow_module_level=True)
spec = importlib.util.spec_from_file_location("journeys", SCRIPT)
assert spec is not None
assert spec.loader is not None
journeys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(journeys)
Move = journeys.Move


def test_a_walk_has_the_first_move_between_every_two_packages():
    first, again = Move("inner.a", "models.b", False), Move("inner.c", "models.d", False)
    back = Move("models.b", "inner.e", True)
    assert journeys.walk([first, again, back, first]) == [first, back]


def test_a_call_into_another_package_is_seen_and_one_within_a_package_is_not():
    from innerloop.models import mlp
    from innerloop.models.network import Network

    with journeys.watched() as moves:
        Network(mlp(1, [2], 1)).params()
    assert moves == []
    walk = journeys.walk(journeys.moves_of(journeys.csv_to_adapted))
    assert {("algorithms", "inner"), ("inner", "models")} <= {move.packages for move in walk}


@pytest.mark.parametrize("make", journeys.JOURNEYS, ids=lambda make: make.__name__)
def test_a_journey_takes_no_more_moves_than_wanted(make):
    walk = journeys.walk(journeys.moves_of(make))
    assert len(walk) <= journeys.JOURNEYS[make], "\n".join(f"{m.caller} -> {m.callee}" for m in walk)
