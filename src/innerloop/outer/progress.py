"""Progress of a training while it runs: a bar in notebooks and terminals, lines elsewhere."""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .logs import Entry

__all__ = ["in_notebook", "progress"]

# seconds between two looks of a notebook, and between two lines
_LOOK, _LINE = 0.2, 10.0

Show = Callable[[Entry], None]


@contextmanager
def progress(what: str, total: int, *, say: Callable[[str], None] | None = None) -> Iterator[Show]:
    """A callback for `meta_train` that shows update, loss, last validation and time left.

    In a notebook it is one output that is renewed in place, without widgets or scripts; in a terminal a bar; elsewhere
    a line every ten seconds.

    Arguments:
        what: what is trained.
        total: updates.
        say: prints a line; on stderr unless given.

    Example:
        >>> with progress("maml", 20, say=print) as show:
        ...     show({"step": 20, "loss": 0.5})
        maml  step 20/20  loss 0.5000
    """
    if in_notebook():
        yield _notebook(what, total)
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total, say or (lambda text: print(text, file=sys.stderr, flush=True)))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        row, losses = bar.add_task(what, total=total), _Losses()
        yield lambda entry: bar.update(
            row, completed=entry["step"], description=f"{what}  {losses.words(entry)}"
        )


def in_notebook() -> bool:
    """Whether code runs in the kernel of a notebook, which shows HTML."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Losses:
    """The loss of an entry in words, with the last validation."""

    def __init__(self) -> None:
        self.validation = ""

    def words(self, entry: Entry) -> str:
        if "valid_loss" in entry:
            self.validation = f"  validation {entry['valid_loss']:.4f}"
        return f"loss {entry['loss']:.4f}{self.validation}"


def _lines(what: str, total: int, say: Callable[[str], None]) -> Show:
    """A line every ten seconds, and after the last update."""
    last, losses = time.perf_counter(), _Losses()

    def show(entry: Entry) -> None:
        nonlocal last
        words = losses.words(entry)
        if time.perf_counter() - last > _LINE or entry["step"] == total:
            last = time.perf_counter()
            say(f"{what}  step {entry['step']}/{total}  {words}")

    return show


def _notebook(what: str, total: int) -> Show:
    """One output that is renewed."""
    from IPython.display import HTML, display

    began, last, losses = time.perf_counter(), -math.inf, _Losses()
    handle = None

    def show(entry: Entry) -> None:
        nonlocal handle, last
        step, words, now = int(entry["step"]), losses.words(entry), time.perf_counter()
        if now - last < _LOOK and step < total:
            return
        last = now
        left = "" if step >= total else f", about {(now - began) * (total - step) / step:.0f} s left"
        shown = HTML(
            f'<progress value="{step}" max="{total}"></progress> '
            f"{html.escape(f'{what}  {step}/{total}{left}  {words}')}"
        )
        if handle is None:
            handle = display(shown, display_id=True)
        else:
            handle.update(shown)

    return show
