"""`check`: everything at once, the same verdict as training, and a messy file that its messages mend."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import innerloop as il
import toolkit.tables
from innerloop.cli import run
from innerloop.tasks.findings import check
from toolkit.commands import check_until_clean, predicted

visits = partial(toolkit.tables.visits, tasks=10, risk=lambda frame: frame.dose**2 + 3)


def messages(frame: pd.DataFrame, severity: str) -> str:
    found = check(frame, task="site", target="risk").findings
    return "\n".join(str(each) for each in found if each.severity == severity)


def test_everything_wrong_is_said_at_once() -> None:
    frame = visits().assign(a=1.5, b="x", c=1.0).astype(object)
    frame.loc[3, "a"], frame.loc[9, "c"] = "much", np.inf
    frame["b"] = [f"note {n}" for n in range(60)]
    frame = pd.concat([frame] * 2, ignore_index=True)
    frame["b"] = [f"note {n}" for n in range(120)]
    frame.loc[5, "site"], frame.loc[6, "risk"] = None, "high"
    report = check(frame, task="site", target="risk")
    places = {(each.column, each.row) for each in report.errors}
    assert {("a", "3"), ("b", None), ("site", "5"), ("risk", "6")} <= places
    assert all(each.fix for each in report.errors), report.errors


def test_leaks_are_warned_of() -> None:
    frame = visits()
    assert messages(frame, "warning") == ""
    assert "column 'copy' is a straight line of the target 'risk'" in messages(
        frame.assign(copy=frame.risk * 2), "warning"
    )
    named = frame.assign(risk=["ill", "well"] * 30, code=[7, 3] * 30)
    assert "column 'code' stands for the target 'risk'" in messages(named, "warning")
    twins = frame.assign(site=frame.site.replace({"s1": "S0 ", "s3": "s0"}))
    assert "task ids 'S0 ', 's0' differ only by space, case or zeros" in messages(twins, "warning")
    copied = pd.concat([frame, frame[:6].assign(site="new")])
    assert "tasks 's0' and 'new' share 6 of 6 rows" in messages(copied, "warning")
    nearly = copied.assign(dose=copied.dose * (1 + 1e-9 * np.arange(66)))
    assert "share 6 of 6" in messages(nearly.round({"risk": 6}), "warning")


def test_what_was_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "visits.csv"
    visits().assign(age=np.repeat(np.arange(10), 6)).to_csv(path, index=False)
    assert run(["check", str(path), "--task", "site", "--target", "risk", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["layout"], found["command"]) == (True, "table", "check")
    assert found["understood"]["split"] == {"train": 6, "valid": 2, "test": 2}
    assert found["understood"]["task columns"] == ["age"]
    assert [column["kind"] for column in found["understood"]["columns"]] == ["number", "number"]
    assert run(["check", str(path), "--task", "site", "--target", "rsk"]) == 3
    printed = capsys.readouterr()
    assert "did you mean 'risk'" in printed.out
    assert "mend them, then check again" in printed.err


MESSY = """Patient;Visit;Dose;Smoker;Ward;Notes;Score
p1;2024-01-03;1,5;yes;A;ok;3.1
p1;2024-01-04;2.0;no;A;;3.9
p1;04.02.2024;n/k;no;A;x;4.5
{rows}
p1 ;2024-01-09;2.5;no;A;;5.0
lone;2024-03-01;1.0;no;B;;2.2
p2;2024-02-01;1.0;yes;B;;
;2024-02-02;1.0;yes;B;;2.0
"""


def messy() -> str:
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(2, 9):
        for visit in range(8):
            dose = rng.uniform(0, 4)
            score = f"{2 * dose + patient:.2f}" if visit < 6 else ""
            rows.append(
                f"p{patient};2024-05-{visit + 1:02d};{dose:.2f};{'yes' if visit % 2 else 'no'};B;;{score}"
            )
    return MESSY.format(rows="\n".join([*rows, rows[0]]))


def mended(line: str, text: str, options: dict[str, str]) -> str:
    """The file after doing what one message says, and nothing else; options are changed in place."""
    if option := re.search(r"\(--([a-z-]+) ([^;)]*?)(?: or |;|\))", line):
        options[option[1]] = ",".join(filter(None, [options.get(option[1], ""), option[2]]))
        return text
    lines = text.split("\n")
    number = int(re.search(r"line (\d+)", line)[1]) - 1
    value = re.search(r": '([^']*)' in column", line)
    if "decimal comma" in line:
        lines[number] = lines[number].replace(value[1], value[1].replace(",", "."))
    elif "leave it empty" in line:
        lines[number] = lines[number].replace(f";{value[1]};", ";;")
    elif "remove the row" in line:
        lines[number] = ""
    else:
        raise AssertionError(f"nothing here says what to do: {line}")
    return "\n".join(lines)


def test_a_messy_spreadsheet_goes_from_check_to_predict_by_its_messages_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = tmp_path / "messy.csv", {"task": "Patient", "target": "Score"}
    printed = check_until_clean(capsys, path, messy(), options, mended)
    assert options["date-format"] == "%Y-%m-%d,%d.%m.%Y"
    for words_found in (
        "separated by semicolons", "task ids 'p1', 'p1 '", "equals line", "fewer than two labelled rows",
    ):  # fmt: skip
        assert words_found in printed, printed
    found = predicted(capsys, path, options, steps=3)
    assert found.prediction.notna().sum() == found.Score.isna().sum() == 15
    assert np.isfinite(found.prediction.dropna()).all()


def test_a_target_that_belongs_to_the_task_is_warned_of_and_noted_by_training() -> None:
    rng = np.random.default_rng(0)
    ill = np.repeat(rng.permutation(["ill", "well"] * 12), 6)
    frame = pd.DataFrame({"site": np.repeat(np.arange(24), 6), "dose": rng.normal(size=144), "risk": ill})
    sentence = "the target 'risk' is the same in all rows of a task, in 24 of 24 tasks"
    assert sentence in messages(frame, "warning")
    assert sentence not in messages(frame, "note")
    assert any(sentence in note for note in il.tasks.open(frame, task="site", target="risk").notes)
    numbers = frame.assign(risk=np.repeat(rng.normal(size=24), 6))
    assert "is the same in all rows of a task" in messages(numbers, "warning")
    # an event that most tasks never see belongs to the rows
    rare = frame.assign(risk=np.where(np.arange(144) % 72 == 0, "yes", "no"))
    assert "same in all rows" not in messages(rare, "warning")


@pytest.mark.parametrize("twin", ["Jose\u0301", "JOS\u00c9", " Jos\u00e9"])
def test_forms_of_one_name_are_told_apart(twin) -> None:
    frame = visits().assign(site=lambda f: f.site.replace({"s1": "Jos\u00e9", "s3": twin}))
    notes = "\n".join(il.tasks.open(frame, task="site", target="risk").notes)
    for text in (messages(frame, "warning"), notes):
        assert "task ids" in text
        assert repr(twin) in text or ascii(twin) in text


def test_rows_that_look_alike_by_nature_are_no_copies_and_copies_are_said_once() -> None:
    rng = np.random.default_rng(1)
    ratings = pd.DataFrame(
        [
            (f"u{user}", item, rng.choice([3, 4, 4, 5]))
            for user in range(200)
            for item in rng.permutation(60)[: rng.choice([2, 3, 4, 6])]
        ],
        columns=["site", "item", "risk"],
    )
    assert "share" not in messages(ratings, "warning")
    frame = visits()
    copies = [frame[:6].assign(site=f"new {n}") for n in range(4)]
    told = [line for line in messages(pd.concat([frame, *copies]), "warning").splitlines() if "share" in line]
    assert len(told) == 1
    assert "(10 such pairs, more than chance makes)" in told[0]  # five equal tasks
    assert told[0].count("share 6 of 6 rows") == 3


def test_numbers_of_rows_are_no_feature() -> None:
    frame = visits()
    for numbers in (range(1, len(frame) + 1), range(len(frame), 0, -1)):
        assert "column 'row' counts the rows" in messages(frame.assign(row=list(numbers)), "warning")
    shuffled = np.random.default_rng(0).permutation(len(frame))
    assert "counts the rows" not in messages(frame.assign(row=shuffled), "warning")


def test_few_tasks_are_said() -> None:
    assert "10 tasks are few" in messages(visits(), "note")
    many = toolkit.tables.visits(tasks=24, risk=lambda frame: frame.dose**2 + 3)
    assert "are few" not in messages(many, "note")
