"""What the documents show runs, and what they say of the JSON output is so."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from innerloop.cli import VERBS, run
from innerloop.errors import (
    DataError,
    DivergedError,
    InnerloopError,
    ModelFileError,
    ResourceError,
    UsageError,
)

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    found = []
    for path in DOCUMENTS:
        for number, match in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8"))):
            if match[2] == language:
                found.append(pytest.param(match[1], match[3], id=f"{path.stem}-{number}"))
    return found


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Small tables with the names and columns that the documents use."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    schools = pd.DataFrame({"school": np.repeat([f"school {n}" for n in range(12)], 12)})
    schools = schools.assign(age=rng.normal(size=144), hours=rng.normal(size=144), note="text")
    schools["exam"] = 20 + schools["age"] * np.repeat(rng.normal(size=12), 12) + rng.normal(size=144)
    schools.to_csv(folder / "schools.csv", index=False)
    new = schools.assign(school="new " + schools["school"])
    new.to_csv(folder / "known.csv", index=False)
    new.drop(columns="exam").to_csv(folder / "new_pupils.csv", index=False)
    new.assign(exam=new["exam"].where(new.groupby("school").cumcount() < 5)).to_csv(
        folder / "new_schools.csv", index=False
    )
    activity = pd.DataFrame({"user": np.repeat(np.arange(8), 30), "x": rng.normal(size=240)})
    activity.assign(activity=np.tile(["sit", "walk", "run"], 80)).to_csv(folder / "activity.csv", index=False)
    letters = pd.DataFrame({"x": rng.normal(size=420), "label": np.tile(list("abcdefghijklmnopqrstu"), 20)})
    letters.to_csv(folder / "letters.csv", index=False)
    patients = pd.DataFrame({"patient": np.repeat(np.arange(64), 8), "dose": rng.normal(size=512)})
    patients["score"] = patients["dose"] + np.repeat(rng.normal(size=64), 8) + 0.5 * rng.normal(size=512)
    patients.to_csv(folder / "patients.csv", index=False)
    fresh = patients[:24].assign(patient="new " + patients["patient"][:24].astype(str))
    fresh["score"] = fresh["score"].where(np.arange(24) % 8 < 3)
    fresh.to_csv(folder / "new_patients.csv", index=False)
    files = re.findall(r"<!-- file: (\S+) -->\n```toml\n(.*?)```", DOCUMENTS_TEXT, re.DOTALL)
    for name, text in files:
        (folder / name).write_text(text)
    assert [name for name, _ in files] == ["schools.toml"]
    return folder


DOCUMENTS_TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)


def command(line):
    """The arguments of a shell line, made quick."""
    words = shlex.split(line, comments=True)
    assert words[0] == "innerloop"
    if words[1] == "train":
        words += ["--steps", "2", "--replace"]
        if not {"--config", "mixed"} & {*words}:
            words += ["--hidden", "4"]
    return words[1:]


@pytest.mark.parametrize(("mark", "text"), blocks("sh"))
def test_shell_examples_run(mark, text, tables, tmp_path, capsys, monkeypatch):
    assert mark == "run: quick schools"
    for path in tables.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    for line in text.splitlines():
        code = run(command(line))
        printed = capsys.readouterr()
        assert code == 0, printed.err
        assert printed.out


@pytest.mark.parametrize(("mark", "text"), blocks("python"))
def test_python_examples_run(mark, text, tables, tmp_path, monkeypatch):
    assert mark == "run: quick schools"
    for name in ("schools.csv", "patients.csv", "new_patients.csv"):
        (tmp_path / name).write_bytes((tables / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(text.replace("steps=2000", "steps=2"), space)
    score = space.get("score") or space.get("found")
    assert score is None or score.metric("rmse")[0] > 0
    assert {"learner", "step", "model"} & space.keys()


def test_examples_in_the_help_are_commands_that_are_understood(capsys):
    """The tables in them do not exist here: that is the complaint, not the options."""
    for verb in VERBS:
        assert run([verb, "--help"]) == 0
        examples = capsys.readouterr().out.partition("\nExamples:\n")[2].strip().splitlines()
        for line in examples:
            words = shlex.split(line)[1:]
            if words[0] in ("demo", "list") or "sinusoid" in words:
                continue
            code = run(words)
            printed = capsys.readouterr()
            assert code in (2, 3, 4), line
            assert re.search(
                r"no such (file|folder)|package that is not installed", printed.out + printed.err
            ), f"{line}: {printed.err}"


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_index_links_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f"]({page})" not in index] == ["index.md"]


def table_after(title):
    """The rows of the table that follows a line of docs/command.md."""
    text = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    after = text[text.index(f"\n{title}\n") :].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in after.strip().splitlines()]
    return {row[0].strip("`"): row[1] for row in rows[2:]}


def is_a(value, kinds):
    types = {"int": int, "str": str, "float": (int, float), "dict": dict, "list": list, "bool": bool}
    return any(
        value is None
        if kind == "null"
        else isinstance(value, types[kind]) and (kind == "bool" or value is not True)
        for kind in kinds.split(" or ")
    )


def check(found, documented):
    assert found.keys() == documented.keys()
    for key, kinds in documented.items():
        assert is_a(found[key], kinds), f"{key} is {found[key]!r}, documented as {kinds}"


def test_json_output_is_as_documented(tables, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tables)
    out, adapted = str(tmp_path / "run"), str(tmp_path / "adapted")
    quick = ["--steps", "1", "--hidden", "4", "--n-support", "2-4", "--algorithm", "maml"]
    commands = {
        "train": ["schools.csv", "--task", "school", "--target", "exam", "--out", out, *quick],
        "check": ["schools.csv", "--task", "school", "--target", "exam"],
        "evaluate": [out],
        "adapt": [out, "known.csv", "--out", adapted],
        "predict": [out, "new_schools.csv"],
        "tune": [
            "schools.csv",
            *quick,
            "--task",
            "school",
            "--target",
            "exam",
            "--out",
            f"{out}-tune",
            "--trials",
            "1",
        ],
        "refine": [out, "--data", "known.csv", "--rounds", "2", "--out", str(tmp_path / "refined")],
    }
    always, row = table_after("Every verb:"), table_after("A row of `scores`:")
    for verb, arguments in commands.items():
        assert run([verb, *arguments, "--json", "--quiet"]) == 0
        found = json.loads(capsys.readouterr().out)
        check(found, always | table_after(f"`{verb}` adds:"))
        for score in found.get("scores", []):
            check(score, row)
    assert (
        run(["predict", out, "new_schools.csv", "--json", "--quiet", "--out", str(tmp_path / "p.csv")]) == 0
    )
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "p.csv")
    for verb in ("list", "inspect"):
        assert run([verb, *([out] if verb == "inspect" else []), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        check({key: found[key] for key in always}, always)


def test_exit_codes_are_as_documented():
    text = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| (\d) \| (\w+)", text, re.MULTILINE))
    documented = {int(code): word for code, word in lines.items()}
    errors = (InnerloopError, UsageError, DataError, ModelFileError, ResourceError, DivergedError)
    assert {0, *(error.exit_code for error in errors)} == documented.keys()
    assert documented[UsageError.exit_code] == "usage"
    assert documented[DataError.exit_code] == "data"
    assert documented[ResourceError.exit_code] == "resources"


def test_every_verb_is_in_the_documents():
    assert {verb for verb in VERBS if f"innerloop {verb}" not in DOCUMENTS_TEXT} == set()
