"""Only users' own writes explain a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.errors import AutoReconnect, CursorNotFound, OperationFailure

from credscale.core.errors import ConnectFailed, VerificationFailed
from credscale.mongo.documents.digest import Difference, DocumentId, compare, document_hashes, document_id
from credscale.mongo.documents.oplog import Operation, OplogUnusable, await_majority, covers, user_operations
from credscale.mongo.documents.scan import scan_raw
from credscale.mongo.proof.explanation import Concurrent, Explained, Times
from credscale.mongo.proof.explanation import explain as explain_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pymongo import MongoClient

NS = "db.things"
NULL = {"ts": Timestamp(0, 0), "t": -1}
Entry = dict[str, Any]


def doc(value: Any) -> DocumentId:
    return document_id(bson.encode({"_id": value}))


def ts(time: int) -> Timestamp:
    return Timestamp(time, 1)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open lost cursors again at once."""
    monkeypatch.setattr("credscale.mongo.documents.oplog.pause_after", lambda _: 0.0)


def insert(value: Any, ns: str = NS, **more: Any) -> Entry:
    return {"op": "i", "ns": ns, "o": {"text": "x", "_id": value}, **more}


def update(value: Any, **more: Any) -> Entry:
    return {"op": "u", "ns": NS, "o": {"$v": 2, "diff": {"_id": "no id"}}, "o2": {"user": 5, "_id": value}, **more}


def delete(value: Any, **more: Any) -> Entry:
    return {"op": "d", "ns": NS, "o": {"_id": value}, **more}


def command(content: Entry, before: int = 0, **more: Any) -> Entry:
    link = {"ts": ts(before), "t": 1} if before else NULL
    return {"op": "c", "ns": "admin.$cmd", "o": content, "prevOpTime": link, **more}


class FakeOplog:
    """A member's oplog: entry n has the time n + 1. The server's part of the filter is done by hand."""

    def __init__(self, *entries: Entry, first: int = 1) -> None:
        self.entries = [RawBSONDocument(bson.encode({"ts": ts(n), **entry})) for n, entry in enumerate(entries, first)]

    def get_database(self, name: str, **options: Any) -> dict[str, FakeOplog]:
        assert (name, options["read_concern"].level) == ("local", "majority")
        return {"oplog.rs": self}

    def find(self, query: Entry) -> list[RawBSONDocument]:
        assert query["fromMigrate"] == {"$ne": True}
        commands = [name for name in ("applyOps", "commitTransaction") if f"'o.{name}'" in str(query)]
        assert len(commands) == 2
        from_, after = query["ts"].get("$gte", ts(0)), query["ts"].get("$gt", Timestamp(0, 0))
        return [
            entry
            for entry in self.entries
            if entry["ts"] >= from_
            and entry["ts"] > after
            and not entry.get("fromMigrate")
            and (entry["ns"] == NS or (entry["op"] == "c" and any(name in entry["o"] for name in commands)))
        ]

    def find_one(self, query: Entry, **_: Any) -> RawBSONDocument | None:
        return next((entry for entry in self.entries if query.get("ts") in (None, entry["ts"])), None)


def read(oplog: Any, since: int = 1, ids: set[DocumentId] | None = None) -> list[tuple[str, Any, int]]:
    found = user_operations(lambda: oplog, "rs0", NS, ts(since), ids)
    return [(item.op, item.id.value, item.ts.time) for item in found]


def test_plain_entries() -> None:
    oplog = FakeOplog(insert(1), update(1), delete(2), insert(3, ns="db.other"))
    assert read(oplog) == [("i", 1, 1), ("u", 1, 2), ("d", 2, 3)]
    assert read(oplog, since=2, ids={doc(2)}) == [("d", 2, 3)]


def test_migrations_are_skipped_also_within_transactions() -> None:
    oplog = FakeOplog(
        insert(1, fromMigrate=True),
        delete(2, fromMigrate=True),
        command({"applyOps": [insert(3, fromMigrate=True), insert(4)]}),
    )
    assert read(oplog) == [("i", 4, 3)]


def test_apply_ops_nested() -> None:
    inner = {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": [delete(1), insert(9, ns="db.other")]}}
    oplog = FakeOplog(command({"applyOps": [insert(1), inner, update(2), command({"create": "things"})]}))
    assert read(oplog) == [("i", 1, 1), ("d", 1, 1), ("u", 2, 1)]


def test_a_large_transaction_counts_at_its_end_and_in_order() -> None:
    oplog = FakeOplog(
        command({"applyOps": [insert(1)], "partialTxn": True}),
        insert(7),
        command({"applyOps": [update(1)], "partialTxn": True}, before=1),
        command({"applyOps": [delete(1)], "count": 3}, before=3),
    )
    whole = [("i", 1, 4), ("u", 1, 4), ("d", 1, 4)]
    assert read(oplog) == [("i", 7, 2), *whole]
    assert read(oplog, since=4) == whole  # it began before the time asked for


def test_a_prepared_transaction_counts_at_its_commit() -> None:
    oplog = FakeOplog(
        command({"applyOps": [insert(1)], "partialTxn": True}),
        command({"applyOps": [insert(2)], "prepare": True}, before=1),
        update(3),
        command({"commitTransaction": 1, "commitTimestamp": ts(3)}, before=2),
    )
    assert read(oplog) == [("u", 3, 3), ("i", 1, 3), ("i", 2, 3)]
    assert read(oplog, since=4) == [("i", 1, 3), ("i", 2, 3)]


def test_an_aborted_or_unfinished_transaction_never_happened() -> None:
    oplog = FakeOplog(
        command({"applyOps": [delete(1)], "prepare": True}),
        command({"abortTransaction": 1}, before=1),
        command({"applyOps": [delete(2)], "prepare": True}),
        command({"applyOps": [delete(3)], "partialTxn": True}),
    )
    assert read(oplog) == []


def test_statements_of_a_retryable_session_stand_for_themselves() -> None:
    oplog = FakeOplog(
        command({"applyOps": [insert(1)]}, multiOpType=1),
        delete(1),
        command({"applyOps": [insert(2)]}, before=1, multiOpType=1),
    )
    assert read(oplog) == [("i", 1, 1), ("d", 1, 2), ("i", 2, 3)]


def test_a_transaction_older_than_the_oplog_is_an_error() -> None:
    oplog = FakeOplog(command({"commitTransaction": 1, "commitTimestamp": ts(9)}, before=2), first=9)
    with pytest.raises(OplogUnusable, match="oplog of rs0 no longer holds the beginning"):
        read(oplog, since=9)
    later = FakeOplog(command({"applyOps": [insert(1)]}, before=2, multiOpType=1), first=9)
    assert read(later, since=9) == [("i", 1, 9)]


def test_an_oplog_that_begins_too_late_is_no_proof() -> None:
    """It would give the later entries alone, without a word."""
    with pytest.raises(OplogUnusable, match="oplog of rs0 no longer reaches back to 1970-01-01T00:00:01"):
        read(FakeOplog(insert(1), first=9))


class Dying(FakeOplog):
    """An oplog whose cursors die after so many entries each, as long as there are failures left."""

    def __init__(self, *entries: Entry, failures: Sequence[tuple[int, Exception]]) -> None:
        super().__init__(*entries)
        self.failures, self.opened = [*failures], 0

    def find(self, query: Entry) -> Any:
        self.opened += 1
        found = super().find(query)
        if not self.failures:
            return found
        served, error = self.failures.pop(0)

        def stream() -> Iterator[RawBSONDocument]:
            yield from found[:served]
            raise error

        return stream()


def test_a_lost_cursor_is_opened_again_after_the_last_entry() -> None:
    failures = [(2, AutoReconnect("gone")), (0, AutoReconnect("gone")), (1, CursorNotFound("killed", 43))]
    oplog = Dying(*(insert(n) for n in range(5)), failures=failures)
    assert [value for _, value, _ in read(oplog)] == [0, 1, 2, 3, 4]
    assert oplog.opened == 4


def test_a_refusal_is_no_lost_cursor() -> None:
    oplog = Dying(insert(1), failures=[(0, OperationFailure("not authorized", 13))])
    with pytest.raises(OperationFailure, match="not authorized"):
        read(oplog)


def test_a_cursor_lost_again_and_again_is_given_up() -> None:
    oplog = Dying(insert(1), insert(2), failures=[(1, AutoReconnect("gone"))] + [(0, AutoReconnect("gone"))] * 20)
    with pytest.raises(ConnectFailed, match="oplog of rs0 broke off at"):
        read(oplog)


def test_a_member_whose_oplog_is_shorter_does_not_go_on() -> None:
    """Entries between the last one and its first would be passed over without a word."""
    members: list[Any] = [
        Dying(insert(1), insert(2), failures=[(1, AutoReconnect("gone"))]),
        FakeOplog(insert(9), first=9),
    ]
    with pytest.raises(VerificationFailed, match="no longer reaches back"):
        list(user_operations(lambda: members.pop(0), "rs0", NS, ts(1)))


def test_covers() -> None:
    oplog: Any = FakeOplog(insert(1), first=5)
    assert covers(oplog, ts(5))
    assert covers(oplog, ts(6))
    assert not covers(oplog, ts(4))
    empty: Any = FakeOplog()
    assert not covers(empty, ts(9))


def test_a_shard_added_since_has_all_of_its_oplog() -> None:
    initiation = {"op": "n", "ns": "", "o": {"msg": "initiating set"}}
    oplog: Any = FakeOplog(initiation, insert(1), first=5)
    assert covers(oplog, ts(1))
    assert read(oplog) == [("i", 1, 6)]


class Lagging:
    """A member whose majority point comes to each of these times in turn."""

    def __init__(self, *times: int) -> None:
        self.times = [*times]
        self.admin = self

    def __getitem__(self, name: str) -> Lagging:
        return self

    def command(self, request: Entry) -> Entry:
        assert request == {"hello": 1}
        time = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return {"secondary": True, "lastWrite": {"opTime": {"ts": ts(99)}, "majorityOpTime": {"ts": ts(time)}}}


def test_a_member_that_lags_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credscale.mongo.documents.oplog.MAJORITY_PAUSE", 0.0)
    member: Any = Lagging(3, 7, 8, 20)
    await_majority(member, "rs0", ts(8))
    assert member.times == [20]
    behind: Any = Lagging(3)
    with pytest.raises(OplogUnusable, match="member of rs0 has at majority only what was written up to"):
        await_majority(behind, "rs0", ts(8), deadline=0.0)


def explain(difference: Difference, operations: Any, present: Any, complete: Timestamp | None = None) -> Explained:
    """Explain where of a document nothing is known but whether it is there."""
    return explain_by(difference, operations, lambda ids: {item: [b""] for item in present(ids)}, Times(complete))


A = doc("a")
MISSING, ADDED, CHANGED = Difference(missing=(A,)), Difference(added=(A,)), Difference(changed=(A,))
TWICE = Difference(duplicated=(A,))
INSERTED, UPDATED, DELETED = Concurrent(inserted=(A,)), Concurrent(updated=(A,)), Concurrent(deleted=(A,))

# The difference, what users did in this order, whether the document exists now, and what follows.
TABLE = [
    ("nothing at all", Difference(), "", True, Explained()),
    ("deleted", MISSING, "d", False, Explained(DELETED)),
    ("inserted, then deleted", Difference(), "id", False, Explained()),
    ("updated, then deleted", MISSING, "ud", False, Explained(DELETED)),
    ("nobody deleted it", MISSING, "", False, Explained(lost=(A,))),
    ("updated, then gone", MISSING, "u", False, Explained(lost=(A,))),
    ("inserted again, then gone", MISSING, "di", False, Explained(lost=(A,))),
    ("inserted again after the scan", MISSING, "di", True, Explained(DELETED)),
    ("not seen by the scan though there", MISSING, "u", True, Explained(lost=(A,))),
    ("inserted", ADDED, "i", True, Explained(INSERTED)),
    ("inserted and updated", ADDED, "iu", True, Explained(INSERTED)),
    ("nobody inserted it", ADDED, "", True, Explained(unexpected_added=(A,))),
    ("deleted after the scan", ADDED, "id", False, Explained(INSERTED)),
    ("deleted and back", ADDED, "id", True, Explained(unexpected_added=(A,))),
    ("only deleted, yet added", ADDED, "d", True, Explained(unexpected_added=(A,))),
    ("updated", CHANGED, "u", True, Explained(UPDATED)),
    ("replaced by delete and insert", CHANGED, "di", True, Explained(UPDATED)),
    ("nobody updated it", CHANGED, "", True, Explained(unexpected_changed=(A,))),
    ("only deleted, yet changed", CHANGED, "d", True, Explained(unexpected_changed=(A,))),
    ("updated, deleted after the scan", CHANGED, "ud", False, Explained(UPDATED)),
    ("inserted after the baseline and lost", Difference(), "i", False, Explained(lost_inserts=(A,))),
    ("inserted and deleted and back", Difference(), "id", True, Explained(lost_deletes=(A,))),
    ("a delete that did not last", Difference(), "d", True, Explained(lost_deletes=(A,))),
    ("added, then lost after the scan", ADDED, "i", False, Explained(INSERTED, lost_inserts=(A,))),
    ("a second copy", TWICE, "", True, Explained(duplicated=(A,))),
    ("a second copy of an updated one", TWICE, "u", True, Explained(duplicated=(A,))),
    ("met on both shards while it moved", TWICE, "di", True, Explained(UPDATED)),
]


@pytest.mark.parametrize(
    ("difference", "ops", "exists", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_explain(difference: Difference, ops: str, exists: bool, expected: Explained) -> None:
    operations = [Operation(A, op, ts(n), "rs0") for n, op in enumerate(ops, 1)]
    explained = explain(difference, operations, lambda ids: ids if exists else set())
    assert explained == expected
    assert explained.clean == (expected == Explained(expected.concurrent))


def nothing(ids: set[DocumentId]) -> set[DocumentId]:
    return set()


def test_another_id_explains_nothing() -> None:
    operations = [Operation(doc(value), "d", ts(1), "rs0") for value in (1.0, True, "1")]
    assert explain(Difference(missing=(doc(1),)), operations, nothing).lost == (doc(1),)


@pytest.mark.parametrize("order", [("rs0", "rs1"), ("rs1", "rs0")])
def test_a_move_between_shards_in_one_transaction_leaves_the_document(order: tuple[str, str]) -> None:
    moved = {"rs0": Operation(A, "d", ts(5), "rs0"), "rs1": Operation(A, "i", ts(5), "rs1")}
    explained = explain(CHANGED, [moved[shard] for shard in order], lambda ids: ids)
    assert explained == Explained(UPDATED)


def test_within_one_shard_the_order_of_one_time_counts() -> None:
    operations = [Operation(A, "i", ts(5), "rs0"), Operation(A, "d", ts(5), "rs0")]
    assert explain(Difference(), operations, nothing).clean


def test_nothing_is_looked_up_without_operations() -> None:
    def never(ids: set[DocumentId]) -> set[DocumentId]:
        raise AssertionError(ids)

    assert explain(MISSING, [], never).lost == (A,)


def test_only_what_contradicts_the_scan_is_looked_up() -> None:
    """Of the documents first written after the baseline was complete it is known whether they were in it."""
    early, updated, transient, added, vanished, back = (doc(name) for name in ("early", "u", "t", "added", "v", "b"))
    operations = [
        Operation(early, "u", ts(2), "rs0"),
        Operation(updated, "u", ts(12), "rs0"),
        Operation(transient, "i", ts(12), "rs0"),
        Operation(transient, "d", ts(13), "rs0"),
        Operation(added, "i", ts(12), "rs0"),
        Operation(vanished, "i", ts(12), "rs0"),
        Operation(back, "d", ts(12), "rs0"),
    ]
    asked: list[set[DocumentId]] = []

    def present(ids: set[DocumentId]) -> set[DocumentId]:
        asked.append(ids)
        return ids - {vanished}

    explained = explain(Difference(added=(added,)), operations, present, complete=ts(10))
    assert asked == [{early, added, vanished, back}]
    assert explained == Explained(Concurrent(inserted=(added,)), lost_inserts=(vanished,), lost_deletes=(back,))


WRITES = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["write", "delete"])), max_size=25)


def run(writes: list[tuple[int, str]], state: dict[int, int]) -> tuple[dict[int, int], list[Operation]]:
    """Do the writes on two shards' worth of documents; returns the new state and the oplogs, shard after shard."""
    state, operations = dict(state), []
    for time, (value, write) in enumerate(writes, 1):
        shard = f"rs{value % 2}"
        if write == "write":
            operations.append(Operation(doc(value), "u" if value in state else "i", ts(time), shard))
            state[value] = 100 + time
        elif state.pop(value, None) is not None:
            operations.append(Operation(doc(value), "d", ts(time), shard))
    return state, sorted(operations, key=lambda item: item.shard)


def hashes(state: dict[int, int]) -> dict[bytes, bytes]:
    return document_hashes((bson.encode({"_id": key, "v": value}) for key, value in state.items()), range(1024))


def present_in(state: dict[int, int]) -> Any:
    return lambda ids: {item for item in ids if item.value in state}


BASELINE = {0: 1, 1: 1, 2: 1, 3: 1}


@settings(deadline=None)
@given(WRITES, st.data())
def test_looking_up_less_finds_the_same(writes: list[tuple[int, str]], data: st.DataObject) -> None:
    """The baseline is complete before the first write; whatever is lost or comes back is found all the same."""
    after, operations = run(writes, BASELINE)
    victim, ghost = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    after.pop(victim, None)
    after.setdefault(ghost, -1)
    difference = compare(hashes(BASELINE), hashes(after))
    everything = explain(difference, operations, present_in(after))
    assert explain(difference, operations, present_in(after), complete=ts(0)) == everything


@settings(deadline=None)
@given(WRITES)
def test_honest_writers_explain_everything(writes: list[tuple[int, str]]) -> None:
    after, operations = run(writes, BASELINE)
    explained = explain(compare(hashes(BASELINE), hashes(after)), operations, present_in(after))
    assert explained.clean
    changed = {item.value for item in explained.concurrent.updated}
    assert changed == {key for key in BASELINE if key in after and after[key] != BASELINE[key]}


@settings(deadline=None)
@given(WRITES, st.data())
def test_a_loss_among_honest_writers_is_found(writes: list[tuple[int, str]], data: st.DataObject) -> None:
    after, operations = run(writes, BASELINE)
    if not after:
        return
    victim = data.draw(st.sampled_from(sorted(after)))
    del after[victim]
    explained = explain(compare(hashes(BASELINE), hashes(after)), operations, present_in(after))
    assert (*explained.lost, *explained.lost_inserts) == (doc(victim),)


@settings(deadline=None)
@given(WRITES, st.integers(0, 5))
def test_a_document_that_nobody_wrote_is_found(writes: list[tuple[int, str]], value: int) -> None:
    after, operations = run(writes, BASELINE)
    if value in after:
        return
    after[value] = -1
    explained = explain(compare(hashes(BASELINE), hashes(after)), operations, present_in(after))
    back = {*explained.unexpected_added, *explained.unexpected_changed, *explained.lost_deletes}
    assert back == {doc(value)}
    assert not explained.lost


@pytest.mark.scenario
def test_a_servers_oplog_explains_its_writers(client: MongoClient[Any]) -> None:
    things = client.oplog.things
    things.insert_many([{"_id": n} for n in range(10)])
    before = document_hashes(scan_raw(things), range(1024))
    since = client.admin.command("ping")["operationTime"]
    things.insert_one({"_id": "new"})
    things.update_one({"_id": 1}, {"$set": {"v": 1}})
    things.replace_one({"_id": 5}, {"v": 5})  # SecantusDB has no server's form of a diff in its oplog
    things.delete_one({"_id": 2})
    client.oplog.others.insert_one({"_id": 3})
    with client.start_session() as session, session.start_transaction():
        things.insert_one({"_id": "in transaction"}, session=session)
        things.delete_one({"_id": 4}, session=session)
    after = document_hashes(scan_raw(things), range(1024))
    assert covers(client, since)
    assert covers(client, Timestamp(1, 1))  # it begins with its replica set's initiation
    operations = list(user_operations(lambda: client, "rs0", things.full_name, since))

    def now(ids: set[DocumentId]) -> dict[DocumentId, list[bytes]]:
        return {item: [raw for raw in scan_raw(things) if document_id(raw) == item] for item in ids}

    explained = explain_by(compare(before, after), operations, now)
    assert explained.clean
    assert {item.value for item in explained.concurrent.inserted} == {"new", "in transaction"}
    assert {item.value for item in explained.concurrent.updated} == {1, 5}
    assert {item.value for item in explained.concurrent.deleted} == {2, 4}
    kept = [item for item in operations if item.id.value != 4]
    assert explain_by(compare(before, after), kept, now).lost == (doc(4),)
    things.replace_one({"_id": 5}, {"v": 4})
    assert explain_by(compare(before, after), operations, now).lost_updates == (doc(5),)
