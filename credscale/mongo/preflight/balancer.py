"""The balancer: its settings, its hours, and whether it is at work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from credscale.mongo import members
from credscale.mongo.commands import run
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.settings import parse_window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.core.sections import MaintenanceWindow
    from credscale.mongo.commands import Client
    from credscale.mongo.preflight.look import Look
    from credscale.mongo.settings import BalancerSettings, Window

KNOWN_SETTINGS = frozenset({"balancer", "chunksize", "autosplit", "automerge", "ReadWriteConcernDefaults", "audit"})
MEGABYTE = 1 << 20


@check(
    14,
    "window-time-zone",
    command="getLog global on every config server: the UTC offset of its lines",
    reason="The config primary reads the window in its own local time, so a failover can shift it.",
)
def window_time_zone(look: Look) -> Iterator[Seen]:
    """Compare the local times of the config servers, in which the balancer's window is read."""
    found = look.replies("hello", "config")
    offsets: dict[str, timedelta | None] = {}
    for address, offset in look.ask_each(sorted(found.found), _offset).items():
        if isinstance(offset, Seen):
            yield Seen("unknown", f"the log of {address}: {offset.finding}", offset.remedy)
        else:
            offsets[address] = offset
    window = parse_window(look.window) or look.settings.window
    yield from judge_offsets(offsets, window, look.ctx.environment.policy.maintenance_window, datetime.now(UTC))
    yield from found.unseen()


def _offset(client: Client) -> timedelta | None:
    log = run(client, "admin", {"getLog": "global"}, deadline=members.MEMBER_DEADLINE).get("log", [])
    return members.utc_offset([str(line) for line in log])


def judge_offsets(
    offsets: Mapping[str, timedelta | None],
    window: Window | None,
    maintenance: MaintenanceWindow | None,
    now: datetime,
) -> list[Seen]:
    """Judge the config servers' local times.

    Args:
        offsets: from UTC, by config server; None where its log does not tell.
        window: in which chunks may move; None for the whole day.
        maintenance: the environment's, whose time zone the operator thinks in.
        now: an aware moment.
    """
    rows = [
        Seen("unknown", f"the log of {address} does not tell its time zone", "look there with: date +%z")
        for address, offset in sorted(offsets.items())
        if offset is None
    ]
    known = {address: offset for address, offset in offsets.items() if offset is not None}
    hours = f"the window {window[0]}-{window[1]}" if window is not None else "a window"
    if len(set(known.values())) > 1:
        told = ", ".join(f"{address} {_zone(offset)}" for address, offset in sorted(known.items()))
        seen = f"the config servers have different local times ({told}): {hours} shifts with a failover"
        return [*rows, Seen("stop" if window is not None else "warn", seen, "run all of them with TZ=UTC")]
    if not known:
        return rows or [Seen("unknown", "no config server was asked for its time zone", "look there with: date +%z")]
    offset = next(iter(known.values()))
    seen = f"{len(known)} of {len(offsets)} config servers tell their local time, {_zone(offset)}"
    if window is not None:
        seen += f": {hours} is {_shifted(window[0], -offset)}-{_shifted(window[1], -offset)} UTC"
    rows.append(Seen("ok", seen))
    if offset and window is not None:
        rows.append(Seen("note", "daylight saving time can shift the window by an hour", "run them with TZ=UTC"))
    if maintenance is not None and window is not None:
        theirs = _offset_of(maintenance, now)
        if theirs != offset:
            told = f"the maintenance window is meant in {maintenance.timezone} ({_zone(theirs)}), the balancer's is not"
            rows.append(Seen("warn", told, f"give the balancer's window in {_zone(offset)}"))
    return rows


def _offset_of(maintenance: MaintenanceWindow, now: datetime) -> timedelta:
    from zoneinfo import ZoneInfo

    return now.astimezone(ZoneInfo(maintenance.timezone)).utcoffset() or timedelta()


def _zone(offset: timedelta) -> str:
    minutes = int(offset.total_seconds()) // 60
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _shifted(clock: str, by: timedelta) -> str:
    minutes = (int(clock[:2]) * 60 + int(clock[3:]) + int(by.total_seconds()) // 60) % 1440
    return f"{minutes // 60:02}:{minutes % 60:02}"


@check(
    15,
    "settings",
    command="config.settings, balancerStatus, serverStatus.sharding.maxChunkSizeInBytes on every shard's primary",
    reason="One malformed document stops all balancing without a word up to 5.0.",
)
def settings(look: Look) -> Iterator[Seen]:
    """Judge the documents of config.settings by the server's own rules."""
    names = [str(document["_id"]) for document in look.catalogue("settings")]
    sizes = {}
    for shard in look.shards:
        primary = look.primary(shard.id)
        size = (primary.replies if primary else {}).get("server_status", {}).get("sharding", {})
        if "maxChunkSizeInBytes" in size:
            sizes[shard.id] = int(size["maxChunkSizeInBytes"])
    yield from judge_settings(look.settings, names, sizes)


def judge_settings(found: BalancerSettings, names: Iterable[str], sizes: Mapping[str, int]) -> list[Seen]:
    """Judge the settings.

    Args:
        found: as they were read.
        names: the ids of the documents.
        sizes: the chunk size in bytes that each shard works with, where it says so.
    """
    rows: list[Seen] = []
    for problem in found.problems:
        name = "chunksize" if "chunksize" in problem else "autosplit" if "autosplit" in problem else "balancer"
        rows.append(
            Seen("stop", problem, f'correct it, or db.getSiblingDB("config").settings.deleteOne({{_id: "{name}"}})')
        )
    for name in sorted(set(names) - KNOWN_SETTINGS):
        remedy = "see who wrote it, and remove it: newer servers refuse what they don't know"
        rows.append(Seen("warn", f"config.settings has a document {name!r} that no server reads", remedy))
    if found.chunk_size_mb is not None:
        late = sorted(shard for shard, size in sizes.items() if size != found.chunk_size_mb * MEGABYTE)
        if late:
            seen = f"{', '.join(late)} does not work with the chunk size of {found.chunk_size_mb} MB yet"
            remedy = "shards read it every 30 s; if it stays so, the settings can't be read"
            rows.append(Seen("note", seen, remedy))
    size = "the default chunk size" if found.chunk_size_mb is None else f"chunks of {found.chunk_size_mb} MB"
    hours = "at any hour" if found.window is None else f"{found.window[0]}-{found.window[1]}"
    if all(row.severity == "note" for row in rows):
        rows.insert(0, Seen("ok", f"all settings can be read: {size}, {hours}"))
    return rows


@check(
    16,
    "balancer",
    command="balancerStatus",
    reason="While settings and chunks are made, the balancer must rest, or it moves chunks of a half-made state.",
)
def balancer(look: Look) -> Iterator[Seen]:
    """Look whether the balancer is at work."""
    yield judge_balancer(look.settings)


def judge_balancer(found: BalancerSettings) -> Seen:
    """Judge the balancer's state; that it is on is no obstacle, as the step stop_balancer comes first."""
    if found.is_off:
        return Seen("ok", "the balancer is off and at rest")
    doing = "in a round" if found.in_round else "between two rounds"
    return Seen("note", f"the balancer is {found.mode}, {doing}", "the step stop_balancer comes before any setting")
