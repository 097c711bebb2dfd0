"""Ctrl-C in trainings of several parts: the page and the model of what is there, exit code 130, and going on."""

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from innerloop.cli import run
from innerloop.combining.candidates import DIRECT, NETS, Trainer
from innerloop.compare import comparison
from innerloop.outer.descent import Descent


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"site": np.repeat(np.arange(12), 8), "dose": rng.normal(size=96)})
    frame["risk"] = np.sin(frame.dose + frame.site) + rng.normal(size=96) / 10
    path = tmp_path_factory.mktemp("table") / "sites.csv"
    frame.to_csv(path, index=False)
    return path


def words(table: Path, *more: str) -> list[str]:
    options = ["--task", "site", "--target", "risk", "--n-support", "3", "--device", "cpu", "--quiet"]
    return ["train", str(table), *options, *more]


def interrupt(monkeypatch, *, trainings: int, signals: int = 1) -> None:
    """Ctrl-C in the second update of a training, after so many whole ones."""
    ends, ended = Descent._ends, [0]

    def ending(self, entry, steps):
        if entry["step"] == 2 and ended[0] == trainings:
            for _ in range(signals):
                signal.raise_signal(signal.SIGINT)
        over = ends(self, entry, steps)
        ended[0] += over
        return over

    monkeypatch.setattr(Descent, "_ends", ending)


def scores(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "config.json").read_text())["scores"]


@pytest.fixture(scope="module")
def folded(table, tmp_path_factory):
    """Three folds that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(words(table, *FOLDS, "--out", str(folder))) == 0
    return folder


FOLDS = ("--algorithm", "maml", "--hidden", "4", "--steps", "6", "--gear", "eager", "--folds", "3")


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("fold", [1, 3])
def test_folds_that_are_done_have_their_page(table, folded, tmp_path, monkeypatch, capsys, fold):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, trainings=fold - 1)
        assert run(words(table, *FOLDS, "--out", str(folder))) == 130
    done = max(1, fold - 1)
    said = f"interrupted in fold {fold}: scores are of {done} of 3 folds"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert said in page
    assert f"{4 * done} held-out tasks, regression" in page
    assert said in (folder / "README.md").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert f"model: {folder}" in out
    # only the training of the fold that was cut short, and those after it, is left
    assert run(["train", "--resume", str(folder), str(table), "--quiet"]) == 0
    assert scores(folder) == scores(folded)
    assert (folder / "model.safetensors").read_bytes() == (folded / "model.safetensors").read_bytes()
    assert "interrupted" not in (folder / "README.md").read_text(encoding="utf-8")


def test_a_second_ctrl_c_stops_at_once(table, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    interrupt(monkeypatch, trainings=0, signals=2)
    assert run(words(table, *FOLDS[:-2], "--out", str(folder))) == 130
    assert not folder.exists()
    assert "meta-test" not in capsys.readouterr().out


AUTO = ("--steps", "6", "--gear", "eager")


@pytest.mark.usefixtures("pages")
def test_what_auto_has_trained_is_combined(table, tmp_path, monkeypatch, capsys):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    few = [entry for entry in (*DIRECT, *NETS["regression"]) if entry.algorithm in ("mixed", "gp", "maml")]
    monkeypatch.setattr("innerloop.combining.choosing.entries", lambda *parts, **options: few)
    assert run(words(table, *AUTO, "--out", str(whole))) == 0
    train = Trainer.train

    def interrupted(self, entry, **options):
        if entry.algorithm == "gp":
            raise KeyboardInterrupt
        return train(self, entry, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", interrupted)
        capsys.readouterr()
        assert run(words(table, *AUTO, "--out", str(folder))) == 130
    assert "linear mixed model" in capsys.readouterr().out
    stored = json.loads((folder / "config.json").read_text())["settings"]
    assert stored["interrupted"].startswith(
        "interrupted: what was trained until then is combined, without Gaussian"
    )
    assert stored["interrupted"] in (folder / "report.html").read_text(encoding="utf-8")
    labels = [each["label"] for each in stored["candidates"]]
    assert "linear mixed model" in labels
    assert "Gaussian process" not in labels
    assert run(["train", "--resume", str(folder), str(table), "--quiet"]) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("where", ["methods", "factorial"])
def test_a_comparison_has_its_page(table, tmp_path, monkeypatch, capsys, where):
    folder, asked = tmp_path / "found", ["--learners", "maml,anil", "--baselines", "pooled"]
    if where == "factorial":

        def stopped(*parts, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(comparison, "factorial", stopped)
    else:
        interrupt(monkeypatch, trainings=1)
    quick = ["--steps", "3", "--tries", "1", "--seeds", "1", "--folds", "1", "--jobs", "1"]
    train = words(table, *asked, *quick, "--out", str(folder))
    assert run(["compare", *train[1:]]) == 130
    found = json.loads((folder / "comparison.json").read_text())
    assert (folder / "report.html").is_file()
    assert found["interrupted"]
    assert any(note.startswith("interrupted: ") for note in found["notes"])
    names = {each["name"] for each in found["methods"]}
    assert names == {"pooled", "maml", *(["anil"] if where == "factorial" else [])}
