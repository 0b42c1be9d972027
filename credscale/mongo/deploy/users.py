"""The first user of a replica set or of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.mongo.deploy.replies import UNAUTHORIZED, ask, greet, refusal

if TYPE_CHECKING:
    from credscale.mongo.cluster.commands import Client

DIRECT_OPERATIONS_WIRE = 25  # 8.0, since when a shard's own users need a role for more than maintenance (§1)
USER_EXISTS = 51003


def roles_of(max_wire_version: int, *, on_shard: bool) -> list[str]:
    """Return the roles of an administrator.

    Args:
        max_wire_version: what ``hello`` says of the server.
        on_shard: whether it is a shard's own user rather than the cluster's.
    """
    direct = on_shard and max_wire_version >= DIRECT_OPERATIONS_WIRE
    return ["root", "directShardOperations"] if direct else ["root"]


def create_first_user(client: Client, user: str, password: str, *, on_shard: bool, where: str) -> None:
    """Create the administrator through the localhost exception.

    It holds for a loopback connection without a login while nobody exists, and allows little else (§2.5).

    Args:
        client: a connection over the loopback, not logged in, to the primary or to a router.
        user: name.
        password: goes into the command and nowhere else.
        on_shard: whether it is a shard's own user; the cluster's live on the config servers.
        where: replica set or cluster, for messages.

    Raises:
        PreconditionFailed: somebody exists already, so the exception is over, or the server refuses.
        ConnectFailed: no reply came; the user may or may not exist.
    """
    greeting = greet(client)
    roles = roles_of(int(greeting.reply.get("maxWireVersion", 0)), on_shard=on_shard)
    concern: dict[str, Any] = {"w": "majority", "wtimeout": 60_000}
    answer = ask(client, "createUser", user, pwd=password, roles=roles, writeConcern=concern)
    if answer.code is None:
        return
    if answer.code in (UNAUTHORIZED, USER_EXISTS):
        raise PreconditionFailed(
            f"{where} has users already, but {user} with the password of mongo.deploy.admin is not one of them, so the "
            "localhost exception is over. Nothing was changed there. Correct mongo.deploy.admin, or create that user "
            "with the role root as one of those who exist"
        )
    if answer.transient:
        raise ConnectFailed(f"createUser of {user} on {where}: {answer.text}")
    raise refusal(f"createUser of {user} on {where}", answer)
