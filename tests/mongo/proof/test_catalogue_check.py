"""Options, indexes and UUID are compared place by place, and each difference comes with its repair."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from bson import Binary, Int64
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.errors import InvalidURI, OperationFailure

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.backup import dump_files as files
from credscale.mongo.backup import target as backup_target
from credscale.mongo.proof import catalogue_check, shard_answers
from credscale.mongo.proof.catalogue_check import (
    command,
    index_problems,
    key_problems,
    option_problems,
    uuid_problems,
    verify_catalogue,
)
from credscale.mongo.proof.shard_answers import Place, canonical, plain_options
from tests.mongo.conftest import COLLECTION, NAMESPACE, UUID, FakeCluster

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.context import Context

ID = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
KEY_INDEX = {"v": 2, "key": {"createdAt": "hashed", "userId": 1}, "name": "createdAt_hashed_userId_1"}
EMAIL = {"v": 2, "key": {"email": 1, "at": -1}, "name": "email", "unique": True}
VALIDATOR = {"validator": {"userId": {"$exists": True}}, "validationLevel": "moderate"}


def place(name: str, *indexes: dict[str, Any], options: dict[str, Any] | None = None, uuid: str = "u") -> Place:
    return Place(name, uuid, options if options is not None else {}, {each["name"]: each for each in indexes})


def test_number_types_do_not_differ_and_field_order_does() -> None:
    assert canonical({"a": 1.0, "b": Int64(2)}) == canonical({"a": 1, "b": 2}) == '{"a": 1, "b": 2}'
    assert canonical({"a": 1, "b": 1}) != canonical({"b": 1, "a": 1})
    assert canonical({"a": True}) != canonical({"a": 1})


@given(st.recursive(st.integers(-(2**40), 2**40) | st.booleans() | st.text(), lambda each: st.lists(each, max_size=3)))
@settings(deadline=None)
def test_canonical_text_reads_back(value: Any) -> None:
    assert json.loads(canonical(value)) == value


def test_a_command_means_exactly_its_document() -> None:
    assert command("a.b", {"dropIndexes": "b", "index": "x"}) == (
        'db.getSiblingDB("a").runCommand({"dropIndexes": "b", "index": "x"})'
    )
    assert command("a.b", VALIDATOR).startswith('db.getSiblingDB("a").runCommand(EJSON.parse("{\\"validator\\"')


def test_a_missing_index_is_made_through_mongos() -> None:
    before, shards = place("the backup", ID, EMAIL), [place("s1", ID, EMAIL), place("s2", ID)]
    problems, added = index_problems("shop.orders", before, shards)
    assert [(each.place, each.what) for each in problems] == [
        ("s2", "the index email is missing, or its build is not finished")
    ]
    assert problems[0].repair == (
        'Through mongos: db.getSiblingDB("shop").runCommand({"createIndexes": "orders", "indexes": '
        '[{"v": 2, "key": {"email": 1, "at": -1}, "name": "email", "unique": true}]})'
    )
    assert added == ()


@pytest.mark.parametrize(
    "change",
    [
        {"key": {"at": -1, "email": 1}},
        {"sparse": True},
        {"partialFilterExpression": {"a": {"$gt": 1}}},
        {"expireAfterSeconds": 60},
        {"collation": {"locale": "de"}},
        {"hidden": True},
        {"wildcardProjection": {"a": 1}},
        {"weights": {"a": 2}},
        {"v": 1},
        {"unique": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_property_of_an_index_counts(change: dict[str, Any]) -> None:
    other = {name: value for name, value in {**EMAIL, **change}.items() if value is not None}
    problems, _ = index_problems(NAMESPACE, place("the backup", EMAIL), [place("s1", EMAIL), place("s2", other)])
    assert [each.place for each in problems] == ["s2"]
    assert '"dropIndexes": "orders", "index": "email"' in problems[0].repair
    assert problems[0].repair.index("dropIndexes") < problems[0].repair.index("createIndexes")


def test_an_index_made_since_is_told_when_all_have_it_and_a_fault_when_not() -> None:
    before = place("the backup", ID)
    assert index_problems(NAMESPACE, before, [place("s1", ID, EMAIL), place("s2", ID, EMAIL)]) == ([], ("email",))
    problems, added = index_problems(NAMESPACE, before, [place("s1", ID, EMAIL), place("s2", ID)])
    assert (problems[0].place, added) == ("s2", ())
    assert problems[0].what.startswith("the index email, made since the backup, is missing")


def test_an_index_that_nobody_has_any_more_is_missing_everywhere() -> None:
    problems, _ = index_problems(NAMESPACE, place("the backup", ID, EMAIL), [place("mongos", ID), place("s1", ID)])
    assert [each.place for each in problems] == ["mongos", "s1"]


def test_the_shard_key_needs_its_index_everywhere() -> None:
    """4.4 lets it be dropped; from then on no chunk moves."""
    problems = key_problems("a.b", {"createdAt": "hashed", "userId": 1}, [place("s1", KEY_INDEX), place("s2", ID)])
    assert [(each.place, each.what) for each in problems] == [
        ("s2", "no index starts with the shard key createdAt:hashed,userId:1")
    ]
    assert '"name": "createdAt_hashed_userId_1"' in problems[0].repair


def test_options_come_back_by_collmod_where_that_can_be() -> None:
    before = place("the backup", options=VALIDATOR)
    problems = option_problems(NAMESPACE, before, [place("s1", options=VALIDATOR), place("s2")])
    assert [each.what.partition(",")[0] for each in problems] == [
        "the option validationLevel is not set",
        "the option validator is not set",
    ]
    assert '{"collMod": "orders", "validationLevel": "moderate"}' in problems[0].repair
    (collation,) = option_problems(NAMESPACE, place("x"), [place("s1", options={"collation": {"locale": "de"}})])
    assert collation.repair.startswith("collation can't be changed in place")
    (new,) = option_problems(NAMESPACE, place("x"), [place("s1", options={"validator": {"a": 1}})])
    assert '{"collMod": "orders", "validator": {}}' in new.repair


def test_an_option_that_says_what_goes_without_saying_is_none() -> None:
    """A collMod that takes a validator back leaves its level and action behind."""
    assert plain_options({"validator": {}, "validationLevel": "strict", "validationAction": "error"}) == {}
    assert plain_options({"capped": True, "autoIndexId": True, "size": 4096}) == {"capped": True, "size": 4096}


def test_options_that_nobody_told_are_not_compared() -> None:
    assert option_problems(NAMESPACE, place("x", options=VALIDATOR), [Place("s1", "", None)]) == []


def test_another_uuid_is_a_stray_collection() -> None:
    (problem,) = uuid_problems("u", [place("s1"), place("s2", uuid="other"), Place("s3", "")])
    assert (problem.place, problem.what) == ("s2", "its UUID is other, it should be u")
    assert "stray" in problem.repair


class Member(FakeCluster):
    """A shard's member, asked for its own collection."""

    def __init__(self, *indexes: dict[str, Any], uuid: bytes = bytes(UUID), error: Exception | None = None) -> None:
        super().__init__()
        self.indexes, self.uuid, self.error = list(indexes), uuid, error

    def __getitem__(self, name: str) -> Any:
        return _Database(self) if name == "shop" else super().__getitem__(name)


class _Database:
    def __init__(self, member: Member) -> None:
        self.member = member

    def __getitem__(self, _name: str) -> _Database:
        return self

    def list_collections(self, filter: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: A002
        if self.member.error is not None:
            raise self.member.error
        assert filter == {"name": COLLECTION}
        info = {"uuid": Binary(self.member.uuid, 4)}
        return [{"name": COLLECTION, "options": self.member.options, "info": info}] if self.member.indexes else []

    def list_indexes(self) -> list[dict[str, Any]]:
        return self.member.indexes


@pytest.fixture
def stage(ctx: Context, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Prepare a sharded collection with a backup; the returned dict holds the members and the server's own check."""
    cluster.indexes += [EMAIL, KEY_INDEX]
    cluster.shard()
    cluster.move(2)
    all_three = (ID, EMAIL, KEY_INDEX)
    held: dict[str, Any] = {
        "shard1": Member(*all_three),
        "shard2": Member(*all_three),
        "server": OperationFailure("no such command", 59),
        "stats": [],
    }
    entry = {"name": COLLECTION, "type": "collection", "options": {}, "info": {"uuid": UUID}}
    path = files.metadata_file(tmp_path, NAMESPACE)
    path.parent.mkdir(parents=True)
    path.write_text(files.encode_metadata(entry, [ID, EMAIL]))
    manifest: Any = type("M", (), {"folder": tmp_path, "namespace": NAMESPACE, "collection_uuid": bytes(UUID).hex()})
    held["metadata"] = path

    def cursor(_database: Any, _command: dict[str, Any]) -> list[dict[str, Any]]:
        if isinstance(held["server"], Exception):
            raise held["server"]
        return held["server"]  # type: ignore[no-any-return]

    monkeypatch.setattr(backup_target.Target, "baseline", lambda _self: manifest)
    monkeypatch.setattr(shard_answers, "first_answering", lambda _ctx, shard: held[shard.id])
    monkeypatch.setattr(shard_answers, "index_stats", lambda *_: shard_answers.parse_index_stats(held["stats"]))
    monkeypatch.setattr(type(cluster.admin), "cursor_command", cursor, raising=False)
    monkeypatch.setattr(catalogue_check, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(
        catalogue_check, "chunks_by_shard", lambda *_: {"shard1": 2, "shard2": 2 if held["shard2"].documents else 0}
    )
    assert ctx
    return held


ARGUMENTS = {"namespace": NAMESPACE, "backup_directory": "b"}


def test_all_alike(ctx: Context, stage: dict[str, Any]) -> None:
    result = verify_catalogue(ctx, **ARGUMENTS)
    assert result.status is Status.OK
    assert result.summary.startswith("options, 2 indexes and UUID are the backup's on mongos, shard1, shard2")
    assert result.output["added_indexes"] == []
    assert result.output["not_checked"][0] == "checkMetadataConsistency: this server does not have it (7.0 has)"
    assert stage


def test_an_index_missing_on_one_shard(ctx: Context, stage: dict[str, Any]) -> None:
    stage["shard2"].indexes.remove(EMAIL)
    with pytest.raises(StepFailed, match="on shard2: the index email is missing, or its build is not fin") as caught:
        verify_catalogue(ctx, **ARGUMENTS)
    assert [row["place"] for row in caught.value.result.output["rows"]] == ["shard2"]


def test_a_difference_that_passes_is_none(ctx: Context, stage: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An index build reaches the shards one after the other."""
    stage["shard2"].indexes.remove(EMAIL)
    monkeypatch.setattr(
        "credscale.mongo.proof.catalogue_check.time.sleep", lambda _: stage["shard2"].indexes.append(EMAIL)
    )
    assert verify_catalogue(ctx, **ARGUMENTS).status is Status.OK


def test_a_shard_without_chunks_needs_no_index_but_no_stray_either(ctx: Context, stage: dict[str, Any]) -> None:
    stage["shard2"] = Member()
    stage["shard2"].documents = 0
    assert verify_catalogue(ctx, **ARGUMENTS).output["asked"] == ["mongos", "shard1"]
    stage["shard2"] = Member(ID, uuid=b"another uuid 16b")
    stage["shard2"].documents = 0
    with pytest.raises(StepFailed, match="on shard2: its UUID is 616e6f74.*stray collection"):
        verify_catalogue(ctx, **ARGUMENTS)


def test_chunks_without_a_collection(ctx: Context, stage: dict[str, Any]) -> None:
    stage["shard2"] = Member()
    with pytest.raises(StepFailed, match="on shard2: it owns 2 chunks, but has no such collection"):
        verify_catalogue(ctx, **ARGUMENTS)


def test_shards_that_refuse_are_asked_through_mongos(ctx: Context, stage: dict[str, Any]) -> None:
    """8.0 refuses direct reads; that alone is no fault, and is told."""
    stage["shard2"].error = OperationFailure("You are connecting to a sharded cluster improperly", 13)
    result = verify_catalogue(ctx, **ARGUMENTS)
    assert result.output["not_checked"][0] == (
        "options, UUID and indexes on shard2: it can't be asked directly (not authorized; since 8.0 that takes the "
        "role directShardOperations)"
    )
    stage["stats"] = [{"shard": "shard2", "spec": each} for each in (ID, KEY_INDEX)]
    with pytest.raises(StepFailed, match="on shard2: the index email is missing") as caught:
        verify_catalogue(ctx, **ARGUMENTS)
    assert caught.value.result.output["not_checked"][0].startswith("options and UUID on shard2: it can't be asked")


def test_a_shard_out_of_reach_is_not_called_faulty(ctx: Context, stage: dict[str, Any]) -> None:
    stage["shard2"].error = OperationFailure("oh", 1)
    assert "(code 1)" in verify_catalogue(ctx, **ARGUMENTS).output["not_checked"][0]
    stage["shard2"].error = InvalidURI("no address")
    assert "(InvalidURI)" in verify_catalogue(ctx, **ARGUMENTS).output["not_checked"][0]


def test_what_the_server_itself_finds(ctx: Context, stage: dict[str, Any]) -> None:
    stage["server"] = [{"type": "InconsistentIndex", "description": "differs", "details": {"namespace": NAMESPACE}}]
    with pytest.raises(StepFailed, match="on cluster: InconsistentIndex: differs.*inconsistency-type"):
        verify_catalogue(ctx, **ARGUMENTS)
    stage["server"] = []
    assert not any("checkMeta" in each for each in verify_catalogue(ctx, **ARGUMENTS).output["not_checked"])


def test_chunks_that_do_not_tile(ctx: Context, stage: dict[str, Any], cluster: FakeCluster) -> None:
    assert stage
    del cluster.chunks[1]
    with pytest.raises(StepFailed, match=r"on config: the chunks do not tile the key space.*support"):
        verify_catalogue(ctx, **ARGUMENTS)


def test_a_backup_without_metadata_lets_the_shards_be_compared(ctx: Context, stage: dict[str, Any]) -> None:
    stage["metadata"].unlink()
    result = verify_catalogue(ctx, **ARGUMENTS)
    assert result.summary.startswith("options, 3 indexes and UUID are alike on mongos, shard1, shard2")
    assert "keeps none; the shards were compared with each other" in result.output["not_checked"][-1]
