"""Faults that tests order from the simulated mongos by writing a JSON file."""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from credscale.lab.simulated.replies import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.replies import Document

# What a router passes on while a replica set elects. Refusals of the old primary come as code 6, because mongos hides
# them from drivers (its parameter rewriteStateChangeErrors); then there is no primary to be found, code 133.
_REFUSALS = (6, 133)
_TEXTS = {6: "not primary", 10107: "not primary", 189: "Primary stepped down while waiting for replication"}
_NO_PRIMARY = 'Could not find host matching read preference {{ mode: "primary" }} for set {}'  # as recorded from 4.4.6
_ANSWER_SECONDS = 0.05  # a real router looks for a primary for 15 seconds before it says so
CONFIG = "config"
# What the primary of the config servers does; to read config.* any of them will do (recorded: listShards).
_OF_CONFIG_PRIMARY = frozenset(
    {
        "addShard", "balancerCollectionStatus", "balancerStart", "balancerStatus", "balancerStop", "enableSharding",
        "moveChunk", "shardCollection", "split",
    }
)  # fmt: skip
_OF_EVERY_SHARD = frozenset({"currentOp", "dbStats", "dbstats", "listDatabases"})
_WRITES = frozenset({"delete", "findAndModify", "findandmodify", "insert", "update"})


class Faults:
    """The faults file, read anew on every use; what is spent of a one-shot fault is remembered here.

    `{"lose": k}` loses k documents in the next move, `{"leave_orphans": n}` leaves n documents behind on the donor,
    `{"jumbo": n}` marks n chunks jumbo: each is done once, and again only after the file asked for another number,
    or for one round of the balancer for none. `{"abort": "reason"}` aborts every migration, `{"pause": true}` holds a
    migration before its commit, and `{"slow_move_seconds": x}` stretches each move, as long as the file says so.

    `{"election": {"sets": ["config", "shard1ReplSet"], "until": t}}` refuses, until the time t in seconds since 1970,
    what needs the primary of one of these sets, with the errors that mongos passes on during an election, in turn those
    of a list `codes` such as `[10107, 189]` if it has one;
    `{"unreachable": "shard2ReplSet"}` does so for one shard for as long as the file says it, and breaks off its
    migrations. `{"lose_reply": "shardCollection"}` carries out the next command of that name and closes the connection
    instead of answering, once, and again only after the file asked for another one or none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._spent: dict[str, tuple[int, int]] = {}
        self._reply_lost = ""
        self._refused = itertools.count()

    def setting(self, name: str) -> Any:
        """Return what the file says now, or None."""
        if self._path is None:
            return None
        try:
            return json.loads(self._path.read_text(encoding="utf-8")).get(name)
        except (FileNotFoundError, ValueError):
            # Absent, or caught while a test was writing it.
            return None

    def notice(self) -> None:
        """Look whether spent faults are still ordered; one that is not can be ordered anew."""
        for name in list(self._spent):
            self.take(name, 0)

    def take(self, name: str, most: int) -> int:
        """Spend up to `most` of a one-shot fault and return how much was spent."""
        with self._lock:
            asked = int(self.setting(name) or 0)
            ordered, spent = self._spent.get(name, (0, 0))
            if ordered != asked:
                spent = 0
            taken = max(0, min(asked - spent, most))
            self._spent[name] = (asked, spent + taken)
            return taken

    def without_primary(self) -> set[str]:
        """Return the replica sets that have no primary at this moment."""
        election = self.setting("election") or {}
        sets = set(election.get("sets", ())) if time.time() < float(election.get("until", 0)) else set()
        unreachable = self.setting("unreachable")
        return sets | ({unreachable} if unreachable else set())

    def refuse(self, needed: Collection[str], *, retryable: bool = False) -> None:
        """Raise what mongos answers when one of the replica sets that a command needs has no primary.

        Args:
            needed: their names.
            retryable: whether it is a write that the driver may send again, which mongos then labels so.
        """
        missing = self.without_primary() & set(needed)
        if not missing:
            return
        time.sleep(_ANSWER_SECONDS)
        name = min(missing)
        election = self.setting("election") or {}
        codes = (133,) if name == self.setting("unreachable") else election.get("codes") or _REFUSALS
        code = int(codes[next(self._refused) % len(codes)])
        labels = {"errorLabels": ["RetryableWriteError"]} if retryable else {}
        raise CommandFailed(code, _TEXTS.get(code) or _NO_PRIMARY.format(name), **labels)

    def lose_reply(self, command: str) -> None:
        """Close the connection of a command that was carried out, if the file orders it."""
        with self._lock:
            asked = str(self.setting("lose_reply") or "")
            if asked != self._reply_lost:
                self._reply_lost = ""
            if command != asked or self._reply_lost:
                return
            self._reply_lost = asked
        raise ConnectionError(f"the reply of {command} is lost, as the faults order")

    def hinder(self, cluster: Cluster, name: str, request: Document) -> None:
        """Refuse a command that an ordered election or a shard that is down does not let through."""
        if self.without_primary():
            self.refuse(needed_sets(cluster, name, request), retryable="txnNumber" in request)


def needed_sets(cluster: Cluster, name: str, request: Document) -> set[str]:
    """Return the replica sets whose primaries a command needs."""
    db, subject = str(request.get("$db", "")), request.get(name)
    if name == "explain" and isinstance(subject, dict):
        return needed_sets(cluster, next(iter(subject)), {"$db": db, **subject})
    if name in _OF_EVERY_SHARD or (name == "aggregate" and not isinstance(subject, str)):
        return set(cluster.shards())
    needed = {CONFIG} if name in _OF_CONFIG_PRIMARY or (db == CONFIG and name in _WRITES) else set()
    collection = request.get("collection") if name == "getMore" else subject
    ns = str(subject) if name == "shardCollection" else f"{db}.{collection}"
    if db == CONFIG or not isinstance(subject, str | int) or (db == "admin" and name != "shardCollection"):
        return needed
    primary, table = cluster.primary(ns.partition(".")[0]), cluster.table(ns)
    needed |= {primary.name} if primary is not None else set()
    return needed | ({chunk.shard for chunk in table.chunks} if table is not None else set())
