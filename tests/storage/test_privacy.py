"""What a model directory holds of people: every file is searched for the ids and the values of the table."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.errors import DataError
from innerloop.storage.membership import digest, hashed
from innerloop.storage.privacy import holdings
from innerloop.storage.save import unsaved
from toolkit.commands import printed_by


def people(seed=0, classes=False):
    """A table whose ids and values can be told from anything else that a file holds."""
    draw = np.random.default_rng(seed)
    count, size = 30, 8
    ids = [f"patient-{number:08d}" for number in draw.choice(10**8, count, replace=False)]
    who = np.repeat(ids, size)
    # far from anything else that is written, such as places in a drawing
    dose = draw.uniform(2e5, 9e5, count * size).round(2)
    level = draw.normal(size=count).repeat(size)
    risk = (3e6 + 2 * dose + 1e5 * level + 3e4 * draw.normal(size=len(dose))).round(2)
    drug = draw.choice(["alpha", "beta"], len(dose)).astype(object)
    drug[3], drug[200] = "rarelevelone", "rareleveltwo"
    target = np.where(risk > np.median(risk), "high", "low") if classes else risk
    return pd.DataFrame({"patient": who, "dose": dose, "drug": drug, "risk": target})


def written(frame, tmp_path, *options):
    """The directory that `train` leaves of a table."""
    table = tmp_path / "people.csv"
    frame.to_csv(table, index=False)
    return [
        "train",
        table,
        "--task",
        "patient",
        "--target",
        "risk",
        "--n-support",
        "3",
        "--out",
        tmp_path / "run",
        *options,
    ]


NAMES = ["rarelevelone", "rareleveltwo"]


def found_in(folder: Path, frame: pd.DataFrame) -> list[str]:
    """Ids, rare names and values of the table that stand in a file of the folder, as text or as binary numbers."""
    values = np.sort(np.concatenate([frame[name] for name in ("dose", "risk") if frame[name].dtype == float]))
    encoded = np.unique(il.load(folder).schema.encode(frame)[:, 0])
    hits = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        # the numbers of a picture are a download within the page
        data += b"\n".join(base64.b64decode(part) for part in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data))
        hits += [
            f"{name} in {path.name}" for name in (*frame["patient"].unique(), *NAMES) if name.encode() in data
        ]
        if path.suffix == ".safetensors":
            binary = [values.astype(np.float32), values.astype(np.float64), encoded.astype(np.float32)]
            hits += [
                f"{value} in {path.name}" for kind in binary for value in kind if value.tobytes() in data
            ]
            continue
        written = np.array([float(word) for word in re.findall(rb"\d+\.\d+", data)] or [0.0])
        place = np.clip(np.searchsorted(values, written), 1, len(values) - 1)
        gap = np.minimum(np.abs(values[place] - written), np.abs(values[place - 1] - written))
        # single precision has seven digits
        hits += [f"{number} in {path.name}" for number in written[gap <= 2e-7 * written]]
    return hits


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("algorithm", ["mixed", "maml"])
def test_no_file_of_a_directory_holds_an_id_or_a_value(tmp_path, capsys, algorithm, classes):
    pytest.importorskip("matplotlib")
    frame = people(classes=classes)
    steps = () if algorithm == "mixed" and not classes else ("--steps", "3")
    assert printed_by(capsys, *written(frame, tmp_path, "--algorithm", algorithm, *steps))[0] == 0
    folder = tmp_path / "run"
    assert found_in(folder, frame) == []
    every = {"config.json", "log.jsonl", "model.safetensors", "report.html"}
    assert {path.name for path in folder.iterdir()} >= every


@pytest.mark.usefixtures("pages")
def test_the_search_finds_what_is_there(tmp_path, capsys):
    """With everything asked for, ids and rows stand in the page and in the configuration."""
    pytest.importorskip("matplotlib")
    frame = people()
    options = ("--algorithm", "mixed", "--report-rows", "--keep-ids", "--rare", "0")
    assert printed_by(capsys, *written(frame, tmp_path, *options))[0] == 0
    hits = found_in(tmp_path / "run", frame)
    assert any("patient-" in hit and "config.json" in hit for hit in hits)
    assert any("patient-" in hit and "report.html" in hit for hit in hits)
    assert any("rarelevelone" in hit for hit in hits)
    assert any(hit[0].isdigit() and "report.html" in hit for hit in hits)
    assert holdings(il.load(tmp_path / "run"))[0].verbatim


def test_membership_is_told_without_the_ids(tmp_path, capsys):
    frame = people()
    assert printed_by(capsys, *written(frame, tmp_path, "--algorithm", "mixed"))[0] == 0
    stored = il.load(tmp_path / "run")
    tasks = il.tasks.table(frame, task="patient", target="risk", n_support=3)
    for part, names in tasks.splits.items():
        assert {stored.split_of(name) for name in names} == {part}
    assert stored.split_of("patient-x") is None
    seen = tasks.splits["train"][0]
    assert stored.resembles_trained(f" {seen.upper()}")
    assert not stored.resembles_trained(tasks.splits["test"][0])
    # another table with trained tasks, one of them written otherwise, and a new one
    other = frame[frame["patient"].isin([*tasks.splits["train"][:3], *tasks.splits["test"]])].copy()
    other["patient"] = other["patient"].replace(seen, seen.upper())
    other.to_csv(tmp_path / "other.csv", index=False)
    code, out, err = printed_by(
        capsys, "evaluate", tmp_path / "run", tmp_path / "other.csv", "--report", "none"
    )
    assert code == 0
    assert "2 tasks of" in err
    assert "were trained on and are left out" in err
    assert "1 tasks of" in err
    assert "look like tasks that were trained on" in err
    assert f"{len(tasks.splits['test'])} held-out tasks" in out


def test_hashes_are_salted_and_equal_runs_leave_equal_ones():
    one, again = hashed({"train": ["b", "a"], "test": ["c"]}), hashed({"train": ["a", "b"], "test": ["c"]})
    assert one == again
    other = hashed({"train": ["a", "b"], "test": ["d"]})
    assert not {*one.splits["train"]} & {*other.splits["train"]}
    assert one.splits["train"] == sorted(digest(one.salt, name) for name in "ab")


def test_rare_levels_are_taken_together_and_said(tmp_path):
    frame = people()
    tasks = il.tasks.table(frame, task="patient", target="risk", n_support=3)
    (column,) = (column for column in tasks.schema.columns if column.name == "drug")
    train = frame[frame["patient"].isin(tasks.splits["train"])]
    per_level = train.groupby("drug")["patient"].nunique()
    assert column.levels == tuple(per_level.index[per_level >= 5])
    assert column.merged == (per_level < 5).sum() > 0
    assert any("levels of 'drug' are in fewer than 5 tasks of meta-train" in note for note in tasks.notes)
    assert not any("rarelevel" in note for note in tasks.notes)
    encoded = tasks.schema.encode(frame)
    assert (encoded[[3, 200], 1:] == 0).all()
    kept = il.tasks.table(frame, task="patient", target="risk", n_support=3, rare=0)
    assert kept.schema.n_features > tasks.schema.n_features
    # of a table of few tasks, a level that all of them have stays
    few = frame[frame["patient"].isin(frame["patient"].unique()[4:8])]
    assert il.tasks.table(few, task="patient", target="risk", n_support=3).schema.columns[1].levels == (
        "alpha",
        "beta",
    )


def test_a_table_of_nothing_but_rare_levels_is_refused():
    frame = pd.DataFrame(
        {"who": np.arange(40) // 4, "word": [f"w{n}" for n in range(40)], "y": np.arange(40.0)}
    )
    with pytest.raises(DataError, match="every level of 'word' is in fewer than 5 tasks"):
        il.tasks.table(frame, task="who", target="y", n_support=2)


def test_the_command_lists_what_a_directory_holds(tmp_path, capsys):
    frame = people()
    assert printed_by(capsys, *written(frame, tmp_path, "--algorithm", "mixed"))[0] == 0
    code, out, _ = printed_by(capsys, "inspect", tmp_path / "run", "--privacy")
    assert code == 0
    assert "no row of the data" in out
    assert "30 as salted hashes" in out
    assert "alpha, beta" in out
    listed = json.loads(printed_by(capsys, "inspect", tmp_path / "run", "--privacy", "--json")[1])["holdings"]
    assert [entry["what"] for entry in listed if entry["verbatim"]] == [
        "names of columns", "levels of drug", "where the data was",
    ]  # fmt: skip
    # an adapted directory holds the ids of its tasks, which it is asked by
    adapt = printed_by(
        capsys, "adapt", tmp_path / "run", tmp_path / "people.csv", "--out", tmp_path / "adapted"
    )
    assert adapt[0] == 0
    held = {each.what: each for each in holdings(il.load(tmp_path / "adapted"))}
    assert held["ids of adapted tasks"].verbatim
    assert "head/weights" in held["adapted values"].about


def test_a_directory_from_before_names_its_tasks(tmp_path):
    """Without a salt the ids stand as they are, and membership is told by them."""
    learner = il.mixed(1)
    splits = {"train": ["A1"], "valid": ["b"], "test": ["c"]}
    path = il.save(tmp_path / "old", il.Model(learner, learner.init()), splits=splits, keep_ids=True)
    config = json.loads((path / "config.json").read_text())
    for later in ("salt", "alike", "mixed"):
        assert config.pop(later) is None
    from innerloop.storage.manifest import seal

    contents = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}
    contents["config.json"] = json.dumps(config).encode()
    for name, data in seal(contents).items():
        (path / name).write_bytes(data)
    stored = il.load(path)
    assert stored.split_of("A1") == "train"
    assert stored.resembles_trained("a1")
    assert {each.what: each.verbatim for each in holdings(stored)}["ids of tasks"]


def test_classes_are_told_by_name_and_a_single_row_is_its_mean():
    learner = il.two_covariance(2, 2)
    tasks = il.tasks.classes(np.eye(24, 2), list("abcdefghijkl") * 2, n_way=2, n_query=1)
    run = unsaved(il.Model(learner, learner.init()), inputs=tasks.inputs, targets=tasks.targets)
    given = {"x": np.eye(3, 2), "label": ["cup", "cup", "pot"]}
    held = {each.what: each for each in holdings(run.adapt_files(given))}
    assert "cup, pot" in held["names of classes"].about
    assert held["means of classes"].verbatim
    assert held["means of classes"].about.endswith("of 1, that of a single row")
