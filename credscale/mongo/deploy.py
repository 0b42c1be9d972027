"""From running processes to a sharded cluster: initiate replica sets, await their primaries, add them as shards.

Every function looks before it acts, so that running it again is the resume, and every refusal of the server that
another attempt may heal is retried until the deadline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, CredscaleError, PreconditionFailed, WaitTimeout
from credscale.mongo.commands import RETRYABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymongo import MongoClient

    Client = MongoClient[dict[str, Any]]

POLL_SECONDS = 0.2
SETTLED_STATES = {"PRIMARY", "SECONDARY", "ARBITER"}

ALREADY_INITIALIZED, NODE_NOT_FOUND, NOT_YET_INITIALIZED, UNKNOWN_COMMAND = 23, 74, 94, 59
# 74: not every member answers yet. 23: somebody else was faster, so the next round compares what they initiated
RETRIED_INITIATE = {NODE_NOT_FOUND, ALREADY_INITIALIZED}
UNREACHABLE = -1  # our own: no reply came, so the command may or may not have taken effect
TRANSIENT = RETRYABLE | {UNREACHABLE}
# The same reasons, wrapped by addShard into code 96
TRANSIENT_TEXTS = (
    "is the replica set still initializing", "does not have a master", "HostUnreachable", "HostNotFound",
    "NetworkTimeout", "NetworkInterfaceExceededTimeLimit",
)  # fmt: skip

# What to do about a refusal: a fragment of the server's text, or its code, and the advice.
ADVICE: tuple[tuple[str | int, str], ...] = (
    (76, "Start the member with --replSet"),
    ("must have configsvr:true", "The member runs with --configsvr: declare it under config_servers, not as a shard"),
    ("must be started with the --configsvr flag", "Start every config server with --configsvr"),
    ("command line reports", "Start every member with --replSet and the name of this replica set"),
    (93, "Correct the replica set's name and members in the environment file"),
    ("localhost", "Use localhost or 127.0.0.1 for every member of the cluster, or for none"),
    ("local database", "Two replica sets hold a database of one name: rename or move one of them, then add the shard"),
    ("does not match the actual set name", "Correct the replica set's name in the environment file"),
    ("does not belong to replica set", "Name the members as the replica set's own configuration names them"),
    ("since it is a config server", "A config server cannot be a shard: correct the environment file"),
    ("add a mongos", "A router cannot be a shard: correct the environment file"),
    ("implicit default write concern", "Run setDefaultRWConcern on the mongos first, then add the shard"),
    ("cluster-wide write concern", "Set the same default write concern on the mongos as on the shard"),
    ("Authentication failed", "Give every process of the cluster the same key file"),
    (13, "The user needs the role clusterManager"),
    (50876, "Restart the shard's members with --shardsvr"),
    (188, "Bring binaries and featureCompatibilityVersion of shard and cluster to one version"),
    (20, "Compare config.shards with the environment file"),
)


@dataclass(frozen=True)
class Answer:
    """What a server said to a command.

    Args:
        reply: the reply; empty when it refused.
        code: the error's code; None on success, ``UNREACHABLE`` when no reply came.
        text: the error's text, without driver additions.
    """

    reply: dict[str, Any]
    code: int | None = None
    text: str = ""

    @property
    def transient(self) -> bool:
        """Tell whether another attempt may succeed."""
        return self.code in TRANSIENT or any(fragment in self.text for fragment in TRANSIENT_TEXTS)


def ask(client: Client, name: str, value: Any = 1, /, **fields: Any) -> Answer:
    """Run an admin command and return its answer, refusals included."""
    from pymongo.errors import ConnectionFailure, NotPrimaryError, OperationFailure

    try:
        return Answer(dict(client.admin.command({name: value, **fields})))
    except (OperationFailure, NotPrimaryError) as error:
        details = error.details if isinstance(error.details, dict) else {}
        return Answer({}, int(details.get("code", 0)), str(details.get("errmsg", error)))
    except ConnectionFailure as error:
        return Answer({}, UNREACHABLE, str(error).split(", Timeout")[0])


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
    if answer.code == NOT_YET_INITIALIZED:
        return None
    raise _refusal(f"replSetGetConfig on {address_of(client)}", answer)


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
        time.sleep(POLL_SECONDS)


def _initiate(client: Client, wanted: dict[str, Any]) -> bool:
    """Initiate once; a ConnectFailed means that another attempt may succeed."""
    answer = ask(client, "replSetInitiate", wanted)
    if answer.code is None:
        return True
    problem = _refusal(f"replSetInitiate of {wanted['_id']} on {address_of(client)}", answer)
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
        time.sleep(POLL_SECONDS)


def _primary_now(client: Client, name: str) -> tuple[str | None, str]:
    """Return the primary once all is settled, and what is seen now."""
    greeting = ask(client, "hello")
    if greeting.code == UNKNOWN_COMMAND:
        greeting = ask(client, "isMaster")  # servers before 4.4.2
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
        raise _refusal(f"listShards on {address_of(mongos)}", answer)
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
                raise _refusal(f"addShard {replica_set} on {address_of(mongos)}", answer)
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
        time.sleep(POLL_SECONDS)


def _or_note(read: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]] | str:
    try:
        return read()
    except ConnectFailed as error:
        return str(error)


def _refusal(what: str, answer: Answer) -> CredscaleError:
    """Return the error for an answer that no further attempt heals, with the advice that fits it."""
    if answer.transient:
        return ConnectFailed(f"{what}: {answer.text}")
    fitting = (tip for sign, tip in ADVICE if (sign in answer.text if isinstance(sign, str) else sign == answer.code))
    advice = next(fitting, "")
    return PreconditionFailed(f"{what} was refused with code {answer.code}: {answer.text}. {advice}".rstrip())


def address_of(client: Client) -> str:
    """Return ``host:port`` of a direct connection."""
    # client.address would wait for a server that may be down; the description knows its target from the start
    host, port = next(iter(client.topology_description.server_descriptions()))
    return f"{host}:{port}"
