"""A model directory whose schema was stored before names stayed as written is scored on the same tasks as then."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from innerloop import load
from innerloop.cli import run
from innerloop.cli.common import Notes
from innerloop.cli.held_out import held_out
from toolkit.tables import visits


@pytest.mark.parametrize("of_classes", [False, True])
def test_held_out_tasks_by_a_schema_from_before(
    of_classes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table, out = tmp_path / "visits.csv", tmp_path / "run"
    visits(tasks=15, rows=8).assign(grade=["low", "NA"] * 60).to_csv(table, index=False)
    asked = ["--target", "site", "--n-way", "2"] if of_classes else ["--task", "site", "--target", "risk"]
    asked += [
        "--algorithm",
        "protonet" if of_classes else "ridge",
        "--steps",
        "1",
        "--keep-ids",
        "--quiet",
        "--device",
        "cpu",
    ]
    assert run(["train", str(table), *asked, "--out", str(out)]) == 0
    stored = load(out)
    assert stored.schema is not None
    assert stored.schema.as_written
    # as it was read then: NA is no name
    columns = [replace(c, levels=("low",)) if c.name == "grade" else c for c in stored.schema.columns]
    before = replace(stored, schema=replace(stored.schema, columns=tuple(columns), as_written=False))
    now, then = (held_out(each, None, Notes(quiet=True)) for each in (stored, before))
    names = [c.name for c in stored.schema.columns]
    first = names.index("grade")
    assert stored.schema.columns[first].levels == ("NA", "low")
    keep = [number for number in range(now.x.shape[1]) if number != first]
    assert torch.equal(now.x[:, keep], then.x)
    assert now.n_query == then.n_query
    if of_classes:
        assert now.index.tolist() == then.index.tolist()
    else:
        assert now.ids == then.ids
