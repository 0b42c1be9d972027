"""Deployment steps against recorded and documented replies; a new case is a new file in cases/mongo/deploy."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure

from credscale.core import errors
from credscale.mongo.deploy import replica_sets, replies, shards

CASES = sorted((Path(__file__).parents[2] / "cases/mongo/deploy").glob("*.json"))
NOT_PRIMARY = {10107, 11600, 11602, 189, 91}


class Member:
    """A client whose server answers from a script, in order, and refuses any other command."""

    def __init__(self, script: list[dict[str, Any]], *, repeat: bool = False) -> None:
        self.admin = self
        self.sent: list[tuple[str, Any]] = []
        self.script = cycle(script) if repeat else iter(script)
        self.topology_description = SimpleNamespace(server_descriptions=lambda: {("127.0.0.1", 27018): None})

    def command(self, command: dict[str, Any]) -> dict[str, Any]:
        name, value = next(iter(command.items()))
        entry = next(self.script, None)
        assert entry is not None, f"{name} after the end of the script"
        assert entry["command"] in (name, "*")
        self.sent.append((name, value))
        if "unreachable" in entry:
            raise AutoReconnect(entry["unreachable"])
        if "code" in entry:
            details = {"ok": 0.0, "errmsg": entry["errmsg"], "code": entry["code"]}
            if entry["code"] in NOT_PRIMARY:
                raise NotPrimaryError(entry["errmsg"], details)
            raise OperationFailure(entry["errmsg"], entry["code"], details)
        return entry["reply"]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "POLL_SECONDS", 0.001)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    expect = case["expect"]
    member = Member(case["script"], repeat=expect.get("repeat", False))
    call = getattr(shards if case["call"] == "add_shard" else replica_sets, case["call"])
    if "raises" in expect:
        with pytest.raises(getattr(errors, expect["raises"])) as caught:
            call(member, **case["args"])
        for text in expect["says"]:
            assert text in str(caught.value)
        return
    assert call(member, **case["args"]) == expect["returns"]
    assert next(member.script, None) is None, "the script goes on"
    if "sent" in expect:
        assert expect["sent"] in [value for _, value in member.sent]


def test_every_kind_of_call_has_cases() -> None:
    calls = {json.loads(path.read_text(encoding="utf-8"))["call"] for path in CASES}
    assert calls == {"initiate_replica_set", "wait_primary", "add_shard"}


def test_refusals_before_any_change_send_no_change() -> None:
    listed = {"command": "listShards", "reply": {"shards": [{"_id": "a", "host": "a/h:1", "state": 1}], "ok": 1.0}}
    member = Member([listed])
    with pytest.raises(errors.PreconditionFailed):
        shards.add_shard(member, "a", ["h:2"], timeout=1)
    assert [name for name, _ in member.sent] == ["listShards"]


def test_shard_that_is_not_aware_yet_is_not_there() -> None:
    listed_shards = [{"_id": "a", "host": "a/h:1", "state": 0}]
    assert not shards.shard_is_there(listed_shards, "a", ["h:1"])


def test_shard_under_another_name_is_recognised() -> None:
    listed_shards = [{"_id": "first", "host": "a/h:1,h:2", "state": 1}]
    assert shards.shard_is_there(listed_shards, "a", ["h:2"])


class Store(dict[str, Any]):
    """Databases of collections whose find_one returns what was put in."""

    def find_one(self, _query: object) -> Any:
        return self.get("document")


def _store(database: str, collection: str, document: dict[str, Any] | None) -> Any:
    return {database: {collection: Store(document=document)}}


@pytest.mark.parametrize(
    ("identity", "refused"),
    [(None, False), ({"clusterId": "ours"}, False), ({"clusterId": "theirs"}, True)],
)
def test_shard_of_another_cluster_is_refused(identity: dict[str, Any] | None, refused: bool) -> None:
    shard = _store("admin", "system.version", identity)
    mongos = _store("config", "version", {"_id": 1, "clusterId": "ours"})
    if not refused:
        shards.refuse_foreign_shard(shard, mongos, "a")
        return
    with pytest.raises(errors.PreconditionFailed, match=r"another cluster.*theirs"):
        shards.refuse_foreign_shard(shard, mongos, "a")


def test_real_client_names_its_target_without_connecting() -> None:
    from pymongo import MongoClient

    with MongoClient("127.0.0.1", 27018, directConnection=True, connect=False) as client:
        assert replies.address_of(client) == "127.0.0.1:27018"
