"""Every recorded reply is read as it should be; a new reply is a new file in ``tests/cases/mongo/facts``."""

from __future__ import annotations

import dataclasses
import importlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Binary, MaxKey, MinKey, json_util

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo import distribution, facts, members

CASES = sorted((Path(__file__).parents[1] / "cases" / "mongo" / "facts").glob("*.json"))


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
    module, _, name = case["function"].partition(".")
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


def test_sick_replica_set() -> None:
    health = members.Health("rs", {"a:1": "SECONDARY", "b:1": "RECOVERING"}, 0.0)
    assert health.problems == ("b:1 is RECOVERING", "there is no primary")
