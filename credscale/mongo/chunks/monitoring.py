"""Watch the balancer spread a collection, estimate the rest, and say why when it stands still."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, WaitTimeout
from credscale.core.step import Finding, probe
from credscale.mongo.chunks import plots
from credscale.mongo.chunks.chunk_watch import ChunkWatch, Paced, tracked
from credscale.mongo.chunks.diagnosis import diagnose
from credscale.mongo.chunks.distribution import (
    BALANCES_BYTES,
    Distribution,
    bytes_by_shard,
    is_compliant,
    jumbo_by_shard,
    range_bytes,
)
from credscale.mongo.chunks.moves import MoveTail, groups_of, outcomes
from credscale.mongo.chunks.pace import Pace, eta_range, lanes, pace, range_text
from credscale.mongo.chunks.stall import stall_facts
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import is_passing
from credscale.mongo.cluster.members import window_offset
from credscale.mongo.cluster.settings import BalancerSettings, balancer_settings, seconds_until_open

if TYPE_CHECKING:
    from credscale.core.context import Context

MOST_POINTS = 400
OUTSIDE_SECONDS = 15.0  # between two polls while the window is closed
ASK_CHUNKS = 1000  # for these the config primary answers balancerCollectionStatus in milliseconds
LONGEST_ASK = 60.0  # with a million chunks it builds their whole routing table for each answer (§1.4)
BYTES_SECONDS = 10.0


@dataclass(frozen=True)
class Look:
    """What one poll saw."""

    settings: BalancerSettings
    sharded: facts.ShardedCollection
    found: Distribution


class Eye:
    """Look at one collection again and again, at a cost that goes with what has changed and not with its chunks.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
    """

    def __init__(self, ctx: Context, namespace: str) -> None:
        self.client, self.namespace = ctx.clients.mongo(), namespace
        self.server = facts.server(self.client)
        self.watch, self.moves = ChunkWatch(self.client), MoveTail(self.client, namespace)
        self._bytes: Paced[dict[str, int]] = Paced(least=BYTES_SECONDS)
        self._compliant: Paced[bool | None] = Paced()

    def look(self, *, whole: bool = False) -> Look:
        """Look again.

        Args:
            whole: count all chunks and bytes anew.
        """
        found = tracked(self.client, self.namespace)
        if found is None:
            raise PreconditionFailed(f"{self.namespace} is not sharded. Run shard_collection first")
        settings = balancer_settings(self.client)
        names = [shard.id for shard in facts.shards(self.client)]
        chunks = self.watch.recount(found, names) if whole else self.watch.look(found, names)
        by_bytes = self.server.numbers >= BALANCES_BYTES
        sizes = self._bytes.get(lambda: bytes_by_shard(self.client, self.server, self.namespace), fresh=whole)
        self.moves.read()
        size = range_bytes(self.server, settings.chunk_size_mb, own=found.sharded.range_bytes)
        return Look(settings, found.sharded, Distribution(chunks, dict.fromkeys(names, 0) | sizes, size, by_bytes))

    def proof(self, look: Look) -> Look | None:
        """Return a look that counted everything, when both it and the server say that the collection is balanced."""
        if look.found.remaining:
            return None
        self._compliant.least = min(LONGEST_ASK, sum(look.found.chunks.values()) / ASK_CHUNKS)
        if self._compliant.get(lambda: is_compliant(self.client, self.namespace)) is False:
            return None
        whole = self.look(whole=True)
        return None if whole.found.remaining else whole


@dataclass
class Watch:
    """What the polls add up to; times are seconds of ``time.monotonic``.

    Seconds outside the window, in which nothing may move, do not count for the stall, nor do those in which nothing
    could be seen because mongos was away.
    """

    began: float
    first: int
    idle: float = 0.0
    last_poll: float = 0.0
    blind_until: float = 0.0
    remaining: int = 0
    held: bool = False
    lanes: float = 1.0
    pace: Pace | None = None
    series: list[dict[str, Any]] = field(default_factory=list)

    def poll(self, now: float, found: Distribution, open_now: bool, *, looked: float = 0.0) -> None:
        """Add one look.

        Args:
            now: when it ended.
            found: what it saw.
            open_now: whether the window is open.
            looked: seconds that it took; with a mongos that was away, as long as that was.
        """
        passed = max(0.0, now - looked - max(self.last_poll, self.blind_until))
        self.last_poll = now
        moved_on = not self.series or found.chunks != self.series[-1]["chunks"] or found.remaining < self.remaining
        self.idle = 0.0 if moved_on else self.idle + (passed if open_now else 0.0)
        # The balancer splits up to 6.0.2, so there can be more to move than there was at first.
        self.first = max(self.first, found.remaining)
        self.remaining = found.remaining
        if moved_on:
            # Slowly, as the pace does: it is that of the newest moves, not of the last one.
            self.lanes = lanes(found.chunks) if not self.series else 0.9 * self.lanes + 0.1 * lanes(found.chunks)
            self.series.append(point(now - self.began, found))
            if len(self.series) > 2 * MOST_POINTS:
                self.series = thin(self.series)


def point(seconds: float, found: Distribution) -> dict[str, Any]:
    """Return one point of the series."""
    return {"t": round(seconds, 1), "chunks": dict(found.chunks), "bytes": dict(found.bytes)}


def thin(series: list[dict[str, Any]], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Return at most so many points of a series, evenly chosen, the first and the last among them."""
    if len(series) <= most:
        return series
    step = (len(series) - 1) / (most - 1)
    return [series[round(number * step)] for number in range(most)]


@probe(show=plots.distribution)
def monitor_distribution(
    ctx: Context, *, namespace: str, stall_minutes: float = 10.0, poll_seconds: float = 1.0
) -> Finding:
    """Wait until the collection's data lie evenly on the shards.

    Up to 6.0.2 this means chunk counts, since 6.0.3 bytes (§0.4). ``balancerCompliant`` alone is no proof: it is also
    true when only jumbo chunks are left and while nothing is balanced at all (§0.3).

    Args:
        namespace: ``database.collection``.
        stall_minutes: minutes inside the window without any movement after which this gives up and says why.
        poll_seconds: seconds between two polls; each reads only what has changed, so a million chunks cost no more.
    """
    eye = Eye(ctx, namespace)
    look = eye.look()
    offset = window_offset(ctx) if look.settings.window is not None else None
    if look.settings.window is not None and offset is None:
        ctx.note("the config primary's time zone can't be read, so the window is taken as UTC")
    zone = offset if offset is not None else timedelta()
    now = time.monotonic()
    watch = Watch(now, look.found.remaining, last_poll=now)
    watch.poll(now, look.found, open_now=True)
    # A plan does not wait: what it would wait for is nothing that it changes.
    if ctx.dry_run and watch.remaining:
        return Finding(f"{watch.remaining} chunks are still to move; a run waits for them", _output(watch, look))
    while (proof := eye.proof(look)) is None:
        _pause_outside(ctx, watch, look, zone, poll_seconds)
        look = _poll(ctx, eye, watch, look, zone, stall_minutes * 60)
    look = proof
    watch.poll(time.monotonic(), look.found, open_now=False)
    ctx.progress(watch.first, watch.first, "chunks", eta=0.0, eta_high=0.0, shards=_by_shard(look.found))
    output = _output(watch, look, jumbo_by_shard(eye.client, look.sharded)) | _migrations(eye)
    moved = f"{output['moved']} chunks moved in {output['seconds']:.0f} s" if output["moved"] else "nothing had to move"
    return Finding(f"{look.found.content}: {look.found.text} chunks; {moved}", output)


def _local(zone: timedelta) -> datetime:
    return datetime.now(UTC) + zone


def _poll(ctx: Context, eye: Eye, watch: Watch, look: Look, zone: timedelta, stall: float) -> Look:
    """Look again, tell how far it is, and give up when nothing has moved for too long."""
    namespace, began = look.sharded.namespace, time.monotonic()
    try:
        look = eye.look()
        now = time.monotonic()
        open_now = seconds_until_open(look.settings.window, _local(zone)) == 0
        watch.poll(now, look.found, open_now, looked=now - began)
        watch.pace = pace([_in_zone(moment, zone) for moment in eye.moves.commits], look.settings.window)
        if watch.idle > _patience(watch.pace, stall):
            # What is shown stands still until the next full count is due; giving up takes a count of its own.
            look = eye.look(whole=True)
            watch.poll(time.monotonic(), look.found, open_now=False)
    except Exception as error:
        if not is_passing(error):
            raise
        now = watch.blind_until = time.monotonic()
        if now - watch.last_poll > stall:
            raise WaitTimeout(
                f"mongos has not answered for {now - watch.last_poll:.0f} s ({type(error).__name__}) while {namespace} "
                f"was being spread, {watch.remaining} chunks to go. Nothing is lost: the balancer goes on by itself. "
                "Check mongos, then run again"
            ) from error
        return look
    window = look.settings.window
    ends = eta_range(watch.remaining, watch.pace, watch.lanes, lanes(look.found.chunks), window, _local(zone))
    ctx.progress(
        watch.first - watch.remaining, watch.first, "chunks",
        eta=None if ends is None else round(ends[0], 1), eta_high=None if ends is None else round(ends[1], 1),
        left=range_text(ends), shards=_by_shard(look.found),
    )  # fmt: skip
    if watch.idle > _patience(watch.pace, stall):
        _give_up(ctx, eye, watch, look, zone)
    return look


def _in_zone(moment: datetime, zone: timedelta) -> datetime:
    """Return a time of config.changelog, which is UTC, as ``_local`` has it."""
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) + zone


def _patience(seen: Pace | None, stall: float) -> float:
    """Return five times what a slow move takes, when that is longer: a single big chunk may take it (§3.5)."""
    return stall if seen is None else max(stall, 5 * seen.slow)


def _give_up(ctx: Context, eye: Eye, watch: Watch, look: Look, zone: timedelta) -> None:
    found = stall_facts(ctx, look.settings, look.sharded, look.found, eye.moves.events, _local(zone))
    raise WaitTimeout(
        f"no chunk of {look.sharded.namespace} has moved for {watch.idle:.0f} s inside the window, "
        f"{watch.remaining} are left ({look.found.text}). {diagnose(found).text} What has moved stays moved; run again "
        "afterwards"
    )


def _pause_outside(ctx: Context, watch: Watch, look: Look, zone: timedelta, poll_seconds: float) -> None:
    """Wait for the next poll: short inside the window, longer and announced outside."""
    closed = seconds_until_open(look.settings.window, _local(zone))
    if closed == 0 or look.settings.window is None:
        watch.held = False
        time.sleep(poll_seconds)
        return
    if not watch.held:
        ctx.hold(f"the balancer window {'-'.join(look.settings.window)} is closed; chunks move when it opens")
        watch.held = True
    time.sleep(min(max(poll_seconds, OUTSIDE_SECONDS), closed))


def _migrations(eye: Eye) -> dict[str, Any]:
    """Return how the newest migrations ended, and what they copied."""
    events = eye.moves.events
    copied = {
        "copied_documents": sum(each.documents for each in events),
        "copied_bytes": sum(each.bytes for each in events),
    }
    return {"moves": outcomes(groups_of(eye.namespace, events)), **copied}


def _by_shard(found: Distribution) -> dict[str, dict[str, int]]:
    return {name: {"chunks": count, "bytes": found.bytes.get(name, 0)} for name, count in sorted(found.chunks.items())}


def _output(watch: Watch, look: Look, jumbo: dict[str, int] | None = None) -> dict[str, Any]:
    rows = [{"shard": shard, **values} for shard, values in _by_shard(look.found).items()]
    if jumbo is not None:
        rows = [{**row, "jumbo": jumbo.get(str(row["shard"]), 0)} for row in rows]
    return {
        "rows": rows,
        "series": thin(watch.series),
        "to_move": watch.first,
        "moved": watch.first - watch.remaining,
        "seconds": round(watch.last_poll - watch.began, 1),
        "rate": round(watch.pace.rate, 4) if watch.pace is not None else 0.0,
        "by": "bytes" if look.found.by_bytes else "chunks",
        "window": "-".join(look.settings.window) if look.settings.window is not None else "",
    }
