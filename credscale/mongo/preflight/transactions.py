"""Transactions: those that a migration can lose on some versions, and how the applications use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.commands import run
from credscale.mongo.cluster.facts import version_numbers
from credscale.mongo.cluster.known_bugs import bugs_of
from credscale.mongo.cluster.members import MEMBER_DEADLINE
from credscale.mongo.preflight.check import Seen, check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from credscale.mongo.preflight.look import Look
    from credscale.mongo.preflight.members_asked import Replies

LONG_TRANSACTION_SECONDS = 60.0
PREPARED_BUG = "SERVER-71219"


@check(
    20,
    "prepared-transactions",
    command="serverStatus.transactions.currentPrepared of every shard's members",
    reason="Up to 4.4.18, 5.0.14 and 6.0.4 a migration can lose what a prepared transaction writes (SERVER-71219).",
)
def prepared_transactions(look: Look) -> Iterator[Seen]:
    """Look for prepared transactions on versions that lose them."""
    replies = look.replies("server_status", "shard")
    versions = [version_numbers(str(each["version"])) for each in look.replies("build", "shard").found.values()]
    yield from judge_prepared(_transactions(replies), min([*versions, look.server.numbers]))
    yield from replies.unseen()


def _transactions(replies: Replies) -> dict[str, Mapping[str, Any] | None]:
    """Return serverStatus.transactions by the shard members that answered; None where it is not told."""
    return {address: reply.get("transactions") for address, reply in replies.found.items()}


def judge_prepared(found: Mapping[str, Mapping[str, Any] | None], version: tuple[int, ...]) -> list[Seen]:
    """Judge the prepared transactions.

    Args:
        found: serverStatus.transactions by member; None where it is not told.
        version: of the oldest server: that one loses them.
    """
    affected = any(bug.ticket == PREPARED_BUG for bug in bugs_of(version))
    rows = []
    for address, transactions in sorted(found.items()):
        count = int((transactions or {}).get("currentPrepared", 0))
        if count:
            remedy = (
                "wait until no transaction runs, or upgrade first: the check versions says to what" if affected else ""
            )
            rows.append(Seen("stop" if affected else "note", f"{address} has {count} prepared transactions", remedy))
    return [*rows, *_untold(found)] or [Seen("ok", f"no transaction is prepared on {len(found)} members")]


def _untold(found: Mapping[str, Mapping[str, Any] | None]) -> list[Seen]:
    """Return one row for the members that tell no transactions; none when all do, one when nobody was asked."""
    silent = sorted(address for address, transactions in found.items() if transactions is None)
    if found and not silent:
        return []
    text = f"no transactions in serverStatus of {', '.join(silent)}" if silent else "no member of a shard answered"
    return [Seen("unknown", text, "give the user serverStatus on every member (role clusterMonitor)")]


@check(
    40,
    "transactions",
    command="serverStatus.transactions of the members, transactionLifetimeLimitSeconds",
    reason="Transactions longer than a minute hold up migrations, and those across shards cost two phases.",
    real_only=True,
)
def transactions(look: Look) -> Iterator[Seen]:
    """Look whether the applications use transactions, and how long the servers let them live."""
    replies = look.replies("server_status", "shard")
    yield from judge_transactions(_transactions(replies), _lifetime(look))
    yield from replies.unseen()


def _lifetime(look: Look) -> int | None:
    from pymongo.errors import PyMongoError

    question = {"getParameter": 1, "transactionLifetimeLimitSeconds": 1}
    try:
        reply = run(look.on_primary(look.home), "admin", question, deadline=MEMBER_DEADLINE)
    except PyMongoError:  # then the row says that the limit is not told
        return None
    return int(reply["transactionLifetimeLimitSeconds"]) if "transactionLifetimeLimitSeconds" in reply else None


def judge_transactions(found: Mapping[str, Mapping[str, Any] | None], limit: int | None) -> list[Seen]:
    """Judge the use of transactions.

    Args:
        found: serverStatus.transactions by member; None where it is not told.
        limit: seconds that the primary shard lets a transaction live; None where it is not told.
    """
    rows = []
    told: Sequence[Mapping[str, Any]] = [each for each in found.values() if each is not None]
    started = max((int(each.get("totalStarted", 0)) for each in told), default=0)
    if limit is not None and limit > LONG_TRANSACTION_SECONDS:
        remedy = "set transactionLifetimeLimitSeconds to 60 for the time of the migration: setParameter on every member"
        rows.append(Seen("warn", f"transactions may live for {limit} s", remedy))
    if started:
        open_now = sum(int(each.get("currentOpen", 0)) for each in told)
        most = f"they may live for {limit} s" if limit is not None else "how long they may live is not told"
        rows.append(
            Seen(
                "note",
                f"up to {started} transactions since a member's start, {open_now} open now; {most}",
                "see that none changes shard-key values or creates collections during the migration",
            )
        )
    return [*rows, *_untold(found)] or [Seen("ok", f"no transaction was ever started on {len(found)} members")]
