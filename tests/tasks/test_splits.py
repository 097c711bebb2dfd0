"""Who is in which split: shares, a coarser column, fixed splits, folds; and what is refused."""

import hashlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given

from innerloop import tasks as il_tasks
from innerloop.algorithms import maml
from innerloop.errors import DataError, UsageError
from innerloop.evaluation import evaluate, over_folds
from innerloop.inner import Model
from innerloop.models import mlp
from innerloop.tasks.splits import SPLITS, ByHash, Fold, NoTest, divide, folds, read_split


def patients(count=20, clinics=6):
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(count), 4)
    return pd.DataFrame(
        {"who": [f"p{i:02d}" for i in who], "dose": rng.normal(size=len(who)), "clinic": who % clinics}
    ).assign(risk=lambda frame: frame.dose + rng.normal(size=len(frame)))


ASK = {"task": "who", "target": "risk", "n_support": 2}


def test_all_tasks_of_a_clinic_are_in_one_split() -> None:
    frame = patients()
    tasks = il_tasks.table(frame, **ASK, split_by="clinic")
    clinic = dict(zip(frame.who, frame.clinic, strict=True))
    parts = [{clinic[name] for name in tasks.splits[part]} for part in SPLITS]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 6
    assert sum(map(len, tasks.splits.values())) == 20
    assert [column.name for column in tasks.schema.columns] == ["dose"]
    kept = il_tasks.table(frame, **ASK, split_by="clinic", features=["dose", "clinic"])
    assert kept.n_features == 2


def test_a_task_in_two_clinics_is_named() -> None:
    frame = patients()
    frame.loc[5, "clinic"] = 99
    with pytest.raises(DataError, match=r"task 'p01' has 2 values of 'clinic' \('1', '99'\)"):
        il_tasks.table(frame, **ASK, split_by="clinic")
    with pytest.raises(DataError, match="'clinic' has 2 value"):
        il_tasks.table(patients(clinics=2), **ASK, split_by="clinic")
    with pytest.raises(DataError, match="did you mean 'clinic'"):
        il_tasks.table(patients(), **ASK, split_by="clinik")


def fixed_split(frame: pd.DataFrame) -> pd.DataFrame:
    names = sorted(frame.who.unique())
    return pd.DataFrame({"task": names, "split": (["train", "Train", "val", "test"] * 5)[: len(names)]})


def test_a_split_file_is_followed(tmp_path: Path) -> None:
    frame, path = patients(), tmp_path / "split.csv"
    fixed_split(frame).to_csv(path, index=False)
    for split in (path, str(path), read_split(path)):
        tasks = il_tasks.table(frame, **ASK, split=split)
        assert [len(tasks.splits[part]) for part in SPLITS] == [10, 5, 5]
        assert tasks.splits["test"] == ("p03", "p07", "p11", "p15", "p19")
    small = frame.drop(index=[0, 1, 2])
    assert len(il_tasks.table(small, **ASK, split=path).splits["train"]) == 9, "a dropped task may be named"
    fixed_split(frame).rename(columns={"task": "who"}).to_csv(path, index=False)
    assert len(il_tasks.table(frame, **ASK, split=path).splits["valid"]) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s[:-2], "2 of the tasks in 'who' are in no split: 'p18', 'p19'"),
        (lambda s: pd.concat([s, pd.DataFrame({"task": ["p9"], "split": ["test"]})]), "names 'p9'"),
        (
            lambda s: pd.concat([s, pd.DataFrame({"task": ["p00"], "split": ["test"]})]),
            "'p00' is in the splits",
        ),
        (lambda s: s.assign(split="train"), "'valid' holds none"),
        (lambda s: s.assign(split=s.split.replace("val", "dev")), "split 'dev': write train, valid or test"),
        (lambda s: s.rename(columns={"split": "part"}), "no column 'split'"),
        (lambda s: s.assign(more=1).rename(columns={"task": "name"}), "no column 'task'"),
    ],
)
def test_split_files_that_do_not_fit(tmp_path: Path, change, words: str) -> None:
    path = tmp_path / "split.csv"
    change(fixed_split(patients())).to_csv(path, index=False)
    with pytest.raises(DataError) as caught:
        il_tasks.table(patients(), **ASK, split=path)
    assert words in str(caught.value), str(caught.value)


def test_a_fixed_split_may_name_clinics() -> None:
    split = {"train": [0, 1, 2], "valid": [3], "test": [4, 5]}
    tasks = il_tasks.table(patients(), **ASK, split_by="clinic", split=split)
    assert [len(tasks.splits[part]) for part in SPLITS] == [11, 3, 6]
    with pytest.raises(DataError, match="'9', which is none of the values of 'clinic'"):
        il_tasks.table(patients(), **ASK, split_by="clinic", split={**split, "valid": [3, 9]})
    with pytest.raises(UsageError, match="give train, valid and test"):
        il_tasks.table(patients(), **ASK, split={"train": ["p00"]})


@given(count=st.integers(3, 60), of=st.integers(3, 8), seed=st.integers(0, 9))
def test_folds_test_and_validate_every_name_once(count: int, of: int, seed: int) -> None:
    names = [f"n{i}" for i in range(count)]
    if of > count:
        with pytest.raises(DataError, match="folds or fewer"):
            divide(names, Fold(1, of), seed)
        return
    found = [divide(names, f"{number}/{of}", seed) for number in range(1, of + 1)]
    for parts in found:
        assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    for part in (1, 2):
        assert sorted(np.concatenate([parts[part] for parts in found]).tolist()) == list(range(count))
    sizes = [len(parts[2]) for parts in found]
    assert max(sizes) - min(sizes) <= 1


def test_folds_of_tables_scale_on_their_own_meta_train_and_score_every_task_once() -> None:
    frame = patients()
    learner = maml(mlp(1, [4], 1), loss="mse", inner_steps=1)
    model = Model(learner, learner.init())
    parts = list(folds(4, il_tasks.table, frame, **ASK, split_by="clinic", features=["dose"]))
    for tasks in parts:
        train = frame[frame.who.isin(tasks.splits["train"])]
        assert tasks.schema.columns[0].mean == pytest.approx(train.dose.mean())
    found = [evaluate(model, tasks.test) for tasks in parts]
    whole = over_folds(found)
    assert sorted(whole.ids) == sorted(frame.who.unique())
    assert whole.values["loss"].shape == (20, 2)
    mean, low, high = whole.metric("loss")
    assert low < mean < high
    with pytest.raises(DataError, match="is in two evaluations"):
        over_folds([found[0], found[0]])
    with pytest.raises(DataError, match="different inner steps"):
        over_folds([found[0], found[1].at(0)])
    with pytest.raises(DataError, match="no evaluation"):
        over_folds([])


def test_folds_of_classes() -> None:
    x, label = np.zeros((60, 2)), np.arange(60) // 5
    tested = [t.splits["test"] for t in folds(3, il_tasks.classes, x, label, n_way=2, n_query=2)]
    assert sorted(int(name) for part in tested for name in part) == list(range(12))


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/2", "a/b", "1/", "5"])
def test_folds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="fold"):
        Fold.parse(text)
    with pytest.raises(UsageError, match="3 or more"):
        next(folds(2, il_tasks.table, patients(), **ASK))


@pytest.mark.parametrize(
    ("count", "share", "sizes"),
    [
        (1, 0.15, (1, 0)),
        (2, 0.5, (2, 0)),
        (3, 0.01, (2, 1)),
        (20, 0.15, (17, 3)),
        (20, 0.0, (20, 0)),
        (4, 0.99, (1, 3)),
    ],
)
def test_without_meta_test_tasks_a_share_validates(count: int, share: float, sizes: tuple[int, int]) -> None:
    frame = patients(count)
    tasks = il_tasks.table(frame, **ASK, split=NoTest(share), seed=3)
    assert tuple(len(tasks.splits[part]) for part in SPLITS) == (*sizes, 0)
    assert sorted(sum(tasks.splits.values(), ())) == sorted(frame.who.unique())
    assert tasks.splits == il_tasks.table(frame, **ASK, split=NoTest(share), seed=3).splits


def test_what_cannot_train_without_meta_test_tasks_is_refused() -> None:
    single = patients(3).drop_duplicates("who")
    with pytest.raises(DataError, match=r"has 0 task.s. with two labelled rows or more .*: one is needed"):
        il_tasks.table(single, **ASK, split=NoTest())
    with pytest.raises(UsageError, match=r"share of 1\.0 of the tasks cannot validate"):
        il_tasks.table(patients(), **ASK, split=NoTest(1.0))


def by_hand(name: str, seed: int) -> str:
    """The split of a name: the first 53 bits of the sha256 of seed and name, as a share."""
    place = int(hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()[:16], 16) / 2**64
    return "train" if place < 0.7 else "valid" if place < 0.85 else "test"


def test_a_hash_keeps_every_task_where_it_was() -> None:
    old, new = patients(60), patients(90)
    for seed in (0, 1):
        before, after = (il_tasks.table(frame, **ASK, split="hash", seed=seed).splits for frame in (old, new))
        for part in SPLITS:
            assert set(before[part]) == {name for name in set(old.who) if by_hand(name, seed) == part}
            assert set(before[part]) <= set(after[part])
    first, second = (il_tasks.table(old, **ASK, split="hash", seed=seed).splits for seed in (0, 1))
    assert first != second


def test_a_hash_of_the_coarser_column_keeps_clinics_together() -> None:
    splits = il_tasks.table(patients(80, 40), **ASK, split="hash", split_by="clinic").splits
    for part in SPLITS:
        assert {by_hand(str(int(name[1:]) % 40), 0) for name in splits[part]} == {part}


@given(st.lists(st.text(), min_size=40, max_size=80, unique=True), st.integers(0, 5))
def test_a_hash_does_not_go_by_the_order_of_names(names: list[str], seed: int) -> None:
    assume({by_hand(name, seed) for name in names} == set(SPLITS))
    found = divide(names, "hash", seed)
    turned = divide(names[::-1], ByHash(), seed)
    for one, other in zip(found, turned, strict=True):
        assert {names[i] for i in one} == {names[::-1][i] for i in other}


def test_a_hash_that_leaves_a_split_empty_is_refused() -> None:
    with pytest.raises(DataError, match="none of the 3 tasks falls into split"):
        divide(["a", "b", "c"], "hash", 0)
    with pytest.raises(UsageError, match="three positive shares"):
        divide(["a", "b", "c"], ByHash((0.5, 0.5, 0.5)), 0)
