"""One screen about a cluster: what there is, how it lies, what moves, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.mongo.chunks import plots
from credscale.mongo.chunks.chunk_watch import with_zone
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.settings import seconds_until_open
from credscale.mongo.status.judge import (
    PROBLEM,
    balance,
    chunk_counts,
    judge,
    live_routers,
    moves_left,
)
from credscale.mongo.status.members import disk_share, state_of
from credscale.mongo.status.reads import ROUTER_SECONDS, look

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.status.reads import Seen

MOST_COLLECTIONS = 15
MOST_MOVES = 15
VERBOSE_SECONDS = 30.0  # enough to find the jumbo ones among millions of chunks
INTERNAL = "config.system.sessions"
Row = dict[str, Any]


@probe(show=plots.status)
def cluster_status(ctx: Context, *, verbose: bool = False) -> Finding:
    """Look at everything at once: routers, config servers, members, disks, balancer, collections, moves, failures.

    Nothing is waited for longer than three seconds: what does not answer is named. The number of commands does not
    depend on the number of chunks or collections. Ends in failure, with the whole screen, when something is unhealthy.
    MongoDB 4.4 and later.

    Args:
        verbose: show every collection and every outcome of a migration, not only the most notable ones, and wait up to
            30 seconds for what takes long: jumbo chunks among millions.
    """
    server = facts.server(ctx.clients.mongo())
    if not server.is_mongos:
        raise PreconditionFailed(
            f"{ctx.clients.mongo_router()} is a mongod of version {server.version} and no mongos: there is no sharded "
            "cluster to look at. Nothing was changed. Name a mongos in mongo.uri"
        )
    seen = look(ctx, seconds=VERBOSE_SECONDS if verbose else ROUTER_SECONDS)
    output = tables(seen, verbose=verbose)
    wrong = [row for row in output["problems"] if row["level"] == PROBLEM]
    summary = _summary(seen, output)
    if wrong:
        reasons = "; ".join(f"{row['where']}: {row['what']}" for row in wrong)
        raise VerificationFailed(f"{len(wrong)} problems: {reasons}. {summary}", output)
    return Finding(summary, output)


def _summary(seen: Seen, output: dict[str, Any]) -> str:
    members = f"{len(seen.members)} members" if seen.members else "no member is known"
    sharded = [facts.parse_sharded(each) for each in seen.collections]
    left = [moves_left(seen, each.namespace) for each in sharded if each is not None and not each.no_balance]
    known = [count for count in left if count is not None]
    mode = seen.settings.mode if seen.settings is not None else "unknown"
    balanced = (
        f"{sum(known)} moves to go" if any(known) else "balanced" if len(known) == len(left) else "balance unknown"
    )
    return (
        f"{len(seen.shards)} shards, {members}, {output['collections_total']} sharded collections, {balanced}, "
        f"balancer {mode}"
    )


def tables(seen: Seen, *, verbose: bool = False) -> dict[str, Any]:
    """Return the screen: named lists of flat rows, in the order in which they are shown.

    Args:
        seen: one look.
        verbose: every row of every table.
    """
    collections = _collections(seen, verbose=verbose)
    return {
        "problems": judge(seen),
        "routers": _routers(seen),
        "balancer": _balancer(seen),
        "rows": _shards(seen),
        "members": _members(seen),
        "collections": collections if verbose else collections[:MOST_COLLECTIONS],
        "collections_total": len(collections),
        "running": [
            {"collection": each.get("ns"), "from": each.get("fromShard"), "to": each.get("toShard")}
            for each in seen.running
        ],
        "moves": seen.outcomes if verbose else seen.outcomes[:MOST_MOVES],
        "moves_total": len(seen.outcomes),
        "unread": list(seen.unread),
    }


def _routers(seen: Seen) -> list[Row]:
    return [
        {
            "router": each["_id"],
            "version": each.get("mongoVersion"),
            "last ping (s)": round(max(0.0, (seen.now - with_zone(each["ping"])).total_seconds())),
            "up (h)": round(int(each.get("up", 0)) / 3600, 1),
        }
        for each in sorted(live_routers(seen), key=lambda each: str(each["_id"]))
    ]


def _balancer(seen: Seen) -> list[Row]:
    settings = seen.settings
    if settings is None:
        return []
    offset = next((member.offset for member in seen.members if member.offset is not None), None)
    row: Row = {"mode": settings.mode, "in round": settings.in_round, "rounds": settings.rounds, "window": "whole day"}
    row |= {"open now": True, "opens in (min)": 0}
    if settings.window is not None:
        zone = "UTC" if offset is None else f"UTC{offset.total_seconds() / 3600:+g} h"
        row["window"] = f"{'-'.join(settings.window)} ({zone}{'' if offset is not None else ' assumed'})"
        local = seen.now if offset is None else seen.now + offset
        closed = seconds_until_open(settings.window, local)
        row |= {"open now": closed == 0, "opens in (min)": round(closed / 60)}
    size = settings.chunk_size_mb
    return [row | {"chunk size (MB)": size if size is not None else "default", "autosplit": settings.autosplit}]


def _shards(seen: Seen) -> list[Row]:
    rows = []
    for shard in sorted(seen.shards, key=lambda each: str(each["_id"])):
        name = str(shard["_id"])
        members = [member for member in seen.members if member.shard == name]
        healthy = sum(not member.problem for member in members)
        shares = [share for member in members if (share := disk_share(member)) is not None]
        row: Row = {
            "shard": name,
            "state": "draining" if shard.get("draining") else "ok" if shard.get("state", 1) == 1 else "not usable",
            "members": f"{healthy} of {len(members)}",
            "chunks": sum(each.get(name, 0) for each in seen.chunks.values()) if seen.chunks is not None else None,
        }
        if seen.bytes is not None:
            row["bytes"] = sum(each.get(name, 0) for each in seen.bytes.values())
        if seen.orphans is not None:
            row["orphans"] = seen.orphans.get(name, 0)
        row["ranges to delete"] = next((each.deletions for each in members if each.deletions is not None), None)
        row["disk used"] = f"{max(shares):.0%}" if shares else "unknown"
        rows.append(row)
    return rows


def _members(seen: Seen) -> list[Row]:
    rows = []
    for member in seen.members:
        state, lag = state_of(seen.members, member)
        share = disk_share(member)
        rows.append(
            {
                "set": member.shard,
                "member": member.address,
                "state": state,
                "lag (s)": round(lag, 1) if lag is not None else None,
                "version": member.version or None,
                "disk used": f"{share:.0%}" if share is not None else "unknown",
                "disk free": member.disk.free if member.disk is not None and member.disk.total else None,
                "answer": member.problem or "ok",
            }
        )
    return rows


def _collections(seen: Seen, *, verbose: bool) -> list[Row]:
    """Return the sharded collections, the most notable first: with moves to go, jumbo chunks, or balancing disabled."""
    rows = []
    for document in seen.collections:
        sharded = facts.parse_sharded(document)
        if sharded is None or (sharded.namespace == INTERNAL and not verbose):
            continue
        counts, left = chunk_counts(seen, sharded.namespace), moves_left(seen, sharded.namespace)
        jumbo = sum(seen.jumbo.get(sharded.namespace, {}).values()) if seen.jumbo is not None else None
        row: Row = {
            "collection": sharded.namespace,
            "key": sharded.key_text,
            "chunks": sum(counts.values()) if counts is not None else None,
            "by shard": ", ".join(f"{shard} {count}" for shard, count in sorted((counts or {}).items())),
        }
        if seen.bytes is not None:
            row["bytes"] = sum(seen.bytes.get(sharded.namespace, {}).values())
        row |= {
            "moves left": left,
            "balance": balance(seen, sharded.namespace),
            "jumbo": jumbo,
            "balancing": not sharded.no_balance,
        }
        rows.append(row)
    return sorted(rows, key=_notable)


def _notable(row: Row) -> tuple[bool, int, int, int, str]:
    return row["balancing"], -(row["moves left"] or 0), -(row["jumbo"] or 0), -(row["chunks"] or 0), row["collection"]
