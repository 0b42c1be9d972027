"""The checks of disks, memory, connections and load."""

from __future__ import annotations

from typing import Any

import pytest

from credscale.mongo.cluster.members import Disk
from credscale.mongo.preflight import capacity
from credscale.mongo.preflight.check import Seen
from credscale.mongo.preflight.disk import Space
from tests.mongo.preflight.looks import Nodes, look_at, recorded, said, severities


@pytest.fixture(autouse=True)
def _no_second_look_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LOOK_AGAIN_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("needed", "found", "grows", "severity"),
    [
        (10, Space(Disk(1000, 500), 100), True, "ok"),
        (310, Space(Disk(1000, 500), 0), True, "stop"),  # 81 % full afterwards
        (250, Space(Disk(1000, 500), 100), True, "stop"),  # the recipient's oplog grows
        (250, Space(Disk(1000, 500), 100), False, "ok"),
        (510, Space(Disk(1000, 500), 0), True, "stop"),
        (0, Space(Disk(1000, 900), 0), False, "stop"),
        (10, Space(Disk(1000, 500), None), True, "warn"),
        (10, Space(Disk(1000, 500), None), False, "ok"),
        (10, Space(Disk(0, 0), 0), True, "unknown"),
        (10, Seen("unknown", "the user may not look (code 13)"), True, "unknown"),
    ],
)
def test_room_on_a_disk(needed: int, found: Space | Seen, grows: bool, severity: str) -> None:
    assert capacity.judge_disk("a:1", needed, found, grows=grows).severity == severity


def test_a_lab_may_lie_on_a_full_disk_but_not_on_one_that_is_too_small() -> None:
    nodes = Nodes()
    nodes.answer("dbStats", {"fsTotalSize": 1000e9, "fsUsedSize": 950e9})
    assert {row[0] for row in said(capacity.disk, look_at(nodes))} == {"stop"}
    assert {row[0] for row in said(capacity.disk, look_at(nodes, rehearsal=True))} == {"note"}
    nodes.answer("dbStats", {"fsTotalSize": 1000e9, "fsUsedSize": 999.9999999e9})
    assert "stop" in {row[0] for row in said(capacity.disk, look_at(nodes, rehearsal=True))}


@pytest.mark.parametrize(
    ("needed", "room", "megabytes", "severity"),
    [
        (10, Disk(1000, 500), 200, "ok"),
        (10, Disk(1000, 500), None, "ok"),
        (600, Disk(1000, 500), 200, "warn"),
        (10, Disk(1000, 500), 8000, "warn"),
        (10, Disk(0, 0), 200, "unknown"),
    ],
)
def test_room_for_an_index(needed: int, room: Disk, megabytes: int | None, severity: str) -> None:
    host = recorded("01-replica-sets", "hostInfo")
    assert capacity.judge_build("a:1", needed, (room, megabytes), host).severity == severity


@pytest.mark.parametrize(
    ("used", "dirty", "severity"), [(50, 5, "ok"), (91, 5, "warn"), (50, 11, "warn"), (90, 10, "ok")]
)
def test_caches(used: int, dirty: int, severity: str) -> None:
    found = {
        "maximum bytes configured": 100,
        "bytes currently in the cache": used,
        "tracked dirty bytes in the cache": dirty,
    }
    assert capacity.judge_cache("a:1", found).severity == severity


def test_a_cache_without_figures_is_not_a_good_one() -> None:
    assert capacity.judge_cache("a:1", {}).severity == "unknown"


def status(waiting: int, cpu: float = 0.0, *, lagged: bool = False) -> dict[str, Any]:
    return {
        "globalLock": {"currentQueue": {"total": waiting}},
        "extra_info": {"user_time_us": int(cpu * 1e6), "system_time_us": 0},
        "flowControl": {"isLagged": lagged},
    }


@pytest.mark.parametrize(
    ("first", "second", "severity"),
    [
        (status(0), status(0), "ok"),
        (status(9), status(0), "note"),
        (status(9), status(7), "warn"),
        (status(0), status(0, cpu=1.5), "warn"),  # of two processors in one second
        (status(0), status(0, lagged=True), "warn"),
        ({}, status(0), "unknown"),
    ],
)
def test_two_looks_at_the_load(first: dict[str, Any], second: dict[str, Any], severity: str) -> None:
    assert capacity.judge_load("a:1", first, second, seconds=1.0, cores=2).severity == severity


@pytest.mark.parametrize(
    ("counts", "limit", "routers", "expected"),
    [
        ({"current": 10, "available": 15_990}, 64_000, 2, ["ok"]),
        ({"current": 10, "available": 300}, 64_000, 2, ["warn"]),
        ({"current": 10, "available": 300}, 64_000, 1, ["ok"]),
        ({"current": 10, "available": 15_990}, 20_000, 1, ["warn"]),
        ({"current": 10, "available": 15_990}, None, 1, ["ok"]),
        ({}, 64_000, 1, ["unknown"]),
    ],
)
def test_connections(counts: dict[str, int], limit: int | None, routers: int, expected: list[str]) -> None:
    assert severities(capacity.judge_connections({"a:1": counts}, {"a:1": limit}, routers)) == expected


def test_the_recorded_cluster() -> None:
    look = look_at(Nodes())
    needs = "127.0.0.1:27020 needs 9.5 GB more, 9.5 GB of it for its oplog, 900.0 GB are free"
    assert said(capacity.disk, look)[3] == ("ok", needs)
    assert len(said(capacity.index_build_room, look)) == 3
    assert said(capacity.cache, look)[0] == ("ok", "127.0.0.1:27018: 18% of the cache used, 1% dirty, of 321.9 MB")
    assert said(capacity.queues, look)[0][1].startswith("127.0.0.1:27018: nothing waits")
    assert said(capacity.connections, look)[0][0] == "warn"  # 20,000 open files, as recorded


def test_members_that_are_silent_are_unknown_everywhere() -> None:
    nodes = Nodes()
    for address in ("127.0.0.1:27018", "127.0.0.1:27028", "127.0.0.1:27038", "127.0.0.1:27020"):
        nodes.kill(address)
    look = look_at(nodes)
    for check in (capacity.disk, capacity.index_build_room, capacity.cache, capacity.queues):
        assert {row[0] for row in said(check, look)} == {"unknown"}
