"""What goes wrong is one line on stderr that names what and where, an exit code, and no traceback."""

import shutil

import numpy as np
import pandas as pd
import pytest

from innerloop import load
from innerloop.cli import run

COLUMNS = ["--task", "site", "--target", "y"]
SMALL = [*COLUMNS, "--n-support", "3", "--steps", "1", "--hidden", "4", "--inner-steps", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A sound table, faulty ones, and a model directory."""
    folder = tmp_path_factory.mktemp("errors")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"site": np.repeat([f"s{n}" for n in range(8)], 6), "x": rng.normal(size=48)})
    table["y"] = table["x"] + rng.normal(size=48)
    table.to_csv(folder / "good.csv", index=False)
    text = table.astype({"x": object})
    text.loc[9, "x"] = "unknown"
    text.to_csv(folder / "text.csv", index=False)
    table.assign(x=np.where(table.index == 5, np.inf, table["x"])).to_csv(
        folder / "infinite.csv", index=False
    )
    table[table["site"] < "s2"].to_csv(folder / "two_tasks.csv", index=False)
    table.assign(y=1.5).to_csv(folder / "constant.csv", index=False)
    table.assign(prediction=1).to_csv(folder / "predicted.csv", index=False)
    table.assign(y="").to_csv(folder / "unlabelled.csv", index=False)
    table.assign(y=rng.choice(list("abc"), 48)).to_csv(folder / "classes.csv", index=False)
    table.drop(columns="x").to_csv(folder / "no_feature.csv", index=False)
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("site,x,y\n")
    (folder / "twice.csv").write_text("site,x,x\na,1,2\n")
    (folder / "latin.csv").write_bytes("site,x,y\nMünchen,1,2\n".encode("latin-1"))
    (folder / "notes").mkdir()
    (folder / "notes" / "diary.md").write_text("no model")
    assert run(["train", str(folder / "good.csv"), *SMALL, "--quiet", "--out", str(folder / "model")]) == 0
    mixed = [
        "adapt",
        str(folder / "model"),
        str(folder / "good.csv"),
        "--out",
        str(folder / "adapted"),
        "--quiet",
    ]
    assert run(mixed) == 0
    for name, change in {
        "damaged": lambda bytes_: bytes_[:-1] + bytes([bytes_[-1] ^ 1]),
        "cut": lambda bytes_: bytes_[: len(bytes_) // 2],
    }.items():
        shutil.copytree(folder / "model", folder / name)
        weights = folder / name / "model.safetensors"
        weights.write_bytes(change(weights.read_bytes()))
    shutil.copytree(folder / "model", folder / "partial")
    (folder / "partial" / "config.json").unlink()
    return folder


CASES = {
    # data
    "missing file": (3, ["train", "god.csv", *SMALL], ["god.csv", "no such file", "did you mean 'good.csv'"]),
    "missing feature": (3, ["train", "good.csv", *SMALL, "--features", "x,z"], ["'z'", "'site', 'x', 'y'"]),
    "missing target": (
        3,
        ["train", "good.csv", "--task", "site", "--target", "Y"],
        ["no column 'Y'", "did you mean 'y'"],
    ),
    "no such task column": (
        3,
        ["train", "good.csv", "--task", "school", "--target", "y"],
        ["no column 'school'"],
    ),
    "too few rows": (
        3,
        ["train", "good.csv", *COLUMNS, "--n-support", "9"],
        ["n_support=9", "'s0'", "has 6", "lower n_support to 5"],
    ),
    "too few tasks": (3, ["train", "two_tasks.csv", *SMALL], ["2 task(s)", "'s0', 's1'"]),
    "text in a numeric column": (
        3,
        ["train", "text.csv", *SMALL],
        ["task 's1', line 11", "'unknown'", "'x'"],
    ),
    "infinite": (3, ["train", "infinite.csv", *SMALL], ["line 7", "'x'", "not a finite number"]),
    "constant target": (3, ["train", "constant.csv", *SMALL], ["'y'", "1.5", "nothing to learn"]),
    "no feature": (3, ["train", "no_feature.csv", *SMALL], ["no feature column"]),
    "no target value": (3, ["train", "unlabelled.csv", *SMALL], ["none of the", "value in the target"]),
    "empty file": (3, ["train", "empty.csv", *SMALL], ["empty.csv is empty"]),
    "no row": (3, ["train", "header.csv", *SMALL], ["header.csv", "no row"]),
    "two columns of a name": (3, ["train", "twice.csv", *SMALL], ["two columns are called 'x'"]),
    "not UTF-8": (3, ["train", "latin.csv", *SMALL], ["latin.csv, line 2", "UTF-8"]),
    "class too small": (
        3,
        ["train", "classes.csv", "--target", "y", "--n-way", "2", "--n-shot", "1", "--ignore", "site"],
        ["n_way=2", "1 train, 1 valid, 1 test"],
    ),
    "predict without a feature": (3, ["predict", "model", "no_feature.csv"], ["no column 'x'"]),
    "predict text": (3, ["predict", "model", "text.csv"], ["task 's1', line 11", "'unknown'"]),
    "predict what is predicted": (3, ["predict", "model", "predicted.csv"], ["'prediction'", "rename"]),
    "predict a missing file": (3, ["predict", "model", "none.csv"], ["none.csv", "no such file"]),
    "adapt without labels": (
        3,
        ["adapt", "model", "unlabelled.csv", "--out", "a"],
        ["unlabelled.csv", "no row", "'y'"],
    ),
    "evaluate known tasks": (3, ["evaluate", "model", "known.csv"], ["every task in it was trained on"]),
    # usage
    "no task": (2, ["train", "good.csv", "--target", "y"], ["--task", "--n-way"]),
    "no target": (2, ["train", "good.csv", "--task", "site"], ["--target"]),
    "task is target": (2, ["train", "good.csv", "--task", "y", "--target", "y"], ["two columns"]),
    "target twice": (2, ["train", "good.csv", "--task", "site", "--target", "y,y"], ["'y' is named twice"]),
    "support by the target": (
        2,
        ["train", "good.csv", *COLUMNS, "--support", "order:y", "--n-support", "3"],
        ["support=order:y", "is the target"],
    ),
    "both support sizes": (
        2,
        ["train", "good.csv", *COLUMNS, "--n-support", "3", "--n-shot", "1"],
        ["exactly one of n_support", "n_shot"],
    ),
    "shots of a number": (2, ["train", "good.csv", *COLUMNS, "--n-shot", "1"], ["'y' is a number"]),
    "turned range": (2, ["train", "good.csv", *COLUMNS, "--n-support", "5-2"], ["'5-2'"]),
    "no range": (2, ["train", "good.csv", *COLUMNS, "--n-support", "few"], ["'few'", "1-8"]),
    "ways of tasks": (2, ["train", "good.csv", *COLUMNS, "--n-way", "3"], ["task"]),
    "ways and support": (
        2,
        ["train", "classes.csv", "--target", "y", "--n-way", "2", "--n-support", "3"],
        ["--n-shot", "rows a class"],
    ),
    "split": (2, ["train", "good.csv", *SMALL, "--split", "0.5,0.5"], ["0.5,0.5", "0.7,0.15,0.15"]),
    "kind": (2, ["train", "good.csv", *SMALL, "--kind", "ranking"], ["'ranking'", "regression"]),
    "unknown algorithm": (2, ["train", "good.csv", *SMALL, "--algorithm", "mamal"], ["'mamal'", "maml"]),
    "baseline": (2, ["train", "good.csv", *SMALL, "--algorithm", "pooled"], ["pooled", "baseline"]),
    "unknown model": (2, ["train", "good.csv", *COLUMNS, "--model", "forest"], ["'forest'", "mlp"]),
    "conv4 on rows": (2, ["train", "good.csv", *COLUMNS, "--model", "conv4"], ["conv4", "choose mlp"]),
    "pool of an mlp": (2, ["train", "good.csv", *SMALL, "--pool", "max"], ["pool", "conv4"]),
    "pool of no kind": (
        2,
        ["train", "alphabets", "--model", "conv4", "--pool", "mean", "--steps", "1", "--algorithm", "maml"],
        ["'mean'", "stride or max"],
    ),
    "width of an mlp": (2, ["train", "good.csv", *SMALL, "--width", "3"], ["width", "conv4"]),
    "hidden": (2, ["train", "good.csv", *COLUMNS, "--hidden", "4,x"], ["4,x", "40,40"]),
    "activation": (2, ["train", "good.csv", *COLUMNS, "--activation", "rely"], ["'rely'", "relu"]),
    "activation of no net": (
        2,
        ["train", "good.csv", *COLUMNS, "--algorithm", "mixed", "--activation", "relu"],
        ["activation", "mixed"],
    ),
    "steps of a closed form": (
        2,
        ["train", "good.csv", *COLUMNS, "--algorithm", "mixed", "--inner-steps", "3"],
        ["inner_steps", "mixed"],
    ),
    "unknown built-in": (2, ["train", "sinusoids"], ["'sinusoids'", "did you mean 'sinusoid'"]),
    "task of a built-in": (
        2,
        ["train", "sinusoid", "--task", "site"],
        ["--task", "'sinusoid'", "--n-support"],
    ),
    "unknown option": (2, ["train", "good.csv", *SMALL, "--step", "3"], ["--step"]),
    "unknown verb": (2, ["trian", "good.csv"], ["trian"]),
    "no argument": (2, ["evaluate"], ["DIRECTORY"]),
    "a number is none": (2, ["train", "good.csv", *SMALL, "--seed", "x"], ["--seed", '"x"']),
    "negative seed": (2, ["train", "good.csv", *SMALL, "--seed", "-1"], ["--seed -1"]),
    "negative steps": (2, ["train", "good.csv", *COLUMNS, "--steps", "-1"], ["--steps -1"]),
    "no episode": (2, ["train", "good.csv", *SMALL, "--meta-batch-size", "0"], ["--meta-batch-size 0"]),
    "no rate": (2, ["train", "good.csv", *SMALL, "--meta-lr", "0"], ["meta_lr=0"]),
    "inner rate": (2, ["train", "good.csv", *SMALL, "--inner-lr", "nan"], ["lr=nan"]),
    "schedule": (2, ["train", "good.csv", *SMALL, "--schedule", "step"], ["'step'", "cosine"]),
    "device": (2, ["train", "good.csv", *SMALL, "--device", "nonsense"], ["'nonsense'", "cpu"]),
    "config": (2, ["train", "good.csv", "--config", "none.toml"], ["none.toml", "no such file"]),
    "config without a name": (2, ["train", "good.csv", "--config"], ["--config"]),
    "occupied": (2, ["train", "good.csv", *SMALL, "--out", "model"], ["model holds a model", "--replace"]),
    "not ours to replace": (
        2,
        ["train", "good.csv", *SMALL, "--out", "notes", "--replace"],
        ["notes holds 'diary.md'"],
    ),
    "out is a file": (2, ["train", "good.csv", *SMALL, "--out", "good.csv"], ["good.csv is a file"]),
    "out is below a file": (
        2,
        ["train", "good.csv", *SMALL, "--out", "good.csv/run"],
        ["good.csv is a file"],
    ),
    "out is the table": (2, ["predict", "model", "good.csv", "--out", "good.csv"], ["the table itself"]),
    "adapt what is adapted": (2, ["adapt", "adapted", "good.csv", "--out", "a"], ["adapted already"]),
    "evaluate what is adapted": (2, ["evaluate", "adapted"], ["adapted tasks"]),
    "steps of what is adapted": (
        2,
        ["predict", "adapted", "good.csv", "--inner-steps", "3"],
        ["adapted already"],
    ),
    "negative inner steps": (2, ["evaluate", "model", "--inner-steps", "-1"], ["--inner-steps -1"]),
    "list nonsense": (2, ["list", "tables"], ["tables", "algorithms"]),
    # model directories
    "no such directory": (4, ["evaluate", "nowhere"], ["nowhere", "no such folder"]),
    "a file": (4, ["inspect", "good.csv"], ["good.csv", "a file, not a model directory"]),
    "not a model directory": (4, ["predict", "notes", "good.csv"], ["notes", "not a model directory"]),
    "damaged": (4, ["evaluate", "damaged"], ["damaged", "model.safetensors"]),
    "cut short": (4, ["inspect", "cut"], ["cut", "model.safetensors"]),
    "incomplete": (4, ["predict", "partial", "good.csv"], ["partial", "config.json"]),
    # divergence
    "diverged": (
        6,
        [
            "train",
            "good.csv",
            *COLUMNS,
            "--inner-lr",
            "1e30",
            "--inner-clip",
            "0",
            "--steps",
            "30",
            "--out",
            "runs/lost",
        ],
        ["not finite", "20 steps", "lower inner_lr"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_names_what_is_wrong(name, place, capsys, monkeypatch):
    code, arguments, words = CASES[name]
    monkeypatch.chdir(place)
    if name == "evaluate known tasks":
        stored, table = load(place / "model"), pd.read_csv("good.csv")
        known = [stored.split_of(str(site)) == "train" for site in table["site"]]
        table[known].to_csv("known.csv", index=False)
    before = left(place)
    capsys.readouterr()
    found = run([*arguments, "--quiet"] if arguments[0] not in ("list", "inspect") else arguments)
    out, err = capsys.readouterr()
    assert (found, out) == (code, ""), err
    assert err.startswith("innerloop: ")
    assert err.count("\n") == 1
    assert "bug" not in err
    assert [word for word in words if word not in err] == [], err
    assert left(place) == before  # nothing is left behind


def left(place):
    """What is in a folder, without the logs of runs that stopped and the last good state of one that diverged."""
    every = (p for p in place.rglob("*") if p.is_file() and "lost.checkpoints" not in str(p))
    return sorted(p for p in every if not p.name.endswith(".live.jsonl"))


def test_a_bug_of_ours_is_called_one(place, capsys, monkeypatch):
    import innerloop.evaluation.scores

    def broken(*arguments, **options):
        raise KeyError("oops")

    monkeypatch.chdir(place)
    monkeypatch.setattr(innerloop.evaluation.scores, "evaluate", broken)
    assert run(["evaluate", str(place / "model")]) == 1
    err = capsys.readouterr().err
    assert err == "innerloop: this is a bug in innerloop: KeyError: 'oops'; --debug shows where\n"
    with pytest.raises(KeyError):
        run(["evaluate", str(place / "model"), "--debug"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 5),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_memory_and_interruption_have_their_codes(error, code, place, capsys, monkeypatch):
    import innerloop.evaluation.scores

    def broken(*arguments, **options):
        raise error

    monkeypatch.chdir(place)
    monkeypatch.setattr(innerloop.evaluation.scores, "evaluate", broken)
    assert run(["evaluate", str(place / "model")]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_replace_replaces_a_model_and_nothing_else(place, capsys):
    target = place / "again"
    options = ["train", str(place / "good.csv"), *SMALL, "--quiet", "--out", str(target)]
    assert run(options) == 0
    first = (target / "manifest.json").read_bytes()
    assert run(options) == 2
    assert (target / "manifest.json").read_bytes() == first
    assert run([*options, "--replace", "--seed", "1"]) == 0
    assert (target / "manifest.json").read_bytes() != first
    (target / "mine.txt").write_text("keep")
    assert run([*options, "--replace"]) == 2
    assert (target / "mine.txt").read_text() == "keep"
    shutil.rmtree(target)


@pytest.mark.parametrize(
    ("verb", "way"), [("train", "--meta-batch-size"), ("predict", "fewer tasks or rows at a time")]
)
def test_out_of_memory_names_what_the_verb_can_do(verb, way, monkeypatch, capsys):
    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("innerloop.cli.app", full)
    assert run([verb, "runs/x", "new.csv"]) == 5
    printed = capsys.readouterr().err
    assert "out of memory" in printed
    assert way in printed
    assert ("--meta-batch-size" in printed) == (verb == "train")
