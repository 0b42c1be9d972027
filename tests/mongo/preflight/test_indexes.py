"""The indexes against the shard key."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from credscale.mongo.cluster import facts
from credscale.mongo.preflight import indexes
from credscale.mongo.preflight.look import Look

NAMESPACE = "shop.orders"
KEY = facts.parse_key("createdAt:hashed,userId:1")
NAME = "createdAt_hashed_userId_1"
GOOD = facts.Index(NAME, KEY)
RECORDED = Path(__file__).parents[2] / "cases/mongo/recorded"  # replies of a real 4.4.6 cluster


@pytest.mark.parametrize(
    ("index", "severity"),
    [
        (facts.Index("u", {"orderId": 1}, unique=True), "stop"),
        (facts.Index("u", {"createdAt": 1, "userId": 1, "x": 1}, unique=True), "ok"),
        (facts.Index("u", {"userId": 1, "createdAt": 1}, unique=True), "stop"),
        (facts.Index("u", {"createdAt": 1}, unique=True), "stop"),
        (facts.Index("u", {"_id": 1, "x": 1}, unique=True), "ok"),
        (facts.Index("u", {"_id": 1, "x": 1}, unique=True, collation="de"), "warn"),
        (facts.Index("u", {"orderId": 1}, unique=True, collation="de"), "stop"),
        (facts.Index("x", {"orderId": 1}), "ok"),
    ],
)
def test_unique_indexes(index: facts.Index, severity: str) -> None:
    (row,) = indexes.judge_unique([index], KEY, NAMESPACE)
    assert row.severity == severity
    if severity == "stop":
        assert 'db.getSiblingDB("shop").getCollection("orders").dropIndex("u")' in row.remedy


@pytest.mark.parametrize(
    ("found", "severity", "said"),
    [
        ([GOOD], "ok", f"{NAME} serves the shard key"),
        ([facts.Index("longer", {**KEY, "x": 1})], "ok", "longer serves the shard key"),
        ([], "note", "still to be built"),
        ([facts.Index("plain", {"createdAt": 1, "userId": 1})], "note", "still to be built"),
        ([facts.Index(NAME, KEY, hidden=True)], "stop", "can't carry the key: it is hidden"),
        ([facts.Index(NAME, KEY, sparse=True, collation="de")], "stop", "it is sparse, has the collation de"),
        ([facts.Index(NAME, {"x": 1})], "stop", "it has another key"),
        ([facts.Index(NAME, KEY, seed=7)], "stop", "it has the hash seed 7"),
        ([facts.Index(NAME, KEY, partial=True), facts.Index("other", KEY)], "ok", "other serves the shard key"),
    ],
)
def test_the_index_that_carries_the_key(found: list[facts.Index], severity: str, said: str) -> None:
    rows = indexes.judge_index(found, KEY, NAMESPACE, (5, 0, 28))
    assert rows[0].severity == severity
    assert said in rows[0].finding


HIDDEN = facts.Index("old", KEY, hidden=True)


@pytest.mark.parametrize(
    ("index", "version", "remedy"),
    [
        (HIDDEN, (4, 4, 6), "show it again"),
        (HIDDEN, (8, 0, 4), "show it again"),
        (facts.Index("old", KEY, seed=7), (8, 0, 4), "drop it"),
        (facts.Index("old", KEY, sparse=True), (4, 4, 6), "drop it"),
        (facts.Index("old", KEY, sparse=True), (5, 0, 0), ""),
        (facts.Index("old", KEY, hidden=True, partial=True), (4, 4, 6), "drop it"),
        (facts.Index("old", KEY, hidden=True, partial=True), (5, 0, 0), ""),
        (facts.Index("old", KEY, collation="de"), (4, 4, 6), ""),
        (facts.Index("old", {**KEY, "x": 1}, hidden=True), (4, 4, 6), ""),
    ],
)
def test_an_index_of_the_same_key_is_in_the_way_whatever_its_name(
    index: facts.Index, version: tuple[int, ...], remedy: str
) -> None:
    rows = indexes.judge_index([index], KEY, NAMESPACE, version)
    assert [row.severity for row in rows] == (["stop"] if remedy else ["note", "note"])
    if remedy:
        assert rows[0].finding.startswith("the index old can't carry the key")
        assert rows[0].remedy.startswith(remedy)
        only_hidden = index.hidden and not index.partial
        assert ('{collMod: "orders", index: {name: "old", hidden: false}}' in rows[0].remedy) == only_hidden


def test_an_unusable_index_of_another_name_is_no_obstacle() -> None:
    rows = indexes.judge_index([facts.Index("part", KEY, partial=True)], KEY, NAMESPACE, (5, 0, 28))
    assert [row.severity for row in rows] == ["note", "note"]
    assert rows[1].finding == "the index part can't carry the key: it is partial"


def look(answer: Any, found: tuple[facts.Index, ...] = (GOOD,)) -> tuple[Look, list[Any]]:
    """Return what the check sees when the primary answers so."""
    asked: list[Any] = []

    def command(request: dict[str, Any]) -> Any:
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def on_primary(shard: str) -> Any:
        if isinstance(answer, ServerSelectionTimeoutError):
            raise answer
        assert shard == "s1"
        return {"admin": SimpleNamespace(command=command)}

    ctx: Any = SimpleNamespace(environment=SimpleNamespace(lab=None))
    seen = Look(ctx, NAMESPACE, KEY, 0, "")
    seen.__dict__ |= {
        "collection": facts.Collection("orders", "collection", {}, ""), "indexes": found, "home": "s1",
        "on_primary": on_primary, "server": SimpleNamespace(numbers=(5, 0, 28)),
    }  # fmt: skip
    return seen, asked


NO_INDEX = "couldn't find valid index for shard key"


@pytest.mark.parametrize(
    ("answer", "severity", "said"),
    [
        (OperationFailure(NO_INDEX, None), "stop", f"s1 does not let {NAME} carry the key: {NO_INDEX}"),
        (OperationFailure(NO_INDEX, 8), "stop", NO_INDEX),
        (OperationFailure(NO_INDEX, 96), "stop", NO_INDEX),
        (OperationFailure("not authorized", 13), "unknown", "the user may not look (code 13)"),
        (OperationFailure("no such command", 59), "unknown", "no such command"),
        (OperationFailure("ns not found", 26), "unknown", "ns not found"),
    ],
)
def test_the_server_judges_the_index(answer: OperationFailure, severity: str, said: str) -> None:
    rows = indexes.shard_key_index.run(look(answer)[0])
    assert [row.severity for row in rows] == ["ok", severity]
    assert said in rows[1].seen.finding


def test_the_server_takes_the_index_and_is_asked_as_recorded() -> None:
    case = json.loads((RECORDED / "03-before-sharding/checkShardingIndex.json").read_text())
    assert list(case["request"]["command"]) == ["checkShardingIndex", "keyPattern"]
    seen, asked = look(case["reply"])
    assert [row.severity for row in indexes.shard_key_index.run(seen)] == ["ok", "ok"]
    assert asked == [{"checkShardingIndex": NAMESPACE, "keyPattern": dict(KEY)}]


def test_nobody_is_asked_about_an_index_that_is_not_there() -> None:
    seen, asked = look({"ok": 1.0}, ())
    assert [row.severity for row in indexes.shard_key_index.run(seen)] == ["note"]
    assert asked == []


def test_a_shard_without_a_primary_is_unknown() -> None:
    seen, _ = look(ServerSelectionTimeoutError("no member of s1 is its primary"))
    assert [row.severity for row in indexes.shard_key_index.run(seen)] == ["ok", "unknown"]


def test_room_for_another_index() -> None:
    full = [facts.Index(f"i{n}", {f"f{n}": 1}) for n in range(64)]
    assert indexes.judge_count(full, KEY).severity == "stop"
    assert indexes.judge_count([*full[:63], GOOD], KEY).severity == "note"
    row = indexes.judge_count(full[:5], KEY)
    assert (row.severity, row.finding) == ("ok", "5 indexes, MongoDB allows 64")


def test_ttl_indexes_are_told() -> None:
    (row,) = indexes.judge_ttl([GOOD, facts.Index("t", {"createdAt": 1}, ttl=60.0)])
    assert row.severity == "warn"
    assert "the TTL index t deletes documents meanwhile (60 s after createdAt)" in row.finding
    assert indexes.judge_ttl([GOOD])[0].severity == "ok"


def test_a_view_has_no_indexes_to_look_at() -> None:
    view = facts.Collection("orders", "view", {}, "")
    seen: Any = SimpleNamespace(is_plain=False, collection=view, namespace=NAMESPACE, rehearsal=False)
    for each in (indexes.unique_indexes, indexes.shard_key_index, indexes.index_count, indexes.ttl):
        (row,) = each.run(seen)
        assert (row.severity, row.seen.finding) == ("unknown", "shop.orders is a view: there is nothing to look at")
