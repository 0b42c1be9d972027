"""The balancer's switch and settings: how they are set, and when they have taken effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import WaitTimeout
from credscale.mongo.chunks.distribution import active_migrations
from credscale.mongo.cluster.commands import MAX_TIME_EXPIRED, config_collection, retrying, run
from credscale.mongo.cluster.failures import explain_failure
from credscale.mongo.cluster.settings import balancer_settings

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

SWITCH_MILLISECONDS = 60_000  # as mongosh does
ROUND_SECONDS = 1800.0  # a round ends with its migration, which may carry a chunk of 1 GB


def switch(client: Client, command: str) -> None:
    """Run balancerStop or balancerStart; a timeout means that the setting is kept and the round goes on (§1.4)."""
    from pymongo.errors import OperationFailure

    try:
        run(client, "admin", {command: 1, "maxTimeMS": SWITCH_MILLISECONDS})
    except OperationFailure as error:
        if error.code != MAX_TIME_EXPIRED:
            raise


def set_mode(client: Client, mode: str) -> None:
    """Switch the balancer to full, off or autoSplitOnly."""
    if mode == "full":
        switch(client, "balancerStart")
    elif mode == "off":
        switch(client, "balancerStop")
    else:  # autoSplitOnly has no command; the server itself writes it so (S44)
        set_fields(client, "balancer", {"mode": mode, "stopped": False})


def set_fields(client: Client, document: str, values: dict[str, Any]) -> None:
    """Set fields of a document of config.settings with majority; its other fields stay."""
    settings = config_collection(client, "settings")
    retrying(lambda: settings.update_one({"_id": document}, {"$set": values}, upsert=True))


def await_off(ctx: Context, client: Client) -> None:
    """Wait for the end of the round; it lasts as long as its migration, and while a shard is down (measured)."""
    try:
        ctx.wait_until("the balancer is off and in no round", lambda: is_off(client), ROUND_SECONDS)
    except WaitTimeout as timeout:
        raise WaitTimeout(
            f"{timeout}. The balancer is told to stop and starts no further round. A round that does not end waits for "
            "the migration named, or for a shard without a primary: check rs.status() of every shard, then run the "
            "same command again"
        ) from timeout


def is_off(client: Client) -> tuple[bool, str]:
    """Tell whether the balancer is off and in no round, and what is seen."""
    settings = balancer_settings(client)
    if not settings.in_round:
        return settings.is_off, f"mode {settings.mode}"
    return False, f"mode {settings.mode}, in a round{_moves(client)}"


def _moves(client: Client) -> str:
    """Return what a round moves, in words; they are a courtesy, so where it can't be read the waiting goes on."""
    from pymongo.errors import PyMongoError

    try:
        moves = ", ".join(f"{namespace} {move}" for namespace, move in active_migrations(client).items())
    except PyMongoError as error:
        return f"; what it moves can't be read ({explain_failure(error).code_name})"
    return f" that moves {moves}" if moves else ""


def is_on(client: Client) -> tuple[bool, str]:
    """Tell whether the balancer is on with settings that the server can read, and what is seen."""
    settings = balancer_settings(client)
    found = f"mode {settings.mode}" + "".join(f"; {problem}" for problem in settings.problems)
    return settings.mode == "full" and not settings.problems, found


def seen(found: object, wanted: object) -> tuple[bool, str]:
    """Tell whether what is found is what is wanted, for ``ctx.wait_until``."""
    return found == wanted, str(found)
