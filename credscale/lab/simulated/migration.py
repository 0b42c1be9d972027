"""Moving one chunk: copy, catch up, commit, delete; and mending what a killed process left half done.

A real donor keeps the documents it gave away for 15 minutes (orphanCleanupDelaySecs) before deleting them; here they
go at once, unless the fault `leave_orphans` says otherwise.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from credscale.lab.simulated.backends import token
from credscale.lab.simulated.faults import CONFIG
from credscale.lab.simulated.forwarding import SCRATCH
from credscale.lab.simulated.indexes import all_indexes
from credscale.lab.simulated.replies import CommandFailed, Document, long
from credscale.lab.simulated.routing import RoutingTable, position
from credscale.lab.simulated.sharding import copy_indexes

if TYPE_CHECKING:
    from credscale.lab.simulated.cluster import Cluster, Move

_PAUSE_POLL_SECONDS = 0.05


class Stopwatch:
    """The durations of a migration's steps, as the changelog shows them."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.steps: dict[str, int] = {}

    def step(self) -> None:
        """End a step."""
        moment = time.monotonic()
        self.steps[f"step {len(self.steps) + 1} of 6"] = int((moment - self._last) * 1000)
        self._last = moment


class Migration:
    """One chunk's move from donor to recipient."""

    def __init__(self, cluster: Cluster, move: Move, table: RoutingTable) -> None:
        self._cluster = cluster
        self._catalog = cluster.catalog
        self._move = move
        self._table = table
        self._donor = cluster.shard(move.donor)
        self._recipient = cluster.shard(move.recipient)
        self._span: Document = {"min": move.chunk.low, "max": move.chunk.high}
        self._ends: Document = {"from": move.donor, "to": move.recipient}
        self._watch = Stopwatch()
        self._record = ObjectId()
        self._copied: set[bytes] = set()
        self._lost: set[bytes] = set()
        self._mark = ("", 0)
        self._cloned = self._bytes = 0

    def run(self) -> None:
        """Move the chunk, or leave everything as it was and raise why."""
        with self._cluster.moving(self._move):
            # Whatever interrupts this, such as a shard that dies, the balancer mends what the record tells of.
            self._cluster.unmended.add(self._record)
            self._watch.step()
            self._begin()
            try:
                catchup, steady = self._bring_over()
            except CommandFailed as error:
                self._abort(error.message)
                raise
            self._tell_success(catchup, steady)
            self._slow_down()
            self._clean_donor()
            self._end()

    def _end(self) -> None:
        """Forget the finished move."""
        self._catalog.db.migrations.delete_one({"_id": self._record})
        self._cluster.unmended.discard(self._record)

    def _begin(self) -> None:
        """Write down what is about to happen, so that a new process can mend it."""
        chunk = self._move.chunk
        self._catalog.log(self._donor, "moveChunk.start", self._move.ns, {**self._span, **self._ends})
        self._catalog.db.migrations.insert_one(
            {
                "_id": self._record,
                "ns": self._move.ns,
                **self._span,
                "fromShard": self._move.donor,
                "toShard": self._move.recipient,
                "chunkVersion": [chunk.lastmod, self._table.epoch],
                "waitForDelete": False,
                "forceJumbo": "doNotForceJumbo",
            }
        )
        self._watch.step()

    def _bring_over(self) -> tuple[int, int]:
        """Copy without stopping anyone; then stop everyone, copy what was written meanwhile, and commit."""
        self._cluster.faults.refuse((self._donor.name, self._recipient.name))
        self._require_index()
        copy_indexes(self._donor, self._recipient, self._move.ns)
        # Documents left here by an earlier move would stand in the way of their newer versions.
        self._clear(self._recipient.name)
        self._clone()
        self._watch.step()
        self._slow_down()
        while self._cluster.faults.setting("pause") and not self._cluster.stopping.is_set():
            time.sleep(_PAUSE_POLL_SECONDS)
        if reason := self._cluster.faults.setting("abort"):
            raise CommandFailed(96, str(reason))
        catchup = self._catch_up()
        self._watch.step()
        self._cluster.faults.refuse((CONFIG, self._donor.name, self._recipient.name))
        with self._cluster.changing(self._move.ns) as table:
            if table is None or table.chunk_between(self._move.chunk.low, self._move.chunk.high) is None:
                raise CommandFailed(96, f"the chunk to move is no longer part of {self._move.ns}")
            steady = self._catch_up()
            self._watch.step()
            self._catalog.commit_move(table, self._move.chunk, self._move.recipient)
        self._watch.step()
        return catchup, steady

    def _require_index(self) -> None:
        """Raise if the index of the shard key was dropped."""
        key = list(self._table.key.items())
        indexes = all_indexes(self._cluster, self._donor, self._move.ns)
        if not any(list(index["key"].items())[: len(key)] == key for index in indexes):
            told = f"can't find index with prefix {self._table.key} in storeCurrentLocs for {self._move.ns}"
            raise CommandFailed(27, told)

    def _identities(self, shard: str) -> list[Any]:
        """Return the _ids of the documents in the chunk's range on a shard."""
        return self._cluster.keys(shard, self._table).between(*self._move.chunk.span)

    def _clear(self, shard: str) -> None:
        """Delete the documents in the chunk's range on a shard."""
        self._cluster.shard(shard).delete_moved(self._move.ns, self._identities(shard))

    def _clone(self) -> None:
        """Copy the chunk's documents, and remember from where in the donor's writes to catch up."""
        self._mark = self._cluster.keys(self._donor.name, self._table).mark()
        documents = list(self._donor.lookup(self._move.ns, self._identities(self._donor.name)))
        lost = self._cluster.faults.take("lose", len(documents))
        self._lost = {token(document["_id"]) for document in documents[:lost]}
        self._bytes = sum(len(document.raw) for document in documents)
        self._cloned = len(documents)
        self._copied = {token(document["_id"]) for document in documents[lost:]}
        self._recipient.insert_moved(self._move.ns, documents[lost:])

    def _catch_up(self) -> int:
        """Copy anew what was written since the last look, and return how many documents that concerned."""
        written, self._mark = self._cluster.keys(self._donor.name, self._table).written_since(self._mark)
        concerned = [each for each in written if token(each) not in self._lost]
        low, high = self._move.chunk.span
        present = []
        for document in self._donor.lookup(self._move.ns, concerned):
            place = self._table.position_of(document)
            if place and low <= place < high:
                present.append(document)
        stale = [each for each in concerned if token(each) in self._copied]
        self._recipient.delete_moved(self._move.ns, stale)
        self._recipient.insert_moved(self._move.ns, present)
        self._copied -= {token(each) for each in stale}
        self._copied |= {token(document["_id"]) for document in present}
        return len(stale) + len(present)

    def _abort(self, reason: str) -> None:
        """Undo the copy and log the failure where MongoDB logs it: the reason on the recipient only."""
        log, ns = self._catalog.log, self._move.ns
        steps = dict(list(self._watch.steps.items())[:3])
        failed = {**self._span, **steps, **self._ends, "note": "aborted"}
        log(self._recipient, "moveChunk.to", ns, {**failed, "errmsg": reason})
        log(self._donor, "moveChunk.error", ns, {**self._span, **self._ends})
        log(self._donor, "moveChunk.from", ns, failed)
        self._clear(self._recipient.name)
        self._end()

    def _tell_success(self, catchup: int, steady: int) -> None:
        """Log the finished move, as recipient and as donor."""
        counts = {"cloned": self._cloned, "clonedBytes": self._bytes, "catchup": catchup, "steady": steady}
        details = {**self._span, **self._ends, "counts": {name: long(number) for name, number in counts.items()}}
        done = {**self._span, **self._watch.steps, **self._ends, "note": "success"}
        self._catalog.log(self._recipient, "moveChunk.to", self._move.ns, done)
        self._catalog.log(self._donor, "moveChunk.commit", self._move.ns, details)
        self._catalog.log(self._donor, "moveChunk.from", self._move.ns, done)

    def _clean_donor(self) -> None:
        """Delete what was moved from the donor, except for ordered orphans."""
        identities = self._identities(self._donor.name)
        left = self._cluster.faults.take("leave_orphans", len(identities))
        self._donor.delete_moved(self._move.ns, identities[left:])

    def _slow_down(self) -> None:
        """Spend half of the ordered delay, before the commit and after it."""
        time.sleep(float(self._cluster.faults.setting("slow_move_seconds") or 0) / 2)


def move_chunk(cluster: Cluster, move: Move) -> None:
    """Move one chunk."""
    table = cluster.table(move.ns)
    if table is None:
        raise CommandFailed(118, f"Collection {move.ns} is not sharded.")
    Migration(cluster, move, table).run()


def recover(cluster: Cluster) -> None:
    """Mend the migrations that a killed process left, and drop its passing collections."""
    for record in list(cluster.catalog.db.migrations.find()):
        _mend(cluster, record)
    for database in cluster.catalog.db.databases.find():
        client = cluster.shard(database["primary"]).client[database["_id"]]
        for name in client.list_collection_names(filter={"name": {"$regex": f"^{SCRATCH}"}}):
            client.drop_collection(name)


def mend_interrupted(cluster: Cluster) -> None:
    """Mend the migrations of this process that neither committed nor could be undone."""
    if not cluster.unmended:
        return
    with cluster.starting:
        if cluster.moves:
            return
        interrupted = set(cluster.unmended)
        for record in list(cluster.catalog.db.migrations.find({"_id": {"$in": list(interrupted)}})):
            _mend(cluster, record)
        cluster.unmended -= interrupted


def _mend(cluster: Cluster, record: Document) -> None:
    """Delete the copies of whichever side lost the chunk."""
    table = cluster.catalog.table(record["ns"])
    if table is not None:
        chunk = table.chunk_between(record["min"], record["max"])
        committed = chunk is not None and chunk.shard == record["toShard"]
        loser = cluster.shard(record["fromShard"] if committed else record["toShard"])
        span = position(record["min"]), position(record["max"])
        loser.delete_moved(record["ns"], cluster.keys(loser.name, table).between(*span))
        if committed:
            _log_recovered(cluster, record)
    cluster.catalog.db.migrations.delete_one({"_id": record["_id"]})


def _log_recovered(cluster: Cluster, record: Document) -> None:
    """Complete the changelog of a move that was committed before the process died."""
    span = {name: record[name] for name in ("min", "max")}
    query = {"what": "moveChunk.commit", "ns": record["ns"], "details.min": span["min"]}
    since = {"time": {"$gte": record["_id"].generation_time}}
    if cluster.catalog.db.changelog.find_one({**query, **since}) is None:
        details = {**span, "from": record["fromShard"], "to": record["toShard"]}
        cluster.catalog.log(cluster.shard(record["fromShard"]), "moveChunk.commit", record["ns"], details)
