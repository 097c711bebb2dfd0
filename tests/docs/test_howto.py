"""The how-to pages: every command and every line of Python on them runs, on data of their kind."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from innerloop.cli import run
from toolkit.folders import image_folders, table_folder

pytestmark = pytest.mark.long

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "howto").glob("*.md"))


def leave_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat([f"p{n}" for n in range(64)], 8)
    frame = pd.DataFrame(
        {
            "patient": patient,
            "age": np.repeat(rng.integers(20, 80, 64), 8),
            "visit": pd.date_range("2024-01-01", periods=512).strftime("%Y-%m-%d"),
            "dose": rng.normal(size=512),
        }
    )
    frame["score"] = frame.dose**2 + frame.age / 20
    frame.to_csv(folder / "visits.csv", index=False)
    new = frame[:16].assign(patient=np.repeat(["new", "other"], 8))
    new["score"] = new.score.where(np.arange(16) % 8 < 3)
    new.to_csv(folder / "new_visits.csv", index=False)
    for name, part in (("sites", frame), ("new_sites", new)):
        table_folder(folder / name, part.rename(columns={"score": "risk"}), "patient")
    birds = ["wren", "robin", "owl", "crow", "gull", "tern"]
    image_folders(folder / "birds", birds, size=(16, 18))
    image_folders(folder / "goods", [f"good {n}" for n in range(40)], size=(16, 16))
    image_folders(folder / "shelf", birds[:4], count=2, size=(16, 16))
    image_folders(folder / "more", birds[4:], count=1, size=(16, 16))
    image_folders(folder, ["inbox"], size=(16, 16))
    leave_sentences(folder)


def leave_sentences(folder: Path) -> None:
    """Sentences of 14 intents, those of 12 for training, and the function of the page as a module."""
    code = (PAGES[0].parent / "sentences.md").read_text(encoding="utf-8")
    (folder / "my_encoder.py").write_text(code.split("# my_encoder.py\n")[1].split("```")[0])
    rows = [
        {"sentence": f"{chr(97 + number) * (5 + copy)} please", "intent": f"intent {number}"}
        for number in range(14)
        for copy in range(8)
    ]
    pd.DataFrame(rows[:96]).to_csv(folder / "intents.csv", index=False)
    new = pd.DataFrame(rows[96:])
    new["intent"] = new.intent.where(np.arange(16) % 8 < 3)
    new.to_csv(folder / "new_intents.csv", index=False)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leave_data(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert {language for language, _ in blocks} <= {"sh", "python", "text"}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(page), "exec"), names)
        for line in block.splitlines() if language == "sh" else ():
            program, *arguments = shlex.split(line)
            quick = ["--device", "cpu", "--steps", "2"] if arguments[0] == "train" else []
            assert program == "innerloop"
            assert run([*arguments, *quick]) == 0, line
    if "predictions.csv" in page.read_text(encoding="utf-8"):
        assert pd.read_csv("predictions.csv").prediction.notna().sum() == 10


def test_every_page_is_listed() -> None:
    text = (PAGES[0].parents[1] / "data.md").read_text(encoding="utf-8")
    assert len(PAGES) == 16
    # the pages that are not about a kind of data
    assert all(
        f"howto/{page.name}" in text
        for page in PAGES
        if page.stem not in ("gpu", "large", "long_runs", "tune")
    )
