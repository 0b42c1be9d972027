"""What a plan warns of is told in words, whichever technology judged it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console

from credscale.core.journal import Journal
from credscale.core.step import Result, Status
from credscale.frontends.telling import changes_in, warn

if TYPE_CHECKING:
    from pathlib import Path


def warned(*rows: dict[str, Any]) -> list[str]:
    result = Result("probe", "probe", {}, Status.OK, "", {"rows": list(rows)}, [], None, "", 0.0)
    stream = io.StringIO()
    warn(Console(file=stream, width=200), [result])
    return stream.getvalue().splitlines()


def test_checks_and_reasons() -> None:
    check = {"severity": "warn", "check": "drivers", "finding": "an old one", "remedy": "update it"}
    reason = {"severity": "warn", "where": "10.0.0.1:7000", "rule": "lag", "what": "it is behind", "what to do": ""}
    assert warned(check, reason, {"severity": "ok", "check": "fine"}) == [
        "  ⚠ drivers: an old one (update it)",
        "  ⚠ 10.0.0.1:7000: it is behind",
    ]


def test_what_was_not_looked_at_is_only_named() -> None:
    assert warned({"severity": "unknown", "check": "roles"}, {"severity": "skipped", "check": "drivers"}) == [
        "  ⚠ not looked at, the report says why: roles, drivers"
    ]


def test_changes_that_were_made_cut_off_and_failed(tmp_path: Path) -> None:
    assert changes_in(None).text == changes_in(tmp_path).text == "Changed so far: nothing"
    journal = Journal(tmp_path / "journal.jsonl")
    events = [
        ("started", "first", 1, ""), ("finished", "first", 1, "done"),
        ("started", "second", 2, ""), ("finished", "second", 2, "failed"),
        ("started", "third", 3, ""), ("finished", "third", 3, "failed"),
        ("started", "third", 3, ""), ("finished", "third", 3, "done"),  # tried again
        ("started", "fourth", 4, ""),
    ]  # fmt: skip
    journal.append("step_started", step="example")
    for event, what, number, status in events:
        journal.append(f"change_{event}", step="example", change=number, what=what, status=status)
    journal.append("step_started", step="example")  # the same one once more
    journal.append("change_finished", step="example", change=1, what="fifth", status="done")
    journal.close()
    changes = changes_in(tmp_path)
    assert changes.made == ["first", "third", "fourth (its end was not seen)", "fifth"]
    assert changes.failed == ["second"]
    assert "  ✗ second (it failed; a part of it may have been made)" in changes.text
