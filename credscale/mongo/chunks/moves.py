"""Migrations as config.changelog tells of them: how quick they are, how they end, and why they fail.

The collection is capped at 200 MB and has no index but its natural order, so it is read from its end (§3.3, §3.4).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.commands import config_collection, retrying

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from credscale.mongo.cluster.commands import Client

COMMIT, DONOR, RECIPIENT, ERROR = "moveChunk.commit", "moveChunk.from", "moveChunk.to", "moveChunk.error"
MOVE_EVENTS = (COMMIT, DONOR, RECIPIENT, ERROR)
KEPT_EVENTS = 400  # of the newest hundred migrations
MOST_READ = 5000
PAGE = 50
LEFT_OUT = {"details.min": 0, "details.max": 0}


@dataclass(frozen=True)
class MoveEvent:
    """A line of config.changelog about a migration; ``seconds`` is how long its steps took."""

    time: datetime
    what: str
    donor: str
    recipient: str
    outcome: str
    error: str
    documents: int = 0
    bytes: int = 0
    seconds: float = field(default=0.0)


def parse_moves(documents: Iterable[Mapping[str, Any]]) -> tuple[MoveEvent, ...]:
    """Understand documents of config.changelog; events that are no outcome of a move are left out."""
    found = []
    for document in documents:
        if document["what"] not in MOVE_EVENTS:
            continue
        details = document.get("details", {})
        counts = details.get("counts", {})
        steps = sum(int(value) for name, value in details.items() if name.startswith("step "))
        # Only the recipient writes a reason; moveChunk.from never does in 4.4 and 5.0 (§0.6).
        outcome = details.get("note", "success" if document["what"] == COMMIT else "aborted")
        found.append(
            MoveEvent(
                time=document["time"],
                what=document["what"],
                donor=str(details.get("from", "")),
                recipient=str(details.get("to", "")),
                outcome=str(outcome),
                error=str(details.get("errmsg", "")),
                documents=int(counts.get("cloned", 0)),
                bytes=int(counts.get("clonedBytes", 0)),
                seconds=steps / 1000,
            )
        )
    return tuple(found)


class MoveTail:
    """Keep the newest migrations of one collection, reading from config.changelog only what was added since.

    Args:
        client: a connection to mongos.
        namespace: ``database.collection``.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        self._seen: deque[Any] = deque(maxlen=MOST_READ)
        self._events: deque[MoveEvent] = deque(maxlen=KEPT_EVENTS)

    @property
    def events(self) -> tuple[MoveEvent, ...]:
        """The newest migration events, newest first."""
        return tuple(reversed(self._events))

    @property
    def commits(self) -> tuple[datetime, ...]:
        """When the newest migrations were committed, oldest first."""
        return tuple(event.time for event in self._events if event.what == COMMIT)

    def read(self) -> None:
        """Take in what was added since the last read.

        No filter is sent: with one the server would go through the whole collection to fill a page, without one it
        stops where this does, at the newest document already seen. Clocks of shards differ, so times do not tell.
        """
        fresh = sorted(retrying(self._fresh), key=lambda document: document["time"])
        self._seen.extend(document["_id"] for document in fresh)
        ours = (document for document in fresh if document.get("ns") == self._namespace)
        self._events.extend(parse_moves(ours))

    def _fresh(self) -> list[dict[str, Any]]:
        changelog = config_collection(self._client, "changelog")
        cursor = changelog.find({}, LEFT_OUT, batch_size=PAGE).sort("$natural", -1)
        fresh, ours, seen, before = [], 0, set(self._seen), None
        with cursor.limit(MOST_READ) as newest:
            for document in newest:
                if document["_id"] in seen:
                    # The lab's engine gives the oldest first whatever is asked for: then this is not the end.
                    if before is not None and document["time"] < before:
                        break
                else:
                    fresh.append(document)
                    ours += document.get("ns") == self._namespace and document["what"] in MOVE_EVENTS
                before = document["time"]
                if ours > KEPT_EVENTS:
                    break
        return fresh


@dataclass(frozen=True)
class Reason:
    """Why a migration failed: ``sign`` is a part of the server's text (§3.6)."""

    sign: str
    meaning: str
    action: str


REASONS = (
    Reason("maximum number of documents", "the chunk holds too many documents to move",
           "split it, raise the chunk size, or move it by hand with forceJumbo"),
    Reason("too big to move", "the chunk is too big to move",
           "split it, raise the chunk size, or move it by hand with forceJumbo"),
    Reason("ChunkTooBig", "the chunk is too big to move",
           "split it, raise the chunk size, or move it by hand with forceJumbo"),
    Reason("memory usage", "more is written to the moving chunk than the donor can keep (over 500 MB)",
           "slow the writers down, or lower the chunk size"),
    Reason("identically named collection", "the recipient holds a stray collection of the same name",
           "look at it on the recipient, then rename or drop it there"),
    Reason("indexes and collection is not empty", "the recipient lacks indexes",
           "build the missing indexes on the recipient"),
    Reason("indexes and the collection is not empty", "the recipient lacks indexes",
           "build the missing indexes on the recipient"),
    Reason("has the same _id", "two shards hold the same _id", "resolve the duplicates"),
    Reason("E11000", "two shards hold the same _id, or a unique value", "resolve the duplicates"),
    Reason("range deletion", "the recipient still deletes what it once gave away",
           "wait: 15 minutes by default (orphanCleanupDelaySecs)"),
    Reason("ResumableRangeDeleterDisabled", "the recipient's range deleter is disabled",
           "set disableResumableRangeDeleter to false and restart it"),
    Reason("OrphanedRangeCleanUpFailed", "the recipient could not delete what it once gave away",
           "read the recipient's log"),
    Reason("currently receiving", "a shard takes part in one migration at a time", "none: the balancer tries again"),
    Reason("currently donating", "a shard takes part in one migration at a time", "none: the balancer tries again"),
    Reason("ConflictingOperationInProgress", "another operation works on the collection",
           "none: the balancer tries again"),
    Reason("LockBusy", "another operation holds the collection's lock", "wait for it; look at $currentOp"),
    Reason("distributed lock", "another operation holds the collection's lock", "wait for it; look at $currentOp"),
    Reason("catch up", "the recipient or its secondaries are too slow",
           "look at replication lag; set _secondaryThrottle"),
    Reason("WriteConcern", "the recipient's majority does not answer in time",
           "mend the recipient's replica set: a secondary is down or lags"),
    Reason("waiting for replication", "the recipient's majority does not answer in time",
           "mend the recipient's replica set: a secondary is down or lags"),
    Reason("FCV is upgrading", "the feature compatibility version is being changed",
           "finish setFeatureCompatibilityVersion"),
    Reason("can't find index", "the shard-key index is gone", "create it again on every shard"),
)  # fmt: skip
UNTOLD = Reason("", "config.changelog has no reason", "read the log of the config servers' primary")


def explain(error: str) -> Reason:
    """Return what a failed migration's text means and what to do; a text nobody has listed speaks for itself."""
    if not error:
        return UNTOLD
    known = next((reason for reason in REASONS if reason.sign.lower() in error.lower()), None)
    return known if known is not None else Reason("", error, "remove the cause named there")


Group = dict[str, Any]


def outcome_groups(client: Client, since: datetime, *, timeout: float) -> list[Group]:
    """Count the migrations' events since a time on the server: a row per kind of outcome comes back, not one per event.

    Args:
        client: a connection to mongos.
        since: UTC.
        timeout: seconds the scan of the capped collection (200 MB at most) may take.
    """
    details = {name: f"$details.{name}" for name in ("from", "to", "note", "errmsg")}
    pipeline = [
        {"$match": {"time": {"$gte": since}, "what": {"$in": list(MOVE_EVENTS)}}},
        {"$group": {"_id": {"what": "$what", "ns": "$ns", **details}, "n": {"$sum": 1}, "last": {"$max": "$time"}}},
    ]
    changelog = config_collection(client, "changelog")
    return retrying(lambda: list(changelog.aggregate(pipeline, maxTimeMS=int(timeout * 1000))), deadline=timeout)


def groups_of(namespace: str, events: Iterable[MoveEvent]) -> list[Group]:
    """Return single events in the form of ``outcome_groups``."""
    return [
        {
            "_id": {
                "what": each.what, "ns": namespace, "from": each.donor, "to": each.recipient, "note": each.outcome,
                "errmsg": each.error,
            },
            "n": 1,
            "last": each.time,
        }
        for each in events
    ]  # fmt: skip


def outcomes(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make the table of outcomes: a row for each, none of which displaces another of the same count (§3.2).

    A migration is one event of its donor, and for a failed one usually another of its recipient with the reason; those
    of the donor beyond the recipient's are failures without a reason.

    Args:
        groups: from ``outcome_groups``.

    Returns:
        rows of outcome, from, to, count, reason, what to do, last (UTC), collection; failures first.
    """
    tallies: dict[tuple[str, str, str], _Tally] = {}
    for group in groups:
        each = group["_id"]
        where = (str(each.get("ns", "")), str(each.get("from", "")), str(each.get("to", "")))
        tallies.setdefault(where, _Tally()).add(each, int(group["n"]), group["last"])
    rows = [row for where, tally in sorted(tallies.items()) for row in tally.rows(*where)]
    return sorted(rows, key=lambda row: (row["outcome"] == "success", -row["count"]))


class _Tally:
    """The outcomes of one collection's migrations from one shard to another."""

    def __init__(self) -> None:
        self.good: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.told: dict[str, Counter[Reason]] = {RECIPIENT: Counter(), DONOR: Counter(), ERROR: Counter()}
        self.last: dict[bool, datetime] = {}

    def add(self, event: Mapping[str, Any], number: int, last: datetime) -> None:
        what, error = str(event["what"]), str(event.get("errmsg") or "")
        failed = what != COMMIT and (bool(error) or event.get("note") != "success")
        if not failed and what == RECIPIENT:
            return  # the recipient's part went well; whether the move did is the donor's to say
        side = self.bad if failed else self.good
        side[what] += number
        if error:
            self.told[what][explain(error)] += number
        self.last[failed] = max(last, self.last.get(failed, last))

    def rows(self, namespace: str, donor: str, recipient: str) -> list[dict[str, Any]]:
        failures = max(self.bad.values(), default=0)
        reasons = +self.told[RECIPIENT]
        # Newer servers write a reason on the donor's side too, for the same failures: only those beyond count.
        for what in (DONOR, ERROR):
            for reason, count in self.told[what].items():
                reasons[reason] += max(0, min(count, failures - reasons.total()))
        reasons[UNTOLD] += max(0, failures - reasons.total())
        found = [("aborted", count, each.meaning, each.action) for each, count in (+reasons).items()]
        if successes := max(self.good.values(), default=0):
            found.append(("success", successes, "", ""))
        return [
            {
                "outcome": outcome, "from": donor, "to": recipient, "count": count, "reason": reason,
                "what to do": action, "last": self.last[outcome != "success"].isoformat(timespec="seconds"),
                "collection": namespace,
            }
            for outcome, count, reason, action in found
        ]  # fmt: skip


def failed_rounds(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the errors of balancer rounds, newest first; up to early 6.0 the field is misspelt (§3.2).

    Args:
        documents: of config.actionlog, newest first.
    """
    found = []
    for document in documents:
        details = document.get("details", {})
        if document.get("what") == "balancer.round" and (details.get("errorOccured") or details.get("errorOccurred")):
            found.append(str(details.get("errmsg", "no reason was written")))
    return found
