"""Which algorithm is exported as which file: every one of them tried, for numbers and for classes, in both formats.

    python benchmarks/exports.py                      # what was not tried yet, into benchmarks/results/exports.jsonl
    python benchmarks/exports.py maml auto            # these, anew
    python benchmarks/exports.py --write              # the table of docs/howto/export.md from these results

A model of 24 small tasks is trained for three updates, exported, and run on four rows of a new task with none and three
known rows: by `torch.export` and by onnxruntime. What is told is the largest difference to `predict_frame` of the same
model in double precision, over the largest value, or why there is no file. Each is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "exports.jsonl"
PAGE = HERE.parent / "docs" / "howto" / "export.md"
BEGIN, END = "<!-- exports: begin -->", "<!-- exports: end -->"
KINDS, FORMATS, SECONDS = ("regression", "classification"), ("torch", "onnx"), 300
ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
EQUAL = 1e-6


def frame_of(kind: str) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient": np.repeat([f"p{n:02d}" for n in range(25)], 8)})
    frame["dose"] = rng.normal(3, 2, 200)
    frame["sex"] = rng.choice(["f", "m"], 200)
    value = frame.dose + np.repeat(rng.normal(size=25), 8) + (frame.sex == "m") + 0.2 * rng.normal(size=200)
    frame["score"] = value if kind == "regression" else np.where(value > 3.5, "high", "low")
    return frame


def stored_model(algorithm: str, kind: str) -> Any:
    import innerloop as il
    from innerloop.algorithms.assemble import learner_for
    from innerloop.combining import choose
    from innerloop.storage.save import unsaved

    frame = frame_of(kind)
    tasks = il.tasks.table(
        frame[frame.patient != "p24"], task="patient", target="score", n_support=3, split=(0.6, 0.3, 0.1)
    )
    if algorithm == "auto":
        model = choose(tasks, steps=3).run.model
    else:
        learner = learner_for(tasks, algorithm=algorithm)
        model = il.meta_train(learner, tasks.train, valid=tasks.valid, steps=3, device="cpu").model
    meta = {
        name: value.double() if value.is_floating_point() else value for name, value in model.meta.items()
    }
    return unsaved(
        il.Model(model.learner, meta), schema=tasks.schema, support=tasks.train.support, targets=tasks.targets
    )


def columns_of(part: pd.DataFrame, schema: Any, *, names: list[str], text: bool) -> dict[str, np.ndarray]:
    levels = {column.name: column.levels for column in schema.columns if column.kind == "category"}
    levels |= {schema.target: schema.classes} if schema.kind == "classification" else {}
    found = {}
    for name in names:
        if name not in levels:
            found[name] = part[name].to_numpy(np.float64)
        elif text:
            found[name] = part[name].to_numpy(object)
        else:
            found[name] = np.array([list(levels[name]).index(value) for value in part[name]], dtype=np.int64)
    return found


def run_file(path: Path, schema: Any, known: pd.DataFrame, asked: pd.DataFrame) -> dict[str, np.ndarray]:
    names = [column.name for column in schema.columns]
    text = path.suffix == ".onnx"
    support = columns_of(known, schema, names=[*names, schema.target], text=text)
    query = columns_of(asked, schema, names=names, text=text)
    if text:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options)
        feed = {f"support.{name}": values for name, values in support.items()}
        feed |= {f"query.{name}": values for name, values in query.items()}
        outputs = [output.name for output in session.get_outputs()]
        return dict(zip(outputs, session.run(None, feed), strict=True))
    import torch

    program = torch.export.load(path).module()
    both = ({name: torch.from_numpy(v.copy()) for name, v in part.items()} for part in (support, query))
    return {name: values.numpy() for name, values in program(*both).items()}


def tried(algorithm: str, kind: str, to: str) -> dict[str, Any]:
    from innerloop.errors import InnerloopError

    try:
        stored = stored_model(algorithm, kind)
    except InnerloopError as error:
        return {"result": "none", "why": str(error)}
    new = frame_of(kind).query("patient == 'p24'").reset_index(drop=True)
    began, worst = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{ENDINGS[to]}"
        try:
            stored.export(path)
        except InnerloopError as error:
            return {"result": "refused", "why": str(error)}
        seconds = time.perf_counter() - began
        for known in (0, 3):
            rows = pd.concat([new[:known], new[4:]], ignore_index=True)
            asked = rows.assign(score=rows["score"].where(np.arange(len(rows)) < known))
            wanted = stored.predict_frame(asked).iloc[known:]
            found = run_file(path, stored.schema, rows[:known], rows[known:])
            names = [name for name in found if name.startswith("probability_")] or ["prediction"]
            for name in names:
                right = wanted[name].to_numpy(np.float64)
                gap = np.abs(found[name].reshape(-1) - right).max() / max(np.abs(right).max(), 1e-12)
                worst = max(worst, float(gap))
    return {"result": "equal" if worst < EQUAL else "differs", "gap": worst, "seconds": round(seconds, 1)}


def apart(algorithm: str, kind: str, to: str) -> dict[str, Any]:
    words = [sys.executable, __file__, algorithm, "--one", kind, to]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"result": "slow", "why": f"not written within {SECONDS} s"}
    if done.returncode:
        return {"result": "failed", "why": done.stderr.strip().splitlines()[-1][:400]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def known_results() -> dict[tuple[str, str, str], dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(row["algorithm"], row["kind"], row["to"]): row for row in map(json.loads, lines)}


def cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not tried"
    if row["result"] == "equal":
        return f"{row['gap']:.0e}"
    return {"none": "-", "slow": "over 5 min"}.get(row["result"], row["result"])


def write() -> None:
    known = known_results()
    by_name: defaultdict[str, dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for (algorithm, kind, to), row in known.items():
        by_name[algorithm][kind, to] = row
    lines = [
        "| algorithm | numbers, `.pt2` | numbers, `.onnx` | classes, `.pt2` | classes, `.onnx` |",
        "|---|---|---|---|---|",
    ]
    for name, rows in by_name.items():
        cells = [cell(rows.get((kind, to))) for kind in KINDS for to in FORMATS]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("algorithms", nargs="*")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FORMAT"), help="try it here and print the result")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(tried(asked.algorithms[0], *asked.one)))
        return
    if asked.write:
        write()
        return
    from innerloop.algorithms import ALGORITHMS

    known = known_results()
    for algorithm in asked.algorithms or ["auto", *ALGORITHMS]:
        for kind in KINDS:
            for to in FORMATS:
                if not asked.algorithms and (algorithm, kind, to) in known:
                    continue
                row = {"algorithm": algorithm, "kind": kind, "to": to, **apart(algorithm, kind, to)}
                known[algorithm, kind, to] = row
                print(row, flush=True)
                RESULTS.write_text("".join(json.dumps(each) + "\n" for each in known.values()))


if __name__ == "__main__":
    main()
