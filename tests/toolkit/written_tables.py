"""Tables as people write them, each with the truth beside it: what was written is what is to be understood."""

from __future__ import annotations

import random
from typing import NamedTuple

import pandas as pd

from innerloop.errors import InnerloopError
from innerloop.tasks.findings import check
from innerloop.tasks.recognise import open_tasks
from innerloop.tasks.tables.deciding import Reading
from innerloop.tasks.tables.reading import read_table

WORDS = {
    "utf-8": ("Ulm", "Köln", "Žilina", "none", "NA", "a b"),
    "cp1252": ("Ulm", "Köln", "Fürth", "none", "n/a", "50 €"),
    "utf-16": ("Ulm", "Köln", "東京", "null", "NA", "x;y"),
}
CODES = (
    ("007", "07", "7"),
    ("1.1", "1.10", "1.2"),
    ("01", "02", "10"),
    ("1e999", "2e999", "3"),
    ("NA", "DE", "none"),
)
GAP_MARKS = ("", "NA", "n/a", "NULL", "-", "k.A.", ".", "?")
DATES = ("%Y-%m-%d", "%d.%m.%Y", "%Y/%m/%d", "%d-%b-%Y", "%b %d %Y", "%d/%m/%Y", "%Y-%m-%d %H:%M")
FORMS = ("plain", "thousands", "unit", "limit", "pairs")
TITLES = ("# measured by hand", "Ward 7, seen in May", "Report 2024-05-01", "")
FOOTERS = ("Total", "Source: ward 7", "Mittelwert", "n. b. all of them are invented")
# what stands around the rows: nothing mostly
SHAPES = ("plain",) * 6 + ("title", "footer", "source", "merged", "blanks", "write.table", "pipes")


class Written(NamedTuple):
    """A file, the options that a careful person gives, and what each column holds: text, numbers, or days."""

    data: bytes
    options: dict[str, object]
    truth: dict[str, list[object]]


def written_table(seed: int) -> Written:
    """Table number `seed`, in an encoding, with separators, marks, quotes and gaps of its own."""
    rng = random.Random(seed)
    encoding = rng.choice(list(WORDS))
    separator = rng.choice(",;\t")
    decimal = rng.choice(".,") if separator != "," else "."
    shape = rng.choice(SHAPES)
    # nothing between blanks is no cell, so gaps are written out there
    gap = rng.choice(GAP_MARKS if shape not in ("blanks", "write.table") else GAP_MARKS[1:])
    codes = rng.choice(CODES)
    form = rng.choice((*FORMS, "plain", "plain", "plain"))
    date = rng.choice(DATES)
    kind = rng.choice(("regression", "classification"))
    n_tasks, n_rows = 6, 6
    rows: dict[str, list[tuple[str, object]]] = {
        name: [] for name in ("id", "city", "code", "dose", "day", "y")
    }
    for task in range(n_tasks):
        name = rng.choice((f"{task:03d}", f"{task + 1}", f"p {task}"))
        for _ in range(n_rows):
            rows["id"].append((name, name))
            rows["city"].append(_twice(rng.choice(WORDS[encoding])))
            rows["code"].append(_twice(rng.choice(codes)))
            rows["dose"].append((gap, None) if rng.random() < 0.2 else _number(rng, decimal, form))
            day = pd.Timestamp("2023-01-13") + pd.Timedelta(days=rng.randrange(700))
            rows["day"].append((_spelled(day, date), (day - pd.Timestamp(0)).days))
            label = rng.choice(("none", "mild", "01", "1.10"))
            rows["y"].append(_twice(label) if kind == "classification" else _number(rng, decimal, "plain"))
    options: dict[str, object] = {"task": "id", "target": "y", "kind": kind, "categorical": ["city", "code"]}
    options |= {"decimal": decimal} if decimal == "," else {}
    options |= {"missing": [gap]} if gap in ("-", "k.A.", ".", "?") else {}
    options |= {"encoding": encoding} if encoding == "cp1252" else {}
    text, said = _as_text(
        rng, {name: [cell for cell, _ in cells] for name, cells in rows.items()}, separator, shape
    )
    truth = {name: [value for _, value in cells] for name, cells in rows.items()}
    if shape == "merged":
        truth = {MERGED.get(name, name): values for name, values in truth.items()}
        options["categorical"] = [MERGED.get(name, name) for name in ("city", "code")]
    return Written(text.encode(encoding), options | said, truth)


def _twice(text: str) -> tuple[str, str]:
    return text, text


def _number(rng: random.Random, decimal: str, form: str) -> tuple[str, object]:
    """A number as it is written, and its value."""
    value = round(rng.uniform(-5000, 5000), 2)
    if form == "thousands":
        text = f"{value:,.2f}"
        return (text.translate({44: 46, 46: 44}) if decimal == "," else text), value
    text = f"{value}".replace(".", decimal)
    if form == "unit":
        return f"{text} kg", value
    if form == "limit":
        return (f"<{text}", None) if rng.random() < 0.5 else (text, value)
    return (f"{abs(int(value))}/{rng.randrange(60, 90)}", None) if form == "pairs" else (text, value)


def _spelled(day: pd.Timestamp, form: str) -> str:
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    return day.strftime(form.replace("%b", months[day.month - 1]))


# two lines of names: those of a city stand below a name that two columns share
MERGED = {"city": "place city", "code": "place code"}


def _as_text(
    rng: random.Random, columns: dict[str, list[str]], separator: str, shape: str
) -> tuple[str, dict[str, object]]:
    """The file: quotes where they are needed or everywhere, row names, blank lines, line ends, and what stands around.

    Beside it the options that a careful person gives for it; half of the people give none, so that it is to be refused.
    """
    every, row_names = rng.random() < 0.3 or shape == "write.table", rng.random() < 0.3
    row_names = shape == "write.table" or (row_names and shape not in ("blanks", "merged"))
    end = rng.choice(("\n", "\r\n"))
    separator = {"blanks": " ", "write.table": " ", "pipes": "|"}.get(shape, separator)
    told = rng.random() < 0.5
    said: dict[str, object] = {}

    def line(cells: list[str]) -> str:
        needed = [
            every or separator in cell or '"' in cell or (separator == " " and not cell) for cell in cells
        ]
        return separator.join(
            f'"{cell}"' if quote else cell for cell, quote in zip(cells, needed, strict=True)
        )

    lines = [[""] * (row_names and shape != "write.table") + list(columns)]
    if shape == "merged":
        # names above the others, over two columns for the place
        lines = [["id", "place", "", *list(columns)[3:]], ["", "city", "code", *[""] * (len(columns) - 3)]]
        said = {"header_rows": 2}
    lines += [
        [str(number)] * row_names + list(cells)
        for number, cells in enumerate(zip(*columns.values(), strict=True), 1)
    ]
    text = [line(cells) for cells in lines]
    if rng.random() < 0.2:
        text.insert(rng.randrange(1, len(text)), "")
    if shape == "title":
        above = [rng.choice(TITLES) for _ in range(rng.randrange(1, 4))]
        text = [*above, *text]
        said |= {"skip_rows": len(above)} if told else {}
    if shape in ("footer", "source"):
        cell = rng.choice(FOOTERS)
        text.append(line([cell, *[""] * (len(lines[-1]) - 1)]) if shape == "footer" else cell)
        said |= {"skip_footer": 1} if told else {}
    if shape == "blanks":
        # columns that stand below each other
        text = ["  ".join(part.split(" ")) if '"' not in part else part for part in text]
    if rng.random() < 0.1 and not said:
        text.insert(0, "# measured by hand")
    return end.join(text) + end * rng.randrange(3), said


def difference(table: Written, path: str) -> tuple[str, str]:
    """`("right", "")`, `("refused", message)` or `("wrong", what)` of what is read from the file at `path`."""
    try:
        frame = read_table(path, task="id", reading=Reading.of(table.options))
        tasks = open_tasks(path, **table.options)
    except InnerloopError as error:
        report = check(path, **table.options)
        same = any(finding.message in str(error) for finding in report.errors)
        return ("refused", str(error)) if same else ("wrong", f"check does not say: {error}")
    assert tasks.schema is not None
    names = [
        "id",
        *table.options["categorical"],
        *(["y"] if table.options["kind"] == "classification" else []),
    ]
    for name in names:
        if frame[name].tolist() != table.truth[name]:
            return "wrong", f"{name}: {frame[name].tolist()[:4]} for {table.truth[name][:4]}"
    for name in {"dose", "y"} - set(names):
        read = [None if pd.isna(value) else float(value) for value in frame[name]]
        if read != table.truth[name]:
            return "wrong", f"{name}: {read[:4]} for {table.truth[name][:4]}"
    day = next(column for column in tasks.schema.columns if column.name == "day")
    from innerloop.tasks.tables.columns import numbers

    days = [int(value) for value in numbers(frame, "day", "id", kind="date", formats=day.formats)]
    return (
        ("right", "") if day.kind == "date" and days == table.truth["day"] else ("wrong", f"day: {days[:4]}")
    )
