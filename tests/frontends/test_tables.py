"""Tables on the terminal: every list of flat rows once, units where they help, long columns left to the report."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from credscale.frontends.tables import problem_rows, tables_of


def shown(output: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    for table in tables_of(output):
        console.print(table)
    return console.export_text()


def test_rows_come_first_and_other_lists_under_their_names() -> None:
    text = shown({"moves": [{"count": 3}], "note": "a text", "rows": [{"shard": "s1", "disk free": 3 * 1024**3}]})
    assert text.index("s1") < text.index("moves")
    assert "3.0 GB" in text
    assert "a text" not in text


def test_what_is_no_table_is_left_out_and_what_stands_there_twice_is_shown_once() -> None:
    rows = [{"what": "documents", "before": None, "after": 12345}]
    text = shown({"rows": rows, "before_after": rows, "ids": ["a"], "nested": [{"a": {"b": 1}}], "empty": []})
    assert text.count("12,345") == 1
    assert "–" in text
    assert "nested" not in text


def test_a_long_table_says_how_much_more_there_is() -> None:
    assert "… and 50 more in the report" in shown({"rows": [{"n": n} for n in range(150)]})


def test_reason_and_command_are_for_the_report() -> None:
    text = shown({"rows": [{"check": "disk", "severity": "stop", "reason": "why it matters", "command": "dbStats"}]})
    assert "disk" in text
    assert "why it matters" not in text
    assert "dbStats" not in text


def test_what_a_person_should_read_before_going_on() -> None:
    rows = [{"severity": severity} for severity in ("stop", "warn", "unknown", "skipped", "note", "ok")]
    assert [row["severity"] for row in problem_rows({"rows": rows})] == ["warn", "unknown", "skipped"]
    assert problem_rows({}) == []
