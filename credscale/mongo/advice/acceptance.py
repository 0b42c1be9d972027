"""The explicit word of a person before a collection gets a key under which its main query goes to every shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.errors import Refused
from credscale.core.step import Finding, probe
from credscale.mongo.advice.targeting import broadcasts, main_query_verdict
from credscale.mongo.cluster import facts

if TYPE_CHECKING:
    from credscale.core.context import Context


@probe()
def shard_key_accepted(
    ctx: Context, *, shard_key: str, main_query: str, accept_scatter_gather: bool = False
) -> Finding:
    """Judge the shard key by the main query, and refuse one that sends it to every shard unless that was accepted.

    Before 8.0 there is no way back from a shard key but a restore, and from 5.0 on reshardCollection, so this is asked
    before anything else (reference §6). A lab goes on without the word: its data are made up.

    Args:
        shard_key: such as ``createdAt:hashed,userId:1``.
        main_query: the fields of the query that matters most, such as ``userId``, or ``userId,createdAt>`` with a range
            of createdAt; empty judges nothing.
        accept_scatter_gather: whether a person takes the responsibility.
    """
    key = facts.parse_key(shard_key)
    if not main_query.strip():
        return Finding("no main query was stated, so the shard key is not judged by one", {"verdict": "not judged"})
    verdict, everywhere = main_query_verdict(key, main_query), broadcasts(key, main_query)
    output = {"verdict": verdict, "broadcast": everywhere, "accepted": accept_scatter_gather}
    if not everywhere:
        return Finding(verdict, output)
    if accept_scatter_gather:
        ctx.note(f"accepted by the operator with --accept-scatter-gather: {verdict}")
        return Finding(f"accepted by the operator: {verdict}", output)
    if ctx.environment.lab is not None:
        return Finding(f"{verdict}. A lab goes on; elsewhere --accept-scatter-gather would be needed", output)
    raise Refused(
        f"{verdict}. Nothing was changed. Take a better key (invoke mongo.advise-shard-key --env "
        f"{ctx.environment.name} compares them), correct --main-query if that is not your main query, or take the "
        "responsibility with --accept-scatter-gather"
    )
