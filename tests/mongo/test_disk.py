"""The room asked for is the room that will be used: no dump twice, the restore check counted in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import StepFailed
from credscale.mongo import backup_target, disk
from credscale.mongo.disk import verify_disk
from tests.mongo.conftest import KEY, NAMESPACE
from tests.mongo.test_backup_steps import Taken, digest_of, unfinished

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

STORAGE = 5000  # what the fake cluster's collStats says


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> list[Taken]:
    """Return the finished backups; the live collection has two documents."""
    backups: list[Taken] = []
    cluster.documents = 2
    monkeypatch.setattr(backup_target.Target, "backups", lambda _self: backups)
    monkeypatch.setattr(disk, "_free", lambda *_: 10**9)
    return backups


def needed(ctx: Context, root: Path, **options: Any) -> dict[str, int]:
    result = verify_disk(ctx, namespace=NAMESPACE, backup_directory=str(root), shard_key=KEY, **options)
    return {row["for"].partition(" (")[0]: row["needed"] for row in result.output["rows"]}


HERE = "the backup on this machine"


def test_room_for_a_dump(shelf: list[Taken], ctx: Context, tmp_path: Path) -> None:
    assert shelf == []
    assert needed(ctx, tmp_path)[HERE] == 220


def test_a_run_killed_after_the_backup_needs_no_second_dumps_room(
    shelf: list[Taken], ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.append(Taken(verified=None))
    assert needed(ctx, tmp_path)[HERE] == 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert needed(ctx, tmp_path)[HERE] == 0
    shelf[0] = Taken(digest=digest_of(1, 2, 3))
    with pytest.raises(StepFailed, match="needs 220 bytes for the backup on this machine, free 10"):
        needed(ctx, tmp_path)


def test_the_baseline_of_a_migration_needs_no_room(
    shelf: list[Taken], ctx: Context, cluster: FakeCluster, tmp_path: Path
) -> None:
    cluster.shard()
    shelf.append(Taken(digest=digest_of(1, 2, 3)))
    assert needed(ctx, tmp_path)[HERE] == 0
    shelf[0] = Taken(digest=digest_of(1, 2, 3), sharded_at_start=True)
    assert needed(ctx, tmp_path)[HERE] == 220


def test_what_is_removed_first_counts_as_free(
    shelf: list[Taken], ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shelf == []
    unfinished(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    result = verify_disk(ctx, namespace=NAMESPACE, backup_directory=str(tmp_path))
    row = result.output["rows"][0]
    assert row["free"] >= 9010
    assert "bytes of unfinished dumps, which are removed first" in row["for"]


@pytest.mark.parametrize(("sample", "room"), [(0, STORAGE), (1, STORAGE // 2), (5, STORAGE)])
def test_the_restore_check_may_fall_on_any_shard(
    shelf: list[Taken], ctx: Context, tmp_path: Path, sample: int, room: int
) -> None:
    shelf.append(Taken(restore_checked={"documents": 2}))
    without = needed(ctx, tmp_path)
    shelf.clear()
    found = needed(ctx, tmp_path, restore_sample=sample)
    for purpose, bytes_needed in without.items():
        if purpose != HERE:
            assert found[f"{purpose} and the restore check"] == bytes_needed + room


def test_a_restore_check_that_was_done_needs_no_room(shelf: list[Taken], ctx: Context, tmp_path: Path) -> None:
    shelf.append(Taken(restore_checked={"documents": 1}))
    assert not any("restore" in purpose for purpose in needed(ctx, tmp_path, restore_sample=1))
    assert any("restore" in purpose for purpose in needed(ctx, tmp_path))
