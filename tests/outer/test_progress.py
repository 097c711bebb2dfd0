"""Progress of a training: in a notebook, in a terminal, and where there is neither; and Ctrl-C in a notebook."""

import re
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest

import innerloop as il
from innerloop.outer.progress import in_notebook, progress


class Shown:
    """A stand-in for the output of a cell: what it was and what it became."""

    def __init__(self):
        self.texts = []

    def display(self, what, display_id):
        assert display_id is True
        self.texts.append(what)
        return SimpleNamespace(update=self.texts.append)


@pytest.fixture
def notebook(monkeypatch):
    """IPython as it is in a kernel."""
    shown = Shown()
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: SimpleNamespace(kernel=object())
    display.HTML, display.display = str, shown.display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def trained(steps=12, **options):
    tasks = il.tasks.sinusoid(n_support=5, episodes=5)
    learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_steps=1)
    return il.meta_train(
        learner, tasks.train, valid=tasks.valid, steps=steps, device="cpu", gear="eager", **options
    )


def test_a_notebook_has_one_output_that_is_renewed(notebook):
    run = trained(progress=True)
    assert re.fullmatch(
        r'<progress value="1" max="12"></progress> .*1/12, about \d+ s left .*', notebook.texts[0]
    )
    last = notebook.texts[-1]
    assert '<progress value="12" max="12">' in last
    assert f"loss {run.log[-1]['loss']:.4f}" in last
    assert f"validation {run.log[-1]['valid_loss']:.4f}" in last


def test_names_are_escaped(notebook):
    with progress("<b>", 1) as show:
        show({"step": 1, "loss": 0.0})
    assert "&lt;b&gt;" in notebook.texts[0]


def test_ctrl_c_in_a_notebook_returns_the_best_so_far(notebook):
    def press(entry):
        if entry["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="interrupted after update 5 of 12"):
        run = trained(progress=True, callbacks=[press])
    assert run.interrupted
    assert len(run.log) == 5
    assert 0 < run.best_step <= 5
    assert notebook.texts


def test_without_progress_nothing_is_shown(notebook, capsys):
    trained()
    assert notebook.texts == []
    assert capsys.readouterr() == ("", "")


def test_elsewhere_lines_are_printed(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    run = trained(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"step 12/12  loss {run.log[-1]['loss']:.4f}" in err


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    trained(progress=True)
    assert "12/12" in capsys.readouterr().err
