"""Replica sets: initiate them, await their primaries.

Every function looks before it acts, so that running it again is the resume, and every refusal of the server that
another attempt may heal is retried until the deadline.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed, WaitTimeout
from credscale.mongo.deploy import replies
from credscale.mongo.deploy.replies import (
    ALREADY_INITIALIZED,
    NODE_NOT_FOUND,
    NOT_YET_INITIALIZED,
    UNAUTHORIZED,
    address_of,
    ask,
    greet,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.mongo.cluster.commands import Client

SETTLED_STATES = {"PRIMARY", "SECONDARY", "ARBITER"}
# 74: not every member answers yet. 23: somebody else was faster, so the next round compares what they initiated
RETRIED_INITIATE = {NODE_NOT_FOUND, ALREADY_INITIALIZED}


def read_config(client: Client) -> dict[str, Any] | None:
    """Return the replica set configuration of a member, or None when it was never initiated.

    Args:
        client: a direct connection to the member.

    Raises:
        ConnectFailed: the member does not answer.
        PreconditionFailed: it is no member of a replica set, or does not let us look.
    """
    answer = ask(client, "replSetGetConfig")
    if answer.code is None:
        return dict(answer.reply["config"])
    if answer.code == UNAUTHORIZED:
        return _config_without_login(client)
    if answer.code == NOT_YET_INITIALIZED:
        return None
    raise refusal(f"replSetGetConfig on {address_of(client)}", answer)


def _config_without_login(client: Client) -> dict[str, Any] | None:
    """Gather as much of a configuration as ``differences`` needs from what the localhost exception lets us read.

    It allows replSetGetStatus, but not replSetGetConfig; hello is open to everybody (§2.5).
    """
    answer = ask(client, "replSetGetStatus")
    if answer.code == NOT_YET_INITIALIZED:
        return None
    if answer.code is not None:
        raise refusal(f"replSetGetStatus on {address_of(client)}", answer)
    greeting = greet(client)
    if greeting.code is not None:
        raise refusal(f"hello on {address_of(client)}", greeting)
    members = [{"host": member["name"]} for member in answer.reply["members"]]
    return {"_id": answer.reply["set"], "configsvr": "configsvr" in greeting.reply, "members": members}


def wanted_config(name: str, members: Sequence[str], *, config_server: bool) -> dict[str, Any]:
    """Return the configuration with which a new replica set is initiated."""
    kind = {"configsvr": True} if config_server else {}
    return {"_id": name, **kind, "members": [{"_id": n, "host": host} for n, host in enumerate(members)]}


def differences(config: dict[str, Any], name: str, members: Sequence[str], *, config_server: bool) -> list[str]:
    """Compare a replica set's configuration with what is wanted; empty when it fits.

    Priorities, tags and the order of members are the owner's business and not compared.
    """
    found = [
        ("name", config.get("_id"), name),
        ("members", sorted(member["host"] for member in config.get("members", [])), sorted(members)),
        ("config servers", bool(config.get("configsvr", False)), config_server),
    ]
    return [f"{what}: expected {wanted!r}, found {seen!r}" for what, seen, wanted in found if seen != wanted]


def initiate_replica_set(
    client: Client, name: str, members: Sequence[str], *, config_server: bool, timeout: float
) -> bool:
    """Initiate a replica set unless it is already initiated as wanted.

    Args:
        client: a direct connection to one of the members, which all have to run.
        name: the replica set's name, as its members were started with.
        members: ``host:port`` of each, as every other process of the cluster reaches them.
        config_server: whether these are the cluster's config servers.
        timeout: seconds in which all members have to answer.

    Returns:
        True when it was initiated now, False when it already was.

    Raises:
        PreconditionFailed: it is initiated otherwise, or the server refuses this configuration.
        ConnectFailed: not all members answered in time.
    """
    deadline = time.monotonic() + timeout
    wanted = wanted_config(name, members, config_server=config_server)
    while True:
        try:
            config = read_config(client)
            if config is not None:
                return _accept_config(client, config, name, members, config_server)
            return _initiate(client, wanted)
        except ConnectFailed as error:
            if time.monotonic() >= deadline:
                raise ConnectFailed(
                    f"replica set {name}: not all of {', '.join(members)} answered within {timeout:.0f} s. Seen last: "
                    f"{error}. Check that each runs with --replSet {name} and is reachable from the others"
                ) from None
        time.sleep(replies.POLL_SECONDS)


def _initiate(client: Client, wanted: dict[str, Any]) -> bool:
    """Initiate once; a ConnectFailed means that another attempt may succeed."""
    answer = ask(client, "replSetInitiate", wanted)
    if answer.code is None:
        return True
    problem = refusal(f"replSetInitiate of {wanted['_id']} on {address_of(client)}", answer)
    if answer.code in RETRIED_INITIATE:
        raise ConnectFailed(str(problem))
    raise problem


def _accept_config(
    client: Client, config: dict[str, Any], name: str, members: Sequence[str], config_server: bool
) -> bool:
    wrong = differences(config, name, members, config_server=config_server)
    if wrong:
        raise PreconditionFailed(
            f"{address_of(client)} is already in a replica set that is not the wanted one: {'; '.join(wrong)}. "
            "Nothing was changed. Correct the environment file, or reconfigure the replica set"
        )
    return False


def wait_primary(client: Client, name: str, *, timeout: float) -> str:
    """Wait until a replica set has a primary and every member is in a settled state.

    Args:
        client: a direct connection to one of its members.
        name: the replica set's name.
        timeout: seconds; an election takes up to 12.

    Returns:
        ``host:port`` of the primary.

    Raises:
        PreconditionFailed: the member belongs to another replica set.
        WaitTimeout: no primary, or a member still starting, at the deadline.
    """
    deadline = time.monotonic() + timeout
    while True:
        primary, seen = _primary_now(client, name)
        if primary is not None:
            return primary
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"waited {timeout:.0f} s for a primary of {name} and for all its members to settle, "
                f"asking {address_of(client)}. Seen last: {seen}. Look at rs.status() and the members' logs"
            )
        time.sleep(replies.POLL_SECONDS)


def _primary_now(client: Client, name: str) -> tuple[str | None, str]:
    """Return the primary once all is settled, and what is seen now."""
    greeting = greet(client)
    if greeting.code is not None:
        return None, greeting.text
    actual = greeting.reply.get("setName")
    if actual is not None and actual != name:
        raise PreconditionFailed(
            f"{address_of(client)} belongs to the replica set {actual!r}, expected {name!r}. "
            "Correct the environment file"
        )
    primary = greeting.reply.get("primary")
    if primary is None:
        return None, f"{address_of(client)} knows no primary"
    status = ask(client, "replSetGetStatus")
    if status.code is not None:
        return None, status.text
    states = {member["name"]: member["stateStr"] for member in status.reply["members"]}
    starting = {host: state for host, state in states.items() if state not in SETTLED_STATES}
    if starting or "PRIMARY" not in states.values():
        return None, ", ".join(f"{host} is {state}" for host, state in states.items())
    return str(primary), f"{primary} is primary"
