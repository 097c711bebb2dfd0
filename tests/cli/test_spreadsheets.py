"""Strangers' spreadsheets: from `check` to `train` to `predict` with nothing but what the messages say.

Each walk starts with a file as people have it. A reader, `heed`, does what one message says: it takes the place
and the fix from the text alone. Then `check` is run again, until there is no error.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from toolkit.commands import check_until_clean, predicted

pytestmark = pytest.mark.long

RNG = np.random.default_rng(0)


def clinic() -> bytes:
    """German, Latin-1: semicolons, decimal commas, two date formats, units, blanks, bare lines, one-row task."""
    lines = ["Patient ;Alter;Besuch;Dosis;Raucher;Gewicht;Bemerkung;Score"]
    for patient in range(9):
        for visit in range(1 if patient == 8 else 6):
            day = f"{visit + 1:02d}.03.2023" if patient < 6 else f"2023-03-{visit + 1:02d}"
            dose = RNG.uniform(0, 5)
            weight = f"{RNG.uniform(50, 90):.1f}" + (" kg" if patient == 1 and visit < 2 else "")
            score = "" if visit == 5 else "n.a." if (patient, visit) == (2, 1) else f"{dose * dose:.2f}"
            note = ("", '"müde; blass"', "Größe?")[visit % 3]
            name = "p3 " if (patient, visit) == (3, 2) else f"p{patient}"
            smokes = ("ja", "nein", "")[visit % 3]
            cells = [name, str(40 + patient), day, f"{dose:.2f}", smokes, weight, note, score]
            lines.append(";".join(c if i == 2 else c.replace(".", ",") if c[:1].isdigit() else c
                                  for i, c in enumerate(cells)))  # fmt: skip
    lines += [lines[7], ";" * 7, ""]
    return "\r\n".join(lines).encode("latin-1")


def shop() -> bytes:
    """American: a title, an unnamed index, dollars, per cent, thousands marks, unclear dates, a total."""
    lines = ["Report Q3,,,,,,", ",Store,Day,Visitors,Promo %,Manager,Sales"]
    for store in range(8):
        for day in range(6):
            visitors, cents = int(RNG.integers(1000, 9000)), int(RNG.integers(0, 99))
            sales = f'"$1,{visitors // 10:03d}.{cents:02d}"' if day < 4 else ""
            lines.append(
                f'{len(lines)},"#{store}",{day + 1}/{store + 1}/2023,"{visitors:,}",{day}%,Ann,{sales}'
            )
    return "\n".join([*lines, ',,,,,Total,"$1,234.00"']).encode("utf-8-sig")


def machines() -> bytes:
    """UTF-16 and tabs: numbers as ids, -999 for gaps, labels in two spellings, a column of names by number."""
    lines = ["machine\tline\ttemp\tshift\tstate"]
    for machine in range(9):
        for row in range(8):
            temp = "-999" if row == 2 else f"{RNG.normal(60, 5):.2f}"
            state = ("ok", "OK", "worn")[row % 3] if row < 6 else ""
            lines.append(f"{machine}\tL{machine % 2}\t{temp}\t{row % 2 + 1}\t{state}")
    return "\n".join(lines).encode("utf-16")


def heed(line: str, data: bytes, options: dict[str, str]) -> bytes:
    """The file after doing what one message says; options are changed in place."""
    if found := re.search(r"(?:say so|say which|or name both) \(--([a-z-]+) ([^;)]*?)(?: or |\))", line):
        options[found[1]] = found[2].strip("'")
        return data
    marked = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(options.get("encoding", marked)).replace("\r\n", "\n")
    rows = text.split("\n")
    if "remove the lines above the names" in line:
        return "\n".join(rows[1:]).encode()
    if "leave it out" in line and (found := re.search(r"column (\d+) has no name", line)):
        frame = [re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', row) for row in rows]
        gone = int(found[1]) - 1
        return "\n".join(",".join(c for i, c in enumerate(row) if i != gone) for row in frame).encode()
    column = found[1] if (found := re.search(r"in column '(.+?)'", line)) else ""
    if "write the number alone" in line or "write numbers without them" in line:
        separator = ";" if ";" in rows[0] else ","
        place = [name.strip() for name in rows[0].split(separator)].index(column)
        for number, row in enumerate(rows[1:], 1):
            cells = re.split(rf'{separator}(?=(?:[^"]*"[^"]*")*[^"]*$)', row)
            if len(cells) > place:
                keep = "0-9." if separator == "," else "0-9,"
                cells[place] = re.sub(f"[^{keep}]", "", cells[place])
                rows[number] = separator.join(cells)
        return "\n".join(rows).encode()
    number = int(re.search(r"line (\d+)", line)[1]) - 1
    if "remove the row" in line:
        del rows[number]
    elif "leave it empty" in line:
        value = re.search(r"'([^']*)' in column", line)[1]
        rows[number] = rows[number].replace(f";{value}", ";")
    else:
        raise AssertionError(f"nothing here says what to do: {line}")
    return "\n".join(rows).encode()


WALKS = {
    "clinic": (clinic, {"task": "Patient", "target": "Score"}, 9, ("one-row", "task ids 'p3', 'p3 '", "equals line")),
    "shop": (shop, {"task": "Store", "target": "Sales"}, 16, ()),
    "machines": (machines, {"task": "machine", "target": "state"}, 18, ("-999 stands in 9 rows", "'OK', 'ok' differ")),
}  # fmt: skip


@pytest.mark.parametrize("name", WALKS)
def test_a_strangers_spreadsheet_gets_from_check_to_predict(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, given, n_predicted, warnings = WALKS[name]
    path, options = tmp_path / f"{name}.csv", dict(given)
    printed = check_until_clean(capsys, path, make(), options, heed)
    for words_found in warnings:
        assert words_found.replace("one-row", "fewer than two labelled rows") in printed, printed
    found = predicted(capsys, path, options)
    target = found[options["target"]]
    gaps = target.isna() | (target == options.get("missing"))  # a gap stays as it is written
    assert found.prediction.notna().sum() == gaps.sum() == n_predicted
