"""The native engine claims a single moment only where there was one."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from bson import Timestamp
from pymongo.errors import OperationFailure

from credscale.mongo.backup import dump as backup
from credscale.mongo.backup import manifest as manifests
from credscale.mongo.backup import native as backup_native
from credscale.mongo.backup.native import read_native
from credscale.mongo.documents.digest import digest_documents
from credscale.mongo.documents.scan import scan_raw
from credscale.mongo.documents.snapshot import View
from tests.mongo.backup.test_dump import facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo import MongoClient
    from pymongo.collection import Collection

pytestmark = pytest.mark.scenario
AT = Timestamp(1_795_000_000, 7)


@pytest.fixture
def things(client: MongoClient[Any]) -> Iterator[Collection[Any]]:
    """Yield a collection with documents."""
    collection = client["native-db"]["things"]
    collection.insert_many([{"_id": number, "text": "x" * number} for number in range(300)])
    yield collection
    client.drop_database("native-db")


def taken(things: Collection[Any], folder: Path, view: View) -> manifests.Manifest:
    """Take a backup that is offered this view."""

    @contextmanager
    def moment() -> Iterator[View]:
        yield view

    return backup.dump(things, folder, facts=facts_of(things), needed=0, read=partial(read_native, moment=moment))


def test_a_snapshot_is_of_its_moment(things: Collection[Any], tmp_path: Path) -> None:
    """Then the oplogs explain from there on, and what was written before is in it."""
    with things.database.client.start_session() as session:
        manifest = taken(things, tmp_path / "b", View(session, AT))
    assert (manifest.operation_time_start, manifest.operation_time_end) == (AT, AT)
    assert manifest.point["at"] == [AT.time, AT.inc]
    assert manifest.point["statement"] == "every document is as of cluster time 2026-11-18T11:06:40Z (1795000000,7)"
    assert manifests.read_manifest(tmp_path / "b") == manifest


def test_without_a_snapshot_the_reason_is_said(things: Collection[Any], tmp_path: Path) -> None:
    manifest = taken(things, tmp_path / "b", View(reason="MongoDB 4.4.29 reads snapshots only in transactions"))
    assert manifest.point["at"] is None
    assert manifest.point["statement"].endswith("; MongoDB 4.4.29 reads snapshots only in transactions")
    assert manifest.operation_time_start is not None
    assert manifest.operation_time_start <= manifest.operation_time_end


def test_a_moment_that_is_forgotten_half_way(
    things: Collection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with things.database.client.start_session() as view:

        def scan(collection: Any, session: Any) -> Iterator[bytes]:
            for number, raw in enumerate(scan_raw(collection)):
                if session is view and number == 100:
                    raise OperationFailure("Read timestamp is older than the oldest available", 239)
                yield raw

        monkeypatch.setattr(backup_native, "scan_raw", scan)
        manifest = taken(things, tmp_path / "b", View(view, AT))
    assert manifest.digest == digest_documents(scan_raw(things))
    assert manifest.point["at"] is None
    assert "forgot the moment at which a first pass began before it ended (code 239)" in manifest.point["statement"]
    assert backup.verify(tmp_path / "b").documents == 300


def test_other_errors_are_not_hidden(things: Collection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Iterator[bytes]:
        raise OperationFailure("not authorized", 13)
        yield b""

    monkeypatch.setattr(backup_native, "scan_raw", refuse)
    with things.database.client.start_session() as session, pytest.raises(OperationFailure, match="not authorized"):
        taken(things, tmp_path / "b", View(session, AT))
    assert not list((tmp_path / "b").iterdir())
