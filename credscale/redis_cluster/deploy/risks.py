"""Where the settings of a deployment, or its machines, are dangerous: §1.6 with its measurements. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.core.addresses import is_loopback
from credscale.redis_cluster.cluster.nodes import primaries, replicas_of
from credscale.redis_cluster.cluster.reasons import Reason, ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.deploy.layout import Layout

BACKLOG = 511  # tcp-backlog's default, which the kernel cuts down to somaxconn
LEAST_FILES = 10_000 + 32  # maxclients' default and what the server needs for itself
SHARE = 0.75  # of a machine's memory: the rest is for fork's copies, buffers and the system
SHORT_MS, LONG_MS = 1000, 30_000
_UNITS = {"mb": 1 << 20, "gb": 1 << 30}
# Prints name and value; a file that is not there prints no value, as on other systems than Linux. Its arguments are the
# names of nodes, whose address on that machine it prints.
MACHINE_SCRIPT = (
    "for f in /proc/sys/vm/overcommit_memory /proc/sys/net/core/somaxconn /sys/kernel/mm/transparent_hugepage/enabled; "
    'do printf "%s=%s\\n" "${f##*/}" "$(cat "$f" 2>/dev/null)"; done; printf "files=%s\\n" "$(ulimit -n)"; '
    "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/memory=\\1/p' /proc/meminfo 2>/dev/null; "
    'for h; do set -- $(getent hosts "$h" 2>/dev/null); printf "name:%s=%s\\n" "$h" "$1"; done'
)


@dataclass(frozen=True)
class MachineFacts:
    """What a machine's kernel is set to; None where it does not say.

    Args:
        overcommit: vm.overcommit_memory.
        backlog: net.core.somaxconn.
        huge_pages: whether transparent huge pages are always on.
        files: how many files a process of this login may open.
        memory: in bytes.
        names: the address that a node's name has there, by the name.
    """

    overcommit: int | None = None
    backlog: int | None = None
    huge_pages: bool | None = None
    files: int | None = None
    memory: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def parse_machine(text: str) -> MachineFacts:
    """Understand what ``MACHINE_SCRIPT`` printed."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def number(name: str) -> int | None:
        value = found.get(name, "")
        return int(value) if value.isdecimal() else None

    memory = number("memory")
    return MachineFacts(
        overcommit=number("overcommit_memory"),
        backlog=number("somaxconn"),
        huge_pages="[always]" in found["enabled"] if found.get("enabled") else None,
        files=number("files"),
        memory=memory << 10 if memory is not None else None,
        names={name.removeprefix("name:"): value for name, value in found.items() if name.startswith("name:")},
    )


def deployment_reasons(layout: Layout) -> tuple[Reason, ...]:
    """Return what is risky or worth knowing about the settings, the worst first."""
    return ordered([*_eviction(layout), *_safety(layout), *_failover(layout), *_places(layout)])


def _eviction(layout: Layout) -> Iterator[Reason]:
    deploy = layout.deploy
    kept = [what for what in ("sessions", "queues") if what in deploy.holds]
    if deploy.policy.startswith("allkeys") and kept:
        yield Reason("warn", "cluster", "eviction", f"{deploy.policy} evicts {' and '.join(kept)} as well as cache "
                     "entries: measured, 420 to 460 of 2000 sessions were left after the cache had filled the memory",
                     "keep them in a cluster of their own with noeviction; Bull and BullMQ require that")  # fmt: skip
    elif deploy.policy.startswith("volatile") and kept:
        yield Reason("warn", "cluster", "eviction", f"{deploy.policy} evicts only keys with a TTL, and those are the "
                     "sessions: measured, all 2000 were gone, then writes failed for want of memory",
                     "keep them in a cluster of their own with noeviction")  # fmt: skip
    elif deploy.policy == "noeviction" and "cache" in deploy.holds:
        other = f"; {' and '.join(kept)} have to be kept, so a cache does not belong beside them" if kept else ""
        yield Reason("note", "cluster", "eviction", f"noeviction: when the memory is full, every write fails{other}",
                     "give the cache a cluster of its own with allkeys-lru" if kept else "set policy: allkeys-lru for "
                     "a mere cache")  # fmt: skip
    if deploy.maxmemory == "unlimited":
        yield Reason("warn", "cluster", "maxmemory", "maxmemory is unlimited: the kernel kills the server when the "
                     "machine's memory is full", "set maxmemory to 60 to 75 % of what each node has")  # fmt: skip


def _safety(layout: Layout) -> Iterator[Reason]:
    deploy, redis = layout.deploy, layout.redis
    if redis.password is None:
        who = "whoever holds a certificate" if deploy.tls is not None else "everybody on this machine"
        yield Reason("warn", "cluster", "password", f"there is no password: {who} can read, write and stop it",
                     "give redis.password a secret reference")  # fmt: skip
    if deploy.start == "systemd" and not deploy.user:
        yield Reason("warn", "cluster", "root", "systemd starts the nodes as root: whoever gets hold of one, through a "
                     "fault or by CONFIG SET dir before 7.0, writes any file of the machine",
                     "set user: redis")  # fmt: skip
    if not deploy.appendonly:
        yield Reason("warn", "cluster", "persistence", "appendonly: false: a primary that comes back empty makes its "
                     "replicas empty too; so no node is started again by itself", "set appendonly: true")  # fmt: skip
    if deploy.tls is None and not all(is_loopback(node.host) for node in layout.nodes):
        yield Reason("note", "cluster", "bus", "the bus between the nodes has no password and, without tls, no "
                     "protection", "open ports and bus ports to the nodes and clients alone, or set tls")  # fmt: skip
    if layout.is_bridged and not deploy.bind:
        yield Reason("warn", "cluster", "published", "Docker publishes the ports, the bus among them, at every address "
                     "of the machine and past the rules of most firewalls",
                     "name the addresses in redis.deploy.bind, or use network: host")  # fmt: skip
    if deploy.start == "process":
        yield Reason("note", "cluster", "reboot", "start: process: nobody starts the nodes after a reboot or a crash",
                     "use systemd outside labs")  # fmt: skip
    if any(node.needs_cluster_port for node in layout.nodes):
        yield Reason("note", "cluster", "cluster-port", "ports above 55535 need the option cluster-port, which 7.0 "
                     "brought", "use lower ports unless every server and tool knows it")  # fmt: skip


def _failover(layout: Layout) -> Iterator[Reason]:
    deploy = layout.deploy
    if not deploy.replicas:
        yield Reason("warn", "cluster", "replicas", "no primary has a replica: with each node its slots are lost",
                     "set replicas: 1 and add nodes")  # fmt: skip
    if deploy.timeout_ms < SHORT_MS:
        yield Reason("warn", "cluster", "node-timeout", f"timeout_ms {deploy.timeout_ms}: a pause of the network, of a "
                     "fork or of a slow command begins a failover", "set 2000 to 15000")  # fmt: skip
    elif deploy.timeout_ms > LONG_MS:
        yield Reason("warn", "cluster", "node-timeout", f"timeout_ms {deploy.timeout_ms}: a dead primary's slots fail "
                     "for longer than that", "set 2000 to 15000")  # fmt: skip
    seconds = deploy.timeout_ms / 1000
    yield Reason("note", "cluster", "failover", f"when a primary dies, its slots fail for {seconds + 1.4:.1f} to "
                 f"{seconds + 3.8:.1f} s (timeout_ms plus detection and election)",
                 "let clients retry for that long")  # fmt: skip
    if deploy.full_coverage:
        yield Reason("note", "cluster", "full-coverage", "full_coverage: true: when one shard is lost, all of the "
                     "cluster stops", "set false where the other shards shall go on")  # fmt: skip


def _places(layout: Layout) -> Iterator[Reason]:
    if len(layout.machines) == 1:
        yield Reason("note" if layout.machines[0] == "" else "warn", "cluster", "one-host", "all nodes are on one "
                     "machine: its loss is the loss of everything", "spread them over at least 3 machines")  # fmt: skip


def bytes_of(text: str) -> int | None:
    """Return a maxmemory of the inventory in bytes; None for unlimited."""
    return None if text == "unlimited" else int(text[:-2]) * _UNITS[text[-2:]]


def machine_reasons(layout: Layout, name: str, found: MachineFacts) -> tuple[Reason, ...]:
    """Return what is risky about a machine.

    Args:
        layout: the whole cluster.
        name: the machine's in the inventory; empty for this machine.
        found: what it said.
    """
    return tuple(_machine(layout, name, found))


def _machine(layout: Layout, name: str, found: MachineFacts) -> Iterator[Reason]:
    where = name or "this machine"
    if found.overcommit not in (1, None):
        yield Reason("warn", where, "overcommit", f"vm.overcommit_memory is {found.overcommit}: saving and rewriting "
                     "can fail while much of the memory is used", "sysctl vm.overcommit_memory=1")  # fmt: skip
    if found.backlog is not None and found.backlog < BACKLOG:
        yield Reason("warn", where, "somaxconn", f"net.core.somaxconn is {found.backlog}, less than the server's "
                     f"backlog of {BACKLOG}: bursts of connections are refused",
                     f"sysctl net.core.somaxconn={BACKLOG + 1}")  # fmt: skip
    if found.huge_pages:
        yield Reason("warn", where, "huge-pages", "transparent huge pages are always on: latency and memory grow "
                     "during saves", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")  # fmt: skip
    if layout.deploy.start == "process" and found.files is not None and found.files < LEAST_FILES:
        yield Reason("warn", where, "files", f"a process may open {found.files} files, fewer than the {LEAST_FILES} "
                     "for 10000 clients", "ulimit -n 65535 before the nodes are started")  # fmt: skip
    for host, address in found.names.items():
        if is_loopback(address) and not is_loopback(host):
            yield Reason("warn", where, "name", f"{host} is {address} there: a node that listens at this name is out "
                         "of the others' reach", "correct /etc/hosts there, or name the nodes by address")  # fmt: skip
    limit, number = bytes_of(layout.deploy.maxmemory), len(layout.on(name))
    if limit is not None and found.memory is not None and limit * number > SHARE * found.memory:
        yield Reason("warn", where, "memory", f"maxmemory of its {number} nodes is {limit * number / 2**30:.1f} GB in "
                     f"all, more than {SHARE:.0%} of its {found.memory / 2**30:.1f} GB",
                     "lower maxmemory, or put fewer nodes there")  # fmt: skip


def outdated_reasons(layout: Layout, settings: Mapping[str, Mapping[str, str]]) -> tuple[Reason, ...]:
    """Return where a running node has another setting in force than the inventory names.

    Args:
        layout: the whole cluster.
        settings: what CONFIG GET said, by address and name; nodes that do not run or tell are left out.
    """
    deploy = layout.deploy
    wanted = {
        "maxmemory": str(bytes_of(deploy.maxmemory) or 0),
        "maxmemory-policy": deploy.policy,
        "appendonly": "yes" if deploy.appendonly else "no",
        "cluster-node-timeout": str(deploy.timeout_ms),
        "cluster-require-full-coverage": "yes" if deploy.full_coverage else "no",
    }
    return tuple(
        Reason("warn", address, "outdated", f"{name} is {told[name]} in force, the environment says {value}",
               f"CONFIG SET {name} {value} there; no restart is needed")
        for address, told in settings.items()
        for name, value in wanted.items()
        if name in told and told[name] != value
    )  # fmt: skip


def emptied_by_start(found: Look, ids: Mapping[str, str]) -> tuple[str, ...]:
    """Return the nodes whose start could empty a shard: they still own slots, and have replicas.

    Only for nodes without an append-only file: a primary that comes back empty before one of its replicas is promoted
    stays the primary, and they copy what it has (§1.6). Replicas that are about to be started themselves count not:
    they have nothing that could be copied over.

    Args:
        found: how those nodes that run see the cluster.
        ids: node ids of those that are about to be started, by address.
    """
    started = {*ids.values()}
    owners = {
        owner.id
        for owner in primaries(found.topology)
        if any(node.id not in started for node in replicas_of(found.topology, owner.id))
    }
    return tuple(address for address, node_id in ids.items() if node_id in owners)


def heirs_without_votes(found: Look, ids: Iterable[str]) -> tuple[str, ...]:
    """Return a replica of each of these primaries where none will be elected: no majority of primaries answers.

    Args:
        found: how those nodes that run see the cluster.
        ids: node ids of primaries that are down.

    Returns:
        addresses; empty where there is a majority.
    """
    answering = {node.id for node in found.answering}
    voters = primaries(found.topology)
    if sum(node.id in answering for node in voters) > len(voters) // 2:
        return ()
    heirs = (
        next((node.id for node in replicas_of(found.topology, each) if node.id in answering), None) for each in ids
    )
    return tuple(found.name(heir) for heir in heirs if heir is not None)
