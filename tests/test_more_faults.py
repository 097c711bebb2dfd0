"""Faults of reliability that are no single bad cell: sizes, rare classes, strange memory, files that change.

With tests/test_faults.py this covers F1 to F35; `test_every_fault_has_a_test` holds that.
"""

import io
import re
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import innerloop as il
from innerloop.algorithms.assemble import learner_for
from innerloop.cli import run
from innerloop.errors import DataError, InnerloopError, UsageError
from innerloop.tasks.array_values import read_npz
from innerloop.tasks.findings import check
from innerloop.tasks.recognise import open_tasks
from innerloop.tasks.support import stream
from toolkit.tables import visits

QUICK = ["--steps", "2", "--quiet", "--device", "cpu"]


def test_every_fault_has_a_test() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*faults.py"))
    found = {int(number) for number in re.findall(r'\("(\d+) ', text)}
    for words in re.findall(r"def test_((?:f\d+_(?:and_|to_)?)+)", text):
        numbers = [int(number) for number in re.findall(r"f(\d+)", words)]
        found |= set(range(numbers[0], numbers[-1] + 1)) if "_to_" in words else set(numbers)
    assert found >= set(range(1, 36)), sorted(set(range(1, 36)) - found)


def test_f12_a_class_that_only_the_query_has_counts_as_wrong() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for task in range(12):
        for number, label in enumerate(["a", "b", "rare"]):
            count = 1 if label == "rare" else 8
            rows += [(f"t{task}", number + rng.normal() / 9, label) for _ in range(count)]
    frame = pd.DataFrame(rows, columns=["who", "x", "label"])
    tasks = il.tasks.table(frame, task="who", target="label", n_support=6, labels="per_task")
    run_ = il.meta_train(learner_for(tasks, algorithm="protonet"), tasks.train, steps=40, device="cpu")
    lost = total = 0
    for _, episode in tasks.test.fixed(0):
        shown = torch.nn.functional.one_hot(episode.support.y, 3).amax(1)
        own = run_.model.learner.adapt(run_.model.meta, episode.support)
        guess = run_.model.learner.predict(run_.model.meta, own, episode.query.x).argmax(-1)
        hidden = shown.gather(1, episode.query.y) == 0
        lost += int((guess == episode.query.y)[hidden].sum())
        total += int(hidden.sum())
        assert (shown.gather(1, guess) == 1).all()
    assert total > 0
    assert lost == 0
    found = il.evaluate(run_.model, tasks.test)
    # they are in the score: one of eleven query rows, nearly always
    assert 0.85 < found.metric("accuracy")[0] < 0.97
    assert np.isfinite(found.metric("loss")[0])


def test_f13_a_task_of_one_class_has_no_area_under_the_curve_and_is_counted() -> None:
    frame = visits(tasks=9, rows=8).assign(
        risk=lambda f: np.where((f.dose > 0) & (f.site != "s0"), "yes", "no")
    )
    for site in ("s0", "s1"):
        frame.loc[frame.site == site, "risk"] = "no"
    split = {"train": [f"s{n}" for n in range(4, 9)], "valid": ["s3"], "test": ["s0", "s1", "s2"]}
    tasks = il.tasks.table(frame, task="site", target="risk", n_support=3, split=split)
    model = il.meta_train(learner_for(tasks), tasks.train, steps=2, device="cpu").model
    found = il.evaluate(model, tasks.test)
    assert len(found.ids) == 3
    assert np.isfinite(found.metric("accuracy")[0])


@pytest.mark.parametrize("size", [{"n_shot": 2}, {"n_support": 5}])
def test_f17_one_in_ten_thousand_ends_at_once(size: dict[str, int]) -> None:
    began = time.perf_counter()
    label = np.where(np.arange(40_000) % 10_000 == 3, "rare", "common")
    frame = pd.DataFrame({"site": np.arange(40_000) // 10_000, "dose": np.arange(40_000) % 97, "risk": label})
    tasks = open_tasks(frame, task="site", target="risk", **size)
    for source in (tasks.train, tasks.test):
        episode = source.sample(4, stream(0))
        assert torch.isfinite(episode.support.x).all()
        if "n_shot" in size:
            # a class with one row in a task gives it to the support, and the query goes without
            assert (episode.support.y == 1).any(1).all()
    next(iter(tasks.test.fixed(0)))
    assert check(frame, task="site", target="risk", **size).ok
    assert time.perf_counter() - began < 10


def test_f22_one_task_of_many_rows_is_refused_and_many_columns_are_quick() -> None:
    began = time.perf_counter()
    rows = pd.DataFrame({"site": 1, "dose": np.arange(300_000.0), "risk": np.arange(300_000.0) % 7})
    with pytest.raises(DataError, match=r"1 task\(s\)"):
        open_tasks(rows, task="site", target="risk")
    values = np.random.default_rng(0).normal(size=(40, 10_000)).astype(np.float32)
    wide = pd.DataFrame(values).assign(site=np.arange(40) // 8)
    assert open_tasks(wide, task="site", target="0").n_features == 9_999
    assert time.perf_counter() - began < 30


def test_f22_two_hundred_thousand_tasks_stay_within_four_times_the_data() -> None:
    count = 200_000
    frame = pd.DataFrame({"task": np.repeat(np.arange(count), 2), "x": np.arange(2.0 * count)})
    frame["y"] = np.sin(frame.x)
    tracemalloc.start()
    tasks = il.tasks.table(frame, task="task", target="y", n_support=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # two rows a task: the names of the tasks weigh as much as the rows
    assert peak < 9 * frame.memory_usage(index=False).sum()
    assert tasks.train.sample(32, stream(0)).query.x.shape == (32, 1, 1)


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(48, 3)), rng.normal(size=48), np.repeat(np.arange(8), 6)


@pytest.mark.parametrize(
    "how", ["read-only", "strided", "memmap", "big-endian", "float16", "tensors", "gradient"]
)
def test_f25_arrays_however_they_lie_in_memory(how: str, tmp_path: Path) -> None:
    x, y, task = arrays()
    plain = open_tasks({"x": x, "y": y, "task": task})
    if how == "read-only":
        x.setflags(write=False)
    elif how == "strided":
        x = np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2]
    elif how == "memmap":
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif how == "big-endian":
        x = x.astype(">f8")
    elif how == "float16":
        x = x.astype(np.float16)
    elif how == "tensors":
        x, y, task = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(task)
    else:
        x = torch.from_numpy(x).requires_grad_()
    before = np.array(x.detach().numpy() if isinstance(x, torch.Tensor) else x)
    tasks = open_tasks({"x": x, "y": y, "task": task})
    assert tasks.splits == plain.splits
    torch.testing.assert_close(tasks.train.x, plain.train.x, atol=2e-3, rtol=0)
    np.testing.assert_array_equal(np.array(x.detach().numpy() if isinstance(x, torch.Tensor) else x), before)


def test_f25_sparse_and_object_arrays_are_refused_with_the_way_out() -> None:
    x, y, task = arrays()
    for sparse in (scipy.sparse.csr_matrix(x), torch.from_numpy(x).to_sparse()):
        with pytest.raises(DataError, match="sparse"):
            open_tasks({"x": sparse, "y": y, "task": task})


def test_f28_labels_that_spreadsheets_would_run_are_marked_in_our_output(tmp_path: Path) -> None:
    frame = visits(tasks=9, rows=8).assign(risk=lambda f: np.where(f.dose > 0, "=HYPERLINK(1)", "@bad"))
    frame.to_csv(tmp_path / "a.csv", index=False)
    words = ["--task", "site", "--target", "risk", "--out", str(tmp_path / "run")]
    assert run(["train", str(tmp_path / "a.csv"), *words, *QUICK]) == 0
    frame["risk"] = frame.risk.where(np.arange(len(frame)) % 2 == 0)
    frame.to_csv(tmp_path / "a.csv", index=False)
    out = tmp_path / "b.csv"
    assert run(["predict", str(tmp_path / "run"), str(tmp_path / "a.csv"), "--out", str(out), "--quiet"]) == 0
    found = pd.read_csv(out)
    assert set(found.prediction.dropna()) <= {"'=HYPERLINK(1)", "'@bad"}
    assert not any(name[0] in "=+-@" for name in found.columns)
    # what the user wrote stays as it was
    assert set(found.risk.dropna()) == {"=HYPERLINK(1)", "@bad"}


def test_f30_files_that_change_or_go_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    visits(tasks=9, rows=8).to_csv(path, index=False)
    whole = path.read_bytes()
    from innerloop.tasks.tables import delimited

    # gone between being seen and being read
    real = delimited.read_bytes
    monkeypatch.setattr(delimited, "read_bytes", lambda p, **k: (p.unlink(), real(p, **k))[1])
    with pytest.raises(DataError, match=r"a\.csv"):
        open_tasks(path, task="site", target="risk")
    # cut short while it was written: what is there is used or the line is named, never a traceback
    monkeypatch.undo()
    for length in range(0, len(whole), 331):
        path.write_bytes(whole[:length])
        try:
            open_tasks(path, task="site", target="risk", n_support=1)
        except (DataError, UsageError) as error:
            assert len(str(error)) > 15  # noqa: PT017, both outcomes are right
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="neither tables nor images"):
        open_tasks(tmp_path / "folder.csv", task="site", target="risk")


def test_f31_two_thousand_files_and_folders_of_nothing(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"t{number}.csv").write_text(f"dose,risk\n1,2\n3,{number}\n5,6.5\n")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "empty" / "nested").mkdir(parents=True)
    began = time.perf_counter()
    tasks = open_tasks(tmp_path, target="risk", n_support=1)
    assert time.perf_counter() - began < 15
    assert sum(map(len, tasks.splits.values())) == 2000
    assert any("1 files or folders in" in note for note in tasks.notes)


def bomb(size: int) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        entry.write(head.getvalue())
        for _ in range(size // 2**24):
            entry.write(bytes(2**24))
    return packed.getvalue()


def test_f32_an_npz_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(bomb(2**29))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpacks to 536,\d+,\d+.*numpy.savez"):
        open_tasks(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
    _, y, task = arrays()
    np.savez_compressed(tmp_path / "good.npz", x=np.zeros((48, 1000)), y=y, task=task)
    assert read_npz(tmp_path / "good.npz")["x"].shape == (48, 1000)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.hdf5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        ("a.csv", b"\x89HDF\r\n\x1a\n", "images as files in a folder a class"),
        ("cache.pkl", b"\x80\4.", "can run code"),
    ],
)
def test_f34_what_other_libraries_keep_images_in_is_named_with_the_way_out(
    name: str, data: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=words):
        open_tasks(tmp_path / name, task="site", target="risk")


def test_a_table_without_a_target_value_says_so() -> None:
    frame = visits(tasks=9, rows=8).assign(risk=np.nan)
    with pytest.raises(
        InnerloopError, match=r"none of the 72 rows has a value in the target 'risk'.*predict"
    ):
        open_tasks(frame, task="site", target="risk")
    report = check(frame, task="site", target="risk")
    assert [each.column for each in report.errors] == ["risk"]
