"""The tables of a step's output on the terminal: every list of flat rows in it, worst severity in red."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from credscale.frontends.progress import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_ROWS = 100
LINE = 28  # characters that a cell may ask for before it is broken into lines
REPORT_ONLY = {"reason", "command"}  # too long for a terminal
STYLES = {
    "stop": "bold red", "failed": "bold red", "warn": "yellow", "unknown": "magenta", "skipped": "magenta",
    "note": "cyan", "ok": "green", "down": "bold red",
}  # fmt: skip
BYTES = ("bytes", "size", "free", "needed", "used")


def tables_of(output: Mapping[str, Any], width: int = 160) -> Iterator[Table | Text]:
    """Yield a table for every list of flat rows in an output, ``rows`` first.

    Args:
        output: a Result's output.
        width: of the terminal, in characters.
    """
    lists = {name: value for name, value in output.items() if _is_table(value)}
    first = {"rows": lists.pop("rows")} if "rows" in lists else {}
    shown: list[Any] = []
    for name, rows in (first | lists).items():
        if rows in shown:  # a list that stands there under two names
            continue
        shown.append(rows)
        for columns in _parts(rows, width):
            yield _table(name, rows[:MOST_ROWS], columns, width)
        if len(rows) > MOST_ROWS:
            yield Text(f"… and {len(rows) - MOST_ROWS} more in the report", "dim")


def problem_rows(output: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a person should read before going on: warnings, and what could not be looked at."""
    rows = output.get("rows", [])
    return [row for row in rows if isinstance(row, dict) and row.get("severity") in ("warn", "unknown", "skipped")]


def without_good_rows(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return an output whose judged rows are only those that are not in order."""
    rows = output.get("rows", [])
    bad = [row for row in rows if not isinstance(row, dict) or row.get("severity") not in ("ok", "note")]
    return {**output, "rows": bad}


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and _flat(row) for row in value)


def _flat(row: Mapping[str, Any]) -> bool:
    return not any(isinstance(value, list | dict) for value in row.values())


def _table(name: str, rows: list[Mapping[str, Any]], columns: list[str], width: int) -> Table:
    title = None if name == "rows" else f"\n{name.replace('_', ' ')}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    longest = {column: max(len(_cell(column, row.get(column)).plain) for row in rows) for column in columns}
    # Rather a head of two lines than a cell of two.
    is_wide = sum(2 + max(longest[column], len(_head(column))) for column in columns) > width
    for column in columns:
        numbers = all(isinstance(row.get(column), int | float | None) for row in rows)
        head = "\n".join(_head(column).split()) if is_wide and len(_head(column)) > longest[column] else _head(column)
        table.add_column(head, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    return table


def _head(column: str) -> str:
    return column if ":" in column else column.replace("_", " ")  # a shard key stays as it is


def _parts(rows: list[Mapping[str, Any]], width: int) -> Iterator[list[str]]:
    """Yield the columns, in parts where one line could not hold them; each part begins with the first column."""
    columns = [column for column in dict.fromkeys(key for row in rows for key in row) if column not in REPORT_ONLY]
    part, used = columns[:1], 0
    for column in columns[1:]:
        longest = max(len(_cell(column, row.get(column)).plain) for row in rows)
        needed = 2 + max(min(longest, LINE), max(map(len, _head(column).split())))
        first = max(len(str(row.get(columns[0]))) for row in rows)
        if len(part) > 1 and used + needed > width - min(first, LINE) - 2:
            yield part
            part, used = columns[:1], 0
        part, used = [*part, column], used + needed
    yield part


def _cell(column: str, value: Any) -> Text:
    if value is None:
        return Text("–", "dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int | float):
        if re.split("[_ ]", column)[-1] in BYTES:
            return Text(human_bytes(value))
        return Text(f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip("."))
    text = str(value)
    return Text(text, STYLES.get(text, ""))
