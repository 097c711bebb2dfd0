"""Tables, arrays and folders that nobody would write on purpose: every outcome is right, or one error with its fix.

    python benchmarks/reliability/strange_input.py
    python benchmarks/reliability/strange_input.py --examples 500 --seed 7

Hypothesis makes CSV files (any separator, encoding, quotation, names, cells, bytes), Parquet files, `.npz` arrays,
folders of tables and folders of images, whole and damaged, and options that may or may not fit. `check` and `train`
have to end within a minute, with an exit code of their own (never 1, our bug), and an error has to be one line of
bounded length that names a file, an option, a column or a task, says what to do, and holds nothing that steers a
terminal. What `check` accepts, `train` takes; what `check` refuses, `train` refuses. After a training every
prediction is a finite number or a class. Pages are not drawn, as each takes seconds. With
`--shrink` Hypothesis makes the first failing example small. Leaves with 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from PIL import Image

import innerloop.cli.pages
from innerloop.cli import run

SECONDS = 60
LONG = 3000
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
CODES = {0, 2, 3, 6}

NASTY = (
    "", " ", "NA", "nan", "inf", "-inf", "1e999", "1e-320", "1e38", "-1e300", "1_000", "1,5", "1.5", "007", "0x10",
    "true",     "=1+1", "a;b", 'a"b', "\x1b[31mred", "\x00", "\u202eabc", "😀",
    "<script>", "2024-01-01", "31.12.2023", "9" * 30, "x" * 5000, "Zürich", "-", "?", "50 %", "120/80", "\t",
    "\n", "\r",
)  # fmt: skip
CELLS = st.one_of(
    st.integers(-3, 3).map(str),
    st.floats(-5, 5).map(lambda value: f"{value:.3g}"),
    st.sampled_from("ab"),
    st.sampled_from(NASTY),
    st.text(max_size=5),
    st.floats().map(str),
)
COLUMNS = st.sampled_from(
    [
        st.floats(-5, 5).map(lambda value: f"{value:.3g}"),
        st.integers(0, 1).map(str),
        st.integers(0, 3).map(str),
        st.sampled_from("ab"),
        st.just("1"),
        st.sampled_from(["1.5", ""]),
        st.sampled_from(["1e30", "-1e30", "1"]),
        st.dates().map(str),
        CELLS,
    ]
)
NAMES = st.one_of(
    st.sampled_from(
        ["x", "y", "site", "a b", "task", "=cmd", "\x1b[2J", "Ü", "1", "prediction", "n_support", '"', ","]
    ),
    st.text(max_size=4),
)
TASKS = st.sampled_from(
    [list("abcdefgh"), ["1", "01", "1.0", "2", "3"], [" a", "a", "A", "b"], ["a"], ["", "a", "b"]]
)


@dataclass(frozen=True)
class Given:
    """Files by name, what is opened, and the options."""

    files: dict[str, bytes]
    name: str
    words: tuple[str, ...]


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """A good table of text, of 8 tasks with 7 rows each, and up to three strange things about it."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    frame = pd.DataFrame({"site": np.repeat([*"abcdefgh"], 7), "y": rng.normal(size=56).round(2)}).astype(str)
    for name in "xyz"[: draw(st.integers(1, 3))]:
        frame[name] = rng.normal(size=56).round(2).astype(str)
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        kind, name = draw(st.integers(0, 6)), draw(st.sampled_from([*frame.columns]))
        if kind == 0:
            frame[name] = draw(st.lists(draw(COLUMNS), min_size=len(frame), max_size=len(frame)))
        elif kind == 1 and len(frame):
            frame.loc[draw(st.sampled_from([*frame.index])), name] = draw(CELLS)
        elif kind == 2:
            frame = frame.rename(columns={name: draw(NAMES)})
        elif kind == 3:
            frame = frame[: draw(st.sampled_from([0, 1, 3, 7, 15, 30]))]
        elif kind == 4 and "site" in frame:
            ids = draw(TASKS)
            frame["site"] = [ids[n % len(ids)] for n in range(len(frame))]
        elif kind == 5:
            frame = frame.sample(frac=1, random_state=0, ignore_index=True)
        else:
            frame = pd.concat([frame, frame.iloc[: draw(st.integers(0, 20))]], ignore_index=True)
        frame = frame.loc[:, ~frame.columns.duplicated()] if kind != 2 else frame
    return frame


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file of text, perhaps damaged."""
    frame = draw(frames())
    text = frame.to_csv(
        index=draw(st.integers(0, 9)) == 0, sep=draw(st.sampled_from(",,,,,,;\t|")), escapechar="\\"
    )
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "latin-1", "utf-16"]))
    data = text.encode(encoding, "replace")
    kind = draw(st.integers(0, 19))
    if kind == 0:
        place = draw(st.integers(0, len(data)))
        return data[:place]
    if kind == 1:
        place = draw(st.integers(0, len(data)))
        return data[:place] + draw(st.binary(max_size=4)) + data[place:]
    if kind == 2:
        return draw(st.binary(max_size=60))
    return data


@st.composite
def options(draw: st.DrawFn) -> tuple[str, ...]:
    """Options of a table, most of which fit."""
    words = ["--target", draw(st.sampled_from(["y"] * 12 + ["x", "site", "no", "\x1b[2J"]))]
    words += draw(st.sampled_from([["--task", "site"]] * 9 + [["--n-way", "2"], [], ["--task", "y"]]))
    more = (
        *[[]] * 9, ["--n-support", "1"], ["--n-support", "2-50"], ["--n-shot", "1"], ["--kind", "classification"],
        ["--kind", "regression"], ["--features", "x"], ["--ignore", "x"], ["--categorical", "x"], ["--decimal", ","],
        ["--missing", "-,?"], ["--encoding", "latin-1"], ["--n-support", "0"], ["--support", "order:x"],
        ["--rare", "0"],        ["--split", "0.5,0.25,0.25"], ["--date-format", "%d.%m.%Y"],
    )  # fmt: skip
    return (*words, *draw(st.sampled_from(more)))


@st.composite
def tables(draw: st.DrawFn) -> Given:
    """One file of text."""
    return Given({"given.csv": draw(files())}, "given.csv", draw(options()))


@st.composite
def parquet(draw: st.DrawFn) -> Given:
    """A Parquet file, perhaps damaged."""
    frame = draw(frames())
    frame = frame.loc[:, ~frame.columns.duplicated()]
    for name in frame.columns[1:]:
        with contextlib.suppress(ValueError):
            frame[name] = pd.to_numeric(frame[name])
    stream = io.BytesIO()
    try:
        frame.to_parquet(stream)
    except UnicodeEncodeError:
        return Given({"given.parquet": b"PAR1"}, "given.parquet", draw(options()))
    data = stream.getvalue()
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return Given({"given.parquet": data}, "given.parquet", draw(options()))


@st.composite
def arrays(draw: st.DrawFn) -> Given:
    """An `.npz` file, perhaps damaged, of arrays that may fit each other."""
    rows = draw(st.sampled_from([60, 60, 60, 60, 40, 9, 1, 0]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    kinds = {
        "x": [rng.normal(size=(rows, 2)), rng.normal(size=rows), np.full((rows, 1), np.nan), np.zeros((rows, 0)),
              rng.integers(0, 255, (rows, 1, 8, 8)).astype(np.uint8), np.array(["a"] * rows),
              np.ones((rows, 2)) * 1e300],
        "y": [rng.normal(size=rows), rng.integers(0, 2, rows), np.zeros(rows), rng.normal(size=(rows, 2)),
              np.array(1.0), np.array(["a", "b"] * 30)[:rows], np.full(rows, np.inf), rng.normal(size=rows + 1)],
        "task": [np.arange(rows) // 5, np.arange(rows) // 5 + 0.0, np.array(["a\x1b[2J"] * rows), np.arange(rows)],
    }  # fmt: skip
    usual = st.booleans()
    held = {
        name: kinds[name][0] if draw(usual) else draw(st.sampled_from(kinds[name]))
        for name in ("x", "y", "task")
    }
    if draw(st.integers(0, 2)) == 0:
        held = {"x": held["x"], "label": held["y"]}
    if draw(st.integers(0, 9)) == 0:
        held["more"] = np.zeros(1)
    stream = io.BytesIO()
    np.savez(stream, **held)  # type: ignore[arg-type]
    data = stream.getvalue()
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    words = draw(
        st.sampled_from([(), (), ("--n-support", "2"), ("--kind", "classification"), ("--n-way", "2")])
    )
    return Given({"given.npz": data}, "given.npz", words)


@st.composite
def folders(draw: st.DrawFn) -> Given:
    """A folder of tables."""
    names = draw(
        st.lists(st.sampled_from(["a", "b", "c", "d", "e e", "Ü", ".hidden", "\x1b[2J", "=1"]), unique=True)
    )
    inside = {f"given/{name}.csv": draw(files()) for name in names}
    words = tuple(word for word in draw(options()) if word not in ("--task", "site"))
    return Given(inside, "given", words)


def picture(mode: str = "L", size: tuple[int, int] = (8, 8)) -> bytes:
    """An image file."""
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "TIFF" if mode in ("F", "CMYK") else "PNG")
    return stream.getvalue()


@st.composite
def images(draw: st.DrawFn) -> Given:
    """A folder of folders of images, with up to three strange things: odd modes, sizes, names and files."""
    good = picture()
    tops = draw(
        st.sampled_from([[""]] * 4 + [["train/", "val/", "test/"], ["train/", "test/"], ["a/", "b/", "c/"]])
    )
    inside = {
        f"given/{top}{name}/{number}.png": good for top in tops for name in "012345" for number in range(5)
    }
    sizes = st.sampled_from([(1, 1), (20, 3), (1, 300), (8, 8)])
    modes = st.sampled_from(["RGB", "RGBA", "1", "P", "I;16", "F", "CMYK", "LA"])
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        kind, path = draw(st.integers(0, 6)), draw(st.sampled_from([*inside] or ["given/a/b.png"]))
        if kind == 0:
            inside[path] = picture(draw(modes), draw(sizes))
        elif kind == 1:
            inside[path] = draw(
                st.sampled_from([b"", b"text", good[:20], good[:-9], b"GIF89a", b"\x89PNG\r\n"])
            )
        elif kind == 2:
            inside = {
                old: data for old, data in inside.items() if old.rpartition("/")[0] != path.rpartition("/")[0]
            }
        elif kind == 3:
            name = draw(st.sampled_from(["\x1b[2J", "=1", "é", ".hidden", "test", "a b"]))
            inside = {
                old.replace(path.rpartition("/")[0], f"given/{name}"): data for old, data in inside.items()
            }
        elif kind == 4:
            inside[
                draw(st.sampled_from(["given/1.png", "given/0/1/2/3/4.png", "given/read.txt", "given/t.csv"]))
            ] = good
        elif kind == 5:
            keep = draw(st.integers(0, len(inside)))
            inside = dict([*inside.items()][:keep])
        else:
            inside = {old: picture(draw(modes)) for old in inside}
    words = draw(
        st.sampled_from(
            [(), (), (), ("--n-way", "2"), ("--skip-bad",), ("--image-size", "1"), ("--labels", "shared")]
        )
    )
    return Given(inside, "given", words)


KINDS = {
    "tables": tables(),
    "Parquet": parquet(),
    "arrays": arrays(),
    "folders of tables": folders(),
    "images": images(),
}
ALGORITHMS = {
    "regression": ("mixed", "ridge", "maml", "gp", "boosting"),
    "classification": ("protonet", "maml", "mixed", "gp", "boosting"),
}


@contextlib.contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """`TimeoutError` after some seconds."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(*words: str) -> tuple[int, str]:
    """Run a verb, and see that it ends as it should: its exit code, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    note(f"innerloop {' '.join(words)!r}"[:300])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited():
        code = run([*words])
    printed, complaint = out.getvalue(), err.getvalue()
    assert code in CODES, f"left with {code}: {complaint[-600:]}"
    assert not CONTROLS.search(complaint), f"steers: {complaint[-600:]!r}"
    assert all(len(line) < LONG for line in complaint.splitlines()), f"{len(complaint)} characters on stderr"
    if words[0] != "predict":
        assert not CONTROLS.search(printed), f"steers: {printed[-600:]!r}"
    if code:
        message = complaint.splitlines()[-1]
        assert message.startswith("innerloop: "), message
        assert any(mark in message[11:] for mark in (": ", " (", "; it has ")), f"no fix: {message}"
    return code, printed


def try_one(case: Given, algorithm: int) -> str:
    """Check, train and predict: what came of it."""
    for name, data in case.files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if not case.files and case.name == "given":
        Path("given").mkdir(exist_ok=True)
    checked, said = call("check", case.name, *case.words)
    kind = (
        "classification"
        if "n-way" in said or "classification" in said or "episodes" in said
        else "regression"
    )
    names = ("protonet",) if case.name == "given" and "--target" not in case.words else ALGORITHMS[kind]
    quick = ("--width", "4") if len(names) == 1 else ()
    quick += ("--steps", "1", "--device", "cpu", "--gear", "eager", "--quiet", "--out", "run", "--replace")
    trained, _ = call("train", case.name, *case.words, *quick, "--algorithm", names[algorithm % len(names)])
    if checked == 3:
        assert trained in (2, 3), f"check refuses, train leaves with {trained}"
    if checked == 0:
        assert trained in (0, 2, 6), f"check accepts, train leaves with {trained}"
    if trained or not case.name.endswith(("csv", "parquet")) or "--task" not in case.words:
        return {0: "trained", 2: "refused (usage)", 3: "refused (data)", 6: "diverged"}[trained]
    code, _ = call("predict", "run", case.name, "--quiet")
    assert code in (0, 3, 6), f"trained, but predict leaves with {code}"
    return "trained and predicted" if code == 0 else f"trained, predict leaves with {code}"


def hunt(
    kind: str, examples: int, number: int, *, shrink: bool = False
) -> tuple[Counter[str], dict[str, str]]:
    """Try so many examples of a kind in the working folder.

    Arguments:
        kind: one of `KINDS`.
        examples: how many.
        number: the seed.
        shrink: raise the first fault, made small.

    Returns:
        How often each outcome, and the faults: the words of each, and the first example that has it.
    """
    counts, faults = Counter[str](), dict[str, str]()

    @seed(number)
    @settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )  # fmt: skip
    @given(KINDS[kind], st.integers(0, 11))
    def one(case: Given, algorithm: int) -> None:
        here = Path("case")
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        try:
            with contextlib.chdir(here):
                counts[try_one(case, algorithm)] += 1
        except Exception as error:  # what is wrong is counted, and said once
            if shrink:
                raise
            counts["WRONG"] += 1
            what = f"{type(error).__name__}: {error}"
            faults.setdefault(re.sub(r"\d+", "N", what)[:200], f"{what[:800]}\n    {case!r:.1500}")

    one()
    return counts, faults


def main() -> int:
    """Try them, and print how often what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=400, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[*KINDS])
    parser.add_argument("--shrink", action="store_true", help="stop at the first fault, and make it small")
    asked = parser.parse_args()
    warnings.simplefilter("error")
    innerloop.cli.pages.draw = lambda make, notes: None  # type: ignore[assignment]
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for kind in [asked.kind] if asked.kind else KINDS:
            began = time.perf_counter()
            counts, faults = hunt(kind, asked.examples, asked.seed, shrink=asked.shrink)
            print(f"{kind}: {counts.total():,} examples in {time.perf_counter() - began:.0f} s")
            for outcome, times in counts.most_common():
                print(f"  {times:6,}  {outcome}", flush=True)
            print(*(f"  {text}" for text in faults.values()), sep="\n", file=sys.stderr, flush=True)
            failed += counts["WRONG"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
