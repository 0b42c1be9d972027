"""The balancer: its settings, its hours, and whether it is at work."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster import members
from credscale.mongo.cluster.commands import run
from credscale.mongo.cluster.settings import DOCUMENTS, FIELDS, parse_window
from credscale.mongo.preflight.check import Seen, check

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from credscale.core.sections import MaintenanceWindow
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.settings import BalancerSettings, Window
    from credscale.mongo.preflight.check import Severity
    from credscale.mongo.preflight.look import Look

UTC_LOG = "iso8601-utc"
MEGABYTE = 1 << 20


@check(
    14,
    "window-time-zone",
    command="getLog global on every config server: the UTC offset of its lines; getCmdLineOpts: timeStampFormat",
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
    told = look.replies("options", "config").found
    in_utc = {address for address, reply in told.items() if _writes_utc(reply)}
    maintenance = look.ctx.environment.policy.maintenance_window
    yield from judge_offsets(offsets, window, maintenance, datetime.now(UTC), in_utc)
    yield from found.unseen()


def _writes_utc(options: Mapping[str, Any]) -> bool:
    """Tell whether a server writes its log in UTC whatever its host's zone, from getCmdLineOpts."""
    return bool(options.get("parsed", {}).get("systemLog", {}).get("timeStampFormat") == UTC_LOG)


def _offset(client: Client) -> timedelta | None:
    log = run(client, "admin", {"getLog": "global"}, deadline=members.MEMBER_DEADLINE).get("log", [])
    return members.utc_offset([str(line) for line in log])


def judge_offsets(
    offsets: Mapping[str, timedelta | None],
    window: Window | None,
    maintenance: MaintenanceWindow | None,
    now: datetime,
    in_utc: Collection[str] = (),
) -> list[Seen]:
    """Judge the config servers' local times.

    Args:
        offsets: from UTC, by config server; None where its log does not tell.
        window: in which chunks may move; None for the whole day.
        maintenance: the environment's, whose time zone the operator thinks in.
        now: an aware moment.
        in_utc: the config servers that write their logs in UTC, so that these tell nothing of their local time.
    """
    known = {name: offset for name, offset in offsets.items() if offset is not None and name not in in_utc}
    # Without a window nobody depends on the config servers' local time.
    blind: Severity = "unknown" if window is not None else "note"
    rows = []
    for address in sorted(offsets.keys() - known.keys()):
        why = f", as systemLog.timeStampFormat is {UTC_LOG}" if address in in_utc else ""
        seen = f"the log of {address} does not tell its time zone{why}"
        rows.append(Seen(blind, seen, "look there with: date +%z"))
    hours = f"the window {window[0]}-{window[1]}" if window is not None else "a window"
    if len(set(known.values())) > 1:
        told = ", ".join(f"{address} {_zone(offset)}" for address, offset in sorted(known.items()))
        seen = f"the config servers have different local times ({told}): {hours} shifts with a failover"
        return [*rows, Seen("stop" if window is not None else "warn", seen, "run all of them with TZ=UTC")]
    if not known:
        return rows or [Seen(blind, "no config server was asked for its time zone", "look there with: date +%z")]
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
    sizes = {}
    for shard in look.shards:
        primary = look.primary(shard.id)
        size = (primary.replies if primary else {}).get("server_status", {}).get("sharding", {})
        if "maxChunkSizeInBytes" in size:
            sizes[shard.id] = int(size["maxChunkSizeInBytes"])
    yield from judge_settings(look.settings, sizes)


def judge_settings(found: BalancerSettings, sizes: Mapping[str, int]) -> list[Seen]:
    """Judge the settings.

    Args:
        found: as they were read.
        sizes: the chunk size in bytes that each shard works with, where it says so.
    """
    rows = [Seen("stop", problem, _remedy(problem)) for problem in found.problems]
    rows += [_unread(document, field) for document, field in found.unread]
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


def _remedy(problem: str) -> str:
    """Return how to correct what a sentence of ``problems`` names; without its document the balancer would be on."""
    name = next((each for each in ("chunksize", "autosplit", "automerge") if f" {each}: " in problem), "")
    if not name:
        return 'correct the field with updateOne and $set, or $unset it; do not delete the document "balancer"'
    return f'correct it, or db.getSiblingDB("config").settings.deleteOne({{_id: "{name}"}})'


def _unread(document: str, field: str) -> Seen:
    """Return the row of what no server reads; what was meant by it does not hold."""
    wrong, known = (field, FIELDS) if field else (document, DOCUMENTS)
    near = difflib.get_close_matches(wrong.lower(), [each.lower() for each in known], 1)
    meant = next((f"; {each} was meant, perhaps" for each in sorted(known) if near == [each.lower()]), "")
    if not field:
        seen = f"config.settings has a document {document!r} that no server reads{meant}"
        return Seen("stop", seen, "see who wrote it, and deleteOne it: newer servers refuse what they don't know")
    remedy = 'see who wrote it; db.getSiblingDB("config").settings.updateOne({_id: "balancer"}, '
    remedy += f'{{$unset: {{"{field}": 1}}}}), and set what was meant'
    return Seen("stop", f"config.settings balancer has a field {field!r} that no server reads{meant}", remedy)


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
