"""The servers themselves: clocks, options, and what they warned of when they started."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from credscale.core.phrases import listed
from credscale.mongo.cluster.commands import run
from credscale.mongo.cluster.members import MEMBER_DEADLINE
from credscale.mongo.preflight.certificates import judge_authentication, judge_certificates, read_certificates
from credscale.mongo.preflight.check import Seen, Severity, check

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from credscale.mongo.preflight.look import Look
    from credscale.mongo.preflight.members_asked import Clock

SKEW_WARN, SKEW_STOP = 1.0, 5.0
# Where somebody else runs the servers: the end of the host name, and whose it is.
MANAGED = (
    (".mongodb.net", "MongoDB Atlas"), (".mongodbgov.net", "MongoDB Atlas"),
    (".docdb.amazonaws.com", "Amazon DocumentDB"), (".docdb-elastic.amazonaws.com", "Amazon DocumentDB"),
    (".cosmos.azure.com", "Azure Cosmos DB"), (".documents.azure.com", "Azure Cosmos DB"),
    (".mongodb.rds.aliyuncs.com", "Alibaba ApsaraDB"), (".oraclecloudapps.com", "Oracle's MongoDB API"),
)  # fmt: skip
ATLAS_ERROR = 8000


@check(
    13,
    "clock-skew",
    command="hello on every member, between two looks at this machine's clock",
    reason="Cluster time, the balancer's window and the times of the evidence all come from these clocks.",
)
def clock_skew(look: Look) -> Iterator[Seen]:
    """Compare the clocks of all members with this machine's, less the time that the network took."""
    clocks = {member.address: member.clock for member in look.answering if member.clock is not None}
    yield from judge_clocks(clocks)
    yield from look.replies("hello").unseen()


def judge_clocks(clocks: Mapping[str, Clock]) -> list[Seen]:
    """Judge by what the clocks differ at least: a slow network alone is no skew.

    Args:
        clocks: by member.
    """
    if not clocks:
        return [Seen("unknown", "no member told its time", "let this user run hello on the members")]
    remedy = "let chrony or ntpd set the clocks, and see that it runs: chronyc tracking"
    rows = []
    ahead = max(clocks, key=lambda address: clocks[address].least)
    behind = min(clocks, key=lambda address: clocks[address].most)
    apart = clocks[ahead].least - clocks[behind].most
    if apart > SKEW_WARN:
        severity: Severity = "stop" if apart > SKEW_STOP else "warn"
        rows.append(Seen(severity, f"{ahead} is at least {apart:.1f} s ahead of {behind}", remedy))
    ours = {address: max(clock.least, -clock.most, 0.0) for address, clock in clocks.items()}
    farthest = max(ours, key=lambda address: ours[address])
    if not rows and ours[farthest] > SKEW_WARN:
        severity = "stop" if ours[farthest] > SKEW_STOP else "warn"
        seen = f"this machine's clock differs by at least {ours[farthest]:.1f} s from {farthest}"
        rows.append(Seen(severity, seen, "set this machine's clock: it decides whether the maintenance window is open"))
    bound = max(max(abs(clock.least), abs(clock.most)) for clock in clocks.values())
    return rows or [Seen("ok", f"{len(clocks)} clocks are at most {bound:.2f} s from this machine's")]


@check(
    43,
    "internal-auth",
    command="getCmdLineOpts on every member and mongos; a TLS handshake with each where TLS is on",
    reason="Members with other keys or other TLS can't talk, and an expired certificate ends the cluster meanwhile.",
)
def internal_auth(look: Look) -> Iterator[Seen]:
    """Compare how the servers know each other, and how long their certificates are good for."""
    options = look.replies("options")
    parsed = {address: reply.get("parsed", {}) for address, reply in options.found.items()}
    router = look.ctx.clients.mongo_router()
    parsed[router] = run(look.client, "admin", {"getCmdLineOpts": 1}, deadline=MEMBER_DEADLINE).get("parsed", {})
    rows, encrypted = judge_authentication(parsed)
    yield from rows
    if encrypted:
        yield from judge_certificates(*read_certificates(encrypted, look.ctx.clients.mongo_uri()))
    yield from options.unseen()


@check(
    45,
    "cluster-role",
    command="getCmdLineOpts on every member",
    reason="A member started without its role serves no sharded commands once it becomes primary.",
)
def cluster_role(look: Look) -> Iterator[Seen]:
    """Look whether every member was started in its role, secondaries included."""
    options = look.replies("options")
    wanted = {
        member.address: "configsvr" if member.role == "config" or member.shard == "config" else "shardsvr"
        for member in look.members
    }
    yield from judge_roles({address: reply.get("parsed", {}) for address, reply in options.found.items()}, wanted)
    yield from options.unseen()


def judge_roles(parsed: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]) -> list[Seen]:
    """Judge the role of each member.

    Args:
        parsed: the options by member.
        wanted: ``shardsvr`` or ``configsvr`` by member; the shard named config is an embedded config server (8.0).
    """
    rows = []
    for address, options in sorted(parsed.items()):
        role = options.get("sharding", {}).get("clusterRole")
        if role != wanted[address]:
            remedy = f"restart it with sharding.clusterRole: {wanted[address]}, and its port named"
            rows.append(Seen("stop", f"{address} has the role {role or 'none'}, expected {wanted[address]}", remedy))
    if not rows and not parsed:
        return [Seen("unknown", "no member tells its options", "give the user the role clusterMonitor on every shard")]
    return rows or [Seen("ok", f"{len(parsed)} members run in their role")]


@check(
    52,
    "majority-and-journal",
    command="getCmdLineOpts, serverStatus.storageEngine and replSetGetConfig on every member",
    reason="Migrations and the proof rely on majority; without a journal a crash loses acknowledged writes.",
)
def majority_and_journal(look: Look) -> Iterator[Seen]:
    """Look whether members support reads at majority and keep a journal."""
    options, states = look.replies("options"), look.replies("server_status")
    configs = look.replies("replica_config").found
    yield from judge_durability(
        {address: reply.get("parsed", {}) for address, reply in options.found.items()},
        {address: reply.get("storageEngine", {}) for address, reply in states.found.items()},
        {address: reply.get("config", {}) for address, reply in configs.items()},
    )
    yield from options.unseen()


def judge_durability(
    parsed: Mapping[str, Mapping[str, Any]],
    engines: Mapping[str, Mapping[str, Any]],
    configs: Mapping[str, Mapping[str, Any]],
) -> list[Seen]:
    """Judge read concern majority and journal.

    Args:
        parsed: the options by member.
        engines: serverStatus.storageEngine by member.
        configs: the replica set's configuration by member, where it could be read.
    """
    rows = []
    for address in sorted({*parsed, *engines, *configs}):
        engine, options = engines.get(address, {}), parsed.get(address, {})
        asked = options.get("replication", {}).get("enableMajorityReadConcern")
        if asked is False or engine.get("supportsCommittedReads") is False:
            remedy = "restart it without enableMajorityReadConcern: false (a workaround of sets with an arbiter)"
            rows.append(Seen("warn", f"{address} has no read concern majority", remedy))
        if options.get("storage", {}).get("journal", {}).get("enabled") is False:
            rows.append(Seen("warn", f"{address} keeps no journal", "restart it with storage.journal.enabled: true"))
        if engine.get("persistent") is False:
            rows.append(Seen("warn", f"{address} keeps its data in memory only", "let it keep them on disk"))
        if configs.get(address, {}).get("writeConcernMajorityJournalDefault") is False:
            seen = f"at {address} majority does not wait for the journal"
            rows.append(Seen("warn", seen, "set writeConcernMajorityJournalDefault: true with rs.reconfig"))
    if not rows and not parsed:
        return [Seen("unknown", "no member tells its options", "give the user the role clusterMonitor on every shard")]
    return rows or [Seen("ok", f"{len(parsed)} members support majority and keep a journal")]


@check(
    55,
    "managed-service",
    command="names of all servers, error 8000 of any command",
    reason="A managed service forbids writes to config.settings and other commands, so its own tools must be used.",
)
def managed_service(look: Look) -> Iterator[Seen]:
    """Look whether somebody else runs these servers."""
    errors = [getattr(error, "code", None) for member in look.members for error in member.errors.values()]
    yield judge_service([look.ctx.clients.mongo_router(), *(each.address for each in look.members)], errors)


def judge_service(addresses: Sequence[str], codes: Collection[int | None]) -> Seen:
    """Judge by names and error codes whether this is a managed service.

    Args:
        addresses: of all servers, ``host:port``.
        codes: of the errors that members answered with.
    """
    for address in addresses:
        host = address.rpartition(":")[0].lower()
        for ending, service in MANAGED:
            if host.endswith(ending):
                remedy = f"shard with the tools of {service}; this runbook is for servers that you run"
                return Seen("stop", f"{address} belongs to {service}, which forbids writes to config.settings", remedy)
    if ATLAS_ERROR in codes:
        return Seen("stop", "a member refuses a command as Atlas does (code 8000)", "shard with the tools of Atlas")
    return Seen("ok", f"none of {len(addresses)} names is of a managed service")


@check(
    56,
    "startup-warnings",
    command="getLog startupWarnings on every member",
    reason="What a server warns of at its start (limits, huge pages, readahead, access) shows under load.",
    real_only=True,
)
def startup_warnings(look: Look) -> Iterator[Seen]:
    """Show what the members warned of when they started."""
    logs = look.replies("warnings")
    yield from judge_warnings({address: reply.get("log", []) for address, reply in logs.found.items()})
    yield from logs.unseen()


def judge_warnings(logs: Mapping[str, Sequence[str]]) -> list[Seen]:
    """Return one row for each warning, with the members that have it.

    Args:
        logs: the lines of startupWarnings by member.
    """
    members: dict[str, set[str]] = {}
    for address, lines in logs.items():
        for line in lines:
            if text := _message(str(line)):
                members.setdefault(text, set()).add(address)
    rows = [
        Seen(
            "warn", f"{listed(sorted(where))}: {text}", "see MongoDB's production notes; restart the member afterwards"
        )
        for text, where in sorted(members.items())
    ]
    if not rows and not logs:
        return [Seen("unknown", "no member shows its warnings", "give the user the role clusterMonitor on every shard")]
    return rows or [Seen("ok", f"{len(logs)} members warned of nothing when they started")]


def _message(line: str) -> str:
    """Return the words of a log line: structured since 4.4; empty for the decoration of older ones."""
    try:
        found = json.loads(line)
    except ValueError:
        return line.partition("] ")[2].strip("* \t")
    return str(found.get("msg", "")).strip("* \t") if isinstance(found, dict) else ""
