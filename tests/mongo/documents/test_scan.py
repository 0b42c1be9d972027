"""A scan gives every document once, also when its cursor dies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import AutoReconnect, CursorNotFound, NetworkTimeout, OperationFailure

from credscale.core.errors import ConnectFailed
from credscale.mongo.documents import scan
from credscale.mongo.documents.digest import id_value
from credscale.mongo.documents.scan import scan_raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient

# In the server's sort order; `{_id: {$gt: ...}}` would stop at each change of type.
MIXED = [None, 1, 2.5, Int64(3), "a", "b", {"x": 1}, {"x": 2}, b"bytes", ObjectId(), True]


class FakeCollection:
    """Serves documents in order and fails where told; stands for mongos, on which two shards can hold one `_id`.

    Args:
        documents: all documents in `_id` order.
        failures: for each cursor, after how many documents it dies and how; later cursors live.
    """

    full_name = "db.fake"

    def __init__(self, documents: list[dict[str, Any]], failures: list[tuple[int, Exception]]) -> None:
        self.documents = [RawBSONDocument(bson.encode(document)) for document in documents]
        self.failures = failures
        self.opened: list[Any] = []
        self.first: bytes | None = None

    def with_options(self, **options: Any) -> FakeCollection:
        assert options["read_concern"].level == "majority"
        return self

    def find(self, **_: Any) -> FakeCollection:
        self.first = None
        return self

    def sort(self, name: str, direction: int) -> FakeCollection:
        assert (name, direction) == ("_id", 1)
        return self

    def hint(self, index: str) -> FakeCollection:
        assert index == "_id_"
        return self

    def min(self, bound: list[tuple[str, Any]]) -> FakeCollection:
        self.first = bson.encode(dict(bound))
        return self

    def __enter__(self) -> Iterator[RawBSONDocument]:
        return self._serve()

    def __exit__(self, *error: object) -> None:
        return None

    def _serve(self) -> Iterator[RawBSONDocument]:
        ids = [bson.encode({"_id": document["_id"]}) for document in self.documents]
        start = 0 if self.first is None else ids.index(self.first)
        self.opened.append(start)
        failure = self.failures.pop(0) if self.failures else None
        for served, document in enumerate(self.documents[start:]):
            if failure is not None and served == failure[0]:
                raise failure[1]
            yield document
        if failure is not None and failure[0] >= len(self.documents) - start:
            raise failure[1]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting; what would have been waited is listed."""
    waited: list[float] = []
    monkeypatch.setattr(scan.time, "sleep", waited.append)
    return waited


LOST = [AutoReconnect("gone"), CursorNotFound("gone", 43), NetworkTimeout("slow"), OperationFailure("stepdown", 189)]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_each_document_once_wherever_the_cursor_dies(error: Exception, pauses: list[float]) -> None:
    documents = [{"_id": value, "n": n} for n, value in enumerate(MIXED)]
    for at in range(len(documents) + 1):
        fake: Any = FakeCollection(documents, [(at, error)])
        assert [bson.decode(raw)["n"] for raw in scan_raw(fake)] == list(range(len(documents)))


@pytest.mark.parametrize("at", range(6))
def test_copies_of_one_id_are_each_given_once(at: int, pauses: list[float]) -> None:
    documents = [{"_id": 1}, {"_id": 2, "c": 1}, {"_id": 2, "c": 2}, {"_id": 2, "c": 3}, {"_id": 3}]
    fake: Any = FakeCollection(documents, [(at, AutoReconnect("gone")), (2, AutoReconnect("gone again"))])
    assert [bson.decode(raw) for raw in scan_raw(fake)] == documents


def test_it_goes_on_where_it_was(pauses: list[float]) -> None:
    fake: Any = FakeCollection([{"_id": n} for n in range(10)], [(4, AutoReconnect("gone"))])
    assert len(list(scan_raw(fake))) == 10
    assert fake.opened == [0, 3]


def test_failures_without_a_document_between_are_bounded(pauses: list[float]) -> None:
    fake: Any = FakeCollection([{"_id": n} for n in range(9)], [(4, AutoReconnect("gone"))] + [(1, LOST[1])] * 9)
    with pytest.raises(ConnectFailed, match=r"db\.fake broke off after 4 documents.* 4 times .*CursorNotFound"):
        list(scan_raw(fake, retries=3))
    assert pauses == [0.5, 1.0, 2.0]


def test_failures_with_progress_between_are_not(pauses: list[float]) -> None:
    fake: Any = FakeCollection([{"_id": n} for n in range(30)], [(2, AutoReconnect("gone"))] * 25)
    assert len(list(scan_raw(fake, retries=1))) == 30


def test_after_the_deadline_nothing_is_reopened(pauses: list[float]) -> None:
    fake: Any = FakeCollection([{"_id": 1}, {"_id": 2}], [(1, AutoReconnect("gone"))])
    with pytest.raises(ConnectFailed):
        list(scan_raw(fake, timeout=0))
    assert not pauses


def test_other_errors_pass_at_once(pauses: list[float]) -> None:
    fake: Any = FakeCollection([{"_id": 1}], [(0, OperationFailure("not authorized", 13))])
    with pytest.raises(OperationFailure, match="not authorized"):
        list(scan_raw(fake))
    assert not pauses


def test_an_error_of_the_consumer_is_not_retried() -> None:
    fake: Any = FakeCollection([{"_id": 1}, {"_id": 2}], [])
    stream = scan_raw(fake)
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.throw(ZeroDivisionError)  # type: ignore[attr-defined]
    assert fake.opened == [0]


@pytest.mark.scenario
@pytest.mark.parametrize("batch_size", [0, 3])
def test_all_types_of_ids_from_a_server(client: MongoClient[Any], batch_size: int) -> None:
    collection = client.scan[f"mixed{batch_size}"]
    stored = [{"_id": value, "n": n} for n, value in enumerate([*range(100, 400), *MIXED])]
    collection.insert_many(stored)
    raws = list(scan_raw(collection, batch_size=batch_size))
    assert sorted(raws) == sorted(bson.encode(document) for document in stored)


@pytest.mark.scenario
def test_start_after_runs_through_the_types(client: MongoClient[Any]) -> None:
    collection = client.scan.start_after
    collection.insert_many([{"_id": value} for value in (1, 2, "a", "b", ObjectId())])
    values = [bson.decode(raw)["_id"] for raw in scan_raw(collection, start_after=2)]
    assert values[:2] == ["a", "b"]
    assert len(values) == 3


@pytest.mark.scenario
def test_a_killed_cursor_is_reopened(client: MongoClient[Any]) -> None:
    collection = client.scan.killed
    stored = [{"_id": value, "n": n} for n, value in enumerate([*range(200), "a", "b"])]
    collection.insert_many(stored)
    taken = []
    for raw in scan_raw(collection, batch_size=20):
        taken.append(raw)
        if len(taken) == 50:
            _kill_cursors(client)
    assert [bson.decode(raw)["n"] for raw in taken] == list(range(202))


def _kill_cursors(client: MongoClient[Any]) -> None:
    # The public command needs ids that only the cursor knows.
    import gc

    from pymongo.cursor import Cursor

    ids = [item.cursor_id for item in gc.get_objects() if type(item) is Cursor and item.cursor_id]
    assert client.scan.command("killCursors", "killed", cursors=ids)["cursorsKilled"] == ids


def test_positions_survive_any_id() -> None:
    for value in MIXED[1:]:
        position = scan._Position.after(value)
        assert position.key is not None
        assert bson.encode({"_id": id_value(position.key)}) == bson.encode({"_id": value})
