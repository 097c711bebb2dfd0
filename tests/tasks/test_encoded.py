"""Tasks from pictures, files and texts that an encoder makes vectors of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import innerloop as il
from innerloop.encoders import Encoder, use
from innerloop.errors import DataError, UsageError
from innerloop.tasks.images import picture
from innerloop.tasks.tables.schema import Schema
from innerloop.tasks.tables.sense import require_sense
from toolkit.folders import image_folders

SIDE = 6
PICTURES = Encoder("colours", "pictures", lambda batch: batch.float().mean((2, 3)), side=SIDE, batch=2)


def lengths(texts):
    return [[len(text), text.count("e")] for text in texts]


def sizes(paths):
    return [[path.stat().st_size] for path in paths]


def notes(count: int = 30) -> pd.DataFrame:
    rows = range(count)
    return pd.DataFrame({
        "site": [row // 6 for row in rows],
        "note": ["e" * (row % 4) + str(row) for row in rows],
        "dose": [row * 7 % 11 for row in rows],
        "risk": [row % 4 + 0.1 * row for row in rows],
    })  # fmt: skip


def test_pictures_are_read_at_the_side_of_the_encoder_in_colour(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "birds", list("abcdef"), count=4)
    tasks = il.tasks.open(folder, encoder=PICTURES, n_way=2, n_query=2)
    assert tasks.feature_shape == (3,)
    rows = tasks.train.x
    expected = []
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        expected.append(np.asarray(image).astype(np.float64).mean((0, 1)))
    np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5)
    assert "24 files became 3 features each, by the encoder colours" in tasks.notes


def test_a_large_photograph_is_decoded_smaller_and_looks_the_same(tmp_path: Path) -> None:
    across = np.linspace(0, 255, 800)
    pixels = np.stack(
        [across[None].repeat(600, 0), across[:600, None].repeat(800, 1), np.full((600, 800), 90)], -1
    )
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    whole = Image.open(tmp_path / "large.jpg").resize((50, 50), Image.Resampling.BILINEAR)
    found = picture(tmp_path / "large.jpg", 50)
    assert np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(whole).astype(int)).max() <= 6


def test_damaged_pictures_are_named_or_left_out(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "birds", list("abcdef"), count=4)
    (folder / "a" / "9.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"9\.png"):
        il.tasks.open(folder, encoder=PICTURES, n_way=2, n_query=2)
    tasks = il.tasks.open(folder, encoder=PICTURES, n_way=2, n_query=2, skip_bad=True)
    assert any("1 damaged images were left out" in note for note in tasks.notes)
    assert len(tasks.train.x) == 24


def test_a_function_takes_files_of_any_kind(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "sounds" / name / f"{number}.wav").write_bytes(b"." * (1 + number + 10 * ord(name)))
    with pytest.raises(DataError, match="holds neither tables nor images"):
        il.tasks.open(tmp_path / "sounds", n_way=2)
    tasks = il.tasks.open(tmp_path / "sounds", encoder=sizes, n_way=2, n_query=2)
    expected = [1.0 + number + 10 * ord(name) for name in "abcdef" for number in range(4)]
    assert tasks.train.x.flatten().tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": lengths}, "name their column"),
        ({"text": ["note"]}, "name the encoder"),
        ({"encoder": PICTURES, "text": ["note"]}, "takes pictures"),
        ({"encoder": lengths, "text": ["nothing"]}, "nothing"),
    ],
)
def test_texts_and_their_encoder_go_together(options: dict[str, object], message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        il.tasks.table(notes(), task="site", target="risk", n_support=2, **options)


def test_an_encoder_of_texts_takes_no_files(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "birds", list("abcdef"), count=4)
    with pytest.raises(UsageError, match="takes texts"):
        il.tasks.open(folder, encoder=Encoder("words", "texts", lengths))
    with pytest.raises(UsageError, match="--image-size"):
        il.tasks.open(folder, encoder=PICTURES, image_size=20)


def test_texts_become_features_as_they_come_beside_standardised_columns() -> None:
    frame = notes()
    tasks = il.tasks.table(frame, task="site", target="risk", n_support=2, text=["note"], encoder=lengths)
    assert [column.kind for column in tasks.schema.columns] == ["text", "number"]
    rows = tasks.schema.encode(frame)
    np.testing.assert_array_equal(rows[:, :2], lengths(frame["note"]))
    assert tasks.n_features == 3
    again = Schema.from_config(tasks.schema.to_config())
    assert again == tasks.schema
    np.testing.assert_array_equal(again.encode(frame), rows)


def test_texts_are_read_as_they_are_written(tmp_path: Path) -> None:
    frame = notes()
    frame["note"] = ["007", "1.50", "NA"] * 10
    frame.to_csv(tmp_path / "notes.csv", index=False)
    seen: list[str] = []

    def reading(texts):
        seen.extend(texts)
        return lengths(texts)

    il.tasks.open(
        tmp_path / "notes.csv", task="site", target="risk", n_support=2, text=["note"], encoder=reading
    )
    assert {*seen} == {"007", "1.50", "NA"}


def test_a_row_without_text_is_named() -> None:
    frame = notes()
    frame.loc[4, "note"] = None
    with pytest.raises(DataError, match="no text in column 'note'"):
        il.tasks.table(frame, task="site", target="risk", n_support=2, text=["note"], encoder=lengths)


def test_classes_are_drawn_where_there_is_an_encoder_and_no_task() -> None:
    frame = pd.DataFrame(
        {"note": ["n" + "e" * (row % 12) for row in range(96)], "kind": [f"k{row % 12}" for row in range(96)]}
    )
    tasks = il.tasks.open(frame, text=["note"], target="kind", encoder=lengths)
    assert tasks.train.n_tasks is None
    assert (tasks.train.n_way, tasks.n_features) == (4, 2)


def test_another_encoder_of_the_same_name_is_refused() -> None:
    frame = notes()
    first = Encoder("swapped", "texts", lengths, weights="one")
    tasks = il.tasks.table(frame, task="site", target="risk", n_support=2, text=["note"], encoder=first)
    use(Encoder("swapped", "texts", lengths, weights="two"))
    with pytest.raises(UsageError, match="is not the one of training"):
        tasks.schema.encode(frame)


def test_the_check_looks_at_texts_and_folders_as_training_does(tmp_path: Path) -> None:
    from innerloop.tasks.findings import check

    options = {"task": "site", "target": "risk", "n_support": 2, "text": ["note"], "encoder": lengths}
    report = check(notes(), **options)
    assert report.ok, report.errors
    about = {column["name"]: column["about"] for column in report.understood["columns"]}
    assert about["note"].startswith("text, 2 features by ")
    frame = notes()
    frame.loc[4, "note"] = None
    assert "no text" in check(frame, **options).errors[0].message
    folder = image_folders(tmp_path / "birds", list("abcdef"), count=4)
    assert check(folder, encoder=sizes, n_way=2, n_query=2).ok


@pytest.mark.parametrize(
    "change", [{"encoder": ""}, {"features": 0}, {"features": 10**9}, {"kind": "number"}]
)
def test_a_stored_column_of_texts_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    tasks = il.tasks.table(notes(), task="site", target="risk", n_support=2, text=["note"], encoder=lengths)
    require_sense(tasks.schema)
    column = replace(tasks.schema.columns[0], **change)
    with pytest.raises(ValueError, match="no such encoder"):
        require_sense(replace(tasks.schema, columns=(column,)))
