"""Shards: refuse those of another cluster, add the others and see that the cluster lists them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed, WaitTimeout
from credscale.mongo.deploy import replies
from credscale.mongo.deploy.replies import UNREACHABLE, address_of, ask, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from credscale.mongo.cluster.commands import Client


def refuse_foreign_shard(client: Client, mongos: Client, replica_set: str) -> None:
    """Refuse a replica set that was a shard of another cluster.

    Args:
        client: a connection to the replica set's primary.
        mongos: a connection to the cluster that is to take it.
        replica_set: its name, for the message.

    Raises:
        PreconditionFailed: its identity names another cluster.
    """
    identity = client["admin"]["system.version"].find_one({"_id": "shardIdentity"})
    version = mongos["config"]["version"].find_one({"_id": 1})
    if identity is None or version is None or identity.get("clusterId") == version.get("clusterId"):
        return
    raise PreconditionFailed(
        f"{replica_set} was a shard of another cluster: its shardIdentity names cluster {identity.get('clusterId')}, "
        f"this one is {version.get('clusterId')}. Nothing was changed. Give this cluster a replica set of its own"
    )


def list_shards(mongos: Client) -> list[dict[str, Any]]:
    """Return the shards that the cluster knows.

    Raises:
        ConnectFailed: the mongos does not answer.
        PreconditionFailed: it does not let us look.
    """
    answer = ask(mongos, "listShards")
    if answer.code is not None:
        raise refusal(f"listShards on {address_of(mongos)}", answer)
    return list(answer.reply["shards"])


def shard_is_there(shards: Sequence[dict[str, Any]], replica_set: str, members: Sequence[str]) -> bool:
    """Tell whether a replica set is already a working shard.

    One common member is enough: the cluster learns the others from the replica set itself.

    Args:
        shards: what ``list_shards`` gave.
        replica_set: the name of the replica set, which is also the name of the shard.
        members: ``host:port`` of its members.

    Raises:
        PreconditionFailed: the name or a member is taken otherwise, or the shard is being removed.
    """
    for shard in shards:
        known = str(shard["host"]).partition("/")[2].split(",")
        common = set(known) & set(members)
        named = shard["_id"] == replica_set or str(shard["host"]).startswith(f"{replica_set}/")
        if common and not named:
            raise PreconditionFailed(
                f"{', '.join(sorted(common))} already belong to the shard {shard['_id']} ({shard['host']}), "
                f"expected {replica_set}. Nothing was changed. Compare config.shards with the environment file"
            )
        if named and not common:
            raise PreconditionFailed(
                f"the cluster already has a shard {shard['_id']} with other members: {shard['host']}; expected "
                f"{', '.join(members)}. Nothing was changed. Compare config.shards with the environment file"
            )
        if named and shard.get("draining"):
            raise PreconditionFailed(
                f"the shard {shard['_id']} is being removed (draining). Nothing was changed. Let removeShard end first"
            )
        if named:
            return int(shard.get("state", 0)) == 1
    return False


def add_shard(mongos: Client, replica_set: str, members: Sequence[str], *, timeout: float) -> bool:
    """Add a replica set to the cluster unless it is a shard already, and see that the cluster lists it.

    Args:
        mongos: a connection to one router.
        replica_set: the name of the replica set; the shard gets the same.
        members: ``host:port`` of its members.
        timeout: seconds; a single attempt may take 20 while the set has no primary.

    Returns:
        True when it was added now, False when it already was a shard.

    Raises:
        PreconditionFailed: the cluster refuses it, or knows the name or a member otherwise.
        WaitTimeout: it is not listed at the deadline.
    """
    deadline = time.monotonic() + timeout
    added, seen = False, "nothing"
    while True:
        shards = _or_note(lambda: list_shards(mongos))
        if isinstance(shards, str):
            seen = shards
        elif shard_is_there(shards, replica_set, members):
            return added
        else:
            answer = ask(mongos, "addShard", f"{replica_set}/{','.join(members)}", name=replica_set)
            if answer.code is not None and not answer.transient:
                raise refusal(f"addShard {replica_set} on {address_of(mongos)}", answer)
            if answer.code is None and not added:
                added, seen = True, "addShard answered ok, but listShards does not show the shard with state 1"
                continue
            added = added or answer.code == UNREACHABLE  # a lost reply may belong to an attempt that worked
            seen = answer.text or seen
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"waited {timeout:.0f} s for {replica_set} ({', '.join(members)}) to become a shard, asking "
                f"{address_of(mongos)}. Seen last: {seen}. Check that the set's name is right and that it has a primary"
            )
        time.sleep(replies.POLL_SECONDS)


def _or_note(read: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]] | str:
    try:
        return read()
    except ConnectFailed as error:
        return str(error)
