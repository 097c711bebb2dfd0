"""A model directory may come from anyone: it opens no file that nobody named, and is not obeyed without sense."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from innerloop.cli import run
from innerloop.storage.manifest import MANIFEST, seal, sha256
from toolkit.commands import printed_by
from toolkit.tables import visits

SECRET = "root:x:0:0:root:/root:/bin/sh\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a model directory that was trained on it by its relative name."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        visits(tasks=12).to_csv("visits.csv", index=False)
        words = [
            "--task",
            "site",
            "--target",
            "risk",
            "--learn-lr",
            "none",
            "--hidden",
            "4",
            "--steps",
            "1",
            "--quiet",
        ]
        assert run(["train", "visits.csv", *words, "--algorithm", "maml", "--out", "run"]) == 0
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in which the test works."""
    copied = shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(copied)
    return copied


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the configuration and make the manifest again, as anybody can."""
    content = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    config = json.loads(content["config.json"])
    change(config)
    for name, data in seal(content | {"config.json": json.dumps(config).encode()}).items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("outside", ["absolute", "above", "link", "folder"])
def test_data_are_read_only_where_the_user_names_them(place, tmp_path, capsys, outside, known) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "passwd.csv").write_text(SECRET)
    (place / "link.csv").symlink_to(secret / "passwd.csv")
    ways = {
        "absolute": secret / "passwd.csv",
        "above": "../secret/passwd.csv",
        "link": "link.csv",
        "folder": secret,
    }
    seen = sha256(SECRET.encode()) if known else None

    def change(config: dict[str, Any]) -> None:
        config["settings"]["tasks"] = config["data"]["name"] = str(ways[outside])
        config["data"]["sha256"] = seen

    rewrite(place / "run", change)
    for verb in ("evaluate", "inspect"):
        code, out, err = printed_by(capsys, verb, "run")
        assert code == {"evaluate": 2, "inspect": 0}[verb]
        assert "/bin/sh" not in out + err
        assert "read unasked only below the working folder and only unchanged: give them as TASKS" in err


def test_a_file_below_the_working_folder_is_not_opened_unless_training_saw_it(place, capsys) -> None:
    (place / "private.csv").write_text(SECRET)

    def change(config: dict[str, Any]) -> None:
        config["settings"]["tasks"] = config["data"]["name"] = "private.csv"

    rewrite(place / "run", change)
    code, out, err = printed_by(capsys, "evaluate", "run")
    assert (code, "/bin/sh" in out + err) == (3, False)
    assert "private.csv has changed since training" in err


def test_the_training_data_are_found_and_may_move(place, capsys) -> None:
    def scores(*words: object) -> object:
        code, out, err = printed_by(
            capsys, "evaluate", "run", *words, "--report", "none", "--json", "--quiet"
        )
        assert code == 0, err
        return json.loads(out)["scores"]

    expected = scores()
    (place / "elsewhere").mkdir()
    shutil.move("visits.csv", place / "elsewhere" / "again.csv")
    assert printed_by(capsys, "evaluate", "run")[0] == 3
    assert scores(place / "elsewhere" / "again.csv") == expected


def test_data_in_a_folder_are_told_by_their_content(place, capsys) -> None:
    (place / "sites").mkdir()
    for name, rows in visits(tasks=12).groupby("site"):
        rows.drop(columns="site").to_csv(place / "sites" / f"{name}.csv", index=False)
    words = ["--target", "risk", "--algorithm", "mixed", "--quiet", "--out", "of_folder"]
    assert printed_by(capsys, "train", "sites", *words)[0] == 0
    assert printed_by(capsys, "evaluate", "of_folder", "--report", "none")[0] == 0
    with (place / "sites" / "s1.csv").open("a") as file:
        file.write("1,2\n")
    code, _, err = printed_by(capsys, "evaluate", "of_folder", "--report", "none")
    assert (code, "sites has changed since training" in err) == (3, True)


def setting(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Put a value into a configuration."""

    def change(config: dict[str, Any]) -> None:
        holder: Any = config
        for key in path[:-1]:
            holder = holder[int(key)] if isinstance(holder, list) else holder[key]
        holder[path[-1]] = value

    return change


def diverging(config: dict[str, Any]) -> None:
    """Inner steps that end at infinity."""
    config["learner"]["settings"].update(inner_lr=2e9, inner_steps=50, clip=None)


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (setting("learner", "settings", "inner_steps", value=10**12), 4, "of the learner is 1000000000000, and"),
        (setting("learner", "settings", "inner_steps", value=10**6), 4, "inner_steps=1000000: give 0 to 10000"),
        (setting("learner", "settings", "clip", value=1e30), 4, r"a setting of the learner is 1e\+30"),
        (setting("targets", "kind", value="external"), 4, "targets of the kind 'external' are unknown"),
        (setting("targets", "n_outputs", value=60000), 4, "not as many as there are targets"),
        (diverging, 6, "predictions of this task .* are not finite"),
        (setting("schema", "target_scale", value=0.0), 4, "'risk' of the schema has the scale 0.0"),
        (setting("schema", "columns", "0", "scale", value=-1.0), 4, "'dose' of the schema has the scale -1.0"),
        (setting("schema", "columns", "0", "kind", value="thing"), 4, "unknown kind 'thing'"),
        (setting("schema", "kind", value="thing"), 4, "unknown kind 'thing'"),
        (setting("schema", "decimal", value="1"), 4, "no such decimal mark"),
        (setting("scores", "0", "mean", value="high"), 4, "a score: mean='high'"),
        (setting("scores", value=[{"headline": True}]), 4, "a score lacks"),
        (setting("scores", "0", "ci95", value=[1.0]), 4, "no two ends"),
        (setting("targets", "scale", value=[0.0]), 4, "the targets have no such number or scale"),
        (setting("data", value={"name": 3}), 4, "data has no name and sha256"),
    ],
)  # fmt: skip
def test_what_is_loaded_makes_sense_and_what_is_predicted_is_finite(
    place, capsys, change, code, reason
) -> None:
    rewrite(place / "run", change)
    frame = visits(tasks=2).assign(site=["a"] * 6 + ["b"] * 6)
    frame["risk"] = frame["risk"].where(frame.index % 3 > 0)
    frame.to_csv("new.csv", index=False)
    found, out, err = printed_by(capsys, "predict", "run", "new.csv")
    assert (found, out) == (code, "")
    assert re.search(reason, err), err


def test_a_name_of_data_that_no_file_can_have_is_refused(place, capsys) -> None:
    rewrite(place / "run", setting("settings", "tasks", value="x" * 100_000))
    code, _, err = printed_by(capsys, "evaluate", "run")
    assert (code, "such data are read unasked only below" in err, len(err) < 3000) == (2, True, True)


def test_settings_that_make_other_tasks_are_refused(place, capsys) -> None:
    frame = visits(tasks=12)
    frame.assign(more=[float(row % 7) for row in range(len(frame))]).to_csv("more.csv", index=False)
    words = ["--task", "site", "--target", "risk", "--ignore", "more", "--algorithm", "mixed", "--quiet"]
    assert printed_by(capsys, "train", "more.csv", *words, "--out", "other")[0] == 0
    rewrite(place / "other", setting("settings", "ignore", value=""))
    code, _, err = printed_by(capsys, "evaluate", "other")
    assert (code, "its settings make other tasks than the model was trained on" in err) == (4, True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", "x"), ("seed", -1), ("n_query", "x"), ("n_query", 10**12), ("task", 3), ("split", [1])],
)
def test_settings_that_no_run_has_are_refused(place, capsys, key, value) -> None:
    rewrite(place / "run", setting("settings", key, value=value))
    code, _, err = printed_by(capsys, "evaluate", "run")
    assert (code, f"no run has {key}={value!r:.40}" in err) == (4, True)
