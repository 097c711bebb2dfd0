"""The functions that make tasks: what is in which split, what an episode holds, and what is refused."""

import math
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import innerloop as il
from innerloop import tasks as front
from innerloop.errors import DataError, UsageError
from innerloop.tasks.sources import RowSource, SupportSize, Targets, stream
from innerloop.tasks.splits import parts
from innerloop.tasks.tables.schema import Schema
from toolkit.oracles import unpadded


def measurements(sizes: list[int], seed: int = 0) -> pd.DataFrame:
    """A table whose column `mark` tells every row from every other."""
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    return pd.DataFrame(
        {
            "site": np.repeat([f"s{i:02d}" for i in range(len(sizes))], sizes),
            "mark": np.arange(count, dtype=float),
            "risk": rng.normal(size=count) + 5,
            "grade": rng.integers(0, 3, count),
        }
    ).sample(frac=1, random_state=1, ignore_index=True)


def marks(schema: Schema, x: torch.Tensor) -> np.ndarray:
    """The column `mark`, the first feature, in natural units."""
    column = schema.columns[0]
    return np.rint(x[..., 0].double().numpy() * column.scale + column.mean).astype(int)


# tables


@pytest.mark.parametrize("count", [3, 4, 7, 20, 142])
def test_splits_are_disjoint_and_complete(count: int) -> None:
    frame = measurements([4] * count)
    tasks = front.table(frame, task="site", target="risk", n_support=2)
    names = [name for part in tasks.splits.values() for name in part]
    assert sorted(names) == sorted(frame.site.unique())
    assert len(set(names)) == count
    assert all(tasks.splits.values())
    assert [s.ids for s in (tasks.train, tasks.valid, tasks.test)] == list(tasks.splits.values())
    assert tasks.splits == front.table(frame, task="site", target="risk", n_support=2).splits
    other = front.table(frame, task="site", target="risk", n_support=2, seed=1)
    assert count < 7 or other.splits != tasks.splits


def test_only_meta_train_decides_the_scale() -> None:
    frame = measurements([5] * 10)
    tasks = front.table(frame, task="site", target="risk", n_support=2)
    held_out = ~frame.site.isin(tasks.splits["train"])
    changed = frame.assign(
        mark=frame.mark.where(~held_out, frame.mark * 100), risk=frame.risk.where(~held_out, frame.risk * 100)
    )
    again = front.table(changed, task="site", target="risk", n_support=2)
    assert again.schema == tasks.schema
    train = frame[~held_out]
    column = tasks.schema.columns[0]
    assert column.mean == pytest.approx(sum(train.mark) / len(train))
    assert column.scale == pytest.approx(math.sqrt(sum((train.mark - column.mean) ** 2) / len(train)))
    assert tasks.schema.target_mean == pytest.approx(sum(train.risk) / len(train))


def test_every_row_keeps_its_own_values() -> None:
    frame = measurements([3, 6, 4, 5, 7])
    tasks = front.table(frame, task="site", target="risk", n_support=2, features=["mark"])
    by_mark = {int(row.mark): row for row in frame.itertuples()}
    for source in (tasks.train, tasks.valid, tasks.test):
        for number, name in enumerate(source.ids):
            rows = slice(source.starts[number], source.starts[number + 1])
            found = marks(tasks.schema, source.x[rows])
            assert sorted(found) == sorted(frame[frame.site == name].mark.astype(int))
            wanted = [by_mark[mark].risk for mark in found]
            np.testing.assert_allclose(tasks.schema.decode(source.y[rows])["prediction"], wanted, rtol=1e-5)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(2, 12), min_size=3, max_size=8),
    low=st.integers(0, 4),
    more=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_evaluation_uses_each_row_once_a_draw(sizes: list[int], low: int, more: int, seed: int) -> None:
    high = max(low + more, 1)
    if max(sizes) <= low:
        return
    frame = measurements(sizes)
    tasks = front.table(frame, task="site", target="risk", n_support=f"{low}-{high}", features=["mark"])
    rows_of = {name: sorted(group.mark.astype(int)) for name, group in frame.groupby("site")}
    for source in (tasks.train, tasks.test):
        seen = Counter()
        for ids, episode in source.fixed(seed):
            for row, name in enumerate(ids):
                seen[name] += 1
                used = [marks(tasks.schema, unpadded(batch, row)[0]).tolist() for batch in episode]
                assert sorted(used[0] + used[1]) == rows_of[name]
                assert min(low, len(rows_of[name]) - 1) <= len(used[0]) <= min(high, len(rows_of[name]) - 1)
        assert seen == Counter(dict.fromkeys(source.ids, 10))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(2, 14), min_size=3, max_size=6),
    n_shot=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_shots_are_exact_for_each_class(sizes: list[int], n_shot: int, seed: int) -> None:
    frame = measurements(sizes, seed)
    if frame.grade.nunique() < 2:
        return
    tasks = front.table(
        frame, task="site", target="grade", kind="classification", n_shot=n_shot, features=["mark"]
    )
    grade = dict(zip(frame.mark.astype(int), frame.grade, strict=True))
    for source in (tasks.train, tasks.valid, tasks.test):
        episode = source.sample(source.n_tasks, stream(seed))
        for row in range(source.n_tasks):
            support, query = (marks(tasks.schema, unpadded(b, row)[0]).tolist() for b in episode)
            assert not set(support) & set(query)
            assert len(query) >= 1
            task = frame[frame.mark.isin(support)].site
            assert task.nunique() == 1
            have = Counter(frame[frame.site == task.iloc[0]].grade)
            given_shots = Counter(grade[mark] for mark in support)
            # a class keeps a query row where it has two or more rows; then a task keeps one row in any case
            wanted = {label: min(n_shot, max(count - 1, 1)) for label, count in have.items()}
            short = sum(wanted.values()) - sum(given_shots.values())
            assert short == (sum(wanted.values()) == sum(have.values()))
            assert all(given_shots[label] <= wanted[label] for label in wanted)


def test_query_rows_of_training_are_limited() -> None:
    tasks = front.table(measurements([50] * 5), task="site", target="risk", n_support=3, n_query=7)
    episode = tasks.train.sample(2, stream(0))
    assert episode.support.x.shape[:2] == (2, 3)
    assert episode.query.x.shape[:2] == (2, 7)


def test_what_is_dropped_is_said() -> None:
    frame = measurements([1, 5, 5, 5, 3])
    frame.loc[frame.mark == 2, "risk"] = np.nan
    tasks = front.table(frame, task="site", target="risk", n_support=3)
    notes = "\n".join(tasks.notes)
    assert "1 of 19 rows have no 'risk' and were dropped" in notes
    assert "1 tasks have fewer than two labelled rows and were dropped: 's00'" in notes
    assert "1 of 4 tasks have fewer than 4 rows" in notes
    assert "regression" in notes
    assert sum(map(len, tasks.splits.values())) == 4


def test_gaps_and_classes_that_meta_train_does_not_have_are_said() -> None:
    frame = measurements([6] * 6)
    splits = front.table(frame, task="site", target="risk", n_support=2).splits
    test = frame.site == splits["test"][0]
    changed = frame.assign(
        mark=frame.mark.where(~test),
        grade=frame.grade.map({0: "low", 1: "mid", 2: "top"}).where(~test, "rare"),
    )
    notes = front.table(changed, task="site", target="grade", n_support=2).notes
    assert any("'mark'" in note and "6 missing" in note for note in notes)
    assert any("no meta-train task has the class 'rare'" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"task": "sit"}, ["'sit'", "'site'"]),
        ({}, {"target": "rsk"}, ["'rsk'", "'risk'"]),
        ({}, {"n_support": 5}, ["'s0", "has 5", "4 or less"]),
        ({"site": ["a", "b"] * 10}, {}, ["2 task(s)", "'a', 'b'"]),
        ({"site": np.arange(20)}, {}, ["0 task(s)"]),
        ({"site": [None, *"abcdefghijklmnopqrs"]}, {}, ["row 0", "no task id"]),
        ({"risk": 1.0}, {"kind": "regression"}, ["1 in every", "nothing to learn"]),
    ],
)
def test_tables_that_cannot_be_used(change: dict, options: dict, words: list[str]) -> None:
    frame = measurements([5] * 4).assign(**change)
    with pytest.raises(DataError) as caught:
        front.table(frame, **{"task": "site", "target": "risk", "n_support": 2, **options})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_arguments_without_meaning() -> None:
    frame = measurements([5] * 4)
    for options in (
        {},
        {"n_support": 2, "n_shot": 1},
        {"n_shot": 1},
        {"n_support": "x"},
        {"n_support": 2, "split": (0.5, 0.5)},
        {"n_support": 2, "split": (0.5, 0.5, 0.5)},
    ):
        with pytest.raises(UsageError):
            front.table(frame, task="site", target="risk", **options)


def test_tasks_by_a_schema_fitted_before() -> None:
    frame = measurements([5] * 6)
    tasks = front.table(frame, task="site", target="risk", n_support=2)
    source = front.from_schema(frame, tasks.schema, tasks.splits["test"], SupportSize(2, 2))
    torch.testing.assert_close(source.x, tasks.test.x, rtol=0, atol=0)
    torch.testing.assert_close(source.y, tasks.test.y, rtol=0, atol=0)
    assert front.from_schema(frame, tasks.schema, None, SupportSize(2, 2)).n_tasks == 6
    with pytest.raises(DataError, match="'nowhere'"):
        front.from_schema(frame, tasks.schema, ["nowhere"], SupportSize(2, 2))


def test_a_file_and_a_polars_frame_give_the_same(tmp_path: Path) -> None:
    import polars

    frame = measurements([5] * 6)
    frame.to_csv(tmp_path / "visits.csv", index=False)
    ours = front.table(frame, task="site", target="risk", n_support=2)
    for other in (tmp_path / "visits.csv", polars.from_dict(frame.to_dict("list"))):
        theirs = front.table(other, task="site", target="risk", n_support=2)
        assert theirs.schema == ours.schema
        assert theirs.splits == ours.splits
    assert (
        repr(ours)
        == "Tasks(table: 6 tasks = 4 train + 1 valid + 1 test, 2 features, regression, n_support=2)"
    )


def test_the_development_tables_load(shared_data: Path) -> None:
    folder = shared_data / "tables"
    schools = front.table(folder / "schools.csv", task="school", target="exam", n_support=10)
    assert (schools.train.n_tasks, schools.n_features, schools.targets.kind) == (97, 27, "regression")
    activity = front.table(folder / "activity.csv", task="user", target="activity", n_shot=3)
    assert (activity.n_outputs, activity.targets.kind) == (6, "classification")
    assert sum(map(len, activity.splits.values())) == 36
    letters = front.class_table(folder / "letters.csv", target="label", n_way=5, n_shot=1)
    assert [len(part) for part in letters.splits.values()] == [16, 5, 5]


# classes


def pictures(rows_a_class: int = 8, n_classes: int = 12) -> tuple[torch.Tensor, np.ndarray]:
    """Rows that hold their own class and number."""
    label = np.repeat(np.arange(n_classes), rows_a_class)
    x = torch.from_numpy(np.stack([label, np.arange(len(label))], 1)).float()
    return x, label


def test_way_shot_and_query_are_exact_and_classes_stay_in_their_split() -> None:
    x, label = pictures()
    tasks = front.classes(x, label, n_way=3, n_shot=2, n_query=4, split=(0.5, 0.25, 0.25))
    assert tasks.n_outputs == 3
    seen = {}
    for name in ("train", "valid", "test"):
        source = getattr(tasks, name)
        allowed = {int(text) for text in tasks.splits[name]}
        numbers = set()
        for episode in [source.sample(20, stream(1)), *(e for _, e in source.fixed(3))]:
            support, query = episode
            assert support.x.shape[1:] == (6, 2)
            assert query.x.shape[1:] == (12, 2)
            for task in range(episode.n_tasks):
                assert Counter(support.y[task].tolist()) == dict.fromkeys(range(3), 2)
                assert Counter(query.y[task].tolist()) == dict.fromkeys(range(3), 4)
                pairs = {
                    (int(y), int(c)) for b in episode for y, c in zip(b.y[task], b.x[task, :, 0], strict=True)
                }
                assert len(pairs) == 3
                numbers |= pairs
                rows = [int(r) for b in episode for r in b.x[task, :, 1]]
                assert len(set(rows)) == 18
        seen[name] = {c for _, c in numbers}
        assert seen[name] == allowed
        assert len(numbers) == 3 * len(allowed), "every class gets every number"
    assert not seen["train"] & seen["valid"]
    assert not seen["train"] & seen["test"]
    assert not seen["valid"] & seen["test"]


def test_groups_stay_together() -> None:
    x, label = pictures(rows_a_class=6, n_classes=24)
    tasks = front.classes(x, label % 4, groups=label // 4, n_way=2, n_query=2, seed=3)
    groups = {name: {c.split("/")[0] for c in part} for name, part in tasks.splits.items()}
    assert not groups["train"] & groups["valid"]
    assert not groups["train"] & groups["test"]
    assert not groups["valid"] & groups["test"]
    assert sum(len(part) for part in tasks.splits.values()) == 24


def test_named_splits_and_their_faults() -> None:
    x, label = pictures(n_classes=6)
    named = {"train": [0, 1], "valid": [2, 3], "test": [5, 4]}
    tasks = front.classes(x, label, n_way=2, n_query=2, split=named)
    assert tasks.splits == {"train": ("0", "1"), "valid": ("2", "3"), "test": ("4", "5")}
    with pytest.raises(DataError, match="'1' is in the splits train and valid"):
        front.classes(x, label, n_way=2, n_query=2, split={**named, "valid": [1, 2]})
    with pytest.raises(DataError, match="names '9', which is none of the classes"):
        front.classes(x, label, n_way=2, n_query=2, split={**named, "valid": [9]})
    with pytest.raises(UsageError, match="train, valid and test"):
        front.classes(x, label, n_way=2, split={"train": [0]})


def test_classes_that_cannot_be_used() -> None:
    x, label = pictures(rows_a_class=8, n_classes=12)
    with pytest.raises(DataError, match="classes of the splits are 8 train, 2 valid, 2 test"):
        front.classes(x, label, n_way=5, n_query=2)
    with pytest.raises(DataError, match=r"class '0' has 8 rows, but n_shot=1 and n_query=15 need 16"):
        front.classes(x, label, n_way=2, split={"train": [0, 1], "valid": [2, 3], "test": [4, 5]})
    with pytest.raises(DataError, match=r"labels has shape \(3,\), expected \(96,\)"):
        front.classes(x, [1, 2, 3])
    with pytest.raises(DataError, match="not finite"):
        front.classes(x / 0, label)
    with pytest.raises(DataError, match="row 0 has no value in labels"):
        front.classes(x, np.where(label == 0, np.nan, label))
    with pytest.raises(DataError, match="give numbers"):
        front.classes(np.array([["a"]]), ["b"])
    with pytest.raises(UsageError):
        front.classes(x, label, n_way=1)
    with pytest.raises(UsageError):
        front.classes(x, label, n_way=2, n_shot=0)


def test_bytes_become_shares_and_the_array_stays() -> None:
    _, label = pictures()
    images = np.full((len(label), 4, 4), 51, dtype=np.uint8)
    images.setflags(write=False)
    tasks = front.classes(images, label, n_way=2, n_query=2)
    torch.testing.assert_close(tasks.train.sample(1, stream(0)).support.x, torch.full((1, 2, 4, 4), 0.2))
    assert tasks.feature_shape == (4, 4)
    with pytest.raises(UsageError, match="feature_shape"):
        _ = tasks.n_features


def test_a_table_of_classes_is_scaled_by_meta_train_classes() -> None:
    frame = pd.DataFrame({"letter": list("abcdefghij") * 6, "size": np.arange(60.0) ** 2, "extra": "x"})
    frame.loc[3, "letter"] = None
    tasks = front.class_table(frame, target="letter", ignore=["extra"], n_way=3, n_query=2)
    train = frame[frame.letter.isin(tasks.splits["train"])]["size"]
    assert tasks.schema.columns[0].mean == pytest.approx(sum(train) / len(train))
    assert tasks.schema.classes == ()
    assert [len(part) for part in tasks.splits.values()] == [4, 3, 3]
    assert "1 of 60 rows" in tasks.notes[0]
    size = {"n_way": 3, "support": SupportSize(1, 1, True), "n_query": 2}
    again = front.classes_from_schema(frame, tasks.schema, tasks.splits["test"], **size)
    for found, wanted in zip(again.sample(4, stream(0)), tasks.test.sample(4, stream(0)), strict=True):
        torch.testing.assert_close(found.x, wanted.x, rtol=0, atol=0)
        assert torch.equal(found.y, wanted.y)
    with pytest.raises(DataError, match="'z'"):
        front.classes_from_schema(frame, tasks.schema, ["z", "a"], **size)
    with pytest.raises(DataError, match="2 table"):
        front.classes_from_schema(frame, tasks.schema, ["a", "b"], **size)


# functions


def test_sinusoids_follow_the_formula() -> None:
    tasks = front.sinusoid(n_support=3, n_query=50)
    episode = tasks.train.sample(200, stream(0))
    assert episode.support.x.shape == (200, 3, 1)
    x = torch.cat([episode.support.x, episode.query.x], 1).double()[..., 0]
    y = torch.cat([episode.support.y, episode.query.y], 1).double()[..., 0]
    assert x.min() >= -5
    assert x.max() <= 5
    # y = a sin x + b cos x with a = A cos(phase), b = -A sin(phase): a linear fit is exact
    basis = torch.stack([x.sin(), x.cos()], -1)
    solution = torch.linalg.lstsq(basis, y[..., None]).solution
    torch.testing.assert_close(basis @ solution, y[..., None], atol=1e-5, rtol=0)
    a, b = solution[:, 0, 0], solution[:, 1, 0]
    amplitude, phase = torch.hypot(a, b), torch.atan2(-b, a)
    assert 0.1 <= amplitude.min() < 0.5
    assert 4.5 < amplitude.max() <= 5.0001
    assert -1e-4 <= phase.min() < 0.2
    assert 2.9 < phase.max() <= math.pi + 1e-4
    square = (5.0**3 - 0.1**3) / (3 * 4.9)
    mean = (0.1 + 5) / 2 * (math.sin(5) / 5) * (2 / math.pi)
    assert tasks.targets.variance[0] == pytest.approx(square / 2 - mean**2, rel=0.02)


def test_functions_are_drawn_again_for_the_same_seed_only() -> None:
    tasks = front.sinusoid(n_support="1-9", n_query=4)
    one, same, other = (tasks.test.sample(3, stream(seed)) for seed in (0, 0, 1))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert one.query.y.sum() != other.query.y.sum()
    sizes = {tasks.train.sample(1, stream(seed)).support.x.shape[1] for seed in range(60)}
    assert sizes == set(range(1, 10))


def test_functions_that_return_no_episode() -> None:
    targets = Targets("regression", 1)
    with pytest.raises(DataError, match="return an Episode"):
        front.function(lambda n, g: n, targets=targets, support=1, feature_shape=(1,))
    one = front.sinusoid(n_support=2).train.sample(1, stream(0))
    with pytest.raises(DataError, match=r"returned \[1\] tasks"):
        front.function(lambda n, g: one, targets=targets, support=2, feature_shape=(1,))


# one data set


class Rows(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if row >= self.count:
            raise IndexError(row)
        return torch.tensor([float(row), 1.0]), row % 3


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1), 0


def used(source: object, seed: int = 0) -> list[int]:
    return [int(v) for _, e in source.fixed(seed) for batch in e for v in batch.x[0, :, 0]]


def test_batches_of_one_data_set_are_disjoint_halves() -> None:
    loader = DataLoader(Rows(100), batch_size=10, shuffle=True)
    before = torch.random.get_rng_state()
    tasks = front.single(loader)
    rows = {name: used(getattr(tasks, name)) for name in ("train", "valid", "test")}
    episode = tasks.train.sample(5, stream(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for found in rows.values():
        assert len(set(found)) == len(found)
    assert len(set(rows["train"]) | set(rows["valid"]) | set(rows["test"])) == sum(map(len, rows.values()))
    assert [len(found) for found in rows.values()] == [70, 10, 10]
    assert episode.support.x.shape == episode.query.x.shape == (5, 5, 2)
    assert episode.support.y.dtype == torch.int64
    assert (episode.support.y == episode.support.x[..., 0].long() % 3).all()
    assert (tasks.targets.kind, tasks.n_outputs, tasks.n_features) == ("classification", 3, 2)


def test_the_recipe_of_the_tutorials_uses_a_batch_twice() -> None:
    episode = front.single(Rows(50), batch_size=8, split="none").train.sample(2, stream(0))
    torch.testing.assert_close(episode.support.x, episode.query.x, rtol=0, atol=0)
    assert episode.support.x.shape == (2, 8, 2)


def test_numbers_and_given_splits() -> None:
    x = np.arange(60.0)[:, None]
    tasks = front.single((x, 2 * x[:, 0]), batch_size=6, test=(x + 100, x[:, 0]))
    assert tasks.targets.kind == "regression"
    assert tasks.train.sample(1, stream(0)).support.y.shape == (1, 3, 1)
    train = used(tasks.train)
    assert min(used(tasks.test)) == 100
    assert len(train) == 48
    assert not set(train) & set(used(tasks.valid))
    spread = [2 * v for v in tasks.train.rows(range(tasks.train.size))[0][:, 0].tolist()]
    assert tasks.targets.variance == pytest.approx((np.var(spread),))
    assert front.single((x, x[:, 0] % 2), batch_size=6).targets.kind == "classification"
    both = front.single(TensorDataset(torch.rand(30, 2), torch.rand(30, 2)), batch_size=4)
    assert both.n_outputs == 2


def test_single_data_sets_that_cannot_be_used() -> None:
    x, y = torch.rand(20, 2), torch.arange(20) % 2
    with pytest.raises(UsageError, match="IterableDataset"):
        front.single(DataLoader(Stream(), batch_size=2))
    with pytest.raises(UsageError, match="batch_size=None"):
        front.single(Rows(20))
    with pytest.raises(UsageError, match="half or none"):
        front.single((x, y), batch_size=4, split="third")
    with pytest.raises(UsageError, match="no data set"):
        front.single(3, batch_size=4)
    with pytest.raises(DataError, match="20 rows and y 19"):
        front.single((x, y[:19]), batch_size=4)
    with pytest.raises(DataError, match="lower batch_size"):
        front.single((x, y), batch_size=19)
    with pytest.raises(DataError, match="one class"):
        front.single((x, y * 0), batch_size=4)
    with pytest.raises(DataError, match="numbered 0, 1, 2"):
        front.single((x, y - 1), batch_size=4)
    with pytest.raises(DataError, match="not finite"):
        front.single((x, y / 0), batch_size=4)
    with pytest.raises(DataError, match="pair"):
        front.single(TensorDataset(x), batch_size=4)


# shares


@given(
    count=st.integers(3, 300),
    first=st.floats(0.01, 0.98),
    second=st.floats(0.01, 0.98),
    seed=st.integers(0, 9),
    least=st.integers(1, 20),
)
def test_parts_cover_everything_once(count: int, first: float, second: float, seed: int, least: int) -> None:
    third = 1 - first - second
    if third <= 0.001:
        return
    found = parts(count, (first, second, third), seed, least=least)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert all(len(part) for part in found)
    if count >= 3 * least and first > 0.5:
        assert all(len(part) >= min(least, 1) for part in found)


def test_a_million_rows_take_no_loop() -> None:
    import time

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"t": np.repeat(np.arange(100_000), 5), "x": rng.normal(size=500_000)})
    frame["y"] = frame.x * 2
    began = time.perf_counter()
    tasks = front.table(frame, task="t", target="y", n_support=2)
    assert time.perf_counter() - began < 10
    assert isinstance(tasks.train, RowSource)
    assert tasks.train.n_tasks == 70_000


@pytest.mark.parametrize("what", ["x", "y"])
def test_rows_of_a_data_set_that_are_not_finite_are_named_before_training(what):
    x = torch.rand(200, 3)
    y = x[:, :1] * 2
    (x if what == "x" else y)[40::20, 0] = float("nan")
    with pytest.raises(
        DataError, match=rf"row \d+0 of the data set \(\d such rows here\) holds a value in {what}"
    ):
        il.tasks.open((x, y), batch_size=20)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    with pytest.raises(DataError, match=f"holds a value in {what} that is not finite"):
        il.tasks.open(loader)


def test_token_numbers_stay_whole_or_the_way_is_told():
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 1)

        def forward(self, x):
            return self.out(self.table(x).mean(-2))

    x = torch.randint(0, 9, (120, 5), generator=torch.Generator().manual_seed(0))
    y = x.float().mean(1, keepdim=True)
    kept = il.tasks.open((x, y), batch_size=10)
    assert kept.train.sample(2, torch.Generator()).support.x.dtype == torch.int64
    learner = il.maml(Words(), loss="mse")
    assert il.meta_train(learner, kept.train, steps=1, device="cpu").skipped == 0
    arrays = il.tasks.open({"x": x.numpy(), "y": y.numpy(), "task": np.arange(120) // 10})
    with pytest.raises(UsageError, match="give token numbers by a Dataset"):
        il.meta_train(learner, arrays.train, steps=1, device="cpu")
