"""The room asked for is the room that will be used: no dump twice, the restore check counted in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect

from credscale.core.errors import StepFailed
from credscale.mongo.backup import target as backup_target
from credscale.mongo.cluster.facts import DataSize
from credscale.mongo.cluster.members import Disk
from credscale.mongo.preflight import disk
from credscale.mongo.preflight.disk import Space, verify_disk
from tests.mongo.backup.test_steps import Taken, digest_of, unfinished
from tests.mongo.conftest import KEY, NAMESPACE, FakeClients

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

STORAGE = 5000  # what the fake cluster's collStats says


def members_say(monkeypatch: pytest.MonkeyPatch, space: Space | Exception) -> None:
    """Let every member say this of its disk."""

    def read(_member: Any) -> Space:
        if isinstance(space, Exception):
            raise space
        return space

    monkeypatch.setattr(FakeClients, "mongo_member", lambda *_, **_options: None)
    monkeypatch.setattr(disk, "read_space", read)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> list[Taken]:
    """Return the finished backups; the live collection has two documents."""
    backups: list[Taken] = []
    cluster.documents = 2
    monkeypatch.setattr(backup_target.Target, "backups", lambda _self: backups)
    members_say(monkeypatch, Space(Disk(10**10, 10**9), 0))
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


SIZE = DataSize(1000, 10**6, 6 * 10**5, 4 * 10**5, {"s1": 10**6})


def test_a_donor_has_its_index_twice_and_a_recipient_its_share() -> None:
    def needed(shard: str, *, index_missing: bool = True) -> int:
        return disk.needed_on_shard(SIZE, shard, 4, index_missing=index_missing, holds_all=shard == "s1")

    assert needed("s1") == 1000 * 40 * 2 * 1.2
    assert needed("s1", index_missing=False) == 0
    assert needed("s2") == int((10**6 + 40_000) / 4 * 1.3)
    assert needed("s2", index_missing=False) == int(10**6 / 4 * 1.3)


@pytest.mark.parametrize(
    ("needed", "found", "judged"),
    [
        (10, Disk(1000, 700), "ok"), (301, Disk(1000, 700), "too small"), (101, Disk(1000, 700), "too full"),
        (0, Disk(1000, 990), "too full"), (0, Disk(0, 0), "unknown"),
    ],
)  # fmt: skip
def test_a_disk_is_judged_alike_by_pre_flight_and_step(needed: int, found: Disk, judged: str) -> None:
    assert disk.verdict(needed, found) == judged


@pytest.mark.parametrize(
    ("stats", "growth"),
    [({"maxSize": 100, "storageSize": 30, "size": 90}, 70), ({"maxSize": 100, "size": 120}, 0), ({}, None)],
)
def test_how_much_an_oplog_may_still_grow(stats: dict[str, int], growth: int | None) -> None:
    assert disk.parse_oplog_growth(stats) == growth


class Node:
    """A member that has no database of the user's."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getitem__(self, name: str) -> Any:
        def command(request: dict[str, Any]) -> dict[str, Any]:
            self.asked.append((name, request))
            if "dbStats" in request:
                return {"fsTotalSize": 100.0, "fsUsedSize": 10.0} if name == "admin" else {}
            return {"maxSize": 50, "size": 20}

        return type("Database", (), {"command": staticmethod(command)})()


def test_a_recipient_without_the_users_database_tells_its_disk() -> None:
    node: Any = Node()
    assert disk.read_space(node) == Space(Disk(100, 10), 30)
    assert node.asked[0] == ("admin", {"dbStats": 1})


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Space(Disk(10**10, 10**10 - 10), 0), "too little disk space: .* free 10"),
        (Space(Disk(10**10, 9 * 10**9), 0), "would be fuller than --fullest-percent allows"),
        (Space(Disk(10**10, 10**9), 10**10), "and its oplog's growth, free 9000000000"),
    ],
)
def test_members_that_are_too_small_or_too_full_stop(
    shelf: list[Taken], ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Space, said: str
) -> None:
    assert shelf == []
    members_say(monkeypatch, space)
    with pytest.raises(StepFailed, match=said):
        needed(ctx, tmp_path)


def test_a_member_that_does_not_answer_is_named(
    shelf: list[Taken], ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shelf == []

    members_say(monkeypatch, AutoReconnect("no answer"))
    result = verify_disk(ctx, namespace=NAMESPACE, backup_directory=str(tmp_path))
    assert "not readable: shard1:27018, shard2:27018" in result.summary


def test_how_full_a_disk_may_be_is_the_operators_word(
    shelf: list[Taken], ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shelf == []
    members_say(monkeypatch, Space(Disk(10**10, 9 * 10**9), 0))
    assert needed(ctx, tmp_path, fullest_percent=95)[HERE] == 220
    with pytest.raises(StepFailed, match="fullest_percent must be from 1 to 100, not 0"):
        needed(ctx, tmp_path, fullest_percent=0)
