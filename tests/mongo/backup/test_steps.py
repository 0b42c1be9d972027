"""A backup is taken only when none of the same data is there, and is tried by restoring it once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Timestamp

from credscale.core.errors import StepFailed, VerificationFailed
from credscale.core.step import Status
from credscale.mongo.backup import dump as engine
from credscale.mongo.backup import manifest as backup_manifest
from credscale.mongo.backup import restore as backup_restore
from credscale.mongo.backup import source as backup_source
from credscale.mongo.backup import steps as backup_steps
from credscale.mongo.backup import target as backup_target
from credscale.mongo.backup import trial as backup_trial
from credscale.mongo.backup.engine import Tool
from credscale.mongo.backup.steps import backup
from credscale.mongo.backup.target import target_of
from credscale.mongo.backup.trial import restore_check
from credscale.mongo.documents.digest import Digest, digest_documents
from tests.mongo.conftest import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

SINCE, UNTIL = Timestamp(50, 1), Timestamp(60, 1)
BACKUP: dict[str, Any] = {"namespace": NAMESPACE, "backup_directory": "b"}


def digest_of(*numbers: int) -> Digest:
    return digest_documents(bson.encode({"_id": number}) for number in numbers)


@dataclass
class Taken:
    """What is used of a manifest."""

    folder: Path = Path("old")
    digest: Digest = field(default_factory=lambda: digest_of(1, 2))
    verified: str | None = "2026-11-23"
    finished: str = "2026-11-24"
    sharded_at_start: bool = False
    restore_checked: dict[str, Any] | None = None
    engine: str = "native"
    tool: str = "credscale-native"
    external: dict[str, Any] | None = None
    point: dict[str, Any] = field(default_factory=lambda: {"statement": "of a moment"})

    @property
    def documents(self) -> int:
        return self.digest.documents

    @property
    def bytes(self) -> int:
        return self.digest.bytes


def keywords(read: Any) -> dict[str, Any]:
    """Return what an engine was given besides its job."""
    return getattr(read, "keywords", {})


class Shelf:
    """The backups that are there, the data that is live, and what was done."""

    def __init__(self) -> None:
        self.backups: list[Taken] = []
        self.live = digest_of(1, 2)
        self.restored = digest_of(1, 2)
        self.damaged = False
        self.marked: dict[str, Any] = {}
        self.reads: list[Any] = []
        self.log: list[str] = []

    def dump(self, _collection: object, folder: Path, **given: Any) -> None:
        self.log.append("dump")
        self.reads.append(given["read"])
        self.backups.insert(0, Taken(folder, self.live, external=keywords(given["read"]).get("external")))

    def verify(self, folder: Path, _on_progress: object) -> Taken:
        self.log.append(f"verify {folder}")
        if self.damaged and folder == Path("old"):
            raise VerificationFailed("a byte is wrong")
        return next((each for each in self.backups if each.folder == folder), Taken(folder, self.live))

    def mark(self, folder: Path, **changes: Any) -> Taken:
        self.log.append(f"mark {[*changes]}")
        self.marked |= changes
        found = next(each for each in self.backups if each.folder == folder)
        found.point = changes.get("point", found.point)
        return found

    def restore(self, *_: object, **given: Any) -> Digest:
        self.log.append("restore" if given["sample"] is None else f"restore {given['sample']}")
        return self.restored

    def restore_indexes(self, *_: object) -> list[str]:
        self.log.append("indexes")
        return ["createdAt_1"]


@pytest.fixture
def shelf(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Return a shelf without a backup."""
    shelf = Shelf()
    cluster.documents = 2
    monkeypatch.setattr(backup_target.Target, "backups", lambda _self: shelf.backups)
    monkeypatch.setattr(backup_trial, "live_digest", lambda *_: shelf.live)
    monkeypatch.setattr(backup_steps, "timed_digest", lambda *_: (shelf.live, SINCE, UNTIL))
    monkeypatch.setattr(backup_steps, "find_mongodump", lambda: None)
    monkeypatch.setattr(backup_trial, "_drop_scratch", lambda _: shelf.log.append("drop"))
    for name in ("dump", "verify"):
        monkeypatch.setattr(engine, name, getattr(shelf, name))
    monkeypatch.setattr(backup_manifest, "mark", shelf.mark)
    for name in ("restore", "restore_indexes"):
        monkeypatch.setattr(backup_restore, name, getattr(shelf, name))
    return shelf


def test_taken_and_verified(shelf: Shelf, ctx: Context) -> None:
    result = backup(ctx, **BACKUP)
    assert result.status is Status.CHANGED
    assert (result.output["baseline"], result.output["documents"]) == ("taken", 2)
    assert shelf.log[0] == "dump"
    assert shelf.log[1].startswith("verify b/unit/shop.orders/")


def test_one_of_the_same_data_is_kept(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [Taken()]
    result = backup(ctx, **BACKUP)
    assert (result.status, result.output["baseline"]) == (Status.OK, "kept")
    assert result.summary == "the backup old holds the same data; it was read again and found whole"
    assert "found equal to the live documents" in result.output["point"]["looked_at"]["statement"]


def test_one_of_other_data_is_not_kept(shelf: Shelf, ctx: Context) -> None:
    shelf.backups, shelf.live = [Taken()], digest_of(1, 3)
    assert backup(ctx, **BACKUP).status is Status.CHANGED


def test_a_damaged_one_is_replaced(shelf: Shelf, ctx: Context) -> None:
    shelf.backups, shelf.damaged = [Taken()], True
    assert backup(ctx, **BACKUP).status is Status.CHANGED


def test_the_baseline_of_a_migration_under_way_is_kept(shelf: Shelf, ctx: Context, cluster: FakeCluster) -> None:
    """Writers have been active since, so the data differ; it is the baseline all the same."""
    cluster.shard()
    shelf.backups, shelf.live = [Taken()], digest_of(1, 2, 3)
    assert backup(ctx, **BACKUP).summary.startswith("the backup old is the baseline of the migration under way")


def test_a_damaged_baseline_is_not_replaced(shelf: Shelf, ctx: Context, cluster: FakeCluster) -> None:
    cluster.shard()
    shelf.backups, shelf.damaged = [Taken()], True
    with pytest.raises(StepFailed, match="a byte is wrong"):
        backup(ctx, **BACKUP)
    assert "dump" not in shelf.log


def test_what_is_no_baseline_of_a_migration(shelf: Shelf, ctx: Context, cluster: FakeCluster) -> None:
    cluster.shard()
    shelf.backups = [Taken(verified=None)]
    assert backup(ctx, **BACKUP).output["baseline"] == "taken"


def test_one_from_after_the_sharding_is_kept_while_the_data_are_the_same(
    shelf: Shelf, ctx: Context, cluster: FakeCluster
) -> None:
    """Otherwise every run of a migration that has no baseline from before would change something."""
    cluster.shard()
    cluster.documents = 3  # one of them an orphan
    shelf.backups = [Taken(sharded_at_start=True)]
    result = backup(ctx, **BACKUP)
    assert (result.status, result.output["baseline"]) == (Status.OK, "kept")
    assert "holds the same data" in result.summary
    shelf.live = digest_of(1, 3)
    assert backup(ctx, **BACKUP).output["baseline"] == "taken"


def test_a_damaged_one_from_after_the_sharding_is_replaced(shelf: Shelf, ctx: Context, cluster: FakeCluster) -> None:
    cluster.shard()
    shelf.backups, shelf.damaged = [Taken(sharded_at_start=True)], True
    assert backup(ctx, **BACKUP).output["baseline"] == "taken"


def test_the_baseline_is_the_one_from_before_the_sharding(shelf: Shelf, ctx: Context, cluster: FakeCluster) -> None:
    cluster.shard()
    shelf.backups = [Taken(Path("late"), sharded_at_start=True), Taken()]
    assert str(target_of(ctx, NAMESPACE, "b").baseline().folder) == "old"


def test_a_kept_one_needs_the_oplogs_from_the_last_look_on_only(shelf: Shelf, ctx: Context) -> None:
    """Otherwise the oplogs would have to reach back to a backup that may be weeks old."""
    shelf.backups = [Taken()]
    backup(ctx, **BACKUP)
    point = shelf.marked.pop("point")
    assert shelf.marked == {"operation_time_start": SINCE, "operation_time_end": UNTIL}
    assert (point["looked_at"]["start"], point["looked_at"]["end"]) == ([50, 1], [60, 1])
    assert "(50,1) and 1970-01-01T00:01:00Z (60,1)" in point["looked_at"]["statement"]
    assert point["statement"] == "of a moment"


def test_the_baseline_of_a_migration_keeps_its_times(shelf: Shelf, ctx: Context, cluster: FakeCluster) -> None:
    cluster.shard()
    shelf.backups = [Taken()]
    backup(ctx, **BACKUP)
    assert shelf.marked == {}


def unfinished(root: Path, name: str = "20261123T101112Z-0a1b2c") -> Path:
    """Make what a run leaves that is killed while it dumps."""
    folder = root / "unit" / NAMESPACE / name
    (folder / "dump.partial" / "shop").mkdir(parents=True)
    (folder / "dump.partial" / "shop" / "orders.bson").write_bytes(b"x" * 9000)
    (folder / "dump.partial" / "shop" / "orders.metadata.json").write_text("{}")
    return folder


def test_what_killed_runs_left_is_removed(
    shelf: Shelf, ctx: Context, make_context: Callable[..., Context], tmp_path: Path
) -> None:
    shelf.backups = [Taken()]
    folders = [unfinished(tmp_path, name) for name in ("20261123T101112Z-0a1b2c", "20261123T101113Z-0a1b2c")]
    planned = backup(make_context(dry_run=True), namespace=NAMESPACE, backup_directory=str(tmp_path))
    assert [planned.status, *(folder.exists() for folder in folders)] == [Status.PLANNED, True, True]
    result = backup(ctx, namespace=NAMESPACE, backup_directory=str(tmp_path))
    assert len(result.changes) == 2
    assert result.changes[0].startswith(f"remove the unfinished backup {folders[0]} of a killed run")
    assert not any(folder.exists() for folder in folders)
    assert backup(ctx, namespace=NAMESPACE, backup_directory=str(tmp_path)).changes == []


def test_a_dry_run_reads_no_documents(shelf: Shelf, make_context: Callable[..., Context]) -> None:
    shelf.backups = [Taken()]
    assert backup(make_context(dry_run=True), **BACKUP).status is Status.OK
    shelf.backups = []
    ctx = make_context(dry_run=True)
    assert backup(ctx, **BACKUP).status is Status.PLANNED
    assert restore_check(ctx, **BACKUP).status is Status.PLANNED
    assert shelf.log == []


def test_restored_compared_and_dropped(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [Taken()]
    result = restore_check(ctx, **BACKUP)
    assert result.summary == (
        "2 documents were restored from old and are byte for byte the same; options and 1 indexes are too"
    )
    assert shelf.log == ["drop", "restore", "indexes", "drop", "mark ['restore_checked']"]
    assert shelf.marked["restore_checked"]["indexes"] == ["createdAt_1"]


def test_a_restore_that_differs(shelf: Shelf, ctx: Context) -> None:
    shelf.backups, shelf.live = [Taken()], digest_of(1)
    with pytest.raises(StepFailed, match="can't be trusted"):
        restore_check(ctx, **BACKUP)
    assert shelf.log == ["drop", "restore"], "what differs is left for looking at"


def test_restored_already(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [Taken(restore_checked={"time": "2026-11-23", "documents": 2, "namespace": "x.y"})]
    assert restore_check(ctx, **BACKUP).summary == "the backup old was restored and compared already, at 2026-11-23"
    assert shelf.log == []


def test_a_smaller_sample_before_is_not_enough(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [Taken(restore_checked={"time": "2026-11-23", "documents": 1, "namespace": "x.y"})]
    assert restore_check(ctx, **BACKUP, sample=1).status is Status.OK
    assert restore_check(ctx, **BACKUP).status is Status.CHANGED


def test_no_backup_to_restore(shelf: Shelf, ctx: Context) -> None:
    assert shelf.backups == []
    with pytest.raises(StepFailed, match="Run backup first"):
        restore_check(ctx, **BACKUP)


def test_password_stays_out_of_the_connection_string(ctx: Context) -> None:
    clients: Any = ctx.clients
    clients.mongo_uri = lambda: "mongodb://ops:p%40ss@h1:1,h2:2/?authSource=admin"
    access = backup_source._access(ctx)
    assert (access.uri, access.password) == ("mongodb://ops@h1:1,h2:2/?authSource=admin", "p@ss")


def test_the_summary_says_what_the_backup_is_of_and_what_is_not_in_it(shelf: Shelf, ctx: Context) -> None:
    result = backup(ctx, **BACKUP)
    assert "; of a moment; users, roles, zones and every other collection are not in this backup" in result.summary
    assert result.output["not_checked"] == ["users, roles, zones and every other collection are not in this backup"]
    assert result.output["retained"] == {"backups": 0, "bytes": 0}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine": "pbm"}, "engine must be one of auto, mongodump, native, external, not 'pbm'"),
        ({"engine": "external"}, "needs the parameter external"),
        ({"engine": "native", "external": "pbm:x"}, "takes a backup itself"),
        ({"engine": "mongodump"}, "mongodump is not on this machine's PATH"),
        ({"external": "vol-123"}, "external must be pbm:NAME"),
    ],
)
def test_engines_that_are_refused(shelf: Shelf, ctx: Context, options: dict[str, str], reason: str) -> None:
    with pytest.raises(StepFailed, match=reason):
        backup(ctx, **BACKUP, **options)
    assert shelf.log == []


def test_mongodump_is_used_where_a_fit_one_is(shelf: Shelf, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [Tool("/bin/mongodump", (100, 9, 4)), Tool("/bin/mongodump", (4, 2, 8))]
    monkeypatch.setattr(backup_steps, "find_mongodump", lambda: tools.pop(0))
    for _ in range(2):
        shelf.backups = []
        backup(ctx, **BACKUP)
    assert [keywords(read).get("tool") is not None for read in shelf.reads] == [True, False]


def test_a_capped_collection_is_refused_before_anything_is_done(
    shelf: Shelf, ctx: Context, cluster: FakeCluster
) -> None:
    cluster.options = {"capped": True, "size": 4096}
    with pytest.raises(StepFailed, match=r"orders is of the kind 'capped'.*use the program mongodump by hand"):
        backup(ctx, **BACKUP)
    assert shelf.log == []


def snapshot(hours: float) -> str:
    """Name a snapshot of so many hours ago."""
    moment = datetime.now(UTC) - timedelta(hours=hours)
    return f"snapshot:vol-1@{moment:%Y-%m-%dT%H:%M:%SZ}"


def test_a_declared_snapshot_is_recorded_with_the_hashes(shelf: Shelf, ctx: Context) -> None:
    declared = snapshot(2)
    result = backup(ctx, **BACKUP, external=declared)
    assert result.status is Status.CHANGED
    assert result.changes[0].startswith("record snapshot:vol-1 as the backup of shop.orders, with the hashes of 2")
    assert "not checked: whether the snapshot vol-1 exists" in result.summary
    assert len(result.output["not_checked"]) == 4
    assert "are in no backup" in result.output["not_checked"][2]
    assert declared.partition("@")[2].removesuffix("Z") in result.output["not_checked"][2]
    assert "are in no backup" in result.summary
    again = backup(ctx, **BACKUP, external=declared)
    assert (again.status, again.output["baseline"]) == (Status.OK, "kept")


@pytest.mark.parametrize(("hours", "reason"), [(25, "25 h ago; at most 24 h are allowed"), (-2, "still to come")])
def test_a_declared_snapshot_of_another_day(shelf: Shelf, ctx: Context, hours: float, reason: str) -> None:
    with pytest.raises(StepFailed, match=reason):
        backup(ctx, **BACKUP, external=snapshot(hours))
    assert shelf.log == []


def test_an_old_external_baseline_is_kept_once_the_migration_is_under_way(
    shelf: Shelf, ctx: Context, cluster: FakeCluster
) -> None:
    cluster.shard()
    shelf.backups = [Taken(external={"kind": "snapshot", "id": "vol-1", "time": "2026-11-01", "not_checked": []})]
    assert backup(ctx, **BACKUP, external=snapshot(99)).output["baseline"] == "kept"


def test_a_dump_does_not_stand_for_an_external_backup_nor_one_for_the_other(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [Taken()]
    assert backup(ctx, **BACKUP, external=snapshot(1)).output["baseline"] == "taken"
    assert backup(ctx, **BACKUP).output["baseline"] == "taken"
    assert shelf.backups[0].external is None


def external_backup() -> Taken:
    return Taken(external={"kind": "pbm", "id": "b1", "time": "2026-11-23T02:00:00+00:00", "not_checked": ["x"]})


def test_an_external_backup_is_not_said_to_restore(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [external_backup()]
    result = restore_check(ctx, **BACKUP)
    assert result.status is Status.OK
    assert result.summary.startswith("not checked: whether pbm:b1 restores")
    assert result.output["not_checked"] == ["whether pbm:b1 restores: it can't be restored from here"]
    assert shelf.log == []


def test_the_proof_of_an_external_restore_test_is_noted(shelf: Shelf, ctx: Context) -> None:
    shelf.backups = [external_backup()]
    result = restore_check(ctx, **BACKUP, external_restore_tested="OPS-12")
    assert result.changes == ["note that the restore of pbm:b1 was tested: OPS-12"]
    assert shelf.marked["restore_checked"]["reference"] == "OPS-12"
    assert "not checked here" in result.summary
    shelf.backups[0].restore_checked = shelf.marked["restore_checked"]
    assert restore_check(ctx, **BACKUP).status is Status.OK


def test_a_sample_is_asked_for(shelf: Shelf, ctx: Context) -> None:
    shelf.backups, shelf.restored, shelf.live = [Taken()], digest_of(2), digest_of(2)
    result = restore_check(ctx, **BACKUP, sample=1)
    assert "drawn at random" in result.changes[0]
    assert "restore 1" in shelf.log
