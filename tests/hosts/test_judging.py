"""Each judgement finds what it is for, with its figures and a remedy, and is quiet otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.machines.fanout import Answer
from credscale.hosts.judging import Seen, judge_answers, judge_clocks, judge_disks, ordered
from credscale.hosts.kernel import judge_huge_pages, judge_limits
from credscale.hosts.readings import UNLIMITED, Disk, Limits
from credscale.hosts.versions import judge_versions, version_parts
from tests.hosts.fakes import GB, LINUX, full, host

MONGOD, REDIS = Limits("mongod", 812, 64000, 64000), Limits("redis-server", 900, 10032, 7000)


def told(seen: list[Seen]) -> list[tuple[str, str, str]]:
    assert all(bool(each.what) == bool(each.remedy) for each in seen if each.severity in ("stop", "warn", "unknown"))
    return [(each.severity, each.host, each.what) for each in seen]


def test_a_host_that_is_in_order_is_shown_and_not_blamed() -> None:
    hosts = [host("h1", servers=(MONGOD, REDIS)), host("h2", servers=(MONGOD, REDIS))]
    for seen in (
        judge_disks(hosts, 80, 1), judge_clocks(hosts), judge_limits(hosts, 64000, 64000, 10000),
        judge_huge_pages(hosts), judge_versions(hosts, {}),
    ):  # fmt: skip
        assert {(each.severity, each.what, each.remedy) for each in seen} == {("ok", "", "")}


@pytest.mark.parametrize(
    ("disk", "severity", "what"),
    [
        (full(80), "ok", ""),
        (full(81), "stop", "/ is 81.0 % full, allowed are 80 %"),
        (full(50, free=GB // 2, used=GB // 2), "stop", "/ has 0.5 GB free, expected are 1 GB"),
        (full(10, inodes_used=901), "stop", "90.1 % of the inodes of / are taken, allowed are 80 %"),
        (full(10, inodes=None, inodes_used=None), "ok", ""),
        (Disk("/data", problem="df: /data: No such file"), "stop", "/data: df: /data: No such file"),
    ],
)
def test_disks(disk: Disk, severity: str, what: str) -> None:
    assert told(list(judge_disks([host(disks=(disk,))], 80, 1))) == [(severity, "h1", what)]


@given(used=st.integers(0, 10**15), free=st.integers(-(10**12), 10**15), most=st.floats(1, 100))
def test_a_disk_is_blamed_exactly_when_it_is_too_full(used: int, free: int, most: float) -> None:
    disk = full(0, used=used, free=free)
    (seen,) = judge_disks([host(disks=(disk,))], most, 0.0)
    percent = disk.used_percent
    assert (seen.severity == "stop") == (free < 0 or (percent is not None and percent > most))


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(-0.1, 0.1), (-0.2, 0.9), (0.0, 0.3)], ["ok", "ok", "ok"]),
        ([(-0.1, 0.1), (2.0, 2.2), (0.0, 0.3)], ["ok", "warn", "ok"]),
        ([(-0.1, 0.1), (-9.0, -8.5), (0.0, 0.3)], ["ok", "stop", "ok"]),
        ([(-4.0, 4.0), (-3.0, 9.0), (0.0, 0.3)], ["ok", "ok", "ok"]),  # a slow network is no skew
        ([(8.0, 8.1), (8.0, 8.1), (8.0, 8.1)], ["ok", "ok", "ok", "stop"]),  # all but ours agree
    ],
)
def test_clocks(offsets: list[tuple[float, float]], expected: list[str]) -> None:
    hosts = [host(f"h{number}", least=least, most=most) for number, (least, most) in enumerate(offsets)]
    seen = list(judge_clocks(hosts))
    assert [each.severity for each in seen] == expected
    if len(expected) > len(offsets):
        assert seen[-1].host == "this machine"
        assert "at least 8.0 s" in seen[-1].what
    if "warn" in expected:
        assert "at least 1.7 s ahead of that of h2" in seen[1].what


def test_a_clock_that_cannot_be_read_is_unknown() -> None:
    broken = host("h2", least=float("-inf"), most=float("inf"))
    assert [each.severity for each in judge_clocks([host("h1"), broken])] == ["ok", "unknown"]
    assert [each.severity for each in judge_clocks([broken])] == ["unknown"]
    assert list(judge_clocks([])) == []


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 3)), min_size=1, max_size=6))
def test_clocks_that_may_agree_are_never_blamed(clocks: list[tuple[float, float]]) -> None:
    """Whatever the network hid: with one true offset inside all bounds nothing is found."""
    hosts = [host(f"h{number}", least=-width, most=width) for number, (_, width) in enumerate(clocks)]
    assert {each.severity for each in judge_clocks(hosts)} == {"ok"}


@pytest.mark.parametrize(
    ("server", "severity", "what"),
    [
        (MONGOD, "ok", ""),
        (Limits("mongod", 1, UNLIMITED, UNLIMITED), "ok", ""),
        (Limits("mongod", 1, 1024, 64000), "stop", "mongod may have only 1024 open files, needed are 64000"),
        (Limits("mongos", 1, 1024, 100), "stop",
         "mongos may have only 1024 open files, needed are 64000 and 100 processes, needed are 64000"),
        (REDIS, "ok", ""),
        (Limits("valkey-server", 1, 10031, 10), "stop",
         "valkey-server may have only 10031 open files, needed are 10032"),
        (Limits("mongod", 1, None, 64000), "unknown", "its limits cannot be read"),
    ],
)  # fmt: skip
def test_limits(server: Limits, severity: str, what: str) -> None:
    assert told(list(judge_limits([host(servers=(server,))], 64000, 64000, 10000))) == [(severity, "h1", what)]


def test_a_limit_is_raised_in_the_unit_of_the_very_process() -> None:
    """A unit's name differs between distributions, and mongos has another one than mongod."""
    (seen,) = judge_limits([host(servers=(Limits("mongos", 4711, 1024, 64000),))], 64000, 64000, 10000)
    assert seen.remedy == (
        "systemctl status 4711 names its unit; systemctl edit UNIT: LimitNOFILE=64000 and LimitNPROC=64000 in "
        "[Service], then restart it"
    )


def test_limits_where_no_server_runs_or_nothing_can_be_read() -> None:
    found = list(judge_limits([host("h1"), host("mac", system="Darwin 23.6.0 arm64", login=None)], 1, 1, 1))
    assert told(found) == [
        ("note", "h1", "no database server runs here, or none that this user may see"),
        ("unknown", "mac", "Darwin 23.6.0 arm64 has no /proc to read limits from"),
    ]


def test_kernel_settings_count_where_their_server_is() -> None:
    bad = {"overcommit": 0, "swap": GB, "swappiness": 60}
    rules = [each.what for each in judge_limits([host(servers=(REDIS, MONGOD), figures=bad)], 1, 1, 1)][2:]
    assert [rule.split(" is ")[0] for rule in rules] == ["vm.overcommit_memory", "vm.swappiness"]
    assert [each.severity for each in judge_limits([host(figures=bad)], 1, 1, 1)] == ["note"]
    assert [each.severity for each in judge_limits([host(servers=(REDIS,), figures={})], 1, 1, 1)] == ["ok"]


@pytest.mark.parametrize(
    ("huge_pages", "versions", "system", "severity"),
    [
        ("always", {"mongod": "7.0.14"}, LINUX, "stop"),
        ("madvise", {"mongod": "7.0.14"}, LINUX, "ok"),
        ("never", {"mongod": "8.0.4"}, LINUX, "warn"),
        ("always", {"mongod": "8.0.4"}, LINUX, "ok"),
        ("always", {"mongod": "10.0.0"}, LINUX, "ok"),
        ("always", {"mongod": "8.0.4"}, "Linux 5.14 ppc64le", "stop"),
        ("never", {"mongod": "8.0.4"}, "Linux 5.14 s390x", "ok"),
        ("always", {"redis-server": "6.0.16"}, LINUX, "stop"),
        ("always", {"redis-server": "6.2.0"}, LINUX, "ok"),  # it turns them off for itself
        ("always", {}, LINUX, "ok"),
        (None, {"mongod": "8.0.4"}, LINUX, "ok"),  # a kernel without them
        (None, {}, "Darwin 23.6.0 arm64", "note"),
    ],
)
def test_huge_pages(huge_pages: str | None, versions: dict[str, str], system: str, severity: str) -> None:
    (seen,) = judge_huge_pages([host(huge_pages=huge_pages, versions=versions, system=system)])
    assert seen.severity == severity
    assert seen.columns["enabled"] == (huge_pages or "none")


def test_huge_pages_of_a_mongod_whose_version_nobody_knows() -> None:
    (seen,) = judge_huge_pages([host(huge_pages="always", servers=(MONGOD,))])
    assert seen.severity == "unknown"


def versions_of(name: str, **versions: str) -> Any:
    return host(name, versions=versions)


def test_versions_are_compared_within_a_role() -> None:
    roles = {"s1": "shard", "s2": "shard", "s3": "shard", "c1": "config server"}
    hosts = [
        versions_of("s1", mongod="7.0.14"), versions_of("s2", mongod="7.0.12"), versions_of("s3", mongod="7.0.14"),
        versions_of("c1", mongod="6.0.1"), versions_of("other"),
    ]  # fmt: skip
    assert told(list(judge_versions(hosts, roles))) == [
        ("ok", "s1", ""), ("warn", "s2", "mongod is 7.0.12, the others of its role have 7.0.14"), ("ok", "s3", ""),
        ("ok", "c1", ""), ("ok", "other", ""),
    ]  # fmt: skip


def test_another_feature_version_stops_and_another_system_is_a_note() -> None:
    hosts = [
        versions_of("a", mongod="8.0.4", os="Debian 12"), versions_of("b", mongod="8.0.4", os="Debian 12"),
        versions_of("c", mongod="7.0.4", os="Debian 12"), versions_of("d", mongod="8.0.4", os="Debian 11"),
    ]  # fmt: skip
    seen = list(judge_versions(hosts, {}))
    assert [each.severity for each in seen] == ["ok", "ok", "stop", "note"]
    assert seen[2].what.startswith("mongod is 7.0.4, the others of its role have 8.0.4")


def test_versions_compare_as_numbers() -> None:
    assert version_parts("10.0.2") > version_parts("9.9")


def test_hosts_that_do_not_answer_fail_unless_that_many_may() -> None:
    answers = [Answer("a", 1), Answer("b", None, "refused", "closed"), Answer("c", None, "timed out", "silent")]
    for allowed, severity in ((0, "stop"), (1, "stop"), (2, "warn"), (-1, "warn")):
        assert told(judge_answers(answers, allowed)) == [
            (severity, "b", "refused: closed"), (severity, "c", "timed out: silent"),
        ]  # fmt: skip


def test_the_worst_comes_first_and_otherwise_the_inventorys_order_holds() -> None:
    seen = [Seen("ok", "a"), Seen("stop", "b", {}, "x", "y"), Seen("warn", "c", {}, "x", "y"), Seen("ok", "d")]
    assert [each.host for each in ordered(seen)] == ["b", "c", "a", "d"]
    assert Seen("ok", "a", {"size": 1}).row(("size", "free")) == {
        "severity": "ok", "host": "a", "size": 1, "free": None, "what": "", "what to do": "",
    }  # fmt: skip
