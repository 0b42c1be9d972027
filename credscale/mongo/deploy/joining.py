"""Let a member join a replica set that exists, without ever risking its majority."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, WaitTimeout
from credscale.mongo.deploy import replies
from credscale.mongo.deploy.replica_sets import read_config
from credscale.mongo.deploy.replies import address_of, ask, refusal

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

JOINING = {"credscale": "joining"}  # a tag: a member that the owner wants without a vote must not be given one
VOTES = {"votes": 1, "priority": 1}
NO_VOTES = {"votes": 0, "priority": 0}
LAG_SECONDS = 10.0
# 109 ConfigurationInProgress, 308 CurrentConfigNotCommittedYet: the change before this one is still being agreed on
RETRIED_RECONFIG = {109, 308}


def is_joining(config: dict[str, Any], address: str) -> bool:
    """Tell whether a member has joined without a vote and waits for it."""
    return any(each["host"] == address and each.get("tags") == JOINING for each in config.get("members", []))


def with_member(config: dict[str, Any], address: str) -> dict[str, Any]:
    """Return a configuration with one more member that neither votes nor can be elected.

    A voting member in its initial sync would count towards the majority that acknowledges writes.
    """
    number = max(int(member["_id"]) for member in config["members"]) + 1
    new = {"_id": number, "host": address, **NO_VOTES, "tags": JOINING}
    return config | {"version": int(config["version"]) + 1, "members": [*config["members"], new]}


def with_vote(config: dict[str, Any], address: str) -> dict[str, Any]:
    """Return a configuration in which a member that was joining votes and can be elected."""
    members = [each | VOTES | {"tags": {}} if each["host"] == address else each for each in config["members"]]
    return config | {"version": int(config["version"]) + 1, "members": members}


def lag_of(status: dict[str, Any], address: str) -> tuple[str, float]:
    """Return a member's state and how many seconds it is behind the primary.

    Args:
        status: the reply of replSetGetStatus.
        address: ``host:port``.
    """
    members = {str(member["name"]): member for member in status["members"]}
    found = members.get(address)
    if found is None:
        return "UNKNOWN", float("inf")
    newest = [each["optimeDate"] for each in members.values() if each["stateStr"] == "PRIMARY"]
    if not newest or "optimeDate" not in found:
        return str(found["stateStr"]), 0.0 if found["stateStr"] == "ARBITER" else float("inf")
    return str(found["stateStr"]), max(0.0, (newest[0] - found["optimeDate"]).total_seconds())


def join(ctx: Context, primary: Client, name: str, address: str, *, timeout: float) -> None:
    """Add a member, wait for its initial sync however long that takes, then give it its vote.

    Args:
        ctx: the run, for progress.
        primary: a connection to the primary.
        name: the replica set.
        address: ``host:port`` of the member, which runs and holds nothing.
        timeout: seconds in which its state or its lag has to change.

    Raises:
        PreconditionFailed: the server refuses the configuration.
        WaitTimeout: the sync stands still; the member stays without a vote, and another run goes on from there.
    """
    config = _config(primary, name)
    if all(member["host"] != address for member in config["members"]):
        reconfigure(primary, with_member(config, address), timeout=timeout)
    wait_synced(ctx, primary, address, timeout=timeout)
    reconfigure(primary, with_vote(_config(primary, name), address), timeout=timeout)


def _config(client: Client, name: str) -> dict[str, Any]:
    config = read_config(client)
    if config is None or "version" not in config:
        raise PreconditionFailed(
            f"the configuration of {name} cannot be read on {address_of(client)}. Nothing was changed"
        )
    return config


def reconfigure(primary: Client, config: dict[str, Any], *, timeout: float) -> None:
    """Install a configuration; one that is there already, because a reply was lost, is enough.

    Raises:
        PreconditionFailed: the server refuses it.
        WaitTimeout: it never took it.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = ask(primary, "replSetReconfig", config)
        if answer.code is None:
            return
        present = read_config(primary) if answer.transient else None
        if present is not None and present.get("version") == config["version"]:
            return
        if answer.code not in RETRIED_RECONFIG and not answer.transient:
            raise refusal(f"replSetReconfig of {config['_id']} on {address_of(primary)}", answer)
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"waited {timeout:.0f} s for replSetReconfig of {config['_id']}. Seen last: {answer.text}"
            )
        time.sleep(replies.POLL_SECONDS)


def wait_synced(ctx: Context, client: Client, address: str, *, timeout: float) -> None:
    """Wait until a member is SECONDARY and has caught up.

    Raises:
        WaitTimeout: nothing has changed about it for ``timeout`` seconds.
    """
    seen, since = ("", -1.0), time.monotonic()
    while True:
        status = ask(client, "replSetGetStatus")
        if status.code is None:
            state, lag = lag_of(status.reply, address)
            if state in ("SECONDARY", "PRIMARY", "ARBITER") and lag <= LAG_SECONDS:
                return
            ctx.progress(0, 0, "s", what=f"{address} catches up", seen=f"{state}, {lag:.0f} s behind")
            # an initial sync shows nothing but its state, for hours where there is much to copy
            if state == "STARTUP2" or ((state, lag) != seen and state != "(not reachable/healthy)"):
                seen, since = (state, lag), time.monotonic()
        if time.monotonic() - since > timeout:
            raise WaitTimeout(
                f"{address} does not catch up: {seen[0] or status.text}, nothing has changed for {timeout:.0f} s. "
                "What was done stays; look at its log, then run again"
            )
        time.sleep(replies.POLL_SECONDS)
