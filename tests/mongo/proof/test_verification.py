"""Differences are writers' doing only where an oplog shows it, and a loss only when every look finds it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import ObjectId, Timestamp
from pymongo.errors import OperationFailure

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.backup import target as backup_target
from credscale.mongo.chunks.distribution import Owned
from credscale.mongo.documents.digest import Difference, Digest, DocumentId, digest_documents, document_id
from credscale.mongo.documents.oplog import Operation
from credscale.mongo.documents.snapshot import View
from credscale.mongo.proof import comparison, verification
from credscale.mongo.proof.comparison import Proof, compare_with, id_text
from credscale.mongo.proof.duplicates import Copy, Neighbours
from tests.mongo.conftest import KEY, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

START = Timestamp(9, 1)  # when the counting begins; a write of exactly then was before it
ONE, TWO = (document_id(bson.encode({"_id": number})) for number in (1, 2))


def digest_of(*numbers: int) -> Digest:
    return digest_documents(bson.encode({"_id": number}) for number in numbers)


@dataclass
class Baseline:
    """What is used of a manifest."""

    folder: Path
    digest: Digest
    namespace: str = NAMESPACE
    verified: str = "2026-11-23T00:00:00"
    started: str = "2026-11-23T00:00:00"
    finished: str = "2026-11-23T00:00:00"
    operation_time_start: Timestamp | None = field(default_factory=lambda: Timestamp(5, 1))
    operation_time_end: Timestamp | None = field(default_factory=lambda: Timestamp(5, 9))
    sharded_at_start: bool = False
    external: dict[str, str] | None = None
    point: dict[str, Any] = field(default_factory=dict)
    bytes: int = 100

    @property
    def documents(self) -> int:
        return self.digest.documents


Look = tuple[Difference, list[Operation], set[DocumentId]]


@pytest.fixture
def prepare(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that prepares successive looks and compares."""

    def compare(*looks: Look, live: Digest | None = None) -> comparison.Comparison:
        remaining = list(looks)
        current: list[Look] = []

        def difference(*_: object) -> Difference:
            current[:] = [remaining.pop(0) if len(remaining) > 1 else remaining[0]]
            return current[0][0]

        monkeypatch.setattr(comparison, "no_oplog", lambda *_: "")
        monkeypatch.setattr(comparison, "_difference", difference)
        monkeypatch.setattr(comparison, "_operations", lambda *_: current[0][1])
        monkeypatch.setattr(comparison, "logical_time", lambda *_: None)
        here = lambda _client, _manifest, ids, _session: {each: [b""] for each in ids & current[0][2]}  # noqa: E731
        monkeypatch.setattr(comparison, "documents_now", here)
        monkeypatch.setattr(comparison, "PAUSE_SECONDS", 0.0)
        manifest: Any = Baseline(tmp_path, digest_of(1, 2))
        return compare_with(ctx, manifest, live if live is not None else digest_of(1))

    return compare


def deleted(item: DocumentId) -> Operation:
    return Operation(item, "d", Timestamp(6, 1), "s1")


def inserted(item: DocumentId) -> Operation:
    return Operation(item, "i", Timestamp(6, 1), "s1")


def test_a_deletion_by_a_user_is_no_loss(prepare: Callable[..., Any]) -> None:
    found = prepare((Difference(missing=(TWO,)), [deleted(TWO)], set()))
    assert (found.proof, found.passes, found.concurrent["deleted"]) == (Proof.WHOLE, 1, 1)


def test_what_nobody_deleted_is_lost(prepare: Callable[..., Any]) -> None:
    found = prepare((Difference(missing=(TWO,)), [], set()))
    assert (found.proof, found.passes) == (Proof.LOSS, 2)
    assert found.findings["lost"] == ["2"]


def test_a_suspicion_that_the_next_look_does_not_share_is_dropped(prepare: Callable[..., Any]) -> None:
    """A writer deleted one document after the oplogs were read, and another at the second look."""
    first = (Difference(), [inserted(ONE)], set[DocumentId]())
    second = (Difference(), [inserted(ONE), deleted(ONE), inserted(TWO)], set[DocumentId]())
    assert prepare(first, second).proof is Proof.WHOLE


def test_an_insert_that_is_gone_is_found_though_the_digests_agree(prepare: Callable[..., Any]) -> None:
    new = document_id(bson.encode({"_id": 3}))
    found = prepare((Difference(), [inserted(new)], set()), live=digest_of(1, 2))
    assert (found.proof, found.buckets) == (Proof.LOSS, 0)
    assert found.findings["lost_inserts"] == ["3"]


def test_without_oplogs_equal_digests_leave_one_thing_open(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest: Any = Baseline(tmp_path, digest_of(1, 2), operation_time_start=None)
    found = compare_with(ctx, manifest, digest_of(2, 1))
    assert found.proof is Proof.WHOLE
    assert found.not_checked[0].startswith("documents that were written since the backup and are gone or as before")
    monkeypatch.setattr(comparison, "_difference", lambda *_: Difference(missing=(TWO,)))
    assert compare_with(ctx, manifest, digest_of(1)).proof is Proof.NONE


def test_ids_in_words() -> None:
    identity = ObjectId()
    assert id_text(identity) == str(identity)
    assert id_text("a") == "a"
    assert id_text(3) == "3"


@pytest.fixture
def baseline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Baseline:
    """Let a target find one backup."""
    found = Baseline(tmp_path, digest_of(1, 2))
    monkeypatch.setattr(backup_target.Target, "backups", lambda _self: [found])
    return found


def compared(monkeypatch: pytest.MonkeyPatch, result: comparison.Comparison) -> None:
    reading = verification.Reading(digest_of(1), Neighbours(), result, View(reason="of this test"))
    monkeypatch.setattr(verification, "_read", lambda *_: reading)


def test_a_loss_names_the_documents_and_the_way_back(
    ctx: Context, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(monkeypatch, comparison.Comparison(Proof.LOSS, 1, 2, {"inserted": 0}, {"lost": ["2"], "duplicated": []}))
    with pytest.raises(StepFailed, match="1 lost; the first is _id 2: restore it from the backup") as caught:
        verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory="b")
    output = caught.value.result.output
    assert output["lost"] == ["2"]
    assert list(output["what_to_do"]) == ["lost"]
    assert [(row["_id"], row["what"]) for row in output["rows"]] == [("2", "lost")]
    assert output["read"] == "not read at one moment: of this test"
    assert str(baseline.folder / "dump") in caught.value.result.summary
    assert "put back to what it was" in caught.value.result.summary
    assert caught.value.result.summary.endswith("invoke mongo.stop-balancer --env unit")


def test_a_short_oplog_proves_nothing_unless_it_was_proven_before(
    ctx: Context, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = comparison.Comparison(Proof.NONE, 1, 1, {}, {"lost": ["2"]}, {"lost": 1}, "the oplog is too short")
    compared(monkeypatch, found)
    with pytest.raises(StepFailed, match="cannot be proven that writers did it: the oplog is too short"):
        verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory="b")
    (baseline.folder / verification.RECORD).write_text('{"time": "2026-11-24"}')
    result = verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory="b")
    assert result.status is Status.OK
    assert "verified at 2026-11-24" in result.output["not_checked"][0]


def test_only_a_proof_is_recorded(ctx: Context, baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepFailed, match="was not verified in this run"):
        verification.record_verification(ctx, namespace=NAMESPACE, backup_directory="b")
    compared(monkeypatch, comparison.Comparison(Proof.WHOLE, 0, 1, {"inserted": 0}))
    verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory="b")
    assert verification.record_verification(ctx, namespace=NAMESPACE, backup_directory="b").status is Status.CHANGED
    again = verification.record_verification(ctx, namespace=NAMESPACE, backup_directory="b")
    assert again.status is Status.OK
    record = verification.read_record(baseline.folder)
    assert record is not None
    assert record["documents"] == 1


@pytest.fixture
def counted(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, baseline: Baseline) -> dict[str, Any]:
    """Let the counts be what the returned dict says."""
    cluster.shard()
    cluster.indexes.append({"key": {"createdAt": "hashed", "userId": 1}, "name": "k"})
    values: dict[str, Any] = {"written": [], "exact": [2, 2], "owned": {"s1": Owned(1, 5), "s2": Owned(1, 0)}}

    def exact(*_: object) -> int:
        numbers: list[int] = values["exact"]
        return numbers.pop(0) if len(numbers) > 1 else numbers[0]

    monkeypatch.setattr(verification, "_exact", exact)
    monkeypatch.setattr(verification, "owned_and_orphaned", lambda *_: values["owned"])
    monkeypatch.setattr(verification, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(verification, "logical_time", lambda *_: START)
    monkeypatch.setattr(
        verification, "written_since", lambda *asked: iter(values["written"] if asked[2] > START else [])
    )
    assert baseline.documents == 2
    return values


COUNTS: dict[str, Any] = {"namespace": NAMESPACE, "shard_key": KEY, "backup_directory": "b"}


def test_orphans_are_told_and_no_fault(ctx: Context, counted: dict[str, Any]) -> None:
    assert counted
    result = verification.verify_counts(ctx, **COUNTS)
    assert result.summary == "2 documents, the sum of what the shards own; 5 orphans wait for their deletion"
    assert result.output["before_after"] == [{"what": "documents, counted exactly", "before": 2, "after": 2}]


def test_counts_around_a_writer(ctx: Context, counted: dict[str, Any]) -> None:
    counted["exact"] = [1, 3]
    assert "the backup has 2; verify_digest tells" in verification.verify_counts(ctx, **COUNTS).summary


def test_owners_that_do_not_add_up(ctx: Context, counted: dict[str, Any]) -> None:
    counted["exact"] = [4]
    with pytest.raises(StepFailed, match="mongos counts 4 documents in shop.orders, the shards together own 2"):
        verification.verify_counts(ctx, **COUNTS)


def test_a_dry_run_does_not_read_everything(make_context: Callable[..., Context]) -> None:
    result = verification.verify_digest(make_context(dry_run=True), namespace=NAMESPACE, backup_directory="b")
    assert result.status is Status.SKIPPED


def test_counts_that_never_agree_while_users_write_are_no_loss(
    ctx: Context, counted: dict[str, Any], cluster: FakeCluster
) -> None:
    """As many inserts as deletes: each shard is counted at another moment, mongos' own count stays the same."""
    counted["exact"], counted["written"] = [4], [inserted(ONE)]
    result = verification.verify_counts(ctx, **COUNTS)
    assert result.summary.startswith("4 to 4 documents by mongos, 2 owned by the shards, counted while users write")
    assert "verify_digest tells" in result.summary
    cluster.migrations = [{"ns": NAMESPACE, "fromShard": "s1", "toShard": "s2"}]
    with pytest.raises(StepFailed, match=r"a chunk of shop\.orders is moving \(s1 -> s2\)"):
        verification.verify_counts(ctx, **COUNTS)


def test_counts_are_repeated_before_they_are_believed(ctx: Context, counted: dict[str, Any]) -> None:
    counted["exact"] = [4, 4, 5, 5, 2, 2]
    assert verification.verify_counts(ctx, **COUNTS).summary.startswith("2 documents, the sum")


def test_unreadable_oplogs_excuse_nobody(
    ctx: Context, counted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OperationFailure("not authorized", 13)

    counted["exact"] = [4]
    monkeypatch.setattr(verification, "written_since", refuse)
    with pytest.raises(StepFailed, match="owned twice or by nobody"):
        verification.verify_counts(ctx, **COUNTS)


def test_a_baseline_from_after_the_sharding_is_no_full_proof(
    ctx: Context, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline.sharded_at_start = True
    compared(monkeypatch, comparison.Comparison(Proof.WHOLE, 0, 1, {"inserted": 0}))
    result = verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory="b")
    said = f"the baseline was taken after sharding; it proves nothing about moves before {baseline.started}"
    assert result.summary.endswith(said)
    assert result.output["not_checked"] == [said]
    skipped = verification.record_verification(ctx, namespace=NAMESPACE, backup_directory="b")
    assert (skipped.status, skipped.summary) == (Status.OK, f"nothing is noted: {said}")
    assert verification.read_record(baseline.folder) is None


def test_an_oplog_is_read_with_patience(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server passes over other collections' entries nothing is sent, for longer than 120 seconds."""
    asked: list[dict[str, float]] = []

    def member(_address: str, **options: float) -> Any:
        asked.append(options)
        return Quiet()

    class Quiet:
        admin = local = property(lambda self: self)

        def __getitem__(self, _name: str) -> Quiet:
            return self

        def get_database(self, _name: str, **_options: Any) -> Quiet:
            return self

        def command(self, _request: dict[str, Any]) -> dict[str, Any]:
            return {"isWritablePrimary": True}

        def find(self, _query: dict[str, Any]) -> list[Any]:
            return []

        def find_one(self, _query: dict[str, Any], **_options: Any) -> dict[str, Any]:
            return {"ts": Timestamp(1, 1)}

    monkeypatch.setattr(ctx.clients, "mongo_member", member)
    assert list(comparison.written_since(ctx, NAMESPACE, Timestamp(5, 1))) == []
    assert {options["timeout"] for options in asked if options} == {LONG_SECONDS}


def test_what_is_not_listed_is_counted(prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SHOWN_IDS", 1)
    found = prepare((Difference(missing=(ONE, TWO)), [], set()))
    assert (found.findings["lost"], found.counts["lost"], found.counts["duplicated"]) == (["1"], 2, 0)


def test_a_duplicate_that_the_backup_had_already_fails_too(
    ctx: Context, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(monkeypatch, comparison.Comparison(Proof.WHOLE, 0, 1, {"inserted": 0}))
    pair = [Copy("7", "{}", shard, f"remove from {shard}") for shard in ("s1", "s2")]
    monkeypatch.setattr(verification, "confirmed", lambda *_: (pair, ["what s3 itself holds"]))
    with pytest.raises(StepFailed, match="0 _id in more than one document; the first is 7. Decide") as caught:
        verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory=str(baseline.folder))
    output = caught.value.result.output
    assert [row["shard"] for row in output["rows"]] == ["s1", "s2"]
    assert output["not_checked"] == ["what s3 itself holds"]


SNAPSHOT = View(object(), Timestamp(6, 5))  # type: ignore[arg-type]


@pytest.fixture
def views(ctx: Context, baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """Offer a snapshot whose moment is gone when it is read; return the views that were read in."""
    read: list[View] = []

    def compare(_ctx: Any, _manifest: Any, _live: Digest, view: View, unreadable: str) -> comparison.Comparison:
        assert unreadable == ""
        read.append(view)
        if view.session is not None:
            raise OperationFailure("the snapshot is too old", 239)
        return comparison.Comparison(Proof.WHOLE, 0, 1, {"inserted": 0})

    assert baseline
    monkeypatch.setattr(verification, "no_oplog", lambda *_: "")
    monkeypatch.setattr(verification, "logical_time", lambda *_: START)
    monkeypatch.setattr(verification, "view_of", lambda *_: nullcontext(SNAPSHOT))
    monkeypatch.setattr(verification, "scan_raw", lambda *_, **__: iter([bson.encode({"_id": 1})]))
    monkeypatch.setattr(verification, "compare_with", compare)
    assert ctx
    return read


def test_a_moment_that_is_gone_is_no_failure(ctx: Context, views: list[View]) -> None:
    result = verification.verify_digest(ctx, namespace=NAMESPACE, backup_directory="b")
    assert [view.at for view in views] == [Timestamp(6, 5), None]
    assert result.output["read"] == (
        "not read at one moment: the shards no longer hold the moment that was read (code 239)"
    )


def test_of_a_moment_only_the_writes_up_to_it_count(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written after the snapshot is not in it, so it must not explain what is seen in it."""
    seen: list[Any] = []
    writes = [Operation(ONE, "i", Timestamp(6, 5), "s1"), Operation(TWO, "d", Timestamp(6, 6), "s1")]
    monkeypatch.setattr(comparison, "no_oplog", lambda *_: "")
    monkeypatch.setattr(comparison, "written_since", lambda *_, **__: iter(writes))
    monkeypatch.setattr(comparison, "logical_time", lambda *_: None)

    def difference(*given: Any) -> Difference:
        seen.append(given[-1])
        return Difference(missing=(TWO,))

    def now(_client: Any, _manifest: Any, ids: set[DocumentId], session: Any) -> dict[DocumentId, list[bytes]]:
        seen.append(session)
        return {item: [b""] for item in ids & {ONE}}

    monkeypatch.setattr(comparison, "_difference", difference)
    monkeypatch.setattr(comparison, "documents_now", now)
    monkeypatch.setattr(comparison, "PAUSE_SECONDS", 0.0)
    manifest: Any = Baseline(Path("b"), digest_of(1, 2))
    found = compare_with(ctx, manifest, digest_of(1), SNAPSHOT)
    assert found.findings["lost"] == ["2"]
    assert {SNAPSHOT, SNAPSHOT.session} == set(seen)
    assert compare_with(ctx, manifest, digest_of(1)).proof is Proof.WHOLE
