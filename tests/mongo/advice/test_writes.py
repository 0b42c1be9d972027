"""Which writes fail agrees with the replies recorded from 4.4.6, code and text, and with the table of versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from hypothesis import given
from hypothesis import strategies as st

from credscale.mongo.advice.writes import (
    ARRAY_TEXT,
    DELETE_TEXT,
    FIND_AND_MODIFY_TEXT,
    OPERATIONS,
    UPDATE_TEXT,
    UPSERT_TEXT,
    Judgement,
    Operation,
    Write,
    changed_key_fields,
    judge,
)
from credscale.mongo.cluster.facts import parse_key

RECORDED = Path(__file__).parents[2] / "cases" / "mongo" / "recorded"
GUIDE = parse_key("createdAt:hashed,userId:1")
BY_USER = parse_key("userId:hashed,createdAt:1")
SET = {"$set": {"x": 1}}
CASES = [
    (folder, shards, path)
    for folder, shards in (("04-sharded-balancer-off", 1), ("07-balanced", 2))
    for path in sorted((RECORDED / folder).glob("write-*.json"))
]


def write_of(command: dict[str, Any]) -> Write:
    """Return a recorded command as a write."""
    if "update" in command and "updates" in command:
        one = command["updates"][0]
        return Write("update_many" if one.get("multi") else "update_one", one["q"], one["u"], bool(one.get("upsert")))
    if "deletes" in command:
        one = command["deletes"][0]
        return Write("delete_one" if one["limit"] == 1 else "delete_many", one["q"])
    if "insert" in command:
        return Write("insert", {}, command["documents"][0])
    return Write("find_and_modify", command["query"], command["update"])


@pytest.mark.parametrize(("folder", "shards", "path"), CASES, ids=lambda value: getattr(value, "stem", str(value)))
def test_recorded_reply(folder: str, shards: int, path: Path) -> None:
    case = json_util.loads(path.read_text(encoding="utf-8"))
    found = judge(write_of(case["request"]["command"]), GUIDE, (4, 4, 6), shards=shards)
    errors = case.get("reply", {}).get("writeErrors") or ([case["error"]["details"]] if "error" in case else [])
    if errors:
        assert found.outcome == "breaks"
        assert found.code == errors[0]["code"]
        assert errors[0]["errmsg"].startswith(found.error)
    else:
        assert found.outcome == "works"
        assert found.text == ""


def test_there_are_recorded_writes() -> None:
    assert len(CASES) >= 9


V44, V50, V70, V71, V80 = (4, 4, 6), (5, 0, 28), (7, 0, 14), (7, 1, 0), (8, 0, 4)


@pytest.mark.parametrize(
    ("operation", "query", "upsert", "version", "outcome", "error"),
    [
        ("update_one", {"userId": 1}, False, V44, "depends", UPDATE_TEXT),
        ("update_one", {"url": 1}, False, V70, "breaks", UPDATE_TEXT),
        ("update_one", {"url": 1}, False, V71, "works", ""),
        ("update_one", {"_id": 1}, False, V44, "works", ""),
        ("update_one", {"_id": {"$in": [1, 2]}}, False, V44, "breaks", UPDATE_TEXT),
        ("update_one", {"userId": 1, "createdAt": 2}, True, V44, "works", ""),
        ("update_one", {"userId": 1}, True, V44, "breaks", UPSERT_TEXT),
        ("update_one", {"_id": 1}, True, V70, "breaks", UPSERT_TEXT),
        ("update_one", {"_id": 1}, True, V80, "works", ""),
        ("update_many", {"url": 1}, False, V44, "works", ""),
        ("update_many", {"url": 1}, True, V44, "breaks", UPSERT_TEXT),
        ("update_many", {"url": 1}, True, V80, "depends", UPSERT_TEXT),
        ("delete_one", {"_id": 1, "url": 2}, False, V44, "works", ""),
        ("delete_one", {"userId": 1}, False, V44, "breaks", DELETE_TEXT),
        ("delete_one", {"userId": 1}, False, V50, "depends", DELETE_TEXT),
        ("delete_one", {"url": 1}, False, V70, "breaks", DELETE_TEXT),
        ("delete_one", {"url": 1}, False, V80, "works", ""),
        ("delete_many", {}, False, V44, "works", ""),
        ("find_and_modify", {"_id": 1}, False, V44, "breaks", FIND_AND_MODIFY_TEXT),
        ("find_and_modify", {"_id": 1}, False, V70, "breaks", FIND_AND_MODIFY_TEXT),
        ("find_and_modify", {"_id": 1}, False, V80, "works", ""),
        ("find_and_modify", {"userId": 1}, False, V70, "depends", FIND_AND_MODIFY_TEXT),
        ("find_and_modify", {"userId": 1}, True, V70, "breaks", FIND_AND_MODIFY_TEXT),
        ("find_and_modify", {"userId": 1, "createdAt": 2}, False, V44, "works", ""),
    ],
)
def test_outcome_by_version(
    operation: Operation, query: dict[str, Any], upsert: bool, version: tuple[int, ...], outcome: str, error: str
) -> None:
    found = judge(Write(operation, query, SET, upsert), BY_USER, version)
    assert (found.outcome, found.error) == (outcome, error)


def note(found: Judgement) -> str:
    return "; ".join(found.notes)


def test_notes_say_what_it_costs() -> None:
    assert "updateOneOpStyleBroadcastWithExactIDCount" in note(judge(Write("update_one", {"_id": 1}, SET), GUIDE, V44))
    assert "SERVER-20361" in note(judge(Write("update_many", {"userId": 1}, SET), GUIDE, V44))
    assert "pauseMigrationsDuringMultiUpdates" not in note(judge(Write("delete_many", {}), GUIDE, V70))
    assert "pauseMigrationsDuringMultiUpdates" in note(judge(Write("delete_many", {}), GUIDE, V80))
    assert "from the first move on" in note(judge(Write("update_one", {"url": 1}, SET), GUIDE, V44, shards=1))
    assert "even with all chunks on one shard" in note(judge(Write("find_and_modify", {"_id": 1}, SET), GUIDE, V44))
    assert "SERVER-44422" in note(judge(Write("delete_one", {"userId": 1}), BY_USER, V70))


def test_replacement_is_targeted_by_the_new_document() -> None:
    whole = {"userId": 1, "createdAt": 2, "x": 3}
    assert judge(Write("replace_one", {"_id": 1}, whole), GUIDE, V44).outcome == "works"
    lacking = judge(Write("replace_one", {"_id": 1}, {"x": 3}), GUIDE, V44)
    assert lacking.outcome == "depends"
    assert "silently replace nothing" in note(lacking)
    assert judge(Write("replace_one", {"_id": 1}, whole, True), GUIDE, V44).error == UPSERT_TEXT


def test_array_in_the_key() -> None:
    found = judge(Write("insert", {}, {"createdAt": [1], "userId": 1}), GUIDE, V80)
    assert (found.code, found.error) == (61, ARRAY_TEXT)
    assert judge(Write("insert", {}, {"createdAt": 1}), GUIDE, V80).outcome == "works"


def test_id_in_another_collation_is_no_exact_id() -> None:
    assert judge(Write("update_one", {"_id": "x"}, SET, collation="de"), GUIDE, V44).outcome == "breaks"
    assert judge(Write("update_one", {"_id": "x"}, SET), GUIDE, V44, default_collation="de").outcome == "works"
    by_user = Write("find_and_modify", {"userId": "u", "createdAt": 1}, SET)
    assert judge(by_user, BY_USER, V44, default_collation="de").outcome == "breaks"


@pytest.mark.parametrize(
    ("update", "changed"),
    [
        ({"$set": {"userId": 1}}, ("userId",)),
        ({"$unset": {"createdAt": "", "userId": ""}}, ("userId", "createdAt")),
        ({"$setOnInsert": {"userId": 1}}, ()),
        ({"$rename": {"x": "userId"}}, ("userId",)),
        ([{"$set": {"userId": 1}}, {"$unset": "createdAt"}], ("userId", "createdAt")),
        ({"userId": 1}, ()),
        (None, ()),
    ],
)
def test_changed_key_fields(update: Any, changed: tuple[str, ...]) -> None:
    assert changed_key_fields(update, BY_USER) == changed


def test_changing_the_key_needs_more() -> None:
    one = judge(Write("update_one", {"userId": 1, "createdAt": 2}, {"$set": {"userId": 3}}), BY_USER, V50)
    assert one.outcome == "depends"
    assert "retryable write" in note(one)
    many = judge(Write("update_many", {"userId": 1}, {"$set": {"userId.x": 3}}), BY_USER, V50)
    assert "which an update of many documents may not" in note(many)


queries = st.dictionaries(st.sampled_from(["_id", "userId", "createdAt", "url"]), st.integers(0, 3))
versions = st.sampled_from([V44, V50, V70, V71, V80])


@given(operation=st.sampled_from(OPERATIONS), query=queries, upsert=st.booleans(), version=versions)
def test_the_whole_key_always_works_and_every_failure_has_code_and_text(
    operation: Operation, query: dict[str, Any], upsert: bool, version: tuple[int, ...]
) -> None:
    found = judge(Write(operation, query, SET, upsert), BY_USER, version)
    if found.outcome == "breaks":
        assert found.code in (61, 72)
        assert found.error
        assert found.notes
    whole = judge(Write(operation, {**query, "userId": 1, "createdAt": 2}, SET, upsert), BY_USER, version)
    assert whole.outcome == "works"
