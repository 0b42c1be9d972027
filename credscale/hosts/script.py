"""The one question to a host: a constant shell script that tells everything in one go.

POSIX sh and tools, so that it runs under dash, busybox and macOS; what a system has not got stays empty. Each part of
its output begins with a line that no program's output can imitate, because it holds a token made for this one question.
No program is run but those on the administrator's PATH: who runs a process named mongod may be anybody.
"""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.core.machines import Machine

SERVERS = ("mongod", "mongos", "redis-server", "valkey-server")
_WIDE_SECONDS = 0.3  # a first answer's time has the connection's in it, so the clock is then read a second time
_CLOCK = "date +%s.%N"
_SCRIPT = r"""
mark=$1; shift
LC_ALL=C; PATH=$PATH:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin; export LC_ALL PATH
part() { printf '\n%s %s\n' "$mark" "$*"; }
show() { part "$1"; if [ -r "$2" ]; then cat "$2"; fi; }
part clock; date +%s.%N
part system; uname -srm
number=0
for path; do
  part "disk $number"; df -P -k -- "$path" 2>&1
  part "inodes $number"; df -P -i -- "$path" 2>&1
  number=$((number + 1))
done
show shell /proc/self/limits
for folder in /proc/[0-9]*; do
  name=
  { IFS= read -r name <"$folder/comm"; } 2>/dev/null
  case $name in
    mongod|mongos|redis-server|valkey-server) part "process ${folder#/proc/} $name"; cat "$folder/limits" 2>/dev/null;;
  esac
done
show thp-enabled /sys/kernel/mm/transparent_hugepage/enabled
show thp-defrag /sys/kernel/mm/transparent_hugepage/defrag
show swappiness /proc/sys/vm/swappiness
show overcommit /proc/sys/vm/overcommit_memory
show memory /proc/meminfo
show uptime /proc/uptime
show release /etc/os-release
part libc; getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1
for program in python3 mongod mongos redis-server valkey-server; do
  if command -v "$program" >/dev/null 2>&1; then part "version $program"; "$program" --version 2>&1 </dev/null; fi
done
part end; date +%s.%N
"""


@dataclass(frozen=True)
class Told:
    """What a host told.

    Args:
        parts: the output of each part of the script, by its name.
        paths: the paths whose disks were asked for, in their order.
        least: seconds that the host's clock is ahead of this machine's at least; behind where negative.
        most: the same at most.
    """

    parts: Mapping[str, str]
    paths: tuple[str, ...]
    least: float
    most: float


def ask(machine: Machine, paths: Sequence[str], timeout: float) -> Told:
    """Ask a host everything.

    Its clock is read twice in one answer: first after the question left here, last before the answer came.

    Args:
        machine: the host.
        paths: absolute, whose disks are looked at.
        timeout: seconds for the whole answer.

    Raises:
        ConnectFailed: the host cannot be reached, or did not answer in time.
        PreconditionFailed: it has no POSIX shell.
    """
    mark = f"=={secrets.token_hex(8)}"
    before = time.time()
    done = machine.run(["sh", "-c", _SCRIPT, "sh", mark, *paths], timeout=timeout)
    after = time.time()
    parts = split(done.text, mark)
    least, most = bounds(parts.get("clock", ""), parts.get("end", ""), before, after)
    if most - least > _WIDE_SECONDS:
        left = max(0.0, timeout - (after - before))
        before = time.time()
        with suppress(ConnectFailed):  # then the first answer stands as it is
            clock = machine.run(["sh", "-c", _CLOCK], timeout=left / 2).text
            least, most = narrowed((least, most), bounds(clock, clock, before, time.time()))
    return Told(parts, tuple(paths), least, most)


def split(text: str, mark: str) -> dict[str, str]:
    """Return the parts of the script's output by their names.

    Args:
        text: all that it printed; what a login script printed before it is left out.
        mark: what the first line of each part begins with.
    """
    heads = list(re.finditer(rf"^{re.escape(mark)} (.*)$", text, re.MULTILINE))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {
        head[1].strip(): text[head.end() : end].strip("\n") for head, end in zip(heads, ends, strict=False) if head[1]
    }


def bounds(first: str, last: str, before: float, after: float) -> tuple[float, float]:
    """Return how many seconds a clock is ahead of this machine's at least and at most.

    Args:
        first: what its ``date`` printed after the question was sent; without fractions on busybox and macOS.
        last: what it printed before the answer came.
        before: when the question was sent, by this machine's clock.
        after: when the answer came.

    Returns:
        minus and plus infinity where the clock cannot be read.
    """
    early, late = _seconds(first), _seconds(last)
    if early is None or late is None:
        return float("-inf"), float("inf")
    return late[0] - after, early[1] - before


def narrowed(one: tuple[float, float], two: tuple[float, float]) -> tuple[float, float]:
    """Return what two measures say together; the second alone where they contradict, because a clock was set."""
    least, most = max(one[0], two[0]), min(one[1], two[1])
    return (least, most) if least <= most else two


def _seconds(text: str) -> tuple[float, float] | None:
    """Return between which two moments a printed one lies."""
    found = re.match(r"(\d{1,12})(?:\.(\d{9}))?", text.strip(), re.ASCII)
    if found is None:
        return None
    if found[2] is None:
        return float(found[1]), float(found[1]) + 1
    return float(found[0]), float(found[0])
