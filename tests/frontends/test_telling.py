"""What a plan warns of is told in words, whichever technology judged it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from credscale.core.step import Result, Status
from credscale.frontends.telling import warn


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
