"""What one node says about itself: pure parsers of its replies.

Fields differ between Redis 6.2 and 8 and Valkey 8 and 9 (§1.5, §1.10), so every one may be absent, and unknown ones are
left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

T = TypeVar("T")
LINKS_SINCE = (7, 0)  # CLUSTER LINKS, ADDSLOTSRANGE and SHARDS (§1.5)


@dataclass(frozen=True)
class Server:
    """What answers.

    Args:
        kind: ``redis`` or ``valkey``.
        version: the product's own, such as 7.0.15 or 9.1.2.
        compatible: the version of Redis it claims to be, which for every Valkey is 7.2.4.
        cluster: whether it runs in cluster mode.
        run_id: changes with every start.
        uptime: seconds since the start.
        process: its process id on its machine.
    """

    kind: str
    version: str
    compatible: str
    cluster: bool
    run_id: str
    uptime: int
    process: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version of Redis it is compatible with as numbers, for what depends on it."""
        return tuple(int(part) for part in self.compatible.split(".") if part.isdecimal())

    @property
    def text(self) -> str:
        """Product and version."""
        return f"{self.kind} {self.version}"


def parse_server(info: Mapping[str, Any]) -> Server:
    """Understand INFO's section server; Valkey shows itself in ``valkey_version`` (§1.6)."""
    compatible = str(info.get("redis_version", ""))
    valkey = str(info.get("valkey_version", ""))
    mode = info.get("redis_mode", info.get("server_mode"))
    return Server(
        kind="valkey" if valkey or info.get("server_name") == "valkey" else "redis",
        version=valkey or compatible,
        compatible=compatible,
        cluster=bool(info.get("cluster_enabled", mode == "cluster")),
        run_id=str(info.get("run_id", "")),
        uptime=int(info.get("uptime_in_seconds", 0)),
        process=int(info.get("process_id", 0)),
    )


@dataclass(frozen=True)
class ClusterInfo:
    """CLUSTER INFO; ``size`` counts primaries with slots, ``rest`` holds what is not named here."""

    state: str
    slots_assigned: int
    slots_ok: int
    slots_pfail: int
    slots_fail: int
    known_nodes: int
    size: int
    current_epoch: int
    my_epoch: int
    rest: Mapping[str, str] = field(default_factory=dict, compare=False)


def parse_cluster_info(text: str) -> ClusterInfo:
    """Understand the text of CLUSTER INFO."""
    values = dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)
    names = [item.name for item in fields(ClusterInfo) if item.name not in ("state", "rest")]
    found = {name: int(values.pop(f"cluster_{name}", 0)) for name in names}
    return ClusterInfo(state=values.pop("cluster_state", "unknown"), **found, rest=values)


@dataclass(frozen=True)
class AttachedReplica:
    """A replica as its primary sees it; ``offset`` is what it has acknowledged, ``lag`` seconds since it did."""

    host: str
    port: int
    offset: int
    state: str = ""
    lag: int | None = None


@dataclass(frozen=True)
class Role:
    """ROLE.

    Args:
        role: primary or replica.
        offset: of replication, in bytes; -1 where a replica has none yet.
        replicas: a primary's.
        primary: ``host:port`` of a replica's primary, empty for a primary.
        link: a replica's: connect, connecting, sync, connected.
    """

    role: str
    offset: int
    replicas: tuple[AttachedReplica, ...] = ()
    primary: str = ""
    link: str = ""


def parse_role(reply: Sequence[Any]) -> Role:
    """Understand ROLE."""
    if reply[0] in ("master", "primary"):
        attached = tuple(AttachedReplica(str(host), int(port), int(offset)) for host, port, offset in reply[2])
        return Role("primary", int(reply[1]), attached)
    host, port, link, offset = reply[1:5]
    return Role("replica", int(offset), primary=f"{host}:{port}", link=str(link))


@dataclass(frozen=True)
class Link:
    """One connection of the cluster bus; ``buffer`` is the memory of what waits to be sent."""

    direction: str
    peer: str
    buffer: int = 0


def parse_links(reply: Iterable[Any]) -> tuple[Link, ...]:
    """Understand CLUSTER LINKS, whose entries are flat lists or mappings."""
    found = []
    for entry in reply:
        values = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=False))
        buffer = int(values.get("send-buffer-allocated", 0))
        found.append(Link(str(values["direction"]), str(values["node"]), buffer))
    return tuple(found)


def _field(name: str) -> Any:
    return field(default=None, metadata={"info": name})


@dataclass(frozen=True)
class Memory:
    """INFO's section memory, in bytes, ratios and counts; what a server does not tell is None."""

    used: int | None = _field("used_memory")
    rss: int | None = _field("used_memory_rss")
    peak: int | None = _field("used_memory_peak")
    maximum: int | None = _field("maxmemory")
    policy: str | None = _field("maxmemory_policy")
    system: int | None = _field("total_system_memory")
    startup: int | None = _field("used_memory_startup")
    overhead: int | None = _field("used_memory_overhead")
    dataset: int | None = _field("used_memory_dataset")
    fragmentation: float | None = _field("mem_fragmentation_ratio")
    fragmentation_bytes: int | None = _field("mem_fragmentation_bytes")
    allocator: str | None = _field("mem_allocator")
    allocator_fragmentation: float | None = _field("allocator_frag_ratio")
    allocator_fragmentation_bytes: int | None = _field("allocator_frag_bytes")
    allocator_rss: float | None = _field("allocator_rss_ratio")
    allocator_rss_bytes: int | None = _field("allocator_rss_bytes")
    process_rss: float | None = _field("rss_overhead_ratio")
    process_rss_bytes: int | None = _field("rss_overhead_bytes")
    clients: int | None = _field("mem_clients_normal")
    replicas: int | None = _field("mem_clients_slaves")
    backlog: int | None = _field("mem_replication_backlog")
    replication_buffers: int | None = _field("mem_total_replication_buffers")
    links: int | None = _field("mem_cluster_links")
    aof_buffer: int | None = _field("mem_aof_buffer")
    not_counted: int | None = _field("mem_not_counted_for_evict")
    cached_scripts: int | None = _field("number_of_cached_scripts")
    lazy_free: int | None = _field("lazyfree_pending_objects")
    defragmenting: int | None = _field("active_defrag_running")


@dataclass(frozen=True)
class Stats:
    """Counters since the start, and clients."""

    commands: int | None = _field("total_commands_processed")
    operations: int | None = _field("instantaneous_ops_per_sec")
    evicted: int | None = _field("evicted_keys")
    expired: int | None = _field("expired_keys")
    hits: int | None = _field("keyspace_hits")
    misses: int | None = _field("keyspace_misses")
    errors: int | None = _field("total_error_replies")
    rejected: int | None = _field("rejected_connections")
    fork_microseconds: int | None = _field("latest_fork_usec")
    clients: int | None = _field("connected_clients")
    most_clients: int | None = _field("maxclients")
    blocked: int | None = _field("blocked_clients")


@dataclass(frozen=True)
class Persistence:
    """INFO's section persistence; ``loading`` and the like are 0 or 1."""

    loading: int | None = _field("loading")
    async_loading: int | None = _field("async_loading")
    save_status: str | None = _field("rdb_last_bgsave_status")
    last_save: int | None = _field("rdb_last_save_time")
    saving: int | None = _field("rdb_bgsave_in_progress")
    unsaved: int | None = _field("rdb_changes_since_last_save")
    aof: int | None = _field("aof_enabled")
    aof_rewriting: int | None = _field("aof_rewrite_in_progress")
    aof_write_status: str | None = _field("aof_last_write_status")
    aof_rewrite_status: str | None = _field("aof_last_bgrewrite_status")


@dataclass(frozen=True)
class Replication:
    """INFO's section replication; the second half is only told by replicas."""

    role: str | None = _field("role")
    connected: int | None = _field("connected_slaves")
    offset: int | None = _field("master_repl_offset")
    primary_host: str | None = _field("master_host")
    primary_port: int | None = _field("master_port")
    link: str | None = _field("master_link_status")
    syncing: int | None = _field("master_sync_in_progress")
    last_io: int | None = _field("master_last_io_seconds_ago")
    down_seconds: int | None = _field("master_link_down_since_seconds")
    replica_offset: int | None = _field("slave_repl_offset")
    attached: tuple[AttachedReplica, ...] = ()

    @property
    def is_replica(self) -> bool:
        """Whether it replicates somebody."""
        return self.role in ("slave", "replica")


@dataclass(frozen=True)
class Keyspace:
    """Keys of all databases; ``average_ttl`` is in milliseconds, of the keys that expire."""

    keys: int = 0
    expires: int = 0
    average_ttl: int = 0


def memory(info: Mapping[str, Any]) -> Memory:
    """Understand INFO's section memory."""
    return _fill(Memory, info)


def stats(info: Mapping[str, Any]) -> Stats:
    """Understand INFO's sections stats and clients."""
    return _fill(Stats, info)


def persistence(info: Mapping[str, Any]) -> Persistence:
    """Understand INFO's section persistence."""
    return _fill(Persistence, info)


def replication(info: Mapping[str, Any]) -> Replication:
    """Understand INFO's section replication, with the replicas a primary lists."""
    attached = []
    for name in sorted(name for name in info if name.startswith("slave") and name[5:].isdecimal()):
        values = info[name]
        attached.append(
            AttachedReplica(
                host=str(values.get("ip", "")), port=int(values.get("port", 0)), offset=int(values.get("offset", 0)),
                state=str(values.get("state", "")), lag=int(values["lag"]) if "lag" in values else None,
            )
        )  # fmt: skip
    return _fill(Replication, info, attached=tuple(attached))


def keyspace(info: Mapping[str, Any]) -> Keyspace:
    """Understand INFO's section keyspace; Valkey 9 may have several databases in a cluster."""
    found = [value for name, value in info.items() if name.startswith("db") and isinstance(value, dict)]
    keys, expires = (sum(int(each.get(name, 0)) for each in found) for name in ("keys", "expires"))
    weighted = sum(int(each.get("avg_ttl", 0)) * int(each.get("expires", 0)) for each in found)
    return Keyspace(keys, expires, weighted // expires if expires else 0)


def _fill(kind: type[T], info: Mapping[str, Any], **more: Any) -> T:
    values: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        found = info.get(item.metadata.get("info", ""))
        if found is None:
            continue
        wanted = str(item.type)
        try:
            values[item.name] = str(found) if "str" in wanted else float(found) if "float" in wanted else int(found)
        except (TypeError, ValueError):  # a server that tells something else there tells us nothing
            continue
    return kind(**values, **more)


def parse_pairs(reply: Sequence[Any] | Mapping[str, Any]) -> dict[str, str]:
    """Understand CONFIG GET, a flat list or a mapping."""
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    items = list(reply)
    return {str(name): str(value) for name, value in zip(items[::2], items[1::2], strict=False)}
