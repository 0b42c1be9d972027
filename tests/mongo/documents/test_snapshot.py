"""One moment is claimed only where the server names it, and only where its history reaches far enough."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import pytest
from bson import Timestamp
from pymongo.errors import AutoReconnect, ConfigurationError, OperationFailure

from credscale.mongo.cluster import facts
from credscale.mongo.documents import snapshot
from credscale.mongo.documents.scan import scan_raw
from credscale.mongo.documents.snapshot import estimated_seconds, is_moment_gone, view_of
from tests.mongo.conftest import NAMESPACE

if TYPE_CHECKING:
    from pymongo import MongoClient

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

AT = Timestamp(1_700_000_000, 7)


class Session:
    """Remembers with which options it was opened and whether it was closed."""

    def __init__(self, **options: bool) -> None:
        self.options, self.closed = options, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Router:
    """Answers the first read of a snapshot with a reply or an error."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer, self.sessions = answer, list[Session]()

    def start_session(self, **options: bool) -> Session:
        self.sessions.append(Session(**options))
        return self.sessions[-1]

    def __getitem__(self, _name: str) -> Router:
        return self

    def command(self, request: dict[str, Any], *, session: Session) -> dict[str, Any]:
        assert (request["find"], request["limit"]) == ("orders", 1)
        assert session is self.sessions[-1]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def answering(ctx: Context, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets version, history and answer, and tells the view for a read of so many seconds."""

    def view(answer: Any, seconds: float = 10.0, window: float = 300.0, version: str = "5.0.28") -> Any:
        cluster.version = version
        router = Router(answer)
        server = facts.server(cluster)  # type: ignore[arg-type]
        monkeypatch.setattr(facts, "server", lambda _: server)
        monkeypatch.setattr(snapshot, "history_window", lambda _: window)
        monkeypatch.setattr(ctx.clients, "mongo", lambda: router)
        with view_of(ctx, NAMESPACE, seconds) as found:
            assert not any(session.closed for session in router.sessions)
        assert all(session.closed and session.options == {"snapshot": True} for session in router.sessions)
        return found

    return view


def test_a_named_moment_is_a_snapshot(answering: Any) -> None:
    found = answering({"cursor": {"firstBatch": [], "atClusterTime": AT}})
    assert found.at == AT
    assert found.session is not None
    assert found.text == "read at one moment, the cluster time 2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        ({"cursor": {"firstBatch": []}}, {}, "names no moment"),
        (OperationFailure("no snapshots here", 246), {}, r"refuses a snapshot \(code 246\)"),
        (OperationFailure("readConcern level snapshot is not supported", 72), {}, r"code 72"),
        (ConfigurationError("Snapshot reads require MongoDB 5.0 or later"), {}, "reads no snapshots"),
        ({}, {"version": "4.4.29"}, "MongoDB 4.4.29 reads snapshots only in transactions"),
        ({}, {"seconds": 400.0}, "takes about 400 s, the shards keep 300 s"),
    ],
)
def test_otherwise_the_reason_is_told(answering: Any, answer: Any, options: dict[str, Any], reason: str) -> None:
    found = answering(answer, **options)
    assert (found.session, found.at) == (None, None)
    assert found.text.startswith("not read at one moment: ")
    assert re.search(reason, found.text)


def test_the_shortest_history_counts(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {"shard1": 900, "shard2": 600}

    def ask(_member: Any, _database: str, _command: Any, **_: float) -> dict[str, Any]:
        answer = said[_member]
        if isinstance(answer, Exception):
            raise answer
        return {"minSnapshotHistoryWindowInSeconds": answer} if answer else {"ok": 1.0}

    monkeypatch.setattr(snapshot, "first_answering", lambda _ctx, shard: shard.id)
    monkeypatch.setattr(snapshot, "run", ask)
    assert snapshot.history_window(ctx) == 600.0
    said["shard2"] = None  # a server that does not know the parameter
    assert snapshot.history_window(ctx) == 300.0
    said["shard1"] = AutoReconnect("gone")
    assert snapshot.history_window(ctx) == 300.0


def test_the_backup_tells_how_long_reading_takes() -> None:
    manifest: Any = type("M", (), {"started": "2026-01-01T00:00:00", "finished": "2026-01-01T00:01:00", "bytes": 100})
    assert estimated_seconds(manifest, 100) == 120.0
    assert estimated_seconds(manifest, 300) == 360.0
    assert estimated_seconds(manifest, 0) == 120.0


def test_what_says_that_a_moment_is_gone() -> None:
    assert [is_moment_gone(OperationFailure("", code)) for code in (239, 246, 250, 43)] == [True, True, True, False]
    assert not is_moment_gone(AutoReconnect("gone"))


def test_a_scan_in_a_snapshot_session_reads_every_batch(client: MongoClient[Any]) -> None:
    """PyMongo repeats the moment in each getMore; mongod and mongos take it there (a cursor keeps its own anyway)."""
    things = client["moments"]["things"]
    things.insert_many([{"_id": number} for number in range(30)])
    with client.start_session(snapshot=True) as session:
        first = things.database.command({"find": "things", "limit": 1, "singleBatch": True}, session=session)
        assert isinstance(first["cursor"]["atClusterTime"], Timestamp)
        assert len(list(scan_raw(things, session=session, batch_size=10))) == 30
        assert len(list(scan_raw(things, session=session, only_ids=True, start_after=19))) == 10
