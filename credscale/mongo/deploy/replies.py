"""What a server says to a command, refusals included, and what to do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, CredscaleError, PreconditionFailed
from credscale.mongo.cluster.commands import RETRYABLE

if TYPE_CHECKING:
    from credscale.mongo.cluster.commands import Client

POLL_SECONDS = 0.2
ALREADY_INITIALIZED, NODE_NOT_FOUND, NOT_YET_INITIALIZED, UNKNOWN_COMMAND = 23, 74, 94, 59
UNAUTHORIZED, LOGIN_FAILED = 13, 18
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
    (110, "Members that hold data cannot be initiated together: only one may hold any, and the others join it empty"),
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
    (18, "The administrator of mongo.deploy.admin is unknown there, or has another password"),
    (
        13,
        "The user needs the role clusterManager. Where nobody is logged in, check that mongo.deploy.admin exists there",
    ),
    (50876, "Restart the shard's members with --shardsvr: mongo-deploy does so with --convert and the set's name"),
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


def greet(client: Client) -> Answer:
    """Ask a server who it is; needs no login. Before 4.4.2 the command has another name."""
    greeting = ask(client, "hello")
    return ask(client, "isMaster") if greeting.code == UNKNOWN_COMMAND else greeting


def refusal(what: str, answer: Answer) -> CredscaleError:
    """Return the error for an answer that no further attempt heals, with the advice that fits it."""
    if answer.transient:
        return ConnectFailed(f"{what}: {answer.text}")
    fitting = (tip for sign, tip in ADVICE if (sign in answer.text if isinstance(sign, str) else sign == answer.code))
    advice = next(fitting, "")
    return PreconditionFailed(f"{what} was refused with code {answer.code}: {answer.text}. {advice}".rstrip())


def address_of(client: Client) -> str:
    """Return ``host:port`` of a direct connection, or the socket that leads to it."""
    # client.address would wait for a server that may be down; the description knows its target from the start
    host, port = next(iter(client.topology_description.server_descriptions()))
    return f"{host}:{port}" if port is not None else str(host)
