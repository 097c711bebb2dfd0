"""Small doses of benchmarks/reliability: damaged and hostile model directories, and tables nobody would write."""

import contextlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "reliability"
if not FOLDER.is_dir():
    pytest.skip("benchmarks/ is not part of the source distribution", allow_module_level=True)


def module(name: str) -> ModuleType:
    """A script of that folder."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


models, inputs = module("mutated_models"), module("strange_input")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, bytes]]]:
    """Model directories of several kinds, in the working folder."""
    with contextlib.chdir(tmp_path_factory.mktemp("models")):
        yield models.victims()


def outcomes(one, count: int, kinds) -> Counter[str]:
    """What comes of so many directories; here, as a test may have threads, which no process may be forked from."""
    tried = [one(number, kinds, Path("mutated").resolve()) for number in range(count)]
    assert [fault for _, fault in tried if fault is not None] == []
    return Counter(found for found, _ in tried)


def test_no_damaged_directory_is_taken(kinds) -> None:
    counts = outcomes(models.try_damaged, 400, kinds)
    assert counts["ModelFileError"] > 350


@pytest.mark.skipif(not hasattr(models.signal, "SIGALRM"), reason="no alarm to end what hangs on this system")
def test_no_rewritten_directory_does_harm(kinds, capsys) -> None:
    counts = outcomes(models.try_rewritten, 20, kinds)
    assert counts["loaded"] > 1
    assert counts["refused, ModelFileError"] > 3


# of 4,500 generated ones, those that found something
@pytest.mark.parametrize("number", [1010, 1466, 1937])
def test_what_was_found_stays_mended(kinds, capsys, number) -> None:
    assert models.try_rewritten(number, kinds, Path("mutated").resolve())[1] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=9), inside, max_size=3),
    max_leaves=5,
)


@pytest.mark.skipif(not hasattr(models.signal, "SIGALRM"), reason="no alarm to end what hangs on this system")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_the_configuration_does_no_harm(kinds, data) -> None:
    files = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    config = json.loads(files["config.json"])
    *way, last = data.draw(st.sampled_from([*models._places(config)]))
    holder = config
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(st.sampled_from(models.HOSTILE) | JSON)
    content = {name: text for name, text in files.items() if name != models.MANIFEST}
    folder = Path("mutated").resolve()
    models.write(folder, models.seal(content | {"config.json": json.dumps(config).encode()}))
    assert models.outcome(0, folder, "marker")[1] is None


def test_a_directory_that_would_be_taken_is_seen(kinds, monkeypatch, capsys) -> None:
    monkeypatch.setattr(models, "load", lambda folder: None)
    assert len(models.attack(range(3), kinds, models.try_damaged)[1]) == 3


@pytest.mark.parametrize("kind", list(inputs.KINDS))
def test_every_outcome_is_right_or_one_error(kind, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    counts, faults = inputs.hunt(kind, 4, 3)
    assert not faults, "\n".join(faults.values())
    assert counts.total() >= 4


def test_a_bug_is_seen(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def broken(words: list[str]) -> int:
        raise KeyError("oops")

    monkeypatch.setattr(inputs, "run", broken)
    assert [what.partition(":")[0] for what in inputs.hunt("arrays", 2, 3)[1]] == ["KeyError"]
