"""A backup on disk, shards with oplogs and a live collection: what users wrote is told from what a migration lost."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from credscale.core.errors import StepFailed
from credscale.mongo.backup import dump_files
from credscale.mongo.cluster import facts
from credscale.mongo.documents import scan
from credscale.mongo.documents.digest import digest_documents, document_id
from credscale.mongo.documents.snapshot import View
from credscale.mongo.proof import comparison, ownership, verification
from credscale.mongo.proof.comparison import NO_VIEW, Comparison, Proof, compare_with, no_oplog
from credscale.mongo.proof.ownership import Owner
from tests.mongo.conftest import NAMESPACE
from tests.mongo.documents.test_oplog import NS, FakeOplog, command, delete, insert, ts
from tests.mongo.proof.test_verification import Baseline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from credscale.core.context import Context
    from credscale.mongo.documents.digest import DocumentId
    from tests.mongo.conftest import FakeCluster

Document = dict[str, Any]
OLD: dict[int, Document] = {number: {"_id": number, "v": 0} for number in range(40)}


def put(value: int, v: int, **more: Any) -> Document:
    change = {"$v": 2, "diff": {"u": {"v": v}}}
    return {"op": "u", "ns": NS, "o": change, "o2": {"_id": value}, **more}


class Site:
    """Two shards with an oplog each, and the documents that mongos gives; time 99 is now."""

    def __init__(self) -> None:
        self.documents: dict[int, Document] = {key: dict(value) for key, value in OLD.items()}
        self.entries: dict[str, list[Document]] = {"s1": [], "s2": []}
        self.scans = 0
        self.reversed = False
        self.refused: Exception | None = None
        self.first = 10

    def raws(self) -> list[bytes]:
        ordered = sorted(self.documents, reverse=self.reversed)
        return [bson.encode(self.documents[key]) for key in ordered]

    def scan(self, *_: object, **__: object) -> Iterator[bytes]:
        self.scans += 1
        return iter(self.raws())

    def __getitem__(self, _name: str) -> Site:
        return self

    def get_collection(self, _name: str, **options: Any) -> Site:
        assert options["read_concern"].level == "majority"
        return self

    def find(self, query: Document, **_: object) -> list[RawBSONDocument]:
        return [RawBSONDocument(raw) for raw in self.raws() if bson.decode(raw)["_id"] in query["_id"]["$in"]]

    def member(self, shard: str) -> Any:
        if self.refused is not None and shard == "s2":
            raise self.refused
        return Reader(*self.entries[shard], first=self.first)


class Reader(FakeOplog):
    """A member's oplog that has everything up to now."""

    def __init__(self, *entries: Document, first: int) -> None:
        beginning = {"op": "n", "ns": "", "o": {"msg": "periodic noop"}}
        super().__init__(beginning, *entries, first=first)

    def __getitem__(self, _name: str) -> Reader:
        return self

    def command(self, _request: Document) -> Document:
        return {"isWritablePrimary": True, "lastWrite": {"majorityOpTime": {"ts": ts(99)}}}


@pytest.fixture
def site(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()
    monkeypatch.setattr(ctx.clients, "mongo", lambda **_: made)
    monkeypatch.setattr(facts, "shards", lambda _: [SimpleNamespace(id=name, members=(name,)) for name in made.entries])
    monkeypatch.setattr(comparison, "first_answering", lambda _ctx, shard, **_: made.member(shard.id))
    monkeypatch.setattr(comparison, "logical_time", lambda *_: ts(99))
    monkeypatch.setattr(comparison, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(ownership, "owners", lambda *_: {})
    monkeypatch.setattr(scan, "scan_raw", made.scan)
    return made


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    raws = [bson.encode(document) for document in OLD.values()]
    path = dump_files.data_file(tmp_path, NS)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(raws))
    made = Baseline(tmp_path, digest_documents(raws), namespace=NS)
    made.operation_time_start, made.operation_time_end = ts(10), ts(9)
    return made


@pytest.fixture(params=["one pass", "bucket by bucket"])
def compared(
    request: pytest.FixtureRequest, ctx: Context, site: Site, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Comparison]:
    """Compare in the order of `_id`, and in another order with a few buckets at a time."""
    site.reversed = request.param != "one pass"
    monkeypatch.setattr(comparison, "GROUP_DOCUMENTS", 1)

    def compare() -> Comparison:
        return compare_with(ctx, manifest, digest_documents(site.raws()), View(began=ts(90)))

    return compare


def test_what_users_did_is_no_loss(site: Site, compared: Callable[[], Comparison]) -> None:
    replaced = {"_id": 3, "v": 9, "more": True}
    site.entries["s1"] = [
        put(1, 5),
        delete(2),
        {"op": "u", "ns": NS, "o": replaced, "o2": {"_id": 3}},
        {"op": "u", "ns": NS, "o": {"$v": 1, "$set": {"v": 6}}, "o2": {"_id": 4}},
        delete(5),
        {"op": "i", "ns": NS, "o": {"_id": 5, "again": 1}},
        insert(7, fromMigrate=True),
        delete(8, fromMigrate=True),
        command({"applyOps": [delete(6)]}),
    ]
    moved = {"_id": 6, "v": 0, "key": "new"}
    site.entries["s2"] = [
        *(put(1, 4) for _ in range(8)),
        command({"applyOps": [{"op": "i", "ns": NS, "o": moved}]}),
        {"op": "i", "ns": NS, "o": {"_id": 50, "v": 1}},
        put(50, 2),
        put(9, 3),
        put(9, 0),
    ]
    site.documents[1]["v"] = 4
    site.documents |= {3: replaced, 4: {"_id": 4, "v": 6}, 5: {"_id": 5, "again": 1}, 6: moved, 50: {"_id": 50, "v": 2}}
    del site.documents[2]
    found = compared()
    assert (found.proof, found.passes) == (Proof.WHOLE, 1)
    assert found.concurrent == {"inserted": 1, "updated": 5, "deleted": 1}
    assert found.not_checked[0].startswith("the content of 3 documents that users wrote meanwhile, but for the fields")
    assert found.not_checked[1].startswith("1 documents were written since the backup and are equal to it all the same")


def test_an_update_that_was_lost_is_named_though_every_digest_agrees(
    site: Site, compared: Callable[[], Comparison]
) -> None:
    site.entries["s1"] = [put(1, 5)]
    found = compared()
    assert (found.proof, found.buckets, found.findings["lost_updates"]) == (Proof.LOSS, 0, ["1"])


def test_losses_among_writes(site: Site, compared: Callable[[], Comparison]) -> None:
    site.entries["s1"] = [put(1, 5), put(2, 6), insert(60), delete(4)]
    site.entries["s2"] = [{"op": "i", "ns": NS, "o": {"_id": 61, "v": 1}}, put(61, 2)]
    site.documents |= {1: {"_id": 1, "v": 4}, 2: {"_id": 2, "v": 6}, 61: {"_id": 61, "v": 1}, 5: {"_id": 5, "v": 1}}
    del site.documents[3]
    found = compared()
    assert found.proof is Proof.LOSS
    assert {kind: ids for kind, ids in found.findings.items() if ids} == {
        "lost": ["3"],
        "lost_inserts": ["60"],
        "lost_updates": ["1", "61"],
        "unexpected_changed": ["5"],
        "lost_deletes": ["4"],
    }


def test_however_much_differs_it_is_one_scan_a_look(ctx: Context, site: Site, manifest: Any) -> None:
    site.entries["s1"] = [put(number, 1) for number in OLD]
    for document in site.documents.values():
        document["v"] = 1
    found = compare_with(ctx, manifest, digest_documents(site.raws()))
    assert (found.proof, found.passes, site.scans) == (Proof.WHOLE, 1, 1)
    assert found.buckets > 30


def test_an_oplog_that_is_too_short_when_it_is_read_proves_nothing(ctx: Context, site: Site, manifest: Any) -> None:
    """It reached back far enough when it was asked first, before the collection was read."""
    site.first = 11
    found = compare_with(ctx, manifest, digest_documents(site.raws()), unreadable="")
    assert found.not_checked[0].endswith("the oplog of s1 no longer reaches back to 1970-01-01T00:00:10+00:00")
    del site.documents[1]
    found = compare_with(ctx, manifest, digest_documents(site.raws()), unreadable="")
    assert (found.proof, found.findings["lost"]) == (Proof.NONE, ["1"])
    assert found.reason.startswith("the oplog of s1 no longer reaches back")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (18, "code 18: s2 does not know the user or its password; create on each shard the user"),
        (13, "code 13: s2 does not let the user read it; create on each shard the user"),
        (96, "the oplog of s2 can't be read (code 96)"),
    ],
)
def test_why_an_oplog_cannot_be_read(ctx: Context, site: Site, manifest: Any, code: int, told: str) -> None:
    site.refused = OperationFailure("refused", code)
    reason = no_oplog(ctx, manifest)
    assert told in reason
    assert ("read on local, from 8.0 also directShardOperations" in reason) == (code != 96)


def test_a_shard_that_was_removed_since_is_named(ctx: Context, site: Site, manifest: Any) -> None:
    assert site.entries
    manifest.point = {"start": {"shards": ["s1", "gone"]}}
    assert no_oplog(ctx, manifest) == "what was written on gone is not known: removed since the backup"


def test_documents_in_no_backup_are_told(ctx: Context, site: Site, manifest: Any) -> None:
    manifest.external = {"kind": "pbm", "id": "x", "time": "2026-11-22T02:00:00+00:00"}
    found = compare_with(ctx, manifest, digest_documents(site.raws()))
    (said,) = found.not_checked
    times = f"2026-11-22T02:00:00+00:00 and {manifest.finished}"
    assert said == f"documents written between {times} are in no backup, their hashes alone are kept"


def test_of_a_snapshot_one_look_is_enough(ctx: Context, site: Site, manifest: Any) -> None:
    del site.documents[1]
    found = compare_with(ctx, manifest, digest_documents(site.raws()), View(object(), ts(50)))  # type: ignore[arg-type]
    assert (found.proof, found.passes, site.scans) == (Proof.LOSS, 1, 1)
    assert found.findings["lost"] == ["1"]


@pytest.mark.parametrize("view", [NO_VIEW, View(object(), ts(80))])  # type: ignore[arg-type]
def test_a_write_that_met_an_orphan_is_no_loss(
    ctx: Context, site: Site, manifest: Any, monkeypatch: pytest.MonkeyPatch, view: View
) -> None:
    """s2 took the documents over at 15; what s1 wrote or deleted later was only what it had left of them."""
    site.entries["s1"] = [*(delete(number) for number in range(100, 110)), put(1, 5), delete(2), put(3, 5), put(4, 5)]
    site.entries["s2"] = [put(3, 7)]
    site.documents[3]["v"] = 7
    taken = {1: 15, 2: 15, 3: 15, 4: 99}
    asked: list[set[int]] = []

    def owners(_client: Any, _namespace: str, found: Mapping[DocumentId, Any]) -> dict[DocumentId, Owner]:
        asked.append({item.value for item in found})
        return {item: Owner("s2", ts(taken[item.value])) for item in found}

    monkeypatch.setattr(ownership, "owners", owners)
    found = compare_with(ctx, manifest, digest_documents(site.raws()), view)
    assert {kind: ids for kind, ids in found.findings.items() if ids} == {"lost_updates": ["4"]}
    assert asked[0] == {1, 2, 3, 4}


def test_the_owner_is_read_from_the_chunk(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Document] = []

    class Chunks:
        def find_one(self, query: Document, **_: object) -> Document:
            asked.append(query)
            return {"history": [{"validAfter": ts(15), "shard": "s2"}, {"validAfter": ts(3), "shard": "s1"}]}

    cluster.shard({"key": 1})
    monkeypatch.setattr(ownership, "config_collection", lambda *_: Chunks())
    raw = bson.encode({"_id": 1, "key": 5})
    array = bson.encode({"_id": 2, "key": [5]})
    ids = [document_id(each) for each in (raw, array, bson.encode({"_id": 3}))]
    client: Any = cluster
    found = ownership.owners(client, NAMESPACE, {ids[0]: [raw], ids[1]: [array], ids[2]: []})
    assert found == {ids[0]: Owner("s2", ts(15))}
    assert (asked[0]["min"], asked[0]["max"]) == ({"$lte": {"key": 5}}, {"$gt": {"key": 5}})


def test_rights_are_asked_for_before_the_collection_is_read(
    ctx: Context, site: Site, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan takes hours; a missing right is told before it, and in the verdict."""
    told: list[str] = []
    monkeypatch.setattr(ctx, "note", told.append)
    monkeypatch.setattr(verification, "target_of", lambda *_: SimpleNamespace(baseline=lambda: manifest))
    monkeypatch.setattr(facts, "data_size", lambda *_: SimpleNamespace(bytes=100))
    monkeypatch.setattr(verification, "view_of", lambda *_: nullcontext(View(reason="of this test")))
    monkeypatch.setattr(verification, "logical_time", lambda *_: ts(90))

    def read(*_: object, **__: object) -> Iterator[bytes]:
        assert "code 18: s2 does not know the user" in told[0]
        return site.scan()

    monkeypatch.setattr(verification, "scan_raw", read)
    site.refused = OperationFailure("refused", 18)
    del site.documents[1]
    with pytest.raises(StepFailed, match="code 18: s2 does not know the user.*Mend that and run verify_digest again"):
        verification.verify_digest(ctx, namespace=NS, backup_directory="b")
