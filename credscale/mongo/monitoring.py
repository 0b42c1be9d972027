"""Watch the balancer spread a collection, estimate the rest, and say why when it stands still."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, WaitTimeout
from credscale.core.step import Finding, probe
from credscale.mongo import facts, plots
from credscale.mongo.commands import is_passing
from credscale.mongo.diagnosis import diagnose
from credscale.mongo.distribution import Distribution, distribution, is_compliant, jumbo_by_shard, recent_moves
from credscale.mongo.members import window_offset
from credscale.mongo.settings import BalancerSettings, balancer_settings, eta, seconds_until_open

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.commands import Client

MOST_POINTS = 400
RATE_POINTS = 20
CHUNKS_A_POLL = 1000  # counting these takes the config servers milliseconds; a million of them seconds
LONGEST_POLL = 30.0
OUTSIDE_SECONDS = 15.0  # between two polls while the window is closed


@dataclass(frozen=True)
class Look:
    """What one poll saw."""

    settings: BalancerSettings
    sharded: facts.ShardedCollection
    found: Distribution


@dataclass
class Watch:
    """What the polls add up to; times are seconds of ``time.monotonic``.

    Seconds outside the window, in which nothing may move, count neither for the rate nor for the stall.
    """

    began: float
    first: int
    active: float = 0.0
    idle: float = 0.0
    last_poll: float = 0.0
    remaining: int = 0
    held: bool = False
    series: list[dict[str, Any]] = field(default_factory=list)
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_POINTS))

    def poll(self, now: float, found: Distribution, open_now: bool) -> None:
        """Add one look."""
        passed, self.last_poll = now - self.last_poll, now
        if open_now:
            self.active += passed
        moved_on = not self.series or found.chunks != self.series[-1]["chunks"] or found.remaining < self.remaining
        self.idle = 0.0 if moved_on else self.idle + (passed if open_now else 0.0)
        # The balancer splits up to 6.0.2, so there can be more to move than there was at first.
        self.first = max(self.first, found.remaining)
        self.remaining = found.remaining
        if moved_on:
            self.recent.append((self.active, self.remaining))
            self.series.append(point(now - self.began, found))

    @property
    def rate(self) -> float:
        """Chunks per second inside the window, over the newest moves; 0 while too young."""
        if len(self.recent) < 3:
            return 0.0
        (start, before), (end, after) = self.recent[0], self.recent[-1]
        return max(0.0, (before - after) / (end - start)) if end > start else 0.0


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
        poll_seconds: seconds between two polls; with more than 1,000 chunks more in proportion, up to 30.
    """
    client, server = ctx.clients.mongo(), facts.server(ctx.clients.mongo())
    look = _look(client, server, namespace)
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
    while not _done(client, look):
        _pause_outside(ctx, watch, look, zone, poll_seconds)
        look = _poll(ctx, watch, look, server, zone, stall_minutes * 60)
    ctx.progress(watch.first, watch.first, "chunks", eta=0.0, shards=_by_shard(look.found))
    output = _output(watch, look, jumbo_by_shard(client, look.sharded))
    moved = f"{output['moved']} chunks moved in {output['seconds']:.0f} s" if output["moved"] else "nothing had to move"
    return Finding(f"the data lie evenly: {look.found.text} chunks; {moved}", output)


def _look(client: Client, server: facts.Server, namespace: str) -> Look:
    sharded = facts.sharded_collection(client, namespace)
    if sharded is None:
        raise PreconditionFailed(f"{namespace} is not sharded. Run shard_collection first")
    settings = balancer_settings(client)
    return Look(settings, sharded, distribution(client, server, sharded, settings.chunk_size_mb))


def _done(client: Client, look: Look) -> bool:
    """Tell whether our own count and the server's answer agree that the collection is balanced."""
    return not look.found.remaining and is_compliant(client, look.sharded.namespace) is not False


def _local(zone: timedelta) -> datetime:
    return datetime.now(UTC) + zone


def _poll(ctx: Context, watch: Watch, look: Look, server: facts.Server, zone: timedelta, stall: float) -> Look:
    """Look again, tell how far it is, and give up when nothing has moved for too long."""
    client, namespace = ctx.clients.mongo(), look.sharded.namespace
    try:
        look = _look(client, server, namespace)
        watch.poll(time.monotonic(), look.found, seconds_until_open(look.settings.window, _local(zone)) == 0)
    except Exception as error:
        if not is_passing(error):
            raise
        now = time.monotonic()
        if now - watch.last_poll > stall:
            raise WaitTimeout(
                f"mongos has not answered for {now - watch.last_poll:.0f} s ({type(error).__name__}) while {namespace} "
                f"was being spread, {watch.remaining} chunks to go. Nothing is lost: the balancer goes on by itself. "
                "Check mongos, then run again"
            ) from error
        return look
    left = eta(watch.remaining, watch.rate, look.settings.window, _local(zone))
    ctx.progress(
        watch.first - watch.remaining, watch.first, "chunks",
        eta=None if left is None else round(left, 1), shards=_by_shard(look.found),
    )  # fmt: skip
    if watch.idle > max(stall, _patience(client, namespace, watch.idle, stall)):
        _give_up(client, watch, look, zone)
    return look


def _patience(client: Client, namespace: str, idle: float, stall: float) -> float:
    """Return five times the slow moves' duration, which is what a single big chunk may take (§3.5)."""
    if idle <= stall:
        return stall
    durations = sorted(move.seconds for move in recent_moves(client, namespace) if move.outcome == "success")
    return 5 * durations[int(0.9 * (len(durations) - 1))] if durations else stall


def _give_up(client: Client, watch: Watch, look: Look, zone: timedelta) -> None:
    jumbo = jumbo_by_shard(client, look.sharded)
    moves = recent_moves(client, look.sharded.namespace)
    reason = diagnose(look.settings, look.sharded, look.found, jumbo, moves, _local(zone))
    raise WaitTimeout(
        f"no chunk of {look.sharded.namespace} has moved for {watch.idle:.0f} s inside the window, "
        f"{watch.remaining} are left ({look.found.text}). {reason} What has moved stays moved; run again afterwards"
    )


def pause_between(seconds: float, chunks: int) -> float:
    """Return the seconds between two polls of so many chunks, which each poll counts."""
    return min(max(seconds, LONGEST_POLL), seconds * max(1.0, chunks / CHUNKS_A_POLL))


def _pause_outside(ctx: Context, watch: Watch, look: Look, zone: timedelta, poll_seconds: float) -> None:
    """Wait for the next poll: short inside the window, longer and announced outside."""
    closed = seconds_until_open(look.settings.window, _local(zone))
    if closed == 0 or look.settings.window is None:
        watch.held = False
        time.sleep(pause_between(poll_seconds, sum(look.found.chunks.values())))
        return
    if not watch.held:
        ctx.hold(f"the balancer window {'-'.join(look.settings.window)} is closed; chunks move when it opens")
        watch.held = True
    time.sleep(min(max(poll_seconds, OUTSIDE_SECONDS), closed))


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
        "rate": round(watch.rate, 4),
        "by": "bytes" if look.found.by_bytes else "chunks",
        "window": "-".join(look.settings.window) if look.settings.window is not None else "",
    }
