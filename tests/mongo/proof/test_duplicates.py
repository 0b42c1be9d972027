"""An `_id` that two shards own is found on the way, confirmed, and told with how to get rid of it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.cluster import facts
from credscale.mongo.documents.digest import document_id
from credscale.mongo.proof import duplicates
from credscale.mongo.proof.duplicates import Neighbours, copies, verify_unique_ids
from tests.mongo.conftest import NAMESPACE

if TYPE_CHECKING:
    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster


def raw(identity: Any, **fields: Any) -> bytes:
    return bson.encode({"_id": identity, **fields})


@given(st.lists(st.integers(0, 6)))
@settings(deadline=None)
def test_every_repeated_id_is_found_once(numbers: list[int]) -> None:
    watcher, stream = Neighbours(), [raw(number) for number in sorted(numbers)]
    assert list(watcher.watch(stream)) == stream
    repeated = sorted(number for number, count in Counter(numbers).items() if count > 1)
    assert [item.value for item in watcher.ids] == repeated
    assert watcher.count == len(repeated)


def test_numbers_are_equal_as_the_server_sees_them() -> None:
    watcher = Neighbours()
    list(watcher.watch([raw(1), raw(Int64(1)), raw(1.0), raw(Decimal128("1")), raw(2), raw("2"), raw(True)]))
    assert [item.value for item in watcher.ids] == [1]


def test_ids_of_other_types_are_compared_whole() -> None:
    watcher, one, other = Neighbours(), ObjectId(), ObjectId()
    list(watcher.watch([raw("a"), raw("a"), raw({"x": 1}), raw({"x": 2}), raw(one), raw(one), raw(other)]))
    assert [item.value for item in watcher.ids] == ["a", one]


def test_only_so_many_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "SHOWN_IDS", 2)
    watcher = Neighbours()
    list(watcher.watch(raw(number // 2) for number in range(10)))
    assert (len(watcher.ids), watcher.count) == (2, 5)


class Holder:
    """Stands for mongos or a shard's member that holds some documents."""

    def __init__(self, *documents: bytes, error: Exception | None = None) -> None:
        self.documents, self.error = documents, error

    def __getitem__(self, _name: str) -> Holder:
        return self

    def get_collection(self, _name: str, **options: Any) -> Holder:
        assert options["read_concern"].level == "majority"
        return self

    def find(self, query: dict[str, Any]) -> list[RawBSONDocument]:
        if self.error is not None:
            raise self.error
        found = [RawBSONDocument(each) for each in self.documents]
        return [each for each in found if each["_id"] in query["_id"]["$in"]]


ONE, OTHER, ORPHAN = raw(7, createdAt=1, userId="a"), raw(7, createdAt=2, userId="a"), raw(7, createdAt=3, userId="a")


@pytest.fixture
def held(ctx: Context, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let mongos and the shards hold what the returned dict says."""
    cluster.shard()
    shards, sharded = facts.shards(cluster), facts.sharded_collection(cluster, NAMESPACE)  # type: ignore[arg-type]
    held: dict[str, Any] = {"mongos": Holder(ONE, OTHER), "shard1": Holder(ONE), "shard2": Holder(OTHER, ORPHAN)}
    monkeypatch.setattr(ctx.clients, "mongo", lambda: held["mongos"])
    monkeypatch.setattr(duplicates, "first_answering", lambda _ctx, shard: held[shard.id])
    monkeypatch.setattr(facts, "shards", lambda _: shards)
    monkeypatch.setattr(facts, "sharded_collection", lambda *_: sharded)
    monkeypatch.setattr(facts, "data_size", lambda *_: SimpleNamespace(documents=3))
    monkeypatch.setattr(duplicates, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(duplicates, "scan_raw", lambda *_, **__: iter([raw(1), ONE, OTHER]))
    return held


def test_each_copy_is_told_with_its_shard_and_the_command(ctx: Context, held: dict[str, Any]) -> None:
    """The orphan is no copy: mongos does not return it."""
    found, not_asked = copies(ctx, NAMESPACE, [document_id(ONE), document_id(raw(1))])
    assert held
    assert [(each.id, each.shard) for each in found] == [("7", "shard1"), ("7", "shard2")]
    assert found[1].key == '{"createdAt": 2, "userId": "a"}'
    assert found[1].remove == (
        'db.getSiblingDB("shop").getCollection("orders")'
        '.deleteOne(EJSON.parse("{\\"_id\\": 7, \\"createdAt\\": 2, \\"userId\\": \\"a\\"}"))'
    )
    assert not_asked == []


def test_shards_that_refuse_are_named(ctx: Context, held: dict[str, Any]) -> None:
    held["shard2"] = Holder(error=OperationFailure("improperly", 13))
    found, not_asked = copies(ctx, NAMESPACE, [document_id(ONE)])
    assert [each.shard for each in found] == ["shard1", ""]
    assert not_asked == ["what shard2 itself holds: it was not to be asked directly (13)"]


def test_the_probe_fails_with_the_ids(ctx: Context, held: dict[str, Any]) -> None:
    with pytest.raises(StepFailed, match="has 1 _id in more than one document; the first is 7. Decide") as caught:
        verify_unique_ids(ctx, namespace=NAMESPACE)
    output = caught.value.result.output
    assert output["duplicated"] == ["7"]
    assert [row["shard"] for row in output["rows"]] == ["shard1", "shard2"]
    held["mongos"] = Holder(OTHER)  # it was being moved while the scan passed
    result = verify_unique_ids(ctx, namespace=NAMESPACE)
    assert (result.status, result.summary) == (Status.OK, "3 documents have an _id of their own")
