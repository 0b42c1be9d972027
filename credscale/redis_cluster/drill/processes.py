"""Which processes listen for the nodes, as the kernel of their machine tells it; Linux only.

A node's process is found by its listening port: its title says nothing of its folder (§1.5), and one that is frozen
cannot be asked. Reading other users' processes needs root, here or by ``sudo: true`` of the host.
"""

from __future__ import annotations

import ipaddress
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.errors import PreconditionFailed, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from credscale.core.machines import Machine

# By name and not by file: in Debian redis-server is a link to the file of redis-check-rdb.
SERVERS = re.compile(r"(redis|valkey|keydb)-server")
END_SECONDS = 10.0
POLL_SECONDS = 0.02
STOPPED = "T"
_NO_PROC = 45
# Ports come as four upper-case hex digits, as /proc/net/tcp has them; state 0A listens.
_SURVEY = (
    f"[ -r /proc/net/tcp ] || exit {_NO_PROC}; set -u; "
    'found=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v ports=" $* " '
    '\'$4 == "0A" { n = split($2, a, ":"); if (index(ports, " " a[n] " ")) print $10, a[1], a[n] }\'); '
    'printf "%s\\n" "$found" | sed "s/^/listen /"; '
    'inodes=" $(printf "%s\\n" "$found" | cut -d" " -f1 | tr "\\n" " ")"; '
    "held=$(find /proc/[0-9]*/fd -lname 'socket:*' -printf '%p %l\\n' 2>/dev/null | awk -v inodes=\"$inodes\" "
    '\'{ split($1, a, "/"); gsub(/[^0-9]/, "", $2); if (index(inodes, " " $2 " ")) print a[3], $2 }\'); '
    'printf "%s\\n" "$held" | sed "s/^/holds /"; '
    'for pid in $(printf "%s\\n" "$held" | cut -d" " -f1 | sort -u); do '
    'echo "exe $pid $(readlink "/proc/$pid/exe")"; echo "user $pid $(stat -c %U "/proc/$pid")"; '
    'sed -n "s/^\\(Name\\|State\\|NSpid\\):[[:space:]]*/\\1 $pid /p" "/proc/$pid/status"; '
    'sed "s/^/cgroup $pid /" "/proc/$pid/cgroup"; done; echo "me 0 $(id -un)"'
)
_SIGNAL = 'kill -s "$1" "$2"'
_PAUSE = 'kill -s STOP "$1" || exit; sleep "$2"; exec kill -s CONT "$1"'
_STATE = 'sed -n "s/^State:[[:space:]]*//p" "/proc/$1/status" 2>/dev/null || :'


@dataclass(frozen=True)
class Listener:
    """A process that listens at a port.

    Args:
        pid: as its machine counts.
        inner: as it counts itself, another number in a container.
        state: the kernel's letter: S sleeping, R running, T stopped, and so on.
        name: of its program as it was called.
        executable: its program's file, behind symbolic links.
        user: who runs it.
        cgroups: the paths of its control groups, which tell a systemd unit or a container.
        ips: the addresses on which it listens at that port; empty for all.
    """

    pid: int
    inner: int
    state: str
    name: str
    executable: str
    user: str
    cgroups: tuple[str, ...]
    ips: frozenset[str]


@dataclass(frozen=True)
class Survey:
    """Who listens on a machine.

    Args:
        listeners: by port, the processes that we may see.
        sockets: by port, the addresses that anybody listens on; an empty one stands for all.
        me: the name of the user who looked.
    """

    listeners: dict[int, tuple[Listener, ...]]
    sockets: dict[int, frozenset[str]]
    me: str

    def of(self, port: int, ips: Iterable[str], others: Iterable[str] = ()) -> tuple[Listener, ...]:
        """Return the processes that listen at a port for one of these addresses.

        Args:
            port: of the node.
            ips: of the node's name as it is known here; behind an address translation its machine knows none of them.
            others: of other nodes at the same port of this machine.
        """
        found, known = self.listeners.get(port, ()), frozenset(ips)
        exact = tuple(each for each in found if known & each.ips)
        return exact or tuple(each for each in found if _may_be(known, each.ips, frozenset(others)))

    def listens(self, port: int, ips: Iterable[str], others: Iterable[str] = ()) -> bool:
        """Tell whether anybody listens there, be it a process that we may not see."""
        return port in self.sockets and _may_be(frozenset(ips), self.sockets[port], frozenset(others))


def _may_be(known: frozenset[str], listening: frozenset[str], others: frozenset[str]) -> bool:
    """Tell whether a listener is the one of some addresses: by an address, or through a translation.

    A loopback address is never translated, and who listens only where other nodes are is one of those.
    """
    loopback = known and all(ipaddress.ip_address(ip).is_loopback for ip in known)
    translated = not loopback and not listening <= others
    return not listening or "" in listening or bool(known & listening) or translated


def survey(machine: Machine, ports: Sequence[int]) -> Survey:
    """Look for the processes that listen at some ports of a machine.

    Raises:
        PreconditionFailed: the machine has no /proc, so it is not Linux.
        ConnectFailed: it cannot be reached.
    """
    done = machine.run(["sh", "-c", _SURVEY, "sh", *(f"{port:04X}" for port in ports)])
    if done.code == _NO_PROC:
        raise PreconditionFailed(
            f"{machine.name} has no /proc/net/tcp, by which the node's process is found: drills work on Linux only. "
            "Nothing was changed"
        )
    if done.code:
        raise PreconditionFailed(f"{machine.name}: its processes cannot be listed: {done.complaint}")
    return parse(done.text)


def parse(text: str) -> Survey:
    """Understand what the survey's script prints."""
    lines = [line.split(" ", 2) for line in text.splitlines() if line.count(" ") >= 2]
    sockets: dict[str, tuple[str, int]] = {}
    held: dict[int, set[str]] = {}
    told: dict[tuple[str, int], list[str]] = {}
    for kind, first, rest in lines:
        if kind == "listen":
            host, _, digits = rest.partition(" ")
            sockets[first] = (address_of(host), int(digits, 16))
        elif kind == "holds":
            held.setdefault(int(first), set()).add(rest)
        else:
            told.setdefault((kind, int(first)), []).append(rest)
    found: dict[int, list[Listener]] = {}
    for pid, inodes in sorted(held.items()):
        places = [sockets[inode] for inode in inodes if inode in sockets]
        for port in sorted({port for _, port in places}):
            found.setdefault(port, []).append(_listener(pid, port, places, told))
    ips = {port: frozenset(ip for ip, each in sockets.values() if each == port) for _, port in sockets.values()}
    return Survey({port: tuple(each) for port, each in found.items()}, ips, _one(told, "me", 0))


def _listener(
    pid: int, port: int, places: Iterable[tuple[str, int]], told: dict[tuple[str, int], list[str]]
) -> Listener:
    ips = {ip for ip, each in places if each == port}
    inner = _one(told, "NSpid", pid).split()
    return Listener(
        pid=pid, inner=int(inner[-1]) if inner else pid, state=_one(told, "State", pid)[:1],
        name=_one(told, "Name", pid), executable=_one(told, "exe", pid).removesuffix(" (deleted)"),
        user=_one(told, "user", pid),
        cgroups=tuple(line.split(":", 2)[-1] for line in told.get(("cgroup", pid), ())),
        ips=frozenset() if "" in ips else frozenset(ips),
    )  # fmt: skip


def _one(told: dict[tuple[str, int], list[str]], kind: str, pid: int) -> str:
    return told.get((kind, pid), [""])[0]


def address_of(text: str) -> str:
    """Return an address of /proc/net/tcp, whose four-byte groups are little-endian; empty for all addresses."""
    raw = bytes.fromhex(text)
    ip = ipaddress.ip_address(b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4)))
    plain = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped else ip
    return "" if plain.is_unspecified else str(plain)


def the_one(machine: Machine, found: Sequence[Listener], address: str, process: int) -> Listener:
    """Return the process of a node, which is sure to be it.

    Args:
        machine: where it runs.
        found: who listens at the node's port.
        address: of the node, for messages.
        process: the process id that the node itself tells.

    Raises:
        PreconditionFailed: nobody, several or somebody else listens there, or it is stopped already.
    """
    seen = ", ".join(f"{each.name or 'a process'} (pid {each.pid})" for each in found) or "no process that we see"
    ours = [each for each in found if process in (each.pid, each.inner)]
    if len(ours) != 1 or len(found) != 1:
        raise PreconditionFailed(
            f"the process of {address} is not found for sure: it calls itself {process}, and at its port on "
            f"{machine.name} listens {seen}. Nothing was changed. Other users' processes are seen by root only "
            "(sudo: true of the host), and those of a container with a network of its own not at all"
        )
    if not SERVERS.fullmatch(ours[0].name):
        raise PreconditionFailed(
            f"{seen} listens at {address} on {machine.name}, and its program is no redis-server or valkey-server. "
            "Nothing was changed"
        )
    if ours[0].state == STOPPED:
        raise PreconditionFailed(f"{seen} at {address} is stopped already. Put it back: invoke redis.restore-nodes")
    return ours[0]


def state_of(machine: Machine, pid: int) -> str:
    """Return a process's state as the kernel's letter; empty when there is no such process."""
    return machine.must_run(["sh", "-c", _STATE, "sh", str(pid)]).text[:1]


def kill(machine: Machine, pid: int) -> None:
    """End a process at once, with SIGKILL.

    Raises:
        VerificationFailed: it is still there.
    """
    signal_to(machine, pid, "KILL", {"", "Z", "X"})


def freeze(machine: Machine, pid: int) -> None:
    """Stop a process without ending it, with SIGSTOP.

    Raises:
        VerificationFailed: it goes on.
    """
    signal_to(machine, pid, "STOP", {STOPPED})


def pause(machine: Machine, pid: int, seconds: float) -> None:
    """Stop a process for some time; its machine lets it go on by itself, so nobody's delay makes it longer.

    Raises:
        PreconditionFailed: the signals cannot be sent.
    """
    machine.must_run(["sh", "-c", _PAUSE, "sh", str(pid), f"{seconds:.3f}"], timeout=seconds + END_SECONDS)


def resume(machine: Machine, pids: Sequence[int]) -> None:
    """Let stopped processes go on, with SIGCONT.

    Raises:
        VerificationFailed: one is still stopped.
    """
    for pid in pids:
        signal_to(machine, pid, "CONT", set("SRDIZX") | {""})


def signal_to(machine: Machine, pid: int, name: str, wanted: set[str]) -> None:
    """Send a signal and see its effect.

    Args:
        machine: of the process.
        pid: of the process.
        name: of the signal, such as KILL.
        wanted: the states of which one has to follow; empty for no process any more.

    Raises:
        PreconditionFailed: it cannot be sent.
        VerificationFailed: the state did not follow.
    """
    machine.must_run(["sh", "-c", _SIGNAL, "sh", name, str(pid)])
    deadline = time.monotonic() + END_SECONDS
    while (state := state_of(machine, pid)) not in wanted:
        if time.monotonic() >= deadline:
            raise VerificationFailed(
                f"{machine.name}: {END_SECONDS:.0f} s after SIG{name} the process {pid} is in state {state or 'ended'}"
            )
        time.sleep(POLL_SECONDS)
