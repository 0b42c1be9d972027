"""Every recorded reply is read as it should be; a new reply is a new file in ``tests/cases/mongo/facts``."""

from __future__ import annotations

import dataclasses
import importlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson import Binary, MaxKey, MinKey, Timestamp, json_util
from pymongo.errors import ServerSelectionTimeoutError

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.chunks import distribution
from credscale.mongo.cluster import facts, members, operations

CASES = sorted((Path(__file__).parents[2] / "cases" / "mongo" / "facts").glob("*.json"))


def plain(value: Any) -> Any:
    """Return a fact as JSON has it; what finds documents in the catalogue is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value) if item.compare}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value.isoformat() if isinstance(value, datetime) else value


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_reply(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    module, _, name = case["function"].rpartition(".")
    function = getattr(importlib.import_module(f"credscale.mongo.{module}"), name)
    assert plain(function(*json_util.loads(json.dumps(case["reply"])))) == case["expected"]


def test_there_are_cases() -> None:
    assert len(CASES) > 20


@pytest.mark.parametrize("text", ["", "analyses", ".analyses", "credibility_prod."])
def test_namespace_without_both_parts_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentInvalid, match=r"database\.collection"):
        facts.split_namespace(text)


def test_shard_key_text_keeps_the_order() -> None:
    assert facts.key_text({"b": 1.0, "a": "hashed"}) == "b:1,a:hashed"
    assert facts.key_text(facts.parse_key(" createdAt : hashed , userId:1")) == "createdAt:hashed,userId:1"
    with pytest.raises(EnvironmentInvalid, match="may be 1 or hashed"):
        facts.parse_key("createdAt:-1")


KEY: facts.Key = {"createdAt": "hashed", "userId": 1}


@pytest.mark.parametrize(
    ("index", "supports"),
    [
        (facts.Index("exact", dict(KEY)), True),
        (facts.Index("longer", {**KEY, "x": 1}), True),
        (facts.Index("not_hashed", {"createdAt": 1, "userId": 1}), False),
        (facts.Index("other_order", {"userId": 1, "createdAt": "hashed"}), False),
        (facts.Index("shorter", {"createdAt": "hashed"}), False),
        (facts.Index("sparse", dict(KEY), sparse=True), False),
        (facts.Index("partial", dict(KEY), partial=True), False),
        (facts.Index("hidden", dict(KEY), hidden=True), False),
        (facts.Index("collation", dict(KEY), collation="de"), False),
        (facts.Index("seed", dict(KEY), seed=7), False),
    ],
    ids=lambda value: value.name if isinstance(value, facts.Index) else "",
)
def test_index_that_can_carry_the_key(index: facts.Index, supports: bool) -> None:
    assert index.supports(KEY) is supports


def test_chunks_are_found_by_uuid_since_fcv_5() -> None:
    uuid = Binary(b"0" * 16, 4)
    assert facts.chunk_selector({"_id": "a.b", "uuid": uuid}) == {"ns": "a.b"}
    assert facts.chunk_selector({"_id": "a.b", "uuid": uuid, "timestamp": 1}) == {"uuid": uuid}


def test_slot_based_engine_shows_orphans_as_keys_beyond_those_returned() -> None:
    shard = {"shardName": "s1", "nReturned": 7, "totalKeysExamined": 10, "executionStages": {"stage": "filter"}}
    reply = {"executionStats": {"executionStages": {"shards": [shard]}}}
    assert distribution.parse_owned(reply) == {"s1": distribution.Owned(7, 3)}


LOW, MIDDLE, HIGH = {"a": MinKey()}, {"a": 5}, {"a": MaxKey()}


@pytest.mark.parametrize(
    ("ranges", "problem"),
    [
        ([(LOW, MIDDLE), (MIDDLE, HIGH)], ""),
        ([], "there are no chunks"),
        ([(MIDDLE, HIGH)], "chunk 1 begins"),
        ([(LOW, MIDDLE), ({"a": 6}, HIGH)], "chunk 2 begins"),
        ([(LOW, MIDDLE)], "the last chunk ends"),
    ],
)
def test_gap_in_ranges(ranges: list[tuple[Any, Any]], problem: str) -> None:
    found = distribution.gap_in_ranges([{"min": low, "max": high} for low, high in ranges], ["a"])
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_offset_of_log_lines() -> None:
    line = '{"t":{"$date":"2026-11-23T11:14:24.885+02:00"},"s":"I"}'
    offset = members.utc_offset(["no json", line, "{}"])
    assert offset is not None
    assert offset.total_seconds() == 7200
    assert members.utc_offset(["2020-01-01 old format"]) is None


def test_a_log_written_in_utc_does_not_tell_the_hosts_zone() -> None:
    assert members.utc_offset(['{"t":{"$date":"2026-11-23T11:14:24.885Z"},"s":"I"}']) is None
    in_utc = members.utc_offset(['{"t":{"$date":"2026-11-23T11:14:24.885+00:00"},"s":"I"}'])
    assert in_utc is not None
    assert in_utc.total_seconds() == 0


def test_a_lag_that_only_the_primary_sees_is_none() -> None:
    case = (
        Path(__file__).parents[2] / "cases/mongo/facts/lags_of_three_members_as_the_primary_sees_them.json"
    ).read_text()
    primary = json_util.loads(case)["reply"][0][0]
    newest = next(each["optimeDate"] for each in primary["members"] if each["stateStr"] == "PRIMARY")
    own = {"members": [{**each, "optimeDate": newest} for each in primary["members"]]}
    assert set(members.lags([primary]).values()) == {10.0}
    assert set(members.lags([primary, own]).values()) == {0.0}
    assert members.lags([{"members": [{"name": "a", "stateStr": "(not reachable/healthy)"}]}]) == {}


def test_a_member_that_hangs_is_left_after_a_while() -> None:
    limits = []

    class Member:
        """Hangs where it is first, and is the primary where it is second."""

        def __init__(self, address: str) -> None:
            self.address = address

        def __getitem__(self, _name: str) -> Member:
            return self

        def command(self, _request: dict[str, Any]) -> dict[str, Any]:
            limits.append(pymongo._csot.remaining())
            if self.address == "a:1":
                raise ServerSelectionTimeoutError("no answer")
            return {"isWritablePrimary": True}

    class Run:
        """A run whose clients give such members."""

        def __init__(self) -> None:
            self.clients = self

        def mongo_member(self, address: str, **_options: float) -> Member:
            return Member(address)

    run: Any = Run()
    found: Any = members.first_answering(run, facts.Shard("s", "s", ("a:1", "b:1"), 1, False))
    assert found.address == "b:1"
    assert all(limit is not None and limit <= members.MEMBER_DEADLINE for limit in limits)
    assert len(limits) >= 2


def test_the_oplog_is_read_within_bounds() -> None:
    options = []

    class Node:
        """Its oplog has two entries."""

        def __getitem__(self, _name: str) -> Node:
            return self

        def find_one(self, _query: Any, *, sort: Any, max_time_ms: int) -> dict[str, Any]:
            options.append(max_time_ms)
            return {"ts": Timestamp(3600 if sort[0][1] == -1 else 0, 1), "o": {}}

        def command(self, _request: dict[str, Any]) -> dict[str, Any]:
            return {"size": 25, "maxSize": 100}

    node: Any = Node()
    assert members.oplog_window(node) == members.OplogWindow(1.0, whole=False, fill=0.25, most=100)
    assert options == [members.MEMBER_MILLISECONDS] * 2


def test_operations_under_way_are_read_within_bounds() -> None:
    options = []

    class Admin:
        """Answers $currentOp."""

        def __getitem__(self, _name: str) -> Admin:
            return self

        def aggregate(self, pipeline: list[dict[str, Any]], *, maxTimeMS: int) -> list[Any]:  # noqa: N803
            options.append((next(iter(pipeline[0])), maxTimeMS))
            return []

    admin: Any = Admin()
    assert operations.current(admin) == []
    assert options == [("$currentOp", members.MEMBER_MILLISECONDS)]
