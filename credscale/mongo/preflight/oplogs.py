"""How far oplogs reach back, of shards and of config servers, and how far they must."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from credscale.mongo.cluster.members import OplogWindow, oplog_window
from credscale.mongo.cluster.settings import eta
from credscale.mongo.preflight.check import Seen, Severity

if TYPE_CHECKING:
    from typing import Literal

    from credscale.mongo.cluster.facts import DataSize
    from credscale.mongo.cluster.settings import Window
    from credscale.mongo.preflight.look import Look

LEAST_HOURS, SHORTEST_HOURS = 24.0, 2.0
SAFETY = 3  # times what a backup takes, or a night's window lasts (reference §5 row 7)
PASS_BYTES = 20e6  # a second: one pass of backup or digest over a slow network
MOVE_BYTES = 5e6  # a second that one donor gives: the worked example of reference §3.5
DELETE_BYTES = 200  # the oplog's entry for a document that the donor deletes after its move, rounded up
YOUNG_HOURS = 1.0  # what an oplog took in so short a time is no measure of what it takes in a night


@dataclass(frozen=True)
class Needs:
    """What a migration asks of the shards' oplogs.

    Args:
        wanted: hours that they should reach back.
        least: hours that backup, moves and proof are expected to take together, when the moves begin as the window
            opens; what reaches back less cannot prove the migration.
        given: bytes that the moves add to the oplog of the shard that gives.
        received: bytes that they add to that of a shard that receives.
    """

    wanted: float
    least: float = SHORTEST_HOURS
    given: float = 0.0
    received: float = 0.0


def wanted_hours(size: DataSize | None, window: Window | None = None) -> float:
    """Return how far oplogs should reach back: a day, or three times what a backup takes or a window lasts."""
    backup = 0.0 if size is None else size.bytes / PASS_BYTES / 3600
    return max(LEAST_HOURS, SAFETY * backup, SAFETY * _length(window) / 3600)


def _length(window: Window | None) -> float:
    """Return how many seconds of a day chunks may move; 0 where any hour will do, as then no night is waited for."""
    return 0.0 if window is None else (_moment(window[1]) - _moment(window[0])).seconds


def _moment(clock: str) -> datetime:
    return datetime(2001, 1, 1, int(clock[:2]), int(clock[3:]))  # noqa: DTZ001 - a time of day, of any day


def needs(size: DataSize | None, shards: int, window: Window | None) -> Needs:
    """Return what a migration asks of the shards' oplogs.

    Args:
        size: of the collection; None where it can't be read.
        shards: over how many it is to be spread.
        window: in which chunks may move; None for the whole day.
    """
    if size is None or shards < 1:
        return Needs(wanted_hours(size, window))
    # At the start one shard has all chunks, and a shard takes part in one move at a time (§0.5).
    moved = size.bytes * (shards - 1) / shards
    begin = _moment(window[0]) if window is not None else _moment("00:00")
    moving = eta(moved, MOVE_BYTES, window, begin) or 0.0
    least = max(SHORTEST_HOURS, (2 * size.bytes / PASS_BYTES + moving) / 3600)
    return Needs(
        wanted=max(wanted_hours(size, window), least),
        least=least,
        given=size.documents * (shards - 1) / shards * DELETE_BYTES,
        received=size.bytes / shards,
    )


def read_oplogs(look: Look, role: Literal["shard", "config"]) -> dict[str, OplogWindow | Seen | None]:
    """Read every member's oplog, side by side: its window, None when it is empty, or a row that says why not."""
    group = [member for member in look.members if member.role == role]
    found = look.ask_each([member.address for member in group if not member.problem], oplog_window)
    return found | {member.address: member.silence for member in group if member.problem}


def expected_hours(window: OplogWindow, least: float, extra: float) -> float | None:
    """Return how far an oplog will reach back while the migration runs; None where that can't be told.

    One that has not filled goes on at the rate so far, and the moves write to it as well.

    Args:
        window: the oplog.
        least: hours that the migration takes.
        extra: bytes that the moves add in this time.
    """
    if window.fill is None:
        return None if window.whole else window.hours
    full = window.hours / window.fill if 0 < window.fill < 1 else window.hours
    if not extra or not window.most or full <= 0:
        return full
    return window.most / (window.most / full + extra / least)


def judge_oplog(
    address: str,
    window: OplogWindow | Seen | None,
    wanted: float,
    *,
    rehearsal: bool,
    proves: bool = True,
    least: float = SHORTEST_HOURS,
    extra: float = 0.0,
) -> Seen:
    """Judge how far an oplog reaches back, and will reach back during the migration.

    Args:
        address: the member.
        window: its oplog; a row where it could not be read; None where it is empty.
        wanted: hours that it should reach back.
        rehearsal: whether this is a lab, whose data are soon made anew.
        proves: whether the proof at the end reads it; the config servers' it does not.
        least: hours that backup, moves and proof are expected to take.
        extra: bytes that the moves add to it.
    """
    if isinstance(window, Seen) and window.member:
        return window  # it answers nothing at all, which the table says once
    if isinstance(window, Seen):
        remedy = "give the user read on the database local of every shard: the proof needs it"
        return Seen(window.severity, f"the oplog of {address}: {window.finding}", remedy if proves else window.remedy)
    if window is None:
        return Seen("unknown", f"the oplog of {address} is empty", "see whether it is a member of a replica set")
    reach = f"the oplog of {address} reaches back {window.hours:.1f} hours"
    if window.is_young:
        reach += ", to its beginning" + ("" if window.fill is None else f", {window.fill:.0%} of it is filled")
    hours = expected_hours(window, least, extra)
    if hours is None:
        seen = f"{reach}, and how far it will reach once it is filled is not told"
        return Seen("note" if rehearsal else "unknown", seen, "give the user collStats on local.oplog.rs")
    if hours >= wanted:
        return Seen("ok", reach)
    if window.is_young and window.hours < YOUNG_HOURS:
        seen = f"{reach}: too young to tell how far it will reach once it is filled"
        return Seen("note" if rehearsal else "warn", seen, "look again after an hour of the usual work")
    severity: Severity = "stop" if proves and hours < least else "warn"
    if abs(hours - window.hours) >= 0.1:
        reach += (
            f", and {hours:.1f} when it is filled and the moves write to it" if extra else f", {hours:.1f} when full"
        )
    if proves:
        seen = f"{reach}; backup, moves and proof may take {least:.0f}, {wanted:.0f} are wanted"
        remedy = "enlarge it with replSetResizeOplog: without it nobody can tell writers' changes from losses"
    else:
        seen = f"{reach}, {wanted:.0f} are advised"
        remedy = "enlarge it with replSetResizeOplog: a member that is down for longer needs a new copy"
    return Seen("note" if rehearsal else severity, seen, remedy)
