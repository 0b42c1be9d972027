"""Transactions: those that a migration can lose, and how applications use them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from credscale.mongo.preflight import transactions
from credscale.mongo.preflight.members_asked import Member, Replies
from tests.mongo.preflight.looks import Nodes, look_at, said, severities

# serverStatus.transactions as 4.4.6 tells it
TRANSACTIONS = {"currentOpen": 0, "totalStarted": 0, "totalPrepared": 0, "currentPrepared": 0}


@pytest.mark.parametrize(
    ("prepared", "version", "severity"),
    [
        (0, (4, 4, 6), "ok"),
        (2, (4, 4, 6), "stop"),
        (2, (4, 4, 29), "note"),
        (2, (5, 0, 14), "stop"),
        (2, (7, 0, 9), "note"),
    ],
)
def test_prepared_transactions(prepared: int, version: tuple[int, ...], severity: str) -> None:
    rows = transactions.judge_prepared({"a:1": TRANSACTIONS | {"currentPrepared": prepared}}, version)
    assert severities(rows) == [severity]


def test_members_that_tell_no_transactions_are_unknown() -> None:
    rows = transactions.judge_prepared({"a:1": TRANSACTIONS, "b:1": None}, (7, 0, 9))
    assert [(row.severity, row.finding) for row in rows] == [("unknown", "no transactions in serverStatus of b:1")]
    assert severities(transactions.judge_transactions({}, None)) == ["unknown"]


def test_a_member_that_does_not_answer_is_named() -> None:
    silent = Member("b:1", "shard", "s1", "s1", problem="it does not answer")
    replies = Replies({"a:1": {"transactions": TRANSACTIONS, "version": "7.0.9"}}, silent=(silent,))
    look: Any = SimpleNamespace(
        replies=lambda *_: replies, server=SimpleNamespace(numbers=(7, 0, 9)), rehearsal=False, home="s1"
    )
    rows = transactions.prepared_transactions.run(look)
    assert [row.severity for row in rows] == ["ok", "unknown"]
    assert "b:1 was not looked at: it does not answer" in rows[1].seen.finding


def test_use_and_lifetime_of_transactions() -> None:
    assert severities(transactions.judge_transactions({"a:1": TRANSACTIONS}, 60)) == ["ok"]
    used = {"a:1": TRANSACTIONS | {"totalStarted": 9, "currentOpen": 1}}
    rows = transactions.judge_transactions(used, 600)
    assert severities(rows) == ["warn", "note"]
    assert rows[1].finding == "up to 9 transactions since a member's start, 1 open now; they may live for 600 s"
    assert "is not told" in transactions.judge_transactions(used, None)[0].finding


def test_the_oldest_member_decides_and_a_lab_is_told_the_same() -> None:
    nodes = Nodes()
    status = nodes.nodes["127.0.0.1:27020"].replies["serverStatus"]
    prepared = status | {"transactions": TRANSACTIONS | {"currentPrepared": 1}}
    nodes.answer("serverStatus", prepared, "127.0.0.1:27020")
    nodes.answer("buildInfo", {"version": "4.4.18"}, "127.0.0.1:27028")
    for rehearsal in (False, True):
        assert said(transactions.prepared_transactions, look_at(nodes, rehearsal=rehearsal))[0][0] == "stop"
    nodes.answer("buildInfo", {"version": "4.4.29"}, "127.0.0.1:27028")
    assert said(transactions.prepared_transactions, look_at(nodes))[0][0] == "note"
