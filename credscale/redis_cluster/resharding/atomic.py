"""Slots moved by the servers themselves, all at once: CLUSTER MIGRATESLOTS of Valkey 9.

The target copies the slots like a replica and takes them over in one moment, so there are no open slots, no redirected
clients and nothing to repair; a move that breaks leaves everything as it was. The target logs in by ``primaryauth``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import VerificationFailed, WaitTimeout

if TYPE_CHECKING:
    from credscale.redis_cluster.cluster.facts import Server
    from credscale.redis_cluster.cluster.slots import Ranges
    from credscale.redis_cluster.resharding.routes import End

SINCE = 9
ENDED = frozenset({"success", "failed", "cancelled"})
POLL_SECONDS = 0.05


def is_atomic(server: Server) -> bool:
    """Tell whether a server moves slots by itself."""
    major = server.version.partition(".")[0]
    return server.kind == "valkey" and major.isdecimal() and int(major) >= SINCE


def jobs(end: End) -> dict[str, dict[str, Any]]:
    """Return a node's slot migrations, running and past, by their names."""
    client: Any = end.client
    reply = client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
    found = [each if isinstance(each, dict) else dict(zip(each[::2], each[1::2], strict=True)) for each in reply]
    return {str(job["name"]): job for job in found}


def running(end: End) -> tuple[str, ...]:
    """Return the names of a node's migrations that have not ended."""
    return tuple(name for name, job in jobs(end).items() if job["state"] not in ENDED)


def move_atomically(source: End, target: End, slots: Ranges, timeout: float) -> None:
    """Move slots and wait for the end.

    Args:
        source: who owns them.
        target: who shall own them.
        slots: any number.
        timeout: seconds without progress after which waiting ends.

    Raises:
        VerificationFailed: it ended otherwise than well; the source still owns the slots.
        WaitTimeout: it goes on in the servers, without visible progress.
    """
    client: Any = source.client
    before = jobs(source)
    bounds = [bound for pair in slots for bound in pair]
    client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *bounds, "NODE", target.id)
    seen, deadline = "", time.monotonic() + timeout
    while True:
        ours = [job for name, job in jobs(source).items() if name not in before]
        state = " ".join(f"{job['state']} {job['message']}".strip() for job in ours) or "not listed"
        if ours and all(job["state"] == "success" for job in ours):
            return
        if ours and all(job["state"] in ENDED for job in ours):
            raise VerificationFailed(
                f"the servers did not move the slots from {source.name} to {target.name}: {state}. They stay where "
                f"they were. Look at both logs and at primaryauth of {source.name}, then run it again"
            )
        now = f"{state} {[job['remaining_repl_size'] for job in ours]}"
        if now != seen:
            seen, deadline = now, time.monotonic() + timeout
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"the move of slots from {source.name} to {target.name} has stood still for {timeout:.0f} s ({state}); "
                "it goes on in the servers. Run it again, which waits for it, or end it: CLUSTER CANCELSLOTMIGRATIONS"
            )
        time.sleep(POLL_SECONDS)
