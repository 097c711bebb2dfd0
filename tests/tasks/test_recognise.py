"""What is recognised without a spec file, and that it becomes the tasks it should."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import innerloop as il
import toolkit.tables
from innerloop.errors import DataError, UsageError
from innerloop.tasks.episodes import Batch, Episode
from innerloop.tasks.images import read_images
from innerloop.tasks.recognise import open_tasks, recognise
from innerloop.tasks.support import stream
from innerloop.tasks.tables.dates import days
from innerloop.tasks.tables.reading import read_table
from innerloop.tasks.tables.schema import Schema
from toolkit.folders import image_folders, table_folder

visits = partial(toolkit.tables.visits, risk=lambda frame: frame.dose**2, other=lambda frame: frame.dose - 1)


# tables


def test_a_table_is_the_same_tasks_from_every_layout(tmp_path: Path) -> None:
    import polars
    import pyarrow

    frame = visits()
    frame.to_csv(tmp_path / "visits.csv", index=False)
    frame.to_parquet(tmp_path / "visits.parquet", index=False)
    frame.set_index("site").to_parquet(tmp_path / "indexed.parquet")
    folder = table_folder(tmp_path / "sites", frame, "site")
    wanted = il.tasks.table(frame, task="site", target="risk", n_support=3)
    paths = [tmp_path / name for name in ("visits.csv", "visits.parquet", "indexed.parquet")]
    others = [polars.from_pandas(frame), pyarrow.Table.from_pandas(frame)]
    for data in [*paths, *map(str, paths), folder, frame, *others]:
        found = il.tasks.open(data, task="site", target="risk")
        assert found.splits == wanted.splits
        assert found.schema == wanted.schema
        torch.testing.assert_close(found.train.x, wanted.train.x, rtol=0, atol=0)


def test_a_folder_of_tables_needs_no_task_column_and_names_the_file(tmp_path: Path) -> None:
    folder = table_folder(tmp_path / "sites", visits(), "site")
    (folder / ".DS_Store").write_bytes(b"\0\1")
    (folder / "read.me").write_text("hello")
    tasks = open_tasks(folder, target="risk")
    assert tasks.schema.task == "task"
    assert sum(map(len, tasks.splits.values())) == 8
    assert any("1 files or folders" in note for note in tasks.notes)
    (folder / "s3.csv").write_text("dose,risk,other\n1,2,3\nmuch,2,3\n")
    with pytest.raises(DataError, match=r"task 's3', line 3 of s3.csv: 'much' in column 'dose'"):
        open_tasks(folder, target="risk")
    (folder / "s3.csv").write_text("dose,rsk,other\n1,2,3\n")
    with pytest.raises(DataError, match=r"s3.csv lacks 'risk' and has 'rsk', which most files lack"):
        open_tasks(folder, target="risk")


def test_files_with_columns_in_another_order_and_quotes_are_one_table(tmp_path: Path) -> None:
    frame = visits()
    folder = table_folder(tmp_path / "sites", frame, "site")
    part = frame[frame.site == "s1"]
    part[["other", "risk", "dose"]].to_csv(folder / "s1.csv", index=False)
    text = (folder / "s2.csv").read_text().replace("dose,", '"dose",')
    (folder / "s2.csv").write_text(text)
    found = read_table(folder, task="site")
    pd.testing.assert_frame_equal(found.reset_index(drop=True), frame, check_dtype=False)
    assert found.index[0] == "2 of s0.csv"


def test_parts_of_one_table_keep_its_task_column(tmp_path: Path) -> None:
    frame = visits()
    (tmp_path / "months").mkdir()
    frame[::2].to_csv(tmp_path / "months" / "january.csv", index=False)
    frame[1::2].to_csv(tmp_path / "months" / "february.csv", index=False)
    found = open_tasks(tmp_path / "months", task="site", target="risk")
    assert sum(map(len, found.splits.values())) == 8
    assert "one table" in found.notes[0]


def test_options_that_are_missing_or_mean_nothing(tmp_path: Path) -> None:
    frame = visits()
    with pytest.raises(UsageError, match=r"--target COLUMN.*'site', 'dose', 'risk'"):
        open_tasks(frame, task="site")
    with pytest.raises(UsageError, match=r"--task COLUMN.*'site'"):
        open_tasks(frame, target="risk")
    with pytest.raises(UsageError, match="leave --task out"):
        open_tasks(frame, task="site", target="risk", n_way=2)
    with pytest.raises(UsageError, match="--image-size has no meaning for table"):
        open_tasks(frame, task="site", target="risk", image_size=3)
    with pytest.raises(DataError, match="a int is nothing"):
        open_tasks(3)


# columns


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (["2024-01-01", "2024-01-31", "2024-03-01"], ("ISO",)),
        (["2024-01-01T12:30", "2024-01-31 08:00:00", None], ("ISO",)),
        (["1.1.2024", "31.01.2024", "1.3.2024"], ("%d.%m.%Y",)),
        (["01/01/2024", "31/01/2024", "01/03/2024"], ("%d/%m/%Y",)),
        (["01/01/2024", "01/31/2024", "03/01/2024"], ("%m/%d/%Y",)),
        (pd.to_datetime(["2024-01-01", "2024-01-31", "2024-03-01"]), ("ISO",)),
    ],
)
def test_dates_become_days(written: object, wanted: tuple[str, ...]) -> None:
    frame = pd.DataFrame({"t": list("aab"), "when": written, "y": [1.0, 2.0, 4.0]})
    schema = Schema.fit(frame, task="t", target="y")
    column = schema.columns[0]
    assert (column.kind, column.formats) == ("date", wanted)
    back = schema.encode(frame)[:2, 0] * column.scale + column.mean
    days_between = 30 - (12.5 - 8) / 24 if "T12:30" in str(written) else 30
    assert back[1] - back[0] == pytest.approx(days_between, abs=2e-3)


def test_unclear_dates_are_refused_with_the_option_that_helps() -> None:
    frame = pd.DataFrame({"t": list("aabb"), "when": ["01/02/2024"] * 4, "y": [1.0, 2, 3, 5]})
    with pytest.raises(DataError, match=r"day/month/year or month/day/year.*--date-format %d/%m/%Y or"):
        Schema.fit(frame, task="t", target="y")
    schema = Schema.fit(frame, task="t", target="y", date_format=["%d/%m/%Y"])
    assert schema.columns[0].mean == days("2024-02-01")
    frame["when"] = ["2024-01-01", "2024-01-02", "31.01.2024", "2024-01-04"]
    with pytest.raises(DataError, match=r"row 2: '31.01.2024'.*--date-format %Y-%m-%d,%d.%m.%Y"):
        Schema.fit(frame, task="t", target="y")
    both = Schema.fit(frame, task="t", target="y", date_format=["%Y-%m-%d", "%d.%m.%Y"])
    assert both.columns[0].formats == ("ISO", "%d.%m.%Y")
    frame["when"] = ["2024-01-01", "2024-01-02", "soon", "2024-01-04"]
    with pytest.raises(DataError, match="'soon' in column 'when' is not a date"):
        Schema.fit(frame, task="t", target="y")
    with pytest.raises(DataError, match="is not a date"):
        both.encode(frame)


def test_several_targets_come_back_in_their_own_units() -> None:
    frame = visits()
    tasks = open_tasks(frame, task="site", target=["risk", "other"])
    assert (tasks.n_outputs, tasks.n_features, tasks.targets.kind) == (2, 1, "regression")
    assert tasks.train.y.shape[1] == 2
    schema = Schema.from_config(tasks.schema.to_config())
    assert schema == tasks.schema
    found = schema.decode(schema.encode_target(frame))
    for name in ("risk", "other"):
        np.testing.assert_allclose(found[f"prediction_{name}"], frame[name], atol=1e-5)
    frame.loc[0, "other"] = np.nan
    assert schema.labelled(frame).tolist() == [False] + [True] * 47
    with pytest.raises(UsageError, match="are numbers, not classes"):
        open_tasks(frame, task="site", target=["risk", "other"], kind="classification")


def test_columns_constant_in_each_task_are_named() -> None:
    frame = visits()
    frame["age"] = frame.groupby("site").ngroup() % 5
    frame["one"] = 1
    tasks = open_tasks(frame, task="site", target="risk")
    assert tasks.schema.task_columns == ("age",)
    assert "task columns, constant within every task: 'age'" in tasks.notes


# arrays


def test_arrays_and_npz_are_tasks(tmp_path: Path) -> None:
    frame = visits()
    data = {"x": frame[["dose"]].to_numpy(), "y": frame.risk.to_numpy(), "task": frame.site.to_numpy(str)}
    np.savez(tmp_path / "visits.npz", **data)
    for found in (open_tasks(data), open_tasks(tmp_path / "visits.npz"), il.tasks.arrays(**data)):
        wanted = il.tasks.table(frame[["site", "dose", "risk"]], task="site", target="risk", n_support=3)
        torch.testing.assert_close(found.train.x, wanted.train.x, rtol=0, atol=0)
        assert found.splits == wanted.splits
    episodes = open_tasks({"x": np.arange(60.0)[:, None], "label": np.arange(60) // 6, "group": None})
    assert (episodes.n_outputs, episodes.train.n_query) == (3, 5)
    with pytest.raises(DataError, match="found 'a', 'b'"):
        open_tasks({"a": 1, "b": 2})


def test_rows_of_any_shape_stay_with_their_task() -> None:
    x = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), dtype=np.uint8)
    tasks = open_tasks({"x": x, "y": np.arange(40) % 2, "task": np.arange(40) // 8})
    assert tasks.feature_shape == (1, 4, 4)
    for source in (tasks.train, tasks.valid, tasks.test):
        for number, name in enumerate(source.ids):
            rows = source.x[source.starts[number] : source.starts[number + 1], 0, 0, 0] * 255
            assert rows.round().int().sort().values.tolist() == list(range(8 * int(name), 8 * int(name) + 8))


# images


def test_folders_of_classes_and_of_alphabets_are_episodes(tmp_path: Path) -> None:
    plain = image_folders(tmp_path / "plain", [f"c{number}" for number in range(9)])
    tasks = open_tasks(plain, n_way=3, n_query=2)
    assert (tasks.n_outputs, tasks.feature_shape) == (3, (1, 20, 20))
    assert sum(map(len, tasks.splits.values())) == 9
    grouped = image_folders(tmp_path / "grouped", [f"a{a}/c{c}" for a in range(4) for c in range(3)])
    tasks = open_tasks(grouped)
    assert {name.split("/")[0] for name in tasks.splits["train"]}.isdisjoint(
        name.split("/")[0] for name in tasks.splits["test"]
    )
    assert (tasks.n_outputs, tasks.train.n_query) == (3, 3)
    assert any("--labels shared" in note for note in tasks.notes)


def test_a_folder_can_be_a_task_with_shared_classes(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "sites", [f"site{a}/{c}" for a in range(5) for c in ("ill", "well")])
    tasks = open_tasks(folder, labels="shared")
    assert (tasks.n_outputs, tasks.feature_shape) == (2, (1, 20, 20))
    assert sum(map(len, tasks.splits.values())) == 5
    assert any("0 is 'ill', 1 is 'well'" in note for note in tasks.notes)


def test_folders_that_say_the_split_are_believed(tmp_path: Path) -> None:
    names = [f"{part}/c{n}" for part, ns in {"train": "012", "val": "34", "test": "56"}.items() for n in ns]
    tasks = open_tasks(image_folders(tmp_path / "set", names), n_way=2, n_query=2)
    assert tasks.splits == {"train": ("c0", "c1", "c2"), "valid": ("c3", "c4"), "test": ("c5", "c6")}
    with pytest.raises(DataError, match=r"test, train but not valid"):
        open_tasks(image_folders(tmp_path / "two", ["train/a", "test/b"]))


def test_pictures_of_every_mode_become_squares_by_the_rule(tmp_path: Path) -> None:
    red = np.zeros((10, 30, 3), dtype=np.uint8)
    red[..., 0] = 255
    colour = Image.fromarray(red)
    clear = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    turned = Image.new("L", (40, 20))
    turned.paste(255, (0, 0, 40, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "rgb.png": colour, "clear.png": clear, "palette.gif": colour.convert("P"),
        "ink.jpg": colour.convert("CMYK"),
        "one.bmp": turned.convert("1"),
        "wide.tiff": Image.fromarray(np.full((20, 20), 65535, dtype=np.uint16)),
        "dot.webp": Image.new("RGB", (1, 1), "blue"), "line.png": Image.new("L", (1, 600), 9),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name)
    turned.save(tmp_path / "turned.jpg", exif=exif)
    paths = [tmp_path / name for name in [*files, "turned.jpg"]]
    found = read_images(paths, size=16)
    assert found.x.shape == (9, 3, 16, 16)
    assert found.x.dtype == np.uint8
    by_name = dict(zip([path.name for path in paths], found.x, strict=True))
    for name in ("rgb.png", "palette.gif"):
        assert by_name[name].mean((1, 2)).tolist() == [255, 0, 0]
    assert by_name["clear.png"].min() == 255
    assert by_name["wide.tiff"].min() == 255
    assert by_name["dot.webp"][2].min() > 200
    # turned by a quarter, what was the upper half is the right half
    assert by_name["turned.jpg"][0, :, 12:].min() > 200
    assert by_name["turned.jpg"][0, :, :4].max() < 55
    grey = read_images([tmp_path / "line.png", tmp_path / "wide.tiff", tmp_path / "one.bmp"])
    assert grey.x.shape[1:] == (1, 20, 20)


# torch


class Digits(Dataset):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row >= 60:
            raise IndexError(row)
        return Image.new("L", (6, 6), row), row % 10


def test_data_sets_and_loaders() -> None:
    x, y = torch.rand(60, 3), torch.arange(60) % 10
    before = torch.random.get_rng_state()
    tasks = open_tasks(Digits())
    assert (tasks.n_outputs, tasks.feature_shape, tasks.train.n_query) == (3, (1, 6, 6), 5)
    assert open_tasks(TensorDataset(x, y), n_way=2).n_outputs == 2
    assert recognise((x, y)) == "data set"
    assert open_tasks((x, y), batch_size=6).train.batch_size == 6
    assert open_tasks(DataLoader(TensorDataset(x, y), batch_size=6)).train.batch_size == 6
    with pytest.raises(UsageError, match="batch_size="):
        open_tasks((x, x[:, 0]))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_functions_of_one_episode_and_of_many() -> None:
    def one(generator: torch.Generator) -> Episode:
        x = torch.rand(9, 2, generator=generator)
        y = (x.sum(1) > torch.rand(1, generator=generator)).long()
        return Episode(Batch(x[:4], y[:4]), Batch(x[4:], y[4:]))

    tasks = open_tasks(one)
    assert (tasks.n_outputs, tasks.feature_shape, tasks.train.support.high) == (2, (2,), 4)
    first, again = (tasks.train.sample(3, stream(5)) for _ in range(2))
    assert first.query.x.shape == (3, 5, 2)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    many = open_tasks(tasks.train.sample)
    assert many.n_outputs == 2
    for wrong in (lambda generator: 3, lambda count, generator: 3, lambda: 3, lambda a, b, c: 3):
        with pytest.raises(DataError, match=r"Episode|arguments"):
            open_tasks(wrong)


def test_what_is_there_already_is_not_waited_for(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "set", [f"c{number}" for number in range(6)])
    (folder / "c0" / "loop").symlink_to(folder)
    os.mkfifo(folder / "c0" / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_tasks(folder)
    os.remove(folder / "c0" / "pipe.png")
    assert open_tasks(folder).n_outputs == 2
    image_folders(folder, ["c0/deep"])
    with pytest.raises(DataError, match=r"c0/0.png is not in a folder of its class as others are"):
        open_tasks(folder)


def test_an_object_for_each_task_is_told_how_to_become_one_for_all() -> None:
    frame = pd.DataFrame(
        {"who": [f"p{i // 8}" for i in range(48)], "x": range(48), "y": [i % 7 for i in range(48)]}
    )
    pairs = [(np.random.default_rng(n).normal(size=(8, 2)), np.ones((8, 1))) for n in range(6)]
    for data, sentence in [
        ([part for _, part in frame.groupby("who")], r"pandas.concat\(frames\)"),
        (dict(iter(frame.groupby("who"))), r"reset_index\('task'\)"),
        (frame.groupby("who"), "the one frame it was made of"),
        (frame.to_dict("list"), r"pandas.DataFrame\(data\)"),
        (pairs, "numpy.concatenate"),
        (dict(enumerate(pairs)), "numpy.repeat"),
    ]:
        with pytest.raises(DataError, match=sentence):
            open_tasks(data, task="who", target="y")
    # the sentences are true
    parts = {name: part.drop(columns="who") for name, part in frame.groupby("who")}
    whole = pd.concat(parts, names=["task"]).reset_index("task")
    assert len(open_tasks(whole, target="y", task="task", kind="regression").splits["train"]) == 4
    assert open_tasks({"x": [[1.0], [2.0]] * 12, "y": [0.1, 0.2] * 12, "task": [n // 4 for n in range(24)]})
