"""What every test shares: one thread, quiet hypothesis, and the path of the development data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

import innerloop.cli.pages

# the tests themselves run in as many processes as there are cores: comparisons in them start no others
os.environ["LOKY_MAX_CPU_COUNT"] = "1"

ROOT = Path(__file__).resolve().parents[1]

# No deadline: the first call of a torch operation is slow, the others are not. On CI the examples are the
# same in every run, so that a red run can be repeated; elsewhere they vary, and find more.
settings.register_profile("innerloop", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("innerloop")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: whoever gets one last keeps all others waiting."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> Iterator[None]:
    """One thread: sums keep their order from machine to machine, and the tiny tensors of tests run faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def no_pages() -> Iterator[Callable[..., Any]]:
    """A page takes seconds to draw, and many tests train: only those that ask for `pages` have them drawn."""
    drawn = innerloop.cli.pages.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(innerloop.cli.pages, "draw", lambda make, notes: None)
        yield drawn


@pytest.fixture
def pages(no_pages: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs draw pages, as they do for users."""
    monkeypatch.setattr(innerloop.cli.pages, "draw", no_pages)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the development data, which is not part of the repository."""
    named = os.environ.get("INNERLOOP_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"INNERLOOP_DATA names {named!r}, which is not a folder: correct it or unset it")
    pytest.skip("no development data: set INNERLOOP_DATA to its folder")
