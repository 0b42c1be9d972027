"""What hosts of several systems told becomes figures, and what they did not tell becomes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.hosts.readings import UNLIMITED, Disk, Reading, chosen, disk, limits, reading, version
from credscale.hosts.script import Told

CASES = Path(__file__).parents[1] / "cases/hosts"
KB = 1024


def recorded(name: str) -> Reading:
    """Return the reading of a recorded host."""
    case: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    return reading(name, Told(case["parts"], tuple(case["paths"]), -0.01, 0.01))


def test_debian() -> None:
    found = recorded("debian")
    root, shared, absent = found.disks
    assert (root.device, root.mount, root.size) == ("/dev/vda", "/", 264212084 * KB)
    assert root.inodes == 16777216
    assert root.used_percent is not None
    assert 30 < root.used_percent < 40
    assert (shared.used_percent, shared.mount) == (0.0, "/dev/shm")  # noqa: S108 - a mount point, no file
    assert (absent.problem, absent.size) == ("df: /nope: No such file or directory", None)
    assert (found.huge_pages, found.defrag) == ("madvise", "madvise")
    assert found.login is not None
    assert (found.login.open_files, found.login.processes) == (20000, 96365)
    assert found.versions["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert found.versions["libc"] == "glibc 2.36"
    assert found.versions["python3"].startswith("3.")
    assert found.figures["memory"] == 24684084 * KB
    assert (found.figures["swap"], found.figures["swappiness"], found.figures["overcommit"]) == (0, 60, 0)
    assert found.is_linux


def test_busybox_as_on_alpine() -> None:
    found = recorded("busybox")
    assert (found.disks[0].mount, found.disks[0].size, found.disks[0].inodes) == ("/", 264212084 * KB, 16777216)
    assert found.disks[2].problem == "df: /nope: can't find mount point"
    assert (found.versions["os"], found.versions["libc"]) == ("Alpine Linux v3.20", "musl 1.2.5")
    assert found.login is not None


def test_macos_has_disks_and_no_proc() -> None:
    found = recorded("macos")
    assert (found.disks[0].mount, found.disks[0].size, found.disks[0].inodes) == ("/", 971350180 * KB, None)
    assert (found.disks[1].device, found.disks[1].used_percent) == ("map auto_home", None)
    assert found.disks[2].problem == "df: /nope: No such file or directory"
    assert (found.login, found.servers, found.huge_pages, found.figures) == (None, (), None, {})
    assert found.versions == {"python3": "3.9.6"}
    assert not found.is_linux


def test_servers_with_a_wrapped_line_and_blanks_in_names() -> None:
    found = recorded("servers")
    assert [(each.process, each.pid, each.open_files) for each in found.servers] == [
        ("mongod", 812, 64000), ("redis-server", 900, 10032),
    ]  # fmt: skip
    data = found.disks[1]
    assert (data.device, data.mount) == ("filer.example.net:/vol/a long name/mongo", "/data/mongo db")
    assert (data.free, data.inodes, data.problem) == (6081248 * KB, None, "")
    assert (found.versions["mongod"], found.versions["redis-server"]) == ("7.0.14", "7.2.4")
    assert found.huge_pages == "always"
    assert found.has("mongod")
    assert not found.has("mongos", "valkey-server")


def test_a_host_that_tells_nothing() -> None:
    found = reading("h", Told({}, ("/",), float("-inf"), float("inf")))
    assert found.disks == (Disk("/", problem="df printed nothing"),)
    assert (found.system, found.login, found.servers, found.versions, found.figures) == ("", None, (), {}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db version v7.0.14", "7.0.14"), ("mongos version v8.0.4-rc1", "8.0.4"),
        ("Redis server v=7.2.4 sha=00000000:0", "7.2.4"), ("Valkey server v=8.0.1 sha=0", "8.0.1"),
        ("Python 3.12.0+", "3.12.0"), ("ldd (Ubuntu GLIBC 2.35-0ubuntu3.8) 2.35", "2.35"), ("", None),
        ("sh: mongod: not found", None),
    ],
)  # fmt: skip
def test_version(text: str, expected: str | None) -> None:
    assert version(text) == expected


def test_settings() -> None:
    assert chosen("always [madvise] never") == "madvise"
    assert chosen("always defer [defer+madvise] madvise never") == "defer+madvise"
    assert chosen("") is None


def test_limits() -> None:
    text = "Limit   Soft Limit   Hard Limit   Units\nMax open files    unlimited    4096    files \n"
    assert limits("mongod", 1, text).open_files == UNLIMITED
    assert limits("mongod", 1, text).processes is None
    assert limits("mongod", 1, "").open_files is None


NAMES = st.from_regex(r"[A-Za-z0-9:._-]{1,30}( [A-Za-z:._-]{1,10}){0,2}", fullmatch=True)


@given(
    device=NAMES, folder=NAMES, total=st.integers(0, 10**13), used=st.integers(0, 10**13),
    free=st.integers(-(10**9), 10**13), wraps=st.booleans(), warns=st.booleans(),
)  # fmt: skip
def test_any_file_system_of_df(
    *, device: str, folder: str, total: int, used: int, free: int, wraps: bool, warns: bool
) -> None:
    gap = "\n        " if wraps else " "
    warning = "df: /x: Operation not permitted\n" if warns else ""
    head = "Filesystem     1024-blocks      Used Available Capacity Mounted on"
    found = disk("/p", f"{warning}{head}\n{device}{gap}{total} {used} {free} 1% /{folder}", "")
    assert found == Disk("/p", "", device, f"/{folder}", total * KB, used * KB, free * KB)
    assert found.used_percent is None or 0 <= found.used_percent <= 100


@given(st.dictionaries(st.sampled_from(
    ["clock", "system", "disk 0", "inodes 0", "shell", "process 1 mongod", "process x mongod", "thp-enabled",
     "swappiness", "overcommit", "memory", "uptime", "release", "libc", "version mongod"]), st.text()))  # fmt: skip
def test_no_text_breaks_a_reading(parts: dict[str, str]) -> None:
    found = reading("h", Told(parts, ("/",), 0.0, 0.0))
    assert len(found.disks) == 1
    assert all(isinstance(value, int) for value in found.figures.values())
