"""The command: what every verb prints, what it leaves, and that each agrees with the others."""

import json
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from torch import nn

import innerloop
import innerloop.tasks.datasets.drawn_sets
from innerloop.cli import VERBS, run
from innerloop.models import Sine
from innerloop.storage.manifest import canonical, seal
from toolkit.commands import printed_by, run_python

pytestmark = pytest.mark.long

HEAD = {"schema_version", "command", "seed", "seconds", "settings"}
ROW = {"method", "split", "n_support", "inner_steps", "metric", "mean", "ci95", "n_tasks", "headline"}
REGRESSION = {"rmse", "r2", "error_over_variance", "loss"}
CLASSIFICATION = {"accuracy", "auc", "calibration_error", "loss"}
COLUMNS = ["--task", "site", "--target", "y"]


def rows_of(kind="regression", *, tasks=10, rows=8, seed=0):
    """A table of lines that differ from task to task; `rows` rows each."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(tasks):
        x = rng.normal(size=(rows, 2))
        y = x @ rng.normal(size=2) + rng.normal() + 0.1 * rng.normal(size=rows)
        parts.append(pd.DataFrame({"site": f"{number:03d}", "dose": x[:, 0], "age": x[:, 1], "y": y}))
    table = pd.concat(parts, ignore_index=True)
    if kind == "classes":
        table["y"] = np.array(["high", "low", "middle"])[np.digitize(table["y"], [-0.7, 0.7])]
    return table


def mixed_rows(table, labelled):
    """The table without most of its targets, its tasks interleaved, with a column nobody asked for."""
    mixed = table.copy()
    mixed["y"] = mixed["y"].where(mixed.groupby("site").cumcount() < labelled)
    mixed = mixed.sample(frac=1, random_state=0)
    mixed.insert(1, "zip", "00120")
    return mixed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tables, and a model directory trained on each."""
    folder = tmp_path_factory.mktemp("cli")
    rows_of().to_csv(folder / "numbers.csv", index=False)
    rows_of("classes", rows=20).to_csv(folder / "classes.csv", index=False)
    rng = np.random.default_rng(1)
    letters = pd.DataFrame({"a": rng.normal(size=180), "b": rng.normal(size=180)})
    letters["label"] = [f"letter {row % 9}" for row in range(180)]
    letters.to_csv(folder / "letters.csv", index=False)
    mixed_rows(rows_of(seed=2), 3).to_csv(folder / "mixed.csv", index=False)
    quick = ["--steps", "2", "--quiet", "--inner-steps", "2", "--hidden", "8"]
    for name, options in {
        "numbers": [*COLUMNS, "--n-support", "3"],
        "classes": [*COLUMNS, "--n-shot", "2"],
        "letters": ["--target", "label", "--n-way", "3", "--n-shot", "1", "--n-query", "4"],
    }.items():
        table, out = str(folder / f"{name}.csv"), str(folder / name)
        assert run(["train", table, *options, *quick, "--out", out]) == 0
    return folder


@pytest.fixture
def call(capsys, monkeypatch, place):
    """Run the command in the folder of the tables: exit code, stdout and stderr."""
    monkeypatch.chdir(place)

    return partial(printed_by, capsys)


@pytest.fixture
def ask(call):
    """The JSON object of a verb that must succeed."""

    def asked(*arguments):
        code, out, err = call(
            *arguments, "--json", *([] if arguments[0] in ("list", "inspect") else ["--quiet"])
        )
        assert code == 0, err
        assert err == ""
        found = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        assert found.keys() >= HEAD
        assert (found["schema_version"], found["command"]) == (1, arguments[0])
        assert found["seconds"] >= 0
        assert isinstance(found["settings"], dict)
        return found

    return asked


def check_scores(scores, metrics, *, steps):
    """The rows of the schema, one for each metric and number of inner steps, one headline."""
    assert all(row.keys() == ROW for row in scores)
    # intervals are those of the last step, where calibration tasks are enough
    intervals = [row for row in scores if row["metric"].startswith(("interval_", "set_"))]
    assert {row["inner_steps"] for row in intervals} <= {steps}
    assert {(row["metric"], row["inner_steps"]) for row in scores if row not in intervals} == {
        (metric, step) for metric in metrics for step in range(steps + 1)
    }
    assert len(scores) - len(intervals) == len(metrics) * (steps + 1)
    headlines = [row for row in scores if row["headline"]]
    assert [(row["metric"], row["inner_steps"]) for row in headlines] == [
        ("rmse" if "rmse" in metrics else "accuracy", steps)
    ]
    for row in scores:
        assert row["split"] == "test"
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]
        assert row["n_tasks"] >= 2


TRAININGS = {
    "numbers": (["numbers.csv", *COLUMNS, "--n-support", "3"], REGRESSION, 3),
    "range": (["numbers.csv", *COLUMNS, "--n-support", "1-5"], REGRESSION, "1-5"),
    "classes": (["classes.csv", *COLUMNS, "--n-shot", "2"], CLASSIFICATION, 2),
    "letters": (["letters.csv", "--target", "label", "--n-way", "3", "--n-shot", "1"], CLASSIFICATION, 1),
    "sinusoid": (["sinusoid", "--n-support", "4"], REGRESSION, 4),
    "alphabets": (["alphabets", "--n-way", "2", "--width", "4", "--pool", "max"], CLASSIFICATION, 1),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_train_json_then_evaluate_gives_the_very_same_scores(name, ask, tmp_path, monkeypatch):
    options, metrics, support = TRAININGS[name]
    if name == "alphabets":
        drawn = np.random.default_rng(0).integers(0, 2, (28 * 24, 20, 28, 28), np.uint8)
        monkeypatch.setattr(innerloop.tasks.datasets.drawn_sets, "_drawings", lambda: drawn)
        options = [*options, "--n-query", "2", "--inner-steps", "1"]
    else:
        options = [*options, "--inner-steps", "2", "--hidden", "8"]
    if "letters" in options[0]:
        options = [*options, "--n-query", "4"]
    out = tmp_path / "run"
    trained = ask("train", *options, "--steps", "2", "--meta-batch-size", "4", "--out", out)
    steps = trained["settings"]["inner_steps"]
    check_scores(trained["scores"], metrics, steps=steps)
    assert {row["n_support"] for row in trained["scores"]} == {support}
    assert (trained["seed"], trained["settings"]["steps"], trained["out"]) == (0, 2, str(out))
    evaluated = ask("evaluate", out)
    assert evaluated["scores"] == trained["scores"]
    assert evaluated["seed"] == 0
    inspected = ask("inspect", out)
    assert inspected["scores"] == trained["scores"]


def test_more_inner_steps_on_request(ask):
    scores = ask("evaluate", "numbers", "--inner-steps", "4")["scores"]
    check_scores(scores, REGRESSION, steps=4)
    usual = [row | {"headline": False} for row in ask("evaluate", "numbers")["scores"]]
    assert usual == [row | {"headline": False} for row in scores if row["inner_steps"] <= 2]


def test_results_go_to_stdout_and_progress_to_stderr(call, tmp_path):
    train = ["train", "numbers.csv", *COLUMNS, "--n-support", "3", "--steps", "2", "--algorithm", "maml"]
    code, out, err = call(*train, "--out", tmp_path / "run")
    assert code == 0
    assert "meta-test: 2 held-out tasks, support 3 rows a task" in out
    assert "0 (before adaptation)" in out
    assert "step 2/2" in err
    assert "note: target 'y' has 80 different values: regression" in err
    assert "step" not in out.replace("inner steps", "")
    _, out, err = call(*train, "--out", tmp_path / "other", "--json")
    assert json.loads(out)["command"] == "train"
    assert "step 2/2" in err
    assert call(*train, "--out", tmp_path / "third", "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("classes", "2 held-out tasks, support 2 rows a class"),
        ("letters", "600 episodes of held-out classes, support 1 row a class"),
    ],
)
def test_what_was_scored_is_said_in_words(name, words, call):
    assert words in call("evaluate", name)[1]


def test_evaluate_on_another_table_leaves_known_tasks_out(ask, call, place):
    table = pd.concat([rows_of(), rows_of(seed=3).replace({"site": {"000": "new 0", "001": "new 1"}})])
    table = table[~table["site"].isin(["002"])]
    table.to_csv(place / "later.csv", index=False)
    trained = ask("inspect", "numbers")["tasks_per_split"]
    expected = 10 - trained["train"] - trained["valid"] + 2
    count = {row["n_tasks"] for row in ask("evaluate", "numbers", "later.csv")["scores"]}
    assert count <= {expected, expected - 1}  # 002 may be one of meta-test
    assert "trained on and are left out" in call("evaluate", "numbers", "later.csv")[2]


def test_a_table_that_changed_since_training_is_not_scored_silently(call, tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "numbers.csv"
    rows_of().to_csv(table, index=False)
    assert call("train", table, *COLUMNS, "--steps", "0", "--out", tmp_path / "run")[0] == 0
    with table.open("a") as file:
        file.write("010,1,2,3\n")
    code, _, err = call("evaluate", tmp_path / "run")
    assert (code, "has changed since training" in err) == (3, True)
    table.unlink()
    code, _, err = call("evaluate", tmp_path / "run")
    assert (code, "is gone" in err) == (3, True)


def test_a_directory_whose_gear_is_called_engine_is_read_as_before(ask, call, place):
    shutil.copytree(place / "numbers", place / "old")
    contents = {path.name: path.read_bytes() for path in (place / "old").iterdir()}
    config = json.loads(contents["config.json"])
    config["settings"]["engine"] = config["settings"].pop("gear")
    del contents["manifest.json"]
    for name, data in seal(contents | {"config.json": canonical(config)}).items():
        (place / "old" / name).write_bytes(data)
    assert ask("evaluate", "old")["scores"] == ask("evaluate", "numbers")["scores"]
    assert ask("inspect", "old")["trained_with"]["engine"] == "auto"
    assert any(line.split() == ["engine:", "auto"] for line in call("inspect", "old")[1].splitlines())


# predictions


def test_predict_keeps_rows_order_columns_and_cells(call, place, tmp_path):
    out = tmp_path / "predictions.csv"
    code, printed, _ = call("predict", "numbers", "mixed.csv", "--out", out)
    assert (code, printed.strip()) == (0, f"predicted 50 rows of 10 tasks: {out}")
    before = pd.read_csv(place / "mixed.csv", dtype=str, keep_default_na=False)
    after = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert after.columns.tolist() == [*before.columns, "prediction", "n_support"]
    pd.testing.assert_frame_equal(after[before.columns], before)
    assert ((after["prediction"] == "") == (after["y"] != "")).all()
    assert set(after["n_support"]) == {"3"}
    assert call("predict", "numbers", "mixed.csv")[1] == out.read_text()


def test_adapt_then_predict_is_predict_at_once(ask, call, tmp_path):
    at_once = ask("predict", "numbers", "mixed.csv")["predictions"]
    adapted = tmp_path / "adapted"
    assert call("adapt", "numbers", "mixed.csv", "--out", adapted)[0] == 0
    twice = ask("predict", adapted, "mixed.csv")["predictions"]
    wanted = [number for number, row in enumerate(at_once) if row["y"] is None]
    assert len(wanted) == 50
    assert [at_once[n]["prediction"] for n in wanted] == pytest.approx(
        [twice[n]["prediction"] for n in wanted], abs=1e-6
    )
    assert {row["n_support"] for row in twice} == {3}
    found = ask("adapt", "numbers", "mixed.csv", "--out", adapted, "--replace")
    assert found["tasks"] == {f"{number:03d}": 3 for number in range(10)}
    assert [entry["id"] for entry in ask("inspect", adapted)["tasks"]] == list(found["tasks"])


def test_a_row_is_predicted_the_same_alone_and_among_others(ask, place):
    table = pd.read_csv(place / "mixed.csv", dtype={"site": str})
    together = ask("predict", "numbers", "mixed.csv")["predictions"]
    for number in np.flatnonzero(table["y"].isna())[:5]:
        task = table["site"] == table.loc[number, "site"]
        alone = table[task & table["y"].notna() | (table.index == number)]
        alone.to_csv(place / "alone.csv", index=False)
        found = [row for row in ask("predict", "numbers", "alone.csv")["predictions"] if row["y"] is None]
        assert [row["prediction"] for row in found] == pytest.approx(
            [together[number]["prediction"]], abs=1e-6
        )


def test_a_task_without_a_labelled_row_gets_the_base_prediction(ask, call, place):
    table = mixed_rows(rows_of(seed=2), 3)
    table.loc[table["site"] == "004", "y"] = np.nan
    table.to_csv(place / "partly.csv", index=False)
    code, _, err = call("predict", "numbers", "partly.csv")
    assert (code, "8 rows belong to tasks without a support row" in err) == (0, True)
    found = ask("predict", "numbers", "partly.csv")
    assert (found["n_predicted"], found["n_base"]) == (53, 8)
    rows = [row for row in found["predictions"] if row["site"] == "004"]
    assert {row["n_support"] for row in rows} == {0}
    table.drop(columns="y").to_csv(place / "untold.csv", index=False)
    base = ask("predict", "numbers", "untold.csv")
    assert base["n_base"] == base["n_predicted"] == 80
    same = [row["prediction"] for row in base["predictions"] if row["site"] == "004"]
    assert [row["prediction"] for row in rows] == pytest.approx(same, abs=1e-6)
    from innerloop import load

    stored = load(place / "numbers")
    import torch

    x = torch.from_numpy(stored.schema.encode(table[table["site"] == "004"]))
    values = stored.schema.decode(stored.model.base()(x))["prediction"]
    assert same == pytest.approx(values.tolist(), abs=1e-6)


def test_class_predictions_are_labels_with_probabilities(ask, place):
    mixed_rows(rows_of("classes", seed=2), 5).to_csv(place / "mixed_classes.csv", index=False)
    rows = ask("predict", "classes", "mixed_classes.csv")["predictions"]
    for row in rows:
        shares = {name: row[f"probability_{name}"] for name in ("high", "low", "middle")}
        if row["y"] is None:
            assert sum(shares.values()) == pytest.approx(1)
            assert row["prediction"] == max(shares, key=shares.get)
        else:
            assert row["prediction"] is None
            assert set(shares.values()) == {None}
    # support is what says which number a class has, so a task that met one class only predicts it more often
    assert {row["prediction"] for row in rows if row["y"] is None} <= {"high", "low", "middle"}


def test_nothing_to_predict_is_said(call):
    code, _, err = call("predict", "numbers", "numbers.csv", "--out", "none.csv")
    assert (code, "nothing to predict" in err) == (0, True)


# settings


def test_a_file_of_options_does_what_the_options_do(ask, call, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text(
        '[train]\ntask = "site"\ntarget = "y"\nn_support = 3\nhidden = [8, 8]\ninner-steps = 2\n'
        'split = [0.6, 0.2, 0.2]\nfeatures = ["dose"]\nsteps = 2\nquiet = true\n\n'
        "[evaluate]\ninner_steps = 3\n"
    )
    options = [*COLUMNS, "--n-support", "3", "--hidden", "8,8", "--inner-steps", "2"]
    options += ["--split", "0.6,0.2,0.2", "--features", "dose", "--steps", "2"]
    by_hand = ask("train", "numbers.csv", *options, "--out", tmp_path / "a")
    by_file = ask("train", "numbers.csv", "--config", path, "--out", tmp_path / "b")
    assert by_file["scores"] == by_hand["scores"]
    assert by_file["settings"] == by_hand["settings"]
    assert {row["inner_steps"] for row in ask("evaluate", tmp_path / "b", f"--config={path}")["scores"]} == {
        0,
        1,
        2,
        3,
    }
    # the command line comes first
    assert (
        ask("train", "numbers.csv", "--config", path, "--steps=1", "--out", tmp_path / "c")["settings"][
            "steps"
        ]
        == 1
    )
    flat = tmp_path / "flat.toml"
    flat.write_text("inner-steps = 1\n")
    assert len(ask("evaluate", tmp_path / "a", "--config", flat)["scores"]) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\ntsk = 'site'\n", "has no option 'tsk' (did you mean 'task'?)"),
        ("[train]\ntasks = 'numbers.csv'\n", "is given on the command line"),
        ("[train]\nnetwork = 'mlp'\n", "has no option 'network'"),
        ("[typo]\nsteps = 3\n", "[typo] is no verb"),
        ("steps = 3\n[train]\ntask = 'site'\n", "'steps' stands outside"),
        ("[train]\nsteps = 'x'\n", "unable to convert"),
        ("[train]\nsteps = 2020-01-01\n", "give text, a number"),
        ("[train\n", "not a TOML file"),
    ],
)
def test_a_faulty_file_of_options_is_refused(text, words, call, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text(text)
    code, out, err = call("train", "numbers.csv", "--config", path)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_file_cannot_give_check_the_folds_of_train(call, tmp_path):
    path = tmp_path / "options.toml"
    path.write_text("folds = 3\n")
    code, _, err = call("check", "numbers.csv", *COLUMNS, "--config", path)
    assert (code, "has no option 'folds'" in err) == (2, True)


def test_features_and_ignore(ask, tmp_path, place):
    table = rows_of()
    table["age, in years"] = table["age"]
    table.to_csv(place / "more.csv", index=False)
    options = ["more.csv", *COLUMNS, "--steps", "0"]
    a = ask("train", *options, "--features", "dose,age", "--out", tmp_path / "a")
    b = ask("train", *options, "--ignore", '"age, in years"', "--out", tmp_path / "b")
    assert a["scores"] == b["scores"]
    assert ask("inspect", tmp_path / "a")["columns"] == ["dose", "age"]


def test_rows_without_a_target_are_dropped_and_counted(call, ask, place, tmp_path):
    table = rows_of()
    table.loc[::4, "y"] = np.nan
    table.loc[table["site"] == "001", "y"] = np.nan
    table.to_csv(place / "gaps.csv", index=False)
    code, _, err = call(
        "train", "gaps.csv", *COLUMNS, "--n-support", "3", "--steps", "1", "--out", tmp_path / "run"
    )
    assert code == 0
    assert f"{int(table['y'].isna().sum())} of 80 rows have no 'y' and were dropped" in err
    assert sum(ask("inspect", tmp_path / "run")["tasks_per_split"].values()) == 9


def test_missing_features_get_an_indicator_and_a_note(call, place, tmp_path):
    table = rows_of()
    table.loc[::5, "dose"] = np.nan
    table.to_csv(place / "holes.csv", index=False)
    code, _, err = call(
        "train", "holes.csv", *COLUMNS, "--n-support", "3", "--steps", "1", "--out", tmp_path / "run"
    )
    assert code == 0
    assert "missing values in 'dose' were filled" in err


@pytest.mark.parametrize(
    ("algorithm", "name", "layer"),
    [("maml", "relu", nn.ReLU), ("ridge", "silu", nn.SiLU), ("fomaml", "sine", Sine)],
)
def test_the_network_has_the_activation_asked_for(algorithm, name, layer, ask, tmp_path):
    options = ["--algorithm", algorithm, "--activation", name, "--hidden", "4,4", "--steps", "0"]
    ask("train", "numbers.csv", *COLUMNS, *options, "--out", tmp_path / "run")
    network = innerloop.load(tmp_path / "run").model.learner.network.module
    assert [type(part) for part in network[1::2]][:2] == [layer, layer]


@pytest.mark.parametrize("algorithm", ["mixed", "fomaml", "gp"])
def test_other_algorithms_by_name(algorithm, ask, tmp_path):
    found = ask(
        "train", "numbers.csv", *COLUMNS, "--algorithm", algorithm, "--steps", "1", "--out", tmp_path / "run"
    )
    assert {row["method"] for row in found["scores"]} == {algorithm}
    assert len(ask("predict", tmp_path / "run", "mixed.csv")["predictions"]) == 80


def test_a_gaussian_process_is_asked_for_by_its_parts(ask, call, tmp_path):
    parts = ["--kernel", "linear+periodic", "--mean", "line", "--noise", "log_linear"]
    ask("train", "numbers.csv", *COLUMNS, "--algorithm", "gp", *parts, "--out", tmp_path / "run")
    settings = ask("inspect", tmp_path / "run")["algorithm_settings"]
    assert {"kernel": "linear+periodic", "mean": "line", "noise": "log_linear"}.items() <= settings.items()
    code, _, said = call("train", "numbers.csv", *COLUMNS, "--algorithm", "gp", "--kernel", "cubic")
    assert code == 2
    assert "give a sum of linear, squared_exponential, matern32, periodic" in said


def test_list_names_everything_and_fits_a_hundred_columns(ask, call):
    found = ask("list")
    for title in ("algorithms", "metagrads", "models", "baselines", "data"):
        assert all(entry["name"] and entry["about"] for entry in found[title])
    assert {"maml", "fomaml", "mixed"} <= {entry["name"] for entry in found["algorithms"]}
    assert {entry["name"] for entry in found["data"]} >= {"sinusoid", "gapminder", "alphabets"}
    assert ask("list", "models").keys() & {"algorithms", "data"} == set()
    text = call("list")[1]
    assert max(map(len, text.splitlines())) <= 100
    assert "\\" not in text


def test_inspect_has_one_thing_a_line(call):
    lines = call("inspect", "numbers")[1].splitlines()
    assert any(line.startswith("algorithm  ") and line.endswith("maml") for line in lines)
    assert any(line.startswith("scores  ") and "after 2 inner steps on 2 tasks" in line for line in lines)
    assert any(line.split() == ["inner", "steps:", "2"] for line in lines)
    assert max(map(len, lines)) < 110 or str(lines).count("/") > 2


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_a_line_each(verb, call):
    code, out, _ = call(verb, "--help")
    assert code == 0
    _, _, examples = out.partition("\nExamples:\n")
    lines = examples.rstrip().splitlines()
    assert lines
    assert all(line.startswith("  innerloop ") for line in lines)
    assert any(line.startswith(f"  innerloop {verb}") for line in lines)


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys, innerloop, innerloop.cli\n"
        "heavy = {'torch', 'pandas', 'scipy', 'sklearn', 'numpy'} & sys.modules.keys()\n"
        "heavy |= {'importlib.metadata'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert innerloop.cli.run(['--help']) == 0 and innerloop.cli.run(['train', '--help']) == 0\n"
        "heavy = {'torch', 'pandas', 'scipy', 'sklearn', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert innerloop.cli.run(['--version']) == 0\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == version("innerloop")


def test_python_runs_the_package_as_the_command():
    command = [sys.executable, "-m", "innerloop"]
    shown, refused = (
        subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        for words in (["--version"], ["train", "--nonsense"])
    )
    assert (shown.returncode, shown.stdout.strip()) == (0, version("innerloop"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_the_command_leaves_with_its_exit_code():
    code = "import sys; from innerloop.cli import main; main(sys.argv[1:])"
    done = run_python(code, "train", "--nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("innerloop: ")
    assert done.stderr.count("\n") == 1


def test_ids_written_otherwise_are_not_scored_as_new_and_new_names_are_counted(tmp_path, capsys):
    rows = [
        f"{who},{'mf'[day % 2]},{day},{day * (1 + who % 3) + who % 5}"
        for who in range(12)
        for day in range(8)
    ]
    head, path, joined = "patient,sex,day,score\n", tmp_path / "visits.csv", tmp_path / "joined.csv"
    path.write_text(head + "\n".join(rows) + "\n")
    joined.write_text(head + "\n".join(row.replace(",", ".0,", 1) for row in rows) + "\n")
    options = [
        "--task",
        "patient",
        "--target",
        "score",
        "--algorithm",
        "mixed",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run(["train", str(path), *options]) == 0
    capsys.readouterr()
    counts = []
    for table in (path, joined):
        assert run(["evaluate", str(tmp_path / "run"), str(table), "--report", "none", "--json"]) == 0
        printed = capsys.readouterr()
        counts.append(json.loads(printed.out)["scores"][0]["n_tasks"])
    assert counts == [2, 2]
    assert "10 tasks" in printed.err
    assert "written otherwise" in printed.err
    new = tmp_path / "new.csv"
    new.write_text(
        head + "\n".join(f"z,{'Mf'[day % 2]},{day},{day if day < 4 else ''}" for day in range(8)) + "\n"
    )
    for verb in ("predict", "adapt"):
        assert run([verb, str(tmp_path / "run"), str(new), "--out", str(tmp_path / f"{verb}ed")]) == 0
        assert "4 rows have a value of 'sex' that no row of training has" in capsys.readouterr().err


def test_predictions_are_written_as_the_table_was_and_read_again(tmp_path, capsys):
    rows = [
        f"{who};{day / 4};{day * (1 + who % 3) / 8}".replace(".", ",") for who in range(8) for day in range(8)
    ]
    table, new, out = (tmp_path / name for name in ("visits.csv", "new.csv", "out.csv"))
    table.write_text("who;dose;score\n" + "\n".join(rows) + "\n")
    new.write_text("who;dose;score\nz;0,25;0,5\nz;1,5;\nz;0,75;\n")
    options = ["--task", "who", "--target", "score", "--decimal", ",", "--algorithm", "mixed"]
    assert run(["train", str(table), *options, "--out", str(tmp_path / "run")]) == 0
    assert run(["predict", str(tmp_path / "run"), str(new), "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "who;dose;score;prediction;n_support"
    assert lines[1] == "z;0,25;0,5;;1"
    again = pd.read_csv(out, sep=";", decimal=",")
    assert again.prediction.notna().tolist() == [False, True, True]
    expected = innerloop.load(tmp_path / "run").predict_frame(pd.read_csv(new, sep=";", decimal=","))
    assert np.allclose(again.prediction[1:], expected.prediction[1:])
    # the next verb takes it
    assert run(["check", str(out), "--task", "who", "--target", "dose", "--decimal", ",", "--json"]) in (0, 3)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["understood"]["rows"] == 3


def test_the_device_and_the_tasks_at_once_are_stored_with_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "sinusoid", "--n-support", "5", "--algorithm", "maml", "--steps", "1", "--quiet"]
    assert run([*words, "--memory", "1B", "--device", "cpu", "--out", "one"]) == 0
    settings = json.loads((tmp_path / "one" / "config.json").read_text(encoding="utf-8"))["settings"]
    assert settings["at_once"] == 1
    assert settings["placed"] == "cpu"
    assert settings["memory"] == "1B"
    assert run(["evaluate", "one", "--quiet", "--report", "none"]) == 0
