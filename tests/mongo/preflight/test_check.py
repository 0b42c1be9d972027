"""The frame: which checks are run, what they say when they can't look, how a lab softens them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import AutoReconnect, OperationFailure

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.preflight.check import Check, Row, Seen, check, chosen, skips, united, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LAB: Any = SimpleNamespace(rehearsal=True)
REAL: Any = SimpleNamespace(rehearsal=False)
FINE = (Seen("ok", "fine"),)


def made(name: str, number: int = 1, *, real_only: bool = False, says: Any = FINE) -> Check:
    def look(_look: Any) -> Iterable[Seen]:
        if isinstance(says, Exception):
            raise says
        yield from says

    return check(number, name, command="ping", reason="it matters", real_only=real_only)(look)


CHECKS = [made("versions"), made("disk-space", 2), made("oplog", 3)]
NAMES = [each.name for each in CHECKS]


def test_only_names_the_checks_to_run() -> None:
    assert chosen(CHECKS, "") == CHECKS
    assert chosen(CHECKS, " oplog , versions") == [CHECKS[0], CHECKS[2]]
    with pytest.raises(EnvironmentInvalid, match="there is no check 'disk-spaec'. Did you mean 'disk-space'?"):
        chosen(CHECKS, "oplog,disk-spaec")


def test_a_skip_needs_a_known_name_and_a_reason() -> None:
    assert skips(CHECKS, "oplog=large enough; versions=known = accepted") == {
        "oplog": "large enough",
        "versions": "known = accepted",
    }
    assert skips(CHECKS, " ; ") == {}
    for text in ("oplog", "oplog=", "oplog= ; versions=x"):
        with pytest.raises(EnvironmentInvalid, match="'oplog' needs a reason"):
            skips(CHECKS, text)
    with pytest.raises(EnvironmentInvalid, match="There are: versions, disk-space, oplog"):
        skips(CHECKS, "nothing=why")


REASONS = st.text(st.characters(exclude_characters=";"), min_size=1).map(str.strip).filter(bool)


@given(st.dictionaries(st.sampled_from(NAMES), REASONS))
def test_what_was_skipped_is_read_back_with_its_reason(wanted: dict[str, str]) -> None:
    assert skips(CHECKS, "; ".join(f"{name}={reason}" for name, reason in wanted.items())) == wanted


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (OperationFailure("not authorized", 13), "the user may not look (code 13)", "docs/how-to.md"),
        (OperationFailure("no such cmd", 59), "this deployment has no such command (code 59)", "other means"),
        (OperationFailure("not allowed", 8000), "no such command (code 8000)", "other means"),
        (AutoReconnect("a:1: connection refused, Timeout: 5s"), "AutoReconnect: a:1: connection refused", "run again"),
    ],
)
def test_what_cannot_be_looked_at_is_unknown(error: Exception, said: str, remedy: str) -> None:
    (row,) = made("oplog", says=error).run(REAL)
    assert row.severity == "unknown"
    assert said in row.seen.finding
    assert remedy in row.seen.remedy
    assert "Timeout:" not in row.seen.finding
    assert row.seen == unreadable(error)


@pytest.mark.parametrize(
    ("severity", "in_a_lab"), [("stop", "note"), ("warn", "note"), ("unknown", "note"), ("ok", "ok")]
)
def test_a_lab_goes_on_where_only_a_real_cluster_can_be_at_fault(severity: Any, in_a_lab: str) -> None:
    each = made("oplog", real_only=True, says=[Seen(severity, "short", "enlarge it")])
    assert [row.severity for row in each.run(LAB)] == [in_a_lab]
    assert [row.severity for row in each.run(REAL)] == [severity]
    assert [row.severity for row in made("oplog", says=[Seen(severity, "x")]).run(LAB)] == [severity]


def test_a_check_that_says_nothing_is_an_error_of_ours() -> None:
    with pytest.raises(AssertionError, match="the check oplog said nothing"):
        made("oplog", says=[]).run(REAL)


def half_way(error: Exception) -> Iterator[Seen]:
    yield Seen("stop", "it is broken", "repair it")
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationFailure("not authorized", 13), "the user may not look (code 13)"),
        (AutoReconnect("a:1: connection refused"), "AutoReconnect: a:1: connection refused"),
        (KeyError("members"), "reply not understood (KeyError: 'members')"),
        (TypeError("no number"), "reply not understood (TypeError: no number)"),
        (ValueError("x"), "reply not understood (ValueError: x)"),
        (AttributeError("y"), "reply not understood (AttributeError: y)"),
    ],
)
def test_what_was_seen_stays_when_a_later_read_fails(error: Exception, said: str) -> None:
    rows = made("oplog", says=half_way(error)).run(REAL)
    assert [row.severity for row in rows] == ["stop", "unknown"]
    assert said in rows[1].seen.finding


def test_a_mistake_of_ours_stays_loud() -> None:
    with pytest.raises(AssertionError, match="never"):
        made("oplog", says=half_way(AssertionError("never"))).run(REAL)


def test_one_row_alone_may_be_about_what_a_lab_does_not_have() -> None:
    says = [Seen("warn", "one machine", real_only=True), Seen("warn", "a wrong setting")]
    assert [row.severity for row in made("oplog", says=says).run(LAB)] == ["note", "warn"]


def test_the_rows_of_the_reference_that_block() -> None:
    blocking = {number for number in range(1, 57) if made("x", number).blocks}
    warn_only = {9, 10, 11, 12, 32, 33, 36, 37, 38, 40, 48, 50, 51, 52, 53, 56}
    never_wholly_known = {34, 39, 47}
    assert blocking == set(range(1, 57)) - warn_only - never_wholly_known


def test_a_silent_server_is_one_row_for_all_checks() -> None:
    quiet = Seen("unknown", "b:1 was not looked at", "let it answer", member="b:1")
    good = Seen("ok", "fine")
    rows = [
        Row(CHECKS[0], quiet),
        Row(CHECKS[0], good),
        Row(CHECKS[1], quiet),
        Row(CHECKS[1], good),
        Row(CHECKS[1], quiet),
    ]
    one, *others = united(rows)
    assert [row.seen for row in others] == [good, good]
    assert one.flat()["check"] == "2 checks"
    assert one.sentence == "b:1 was not looked at; this concerns versions, disk-space (let it answer)"
    assert one.blocks
    assert united(rows[:2]) == rows[:2]


def test_an_address_may_be_left_out_as_well() -> None:
    assert skips(CHECKS, "b:27018=behind a firewall, OPS-7") == {"b:27018": "behind a firewall, OPS-7"}
    with pytest.raises(EnvironmentInvalid, match="shard-migrate: --skip-checks"):
        skips(CHECKS, "b:27018")


def test_a_row_in_words_and_in_the_table() -> None:
    row = Row(CHECKS[2], Seen("stop", "it is short", "enlarge it"))
    assert row.sentence == "oplog: it is short (enlarge it)"
    assert Row(CHECKS[2], Seen("ok", "long enough")).sentence == "oplog: long enough"
    assert row.flat() == {
        "no": 3, "check": "oplog", "severity": "stop", "finding": "it is short", "remedy": "enlarge it",
        "reason": "it matters", "command": "ping",
    }  # fmt: skip
