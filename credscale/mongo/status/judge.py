"""What is wrong with a cluster, and what is only worth knowing: pure functions of one look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.chunk_watch import with_zone
from credscale.mongo.chunks.distribution import (
    BALANCES_BYTES,
    Distribution,
    movable,
    range_bytes,
    remaining_bytes_moves,
    remaining_moves,
)
from credscale.mongo.chunks.moves import failed_rounds
from credscale.mongo.cluster.facts import parse_sharded
from credscale.mongo.cluster.members import HEALTHY
from credscale.mongo.sharding.balancer_memory import BEFORE
from credscale.mongo.status.members import UNKNOWN_USER, disk_share, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from credscale.mongo.status.reads import Seen

PROBLEM, REMARK = "problem", "remark"
LAG_SECONDS = 60.0
DISK_FULL, DISK_FILLING = 0.9, 0.8
STOPPED_HOURS = 4.0
ROUNDS = 5
Row = dict[str, Any]


def judge(seen: Seen) -> list[Row]:
    """Return what is wrong and what is worth knowing, problems first.

    Args:
        seen: one look.

    Returns:
        rows of level, where, what, what to do.
    """
    parts = (
        _members(seen),
        _sets(seen),
        _versions(seen),
        _balancer(seen),
        _collections(seen),
        _moves(seen),
        _rest(seen),
    )
    rows = [row for part in parts for row in part]
    return sorted(rows, key=lambda row: row["level"] != PROBLEM)


def _row(level: str, where: str, what: str, action: str) -> Row:
    return {"level": level, "where": where, "what": what, "what to do": action}


def _members(seen: Seen) -> Iterator[Row]:
    for member in seen.members:
        state, lag = state_of(seen.members, member)
        where = f"{member.shard} {member.address}"
        if member.problem == UNKNOWN_USER and state in {"UNKNOWN", *HEALTHY}:
            continue  # _sets tells it once for all
        if member.problem:
            yield _row(PROBLEM, where, member.problem, "look at its process, its log and the network")
        elif state not in HEALTHY:
            yield _row(PROBLEM, where, f"it is {state}", "read its log")
        if lag is not None and lag > LAG_SECONDS:
            yield _row(PROBLEM, where, f"it lags {lag:.0f} s", "look at its disk and network, slow migrations down")
        if member.refused and state != "ARBITER":
            yield _row(REMARK, where, f"it refused {', '.join(member.refused)}", "grant the role clusterMonitor")
        if member.changing:
            yield _row(PROBLEM, where, "its feature compatibility version is being changed: no chunk leaves it",
                       "run setFeatureCompatibilityVersion again until it succeeds")  # fmt: skip
        share = disk_share(member)
        if share is not None and share >= DISK_FILLING:
            level = PROBLEM if share >= DISK_FULL else REMARK
            yield _row(level, where, f"its disk is {share:.0%} full", "free space, or move chunks away")


def _sets(seen: Seen) -> Iterator[Row]:
    for name in dict.fromkeys(member.shard for member in seen.members):
        members = [member for member in seen.members if member.shard == name]
        states = [state_of(seen.members, member)[0] for member in members]
        strangers = [
            member.address
            for member, state in zip(members, states, strict=True)
            if member.problem == UNKNOWN_USER and state != "ARBITER"
        ]
        if strangers:
            yield _row(REMARK, name, f"not looked at: {', '.join(strangers)}; {UNKNOWN_USER}",
                       "create it there with the same password and the roles of docs/how-to.md (Rights)")  # fmt: skip
        if "PRIMARY" not in states and not (strangers and not any(member.view for member in members)):
            yield _row(PROBLEM, name, "it has no primary", "bring a majority of its members back")
    for shard in seen.shards:
        if shard.get("draining"):
            chunks = sum(each.get(str(shard["_id"]), 0) for each in (seen.chunks or {}).values())
            yield _row(REMARK, str(shard["_id"]), f"it is draining, {chunks} chunks are still on it",
                       "wait for removeShard, or run it again to see what is left")  # fmt: skip


def _versions(seen: Seen) -> Iterator[Row]:
    for what, found in (
        ("server versions", {member.version for member in seen.members if member.version}),
        ("feature compatibility versions", {member.compatibility for member in seen.members if member.compatibility}),
        ("mongos versions", {str(each.get("mongoVersion")) for each in live_routers(seen)}),
    ):
        if len(found) > 1:
            yield _row(REMARK, "cluster", f"different {what}: {', '.join(sorted(found))}", "finish the upgrade")


def live_routers(seen: Seen) -> list[Row]:
    """Return the documents of the routers whose last sign of life is at most a minute older than the newest (§3.1)."""
    pings = [each["ping"] for each in seen.routers if "ping" in each]
    return [each for each in seen.routers if "ping" in each and (max(pings) - each["ping"]).total_seconds() <= 60]


def _balancer(seen: Seen) -> Iterator[Row]:
    settings = seen.settings
    if settings is None:
        return
    for problem in settings.problems:
        yield _row(PROBLEM, "balancer", f"{problem}; nothing is balanced", "correct config.settings")
    if settings.mode == "off":
        yield from _stopped(seen)
    rounds = [each for each in seen.actions if each.get("what") == "balancer.round"][:ROUNDS]
    failed = failed_rounds(rounds)
    if failed:
        level = PROBLEM if failed_rounds(rounds[:1]) else REMARK
        yield _row(level, "balancer", f"{len(failed)} of its last {len(rounds)} rounds failed: {failed[0]}",
                   "read the log of the config servers' primary")  # fmt: skip
    wanted = range_bytes(seen.server, settings.chunk_size_mb)
    other = [each for each in seen.members if each.chunk_bytes and each.chunk_bytes != wanted]
    if other:
        # Not a problem in itself: in the recorded cluster a shard showed the old size for a minute and was well.
        sizes = ", ".join(f"{each.shard} {each.chunk_bytes >> 20} MB" for each in other)
        yield _row(REMARK, "balancer", f"the chunk size {wanted >> 20} MB is not in effect everywhere: {sizes}",
                   "look again in a minute; if it stays, config.settings can't be read by the servers")  # fmt: skip


def _stopped(seen: Seen) -> Iterator[Row]:
    stop = next((each for each in seen.actions if each.get("what") in ("balancer.stop", "balancer.start")), None)
    hours = None
    if stop is not None and stop["what"] == "balancer.stop":
        hours = (seen.now - with_zone(stop["time"])).total_seconds() / 3600
    since = f"for {hours:.1f} h" if hours is not None else "since a time that config.actionlog no longer has"
    if BEFORE in seen.kept:
        level = PROBLEM if hours is None or hours > STOPPED_HOURS else REMARK
        yield _row(level, "balancer", f"a run of credscale has stopped it {since} and not put it back",
                   "if no run is at work: invoke mongo.restore-balancer")  # fmt: skip
    else:
        yield _row(REMARK, "balancer", f"it is off {since}", "start it with start_balancer when that is not meant")


def moves_left(seen: Seen, namespace: str) -> int | None:
    """Return how many migrations a collection still needs; None where it can't be told (zones, bytes not read)."""
    counts = chunk_counts(seen, namespace)
    if counts is None or namespace in seen.zoned:
        return None
    staying = _staying(seen, counts)
    leaving = sum(counts.values()) - sum(staying.values())
    if seen.server.numbers < BALANCES_BYTES:
        return leaving if leaving else remaining_moves(staying)
    if seen.bytes is None or seen.settings is None:
        return None
    return leaving if leaving else remaining_bytes_moves(_by_bytes(seen, namespace, staying))


def balance(seen: Seen, namespace: str) -> str:
    """Return in a word or two how a collection's data lie."""
    left = moves_left(seen, namespace)
    if namespace in seen.zoned or left is None:
        return "by zone" if namespace in seen.zoned else "unknown"
    if left:
        return "uneven"
    if seen.server.numbers < BALANCES_BYTES:
        return "even"
    staying = _staying(seen, chunk_counts(seen, namespace) or {})
    return "even" if _by_bytes(seen, namespace, staying).is_even else "within three ranges"


def _staying(seen: Seen, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of the shards that are not draining."""
    draining = {str(shard["_id"]) for shard in seen.shards if shard.get("draining")}
    return {shard: count for shard, count in counts.items() if shard not in draining}


def _by_bytes(seen: Seen, namespace: str, chunks: dict[str, int]) -> Distribution:
    """Return how a collection's bytes lie on the shards of these chunk counts."""
    sizes = {shard: (seen.bytes or {}).get(namespace, {}).get(shard, 0) for shard in chunks}
    return Distribution(chunks, sizes, _range_of(seen, namespace), by_bytes=True)


def _range_of(seen: Seen, namespace: str) -> int:
    """Return the chunk size that holds for a collection, which may have its own since 5.3."""
    sharded = parse_sharded(next((each for each in seen.collections if each["_id"] == namespace), None))
    size_mb = seen.settings.chunk_size_mb if seen.settings is not None else None
    return range_bytes(seen.server, size_mb, own=sharded.range_bytes if sharded is not None else 0)


def chunk_counts(seen: Seen, namespace: str) -> dict[str, int] | None:
    """Return a collection's chunks on every shard, those without any too."""
    if seen.chunks is None:
        return None
    return dict.fromkeys((str(shard["_id"]) for shard in seen.shards), 0) | seen.chunks.get(namespace, {})


def _collections(seen: Seen) -> Iterator[Row]:
    if seen.chunks is None or seen.jumbo is None:
        return
    for namespace, jumbo in seen.jumbo.items():
        marked = sum(jumbo.values())
        if not marked:
            continue
        counts = chunk_counts(seen, namespace) or {}
        by_bytes = seen.server.numbers >= BALANCES_BYTES
        stuck = not by_bytes and bool(moves_left(seen, namespace)) and not movable(counts, jumbo)
        what = "only jumbo chunks are left to move" if stuck else f"{marked} jumbo chunks are not moved"
        yield _row(PROBLEM if stuck else REMARK, namespace, what,
                   "split them, clear the flag with clearJumboFlag, or raise the chunk size")  # fmt: skip


def _moves(seen: Seen) -> Iterator[Row]:
    for row in seen.outcomes:
        if row["outcome"] == "success":
            continue
        later = [
            each for each in seen.outcomes
            if each["outcome"] == "success" and each["last"] >= row["last"]
            and all(each[name] == row[name] for name in ("collection", "from", "to"))
        ]  # fmt: skip
        level = REMARK if later else PROBLEM
        tail = "" if later else ", and none has succeeded since"
        what = f"{row['count']} migrations {row['from']} -> {row['to']} failed in 24 h: {row['reason']}{tail}"
        yield _row(level, row["collection"], what, row["what to do"])


def _rest(seen: Seen) -> Iterator[Row]:
    for each in seen.unread:
        yield _row(REMARK, "cluster", f"not read: {each}", "try again, or look with verbose")
    if not seen.shards:
        yield _row(REMARK, "cluster", "it has no shards yet", "add one with sh.addShard or a deployment of credscale")
