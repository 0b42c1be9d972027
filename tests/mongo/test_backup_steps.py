"""A backup is taken only when none of the same data is there, and is tried by restoring it once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Timestamp

from credscale.core.errors import StepFailed, VerificationFailed
from credscale.core.step import Status
from credscale.mongo import backup as engine
from credscale.mongo import backup_steps
from credscale.mongo.backup_steps import backup, restore_check, target_of
from credscale.mongo.digest import Digest, digest_documents
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
    sharded_at_start: bool = False
    restore_checked: dict[str, Any] | None = None
    engine: str = "native"

    @property
    def documents(self) -> int:
        return self.digest.documents

    @property
    def bytes(self) -> int:
        return self.digest.bytes


class Shelf:
    """The backups that are there, the data that is live, and what was done."""

    def __init__(self) -> None:
        self.backups: list[Taken] = []
        self.live = digest_of(1, 2)
        self.restored = digest_of(1, 2)
        self.damaged = False
        self.marked: dict[str, Any] = {}
        self.log: list[str] = []

    def dump(self, *_: object, **__: object) -> None:
        self.log.append("dump")
        self.backups.insert(0, Taken(Path("new"), self.live))

    def verify(self, folder: Path, _on_progress: object) -> Taken:
        self.log.append(f"verify {folder}")
        if self.damaged and folder == Path("old"):
            raise VerificationFailed("a byte is wrong")
        return next((each for each in self.backups if each.folder == folder), Taken(folder, self.live))

    def mark(self, folder: Path, **changes: Any) -> Taken:
        self.log.append(f"mark {[*changes]}")
        self.marked |= changes
        return next(each for each in self.backups if each.folder == folder)

    def restore(self, *_: object, **__: object) -> Digest:
        self.log.append("restore")
        return self.restored


@pytest.fixture
def shelf(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Return a shelf without a backup."""
    shelf = Shelf()
    cluster.documents = 2
    monkeypatch.setattr(backup_steps.Target, "backups", lambda _self: shelf.backups)
    monkeypatch.setattr(backup_steps, "live_digest", lambda *_: shelf.live)
    monkeypatch.setattr(backup_steps, "timed_digest", lambda *_: (shelf.live, SINCE, UNTIL))
    monkeypatch.setattr(backup_steps, "_drop_scratch", lambda _: shelf.log.append("drop"))
    monkeypatch.setattr("credscale.mongo.backup.mark", shelf.mark)
    for name in ("dump", "verify", "restore"):
        monkeypatch.setattr(engine, name, getattr(shelf, name))
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
    assert shelf.marked == {"operation_time_start": SINCE, "operation_time_end": UNTIL}


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
    assert result.summary == "2 documents were restored from old and are byte for byte the same"
    assert shelf.log == ["drop", "restore", "drop", "mark ['restore_checked']"]


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
    access = backup_steps._access(ctx)
    assert (access.uri, access.password) == ("mongodb://ops@h1:1,h2:2/?authSource=admin", "p@ss")
