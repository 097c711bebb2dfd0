"""`adapt`, `predict` and `evaluate` on folders of pictures: enrol, add, forget, and what lies about in real folders."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from innerloop import load
from toolkit.commands import printed_by

SHADES = {"apple": 30, "blue cup": 80, "fork": 130, "knife": 180, "plate": 230}


def picture(path, shade, seed=0, mode="L"):
    """A picture around one shade, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, shade]).integers(-15, 16, (18, 18))
    Image.fromarray((shade + noise).clip(0, 255).astype(np.uint8)).convert(mode).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on folders of pictures, and folders to enrol and to predict."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        for row in range(4):
            picture(folder / "known" / f"good {number}" / f"{row}.png", 20 * number + 10, row)
            picture(folder / "other" / f"new {number}" / f"{row}.png", 20 * number + 10, row + 9)
    for name, shade in SHADES.items():
        for row in range(1, 3):
            picture(folder / "shelf" / name / f"{row}.png", shade, row)
        picture(folder / "inbox" / f"{name}.png", shade, 7)
    words = ("--algorithm", "protonet", "--n-way", 2, "--width", 4, "--steps", 2, "--quiet")
    from innerloop.cli import run

    out = ("--out", folder / "run")
    assert run([str(word) for word in ("train", folder / "known", *words, *out)]) == 0
    return folder


def test_a_shelf_is_enrolled_predicted_added_to_and_forgotten(place, capsys, tmp_path):
    shelf, found = tmp_path / "shelf", tmp_path / "found.csv"
    code, out, _ = printed_by(capsys, "adapt", place / "run", place / "shelf", "--out", shelf)
    assert (code, out) == (0, f"adapted to 5 classes, 10 support rows: {shelf}\n")
    code, out, _ = printed_by(capsys, "predict", shelf, place / "inbox", "--out", found)
    assert code == 0
    table = pd.read_csv(found)
    assert list(table)[:3] == ["file", "prediction", "probability_apple"]
    assert table.file.tolist() == sorted(f"{name}.png" for name in SHADES)
    assert set(table.prediction) <= set(SHADES)
    picture(tmp_path / "more" / "pot" / "1.png", 250)
    picture(tmp_path / "more" / "fork" / "3.png", SHADES["fork"], 5)
    code, out, _ = printed_by(capsys, "adapt", shelf, tmp_path / "more", "--add")
    assert out == f"1 extended: fork\nadapted to 6 classes, 12 support rows: {shelf}\n"
    code, out, _ = printed_by(capsys, "adapt", shelf, "--forget", "blue cup", "--forget", "pot", "--json")
    said = json.loads(out)
    assert said["forgotten"] == ["blue cup", "pot"]
    assert said["classes"] == {"apple": 2, "fork": 3, "knife": 2, "plate": 2}
    assert load(shelf).enrolled.classes == ("apple", "fork", "knife", "plate")


def test_a_single_file_and_a_run_with_folders_and_loose_pictures(place, capsys, tmp_path):
    shutil.copytree(place / "shelf", tmp_path / "mixed")
    picture(tmp_path / "mixed" / "loose.png", 130, 8)
    code, out, _ = printed_by(capsys, "predict", place / "run", tmp_path / "mixed", "--json")
    said = json.loads(out)
    assert [row["file"] for row in said["predictions"]] == ["loose.png"]
    assert said["classes"] == dict.fromkeys(SHADES, 2)
    shelf = tmp_path / "shelf"
    printed_by(capsys, "adapt", place / "run", place / "shelf", "--out", shelf)
    code, out, _ = printed_by(capsys, "predict", shelf, place / "inbox" / "fork.png")
    assert code == 0
    assert out.splitlines()[1].startswith(str(place / "inbox" / "fork.png"))


def test_evaluate_scores_the_classes_of_another_folder(place, capsys):
    code, out, _ = printed_by(
        capsys, "evaluate", place / "run", place / "other", "--json", "--report", "none"
    )
    assert code == 0
    scores = json.loads(out)["scores"]
    assert any(row["metric"] == "accuracy" for row in scores)
    code, _, err = printed_by(capsys, "evaluate", place / "run", place / "known", "--report", "none")
    assert code == 0
    shutil.copytree(place / "known", place / "copy")
    picture(place / "copy" / "good 0" / "9.png", 40)
    code, _, err = printed_by(capsys, "evaluate", place / "run", place / "copy", "--report", "none")
    assert "classes of" in err
    assert "trained on and are left out" in err


def test_what_lies_about_in_a_folder_is_told_in_one_line_each(place, capsys, tmp_path):
    shelf = tmp_path / "shelf"
    shutil.copytree(place / "shelf", shelf)
    (shelf / "fork" / "notes.txt").write_text("bought in May")
    picture(shelf / "fork" / "press.jpg", 130, mode="CMYK")
    Image.fromarray(np.full((18, 18), 40_000, np.uint16)).save(shelf / "fork" / "deep.png")
    picture(shelf / "loose.png", 10)
    (shelf / "knife" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (shelf / "empty").mkdir()
    code, _, err = printed_by(capsys, "adapt", place / "run", shelf, "--out", tmp_path / "out")
    assert code == 3
    assert "broken.png" in err
    assert "--skip-bad" in err
    assert len(err.strip().splitlines()) == 1
    code, out, err = printed_by(
        capsys, "adapt", place / "run", shelf, "--out", tmp_path / "out", "--skip-bad", "--json"
    )
    assert code == 0
    assert json.loads(out)["n_skipped"] == 1
    assert json.loads(out)["classes"]["fork"] == 4
    for line in ("1 files are no pictures", "1 pictures that cannot be used", "1 rows have no class"):
        assert line in err
    code, _, err = printed_by(capsys, "predict", place / "run", shelf / "empty")
    assert code == 3
    assert "holds no file" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("adapt", "RUN", "SHELF"), 2, "give --out"),
        (("adapt", "RUN", "--out", "OUT"), 2, "give what to adapt to"),
        (("adapt", "RUN", "SHELF", "--forget", "fork"), 2, "--forget takes classes away"),
        (("adapt", "RUN", "SHELF", "--add"), 2, "is not adapted to classes"),
        (("adapt", "RUN", "SHELF", "--out", "OUT", "--inner-steps", "3"), 2, "--inner-steps has no meaning"),
        (("predict", "RUN", "SHELF", "--interval", "0.9"), 2, "--interval has no meaning"),
        (("predict", "RUN", "INBOX"), 3, "knows no classes yet"),
    ],
)
def test_what_has_no_meaning_is_refused(place, capsys, tmp_path, words, code, message):
    known = {
        "RUN": place / "run",
        "SHELF": place / "shelf",
        "INBOX": place / "inbox",
        "OUT": tmp_path / "out",
    }
    got, _, err = printed_by(capsys, *(known.get(word, word) for word in words))
    assert got == code
    assert message in err
    assert not (tmp_path / "out").exists()


def test_training_has_more_classes_an_episode_than_test(place, capsys, tmp_path):
    words = ("train", place / "known", "--n-way", 2, "--train-way", 7, "--width", 4, "--steps", 2, "--quiet")
    code, out, _ = printed_by(capsys, *words, "--algorithm", "protonet", "--out", tmp_path / "run")
    assert code == 0
    stored = load(tmp_path / "run")
    assert stored.targets.n_outputs == 2
    assert stored.config["learner"]["settings"]["n_outputs"] == 2
    assert stored.config["settings"]["train_way"] == 7
    words_again = ("evaluate", tmp_path / "run", place / "known", "--report", "none")
    code, again, _ = printed_by(capsys, *words_again)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("1 ")] == [
        line for line in again.splitlines() if line.startswith("1 ")
    ]
    code, _, err = printed_by(capsys, *words, "--algorithm", "maml", "--out", tmp_path / "other")
    assert code == 2
    assert "maml has an output layer of fixed width" in err
    code, _, err = printed_by(capsys, *words[:4], "--train-way", 70, "--algorithm", "protonet")
    assert code == 2
    assert "train_way=70: give 2 to" in err


def test_a_stray_table_and_small_classes_do_not_stop_a_training(place, capsys, tmp_path):
    shutil.copytree(place / "known", tmp_path / "known")
    (tmp_path / "known" / "prices.csv").write_text("good,price\n1,2\n")
    picture(tmp_path / "known" / "single" / "1.png", 99)
    words = ("train", tmp_path / "known", "--n-way", 2, "--width", 4, "--steps", 1, "--algorithm", "protonet")
    code, _, err = printed_by(capsys, *words, "--out", tmp_path / "run")
    assert code == 3
    assert "class 'single' has 1 rows" in err or "single" in err
    code, _, err = printed_by(capsys, *words, "--out", tmp_path / "run", "--skip-small")
    assert code == 0
    assert "1 classes with fewer than 2 rows were left out (--skip-small): 'single'" in err
    assert "1 files in known are no images and were left out" in err
