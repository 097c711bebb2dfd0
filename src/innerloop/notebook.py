"""HTML that notebooks show for an object instead of its `repr`: a title, facts, and a small table.

Text is escaped and cut, colours are left to the notebook, and nothing in it can run.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import islice

__all__ = ["as_html"]

_MOST_ROWS, _MOST_TEXT = 20, 160


def as_html(title: str, facts: Mapping[str, object], table: Sequence[Sequence[object]] = ()) -> str:
    """A title, facts by name, and a table whose first row is its head.

    Arguments:
        title: what the object is.
        facts: name and value; `None` and what is empty is left out.
        table: rows of equally many cells; what follows the first 20 is counted and not shown.

    Returns:
        HTML for `_repr_html_`. Numbers have four digits, texts at most 160 characters.

    Example:
        >>> as_html("Tasks", {"name": "a<b", "notes": ()})
        '<div><b>Tasks</b><table><tr><th style="text-align:left">name</th><td>a&lt;b</td></tr></table></div>'
    """
    shown = {
        name: value for name, value in facts.items() if value is not None and value not in ("", (), [], {})
    }
    lines = [
        f'<tr><th style="text-align:left">{_text(n)}</th><td>{_text(v)}</td></tr>' for n, v in shown.items()
    ]
    parts = [f"<b>{_text(title)}</b>", f"<table>{''.join(lines)}</table>" if lines else ""]
    if table:
        head, *body = table
        rows = [_row("th", head), *(_row("td", row) for row in islice(body, _MOST_ROWS))]
        parts.append(f"<table>{''.join(rows)}</table>")
        if (more := len(body) - _MOST_ROWS) > 0:
            parts.append(f"<i>and {more} more</i>")
    return f"<div>{''.join(parts)}</div>"


def _row(cell: str, values: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{cell}>{_text(value)}</{cell}>' for value in values)}</tr>"


def _text(value: object) -> str:
    if isinstance(value, float):
        return "undefined" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, list | tuple) and not hasattr(
        value, "_fields"
    ):  # a named tuple has words of its own
        value = ", ".join(map(str, value))
    elif isinstance(value, Mapping):
        value = ", ".join(f"{name}={entry}" for name, entry in value.items())
    text = str(value)
    return html.escape(text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}...")
