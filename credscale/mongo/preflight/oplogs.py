"""How far oplogs reach back, of shards and of config servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.mongo.members import OplogWindow, oplog_window
from credscale.mongo.preflight.check import Seen, Severity

if TYPE_CHECKING:
    from typing import Literal

    from credscale.mongo.facts import DataSize
    from credscale.mongo.preflight.look import Look

LEAST_HOURS, SHORTEST_HOURS = 24.0, 2.0
PASS_BYTES = 20e6  # a second: one pass of backup or digest over a slow network


def wanted_hours(size: DataSize | None) -> float:
    """Return how far oplogs should reach back: a day, or three times what one pass over the data takes."""
    return LEAST_HOURS if size is None else max(LEAST_HOURS, 3 * size.bytes / PASS_BYTES / 3600)


def read_oplogs(look: Look, role: Literal["shard", "config"]) -> dict[str, OplogWindow | Seen | None]:
    """Read every member's oplog, side by side: its window, None when it is empty, or a row that says why not."""
    group = [member for member in look.members if member.role == role]
    found = look.ask_each([member.address for member in group if not member.problem], oplog_window)
    return found | {member.address: Seen("unknown", member.problem) for member in group if member.problem}


def judge_oplog(
    address: str, window: OplogWindow | Seen | None, wanted: float, *, rehearsal: bool, proves: bool = True
) -> Seen:
    """Judge how far an oplog reaches back.

    An oplog that has hardly filled is short because it is young, and no measure of what it will hold.

    Args:
        address: the member.
        window: its oplog; a row where it could not be read; None where it is empty.
        wanted: hours that backup, moves and proof may take together.
        rehearsal: whether this is a lab, whose data are soon made anew.
        proves: whether the proof at the end reads it; the config servers' it does not.
    """
    if isinstance(window, Seen):
        remedy = "give the user read on the database local of every shard: the proof needs it"
        return Seen(window.severity, f"the oplog of {address}: {window.finding}", remedy if proves else window.remedy)
    if window is None:
        return Seen("unknown", f"the oplog of {address} is empty", "see whether it is a member of a replica set")
    reach = f"the oplog of {address} reaches back {window.hours:.1f} hours"
    if window.is_young:
        fill = "" if window.fill is None else f", {window.fill:.0%} of it is filled"
        return Seen("ok", f"{reach}, to its beginning{fill}")
    if window.hours >= wanted:
        return Seen("ok", reach)
    severity: Severity = "stop" if proves and window.hours < SHORTEST_HOURS else "warn"
    remedy = "enlarge it with replSetResizeOplog: without it nobody can tell writers' changes from losses"
    if not proves:
        remedy = "enlarge it with replSetResizeOplog: a member that is down for longer needs a new copy"
    seen = f"{reach}, " + (f"this may take {wanted:.0f}" if proves else f"{wanted:.0f} are advised")
    return Seen("note" if rehearsal else severity, seen, remedy)
