"""The server's own figures are asked for where they can be had, and carry no user's values."""

from __future__ import annotations

from typing import Any

from pymongo.errors import OperationFailure

from credscale.mongo.advice.server import MILLISECONDS, parse_analysis, server_figures
from credscale.mongo.advice.steps import MOST_ANALYZED
from credscale.mongo.cluster.facts import Server, parse_key

KEY = parse_key("userId:hashed,createdAt:1")
REPLY: dict[str, Any] = {
    "keyCharacteristics": {
        "numDocsTotal": 9039, "avgDocSizeBytes": 150, "numDocsSampled": 1000, "isUnique": False,
        "numDistinctValues": 900, "mostCommonValues": [{"value": {"userId": "jane"}, "frequency": 20}],
        "monotonicity": {"recordIdCorrelationCoefficient": 0.1, "type": "not monotonic"},
    },
    "readDistribution": {
        "sampleSize": {"total": 10, "find": 10}, "percentageOfSingleShardReads": 90.0,
        "percentageOfMultiShardReads": 0.0, "percentageOfScatterGatherReads": 10.0,
    },
    "writeDistribution": {"sampleSize": {"total": 0}, "percentageOfSingleShardWrites": 0.0},
    "ok": 1.0,
}  # fmt: skip


class FakeMongos:
    """Answers analyzeShardKey and the reads before it."""

    def __init__(self, *, indexed: bool = True, sampled: bool = False, reply: Any = None) -> None:
        self.indexed, self.sampled, self.reply = indexed, sampled, reply if reply is not None else REPLY
        self.asked: list[dict[str, Any]] = []

    def __getitem__(self, _name: str) -> FakeMongos:
        return self

    def get_collection(self, _name: str, **_options: Any) -> FakeMongos:
        return self

    def find_one(self, _query: dict[str, Any], *, max_time_ms: int) -> dict[str, Any] | None:
        assert max_time_ms <= MILLISECONDS
        return {"_id": "shop.orders", "mode": "full"} if self.sampled else None

    def list_indexes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"key": {"_id": 1}, "name": "_id_"}]
        return [*found, {"key": dict(KEY), "name": "by_user"}] if self.indexed else found

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return dict(self.reply)


def figures(mongos: Any, version: str = "7.0.14") -> tuple[dict[str, Any], str]:
    return server_figures(mongos, Server(version, f"mongodb {version}", True, "c"), "shop.orders", KEY, 5000)


def test_figures_are_flat_and_hold_no_values() -> None:
    found = parse_analysis(REPLY)
    assert found == {
        "documents looked at": 1000, "values": 900, "most frequent": 0.02, "grows": "not monotonic",
        "reads % one shard": 90.0, "reads % some shards": 0.0, "reads % every shard": 10.0,
    }  # fmt: skip
    assert "jane" not in repr(found)


def test_command_is_bounded() -> None:
    mongos = FakeMongos()
    found, why = figures(mongos)
    assert found["key"] == "userId:hashed,createdAt:1"
    assert why == ""
    (asked,) = mongos.asked
    assert asked["sampleSize"] == 5000
    assert 0 < asked["maxTimeMS"] * MOST_ANALYZED <= 60_000  # they are asked one after another
    assert (asked["keyCharacteristics"], asked["readWriteDistribution"]) == (True, False)


def test_sampled_queries_are_used_without_an_index() -> None:
    mongos = FakeMongos(indexed=False, sampled=True)
    figures(mongos)
    assert "sampleSize" not in mongos.asked[0]
    assert mongos.asked[0]["readWriteDistribution"] is True


def test_it_says_why_there_are_none() -> None:
    assert figures(FakeMongos(), "6.0.9") == ({}, "analyzeShardKey is there since 7.0 only")
    nothing = FakeMongos(indexed=False)
    assert "no index starts with it" in figures(nothing)[1]
    assert nothing.asked == []
    assert "failed (13)" in figures(FakeMongos(reply=OperationFailure("no", 13)))[1]
