"""The page of `benchmarks/new_groups.py`: ranks, wins and losses, times, and every table."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["page"]

# scores that differ by less are tied; where we lose by more than this, the page names the table
TIE, NAMED = 0.01, 0.10
BOOTSTRAP = 2000
# groups left out, below which a table has few
FEW = 13

Scores = dict[int, dict[str, dict[str, float]]]


def scored(rows: list[dict[str, Any]], ours: str) -> tuple[Scores, list[str], int]:
    """Error by size, table and entrant; what failed is infinite. Of the splits in which everybody has been."""
    entrants = list(dict.fromkeys([ours, *(row["entrant"] for row in rows if "errors" in row)]))
    given = {(row["table"], row["split"], row["entrant"]): row for row in rows}
    tables = list(dict.fromkeys(row["table"] for row in rows))
    splits = sorted({row["split"] for row in rows})
    found: Scores = defaultdict(lambda: defaultdict(dict))
    most = 0
    for table in tables:
        whole = [split for split in splits if all((table, split, each) in given for each in entrants)]
        most = max(most, len(whole))
        for each in entrants:
            errors = defaultdict(list)
            for split in whole:
                row = given[table, split, each]
                sizes = given[table, split, ours]["errors"]
                for size in sizes:
                    errors[int(size)].append(row.get("errors", {}).get(size, np.inf))
            for size, values in errors.items():
                value = float(np.mean(values))
                found[size][table][each] = value if np.isfinite(value) else np.inf
    return found, entrants, most


def ranks(tables: dict[str, dict[str, float]], entrants: list[str]) -> dict[str, tuple[float, float, float]]:
    """Mean rank over tables of each entrant, with the 95 % interval of a bootstrap over tables."""
    each = np.array([stats.rankdata([own[name] for name in entrants]) for own in tables.values()])
    rng = np.random.default_rng(0)
    means = each[rng.integers(len(each), size=(BOOTSTRAP, len(each)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return {
        name: (float(each[:, place].mean()), float(low[place]), float(high[place]))
        for place, name in enumerate(entrants)
    }


def duels(
    tables: dict[str, dict[str, float]], ours: str, entrants: list[str]
) -> dict[str, tuple[int, int, int, float, float]]:
    """Of each opponent: wins, ties and losses over tables, the median ratio of errors, and Holm's p of a sign test."""
    found, chances = {}, {}
    for name in entrants:
        if name == ours:
            continue
        ratio = np.array([own[ours] / own[name] for own in tables.values()])
        win, loss = int((ratio < 1 - TIE).sum()), int((ratio > 1 + TIE).sum())
        chances[name] = stats.binomtest(win, win + loss).pvalue if win + loss else 1.0
        found[name] = (win, len(ratio) - win - loss, loss, float(np.median(ratio)))
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(chances, key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[name]))
        corrected[name] = largest
    return {name: (*own, corrected[name]) for name, own in found.items()}


def together(found: Scores) -> dict[str, dict[str, float]]:
    """Of each table and entrant the geometric mean of its errors with one labelled row or more."""
    gathered: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for size, tables in found.items():
        for table, own in tables.items() if size else ():
            for name, error in own.items():
                gathered[table][name].append(error)
    return {
        table: {name: float(np.exp(np.mean(np.log(errors)))) for name, errors in own.items()}
        for table, own in gathered.items()
    }


def lost(found: Scores, ours: str) -> list[str]:
    """Where the best opponent is clearly ahead, a line each."""
    lines = []
    for size, tables in sorted(found.items()):
        for table, own in tables.items():
            best = min((name for name in own if name != ours), key=own.__getitem__)
            if own[ours] > (1 + NAMED) * own[best]:
                lines.append(f"| {table} | {size} | {own[ours]:.3g} | {best} | {own[best]:.3g} |")
    return lines


def why(rows: list[dict[str, Any]], found: Scores, ours: str) -> str:
    """How much more often we lose where groups are few."""
    left = {row["table"]: row["groups"]["0"] for row in rows if row["entrant"] == ours}
    of = {line.split(" | ")[0].removeprefix("| ") + line.split(" | ")[1] for line in lost(found, ours)}
    cells = [(table, size) for size, tables in found.items() for table in tables]
    shares = []
    for few in (True, False):
        own = [f"{table}{size}" in of for table, size in cells if (left[table] < FEW) == few]
        shares.append(f"{sum(own)} of {len(own)}")
    return (
        f"That is {shares[0]} pairs of a table and K where fewer than {FEW} groups are left out (a fifth of the others "
        "are meta-validation tasks,\nso that two to seven of them decide what each member counts, and nets see few "
        f"groups), and {shares[1]} where there are more."
    )


def page(rows: list[dict[str, Any]], ours: str, rules: str) -> str:
    """The results as a page."""
    found, entrants, splits = scored(rows, ours)
    tables = max(len(own) for own in found.values())
    lines = [
        "# Few rows of a new group: the default beside its opponents", "",
        f"`innerloop train` without a named algorithm, beside {len(entrants) - 1} opponents on {tables} public tables, "
        f"{splits} split{'s' * (splits > 1)} of the groups.",
        "Written by `python benchmarks/new_groups.py --write` from `benchmarks/results/new_groups.jsonl`.", "",
        "## Rules", "", "They were fixed before the first run, but for the last, which says what happened since.", "",
        rules.partition("Rules, ")[2].partition("\n\n")[2].strip(), "",
        *wins(found, ours, entrants), "", *ranking(found, entrants), "", *times(rows, entrants), "",
        "## Where we lose", "", f"Tables on which the best opponent is ahead by more than {NAMED:.0%}.", "",
        "| table | K | ours | best opponent | its error |", "|---|---|---|---|---|", *lost(found, ours), "",
        why(rows, found, ours), "",
        *every_table(found, entrants), "", "## What did not run", "", *failures(rows), *unfinished(rows, found), "",
    ]  # fmt: skip
    return "\n".join(lines)


def wins(found: Scores, ours: str, entrants: list[str]) -> list[str]:
    """Wins, ties and losses, over all numbers of labelled rows and at each."""
    lines = [
        "## Wins and losses", "",
        "Over the tables, by the geometric mean of the errors with one labelled row or more; `p` is of a sign test,",
        "ties left out, corrected by Holm over the opponents. The ratio is our error over theirs, its median.", "",
        "| opponent | we win | tie | we lose | ratio | p |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (win, tie, loss, ratio, chance) in duels(together(found), ours, entrants).items():
        lines.append(f"| {name} | {win} | {tie} | {loss} | {ratio:.3f} | {chance:.2g} |")
    lines += ["", "By the number of labelled rows, as wins-ties-losses (`*` where p is below 0.05):", ""]
    sizes = sorted(found)
    by_size = {size: duels(found[size], ours, entrants) for size in sizes}
    lines += [
        f"| opponent | {' | '.join(f'K = {size}' for size in sizes)} |",
        f"|{'---|' * (len(sizes) + 1)}",
    ]
    for name in by_size[sizes[0]]:
        own = (by_size[size][name] for size in sizes)
        cells = ("-".join(map(str, each[:3])) + ("*" if each[4] < 0.05 else "") for each in own)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def ranking(found: Scores, entrants: list[str]) -> list[str]:
    """Mean ranks, over all numbers of labelled rows and at each."""
    every, sizes = together(found), sorted(found)
    heads = [f"K = {size}, {len(found[size])} tables" for size in sizes]
    lines = ["## Ranks", "", "Mean rank over tables, with a 95 % interval (bootstrap over tables).", ""]
    lines += [f"| entrant | all K from 1, {len(every)} tables | {' | '.join(heads)} |"]
    lines += [f"|{'---|' * (len(sizes) + 2)}"]
    of = [ranks(own, entrants) for own in (every, *(found[size] for size in sizes))]
    for name in sorted(entrants, key=lambda name: of[0][name][0]):
        cells = ("{:.1f} [{:.1f}, {:.1f}]".format(*own[name]) for own in of)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def times(rows: list[dict[str, Any]], entrants: list[str]) -> list[str]:
    """Processor seconds."""
    lines = [
        "## Time",
        "",
        "Processor seconds of all that an entrant fits for a table, median over tables, beside other work.",
        "",
    ]
    lines += ["| entrant | seconds | largest |", "|---|---|---|"]
    for name in entrants:
        own = [row["seconds"] for row in rows if row["entrant"] == name and "seconds" in row]
        lines.append(f"| {name} | {np.median(own):.1f} | {max(own):.0f} |")
    return lines


def every_table(found: Scores, entrants: list[str]) -> list[str]:
    """All errors, the lowest in bold."""
    lines = ["## Every table", "", "Error over variance.", ""]
    lines += [f"| table | K | {' | '.join(entrants)} |", f"|{'---|' * (len(entrants) + 2)}"]
    for table, size in itertools.product(found[0], sorted(found)):
        if table in found[size]:
            own = found[size][table]
            marks = {name: "**" * (own[name] == min(own.values())) for name in entrants}
            cells = ("-" if own[n] == np.inf else f"{marks[n]}{own[n]:.3g}{marks[n]}" for n in entrants)
            lines.append(f"| {table} | {size} | {' | '.join(cells)} |")
    return lines


def unfinished(rows: list[dict[str, Any]], found: Scores) -> list[str]:
    """Tables on which not every entrant has been yet, in a line."""
    counted = {table for own in found.values() for table in own}
    missing = sorted({row["table"] for row in rows} - counted)
    return [f"- Not finished yet, and in no figure: {', '.join(missing)}."] if missing else []


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Entrants, reasons and tables, a line each."""
    why: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if "reason" in row:
            why[row["entrant"], row["reason"]].add(row["table"])
    everywhere = {row["table"] for row in rows}
    return [
        f"- {name}: {reason} ({'every table' if own == everywhere else ', '.join(sorted(own))})"
        for (name, reason), own in why.items()
    ] or ["Everything ran."]
