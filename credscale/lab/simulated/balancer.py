"""The balancer: a thread that evens out the number of chunks, as the config server's primary does."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from bson import ObjectId
from pymongo.errors import PyMongoError

from credscale.lab.simulated.catalog import now
from credscale.lab.simulated.cluster import Cluster, Move
from credscale.lab.simulated.contract import SHARDING_COMMAND
from credscale.lab.simulated.migration import mend_interrupted, move_chunk
from credscale.lab.simulated.replies import CommandFailed, Document, long
from credscale.lab.simulated.settings import Settings, parse_mode, parse_settings

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from credscale.lab.simulated.routing import RoutingTable
    from credscale.lab.simulated.wire import Peer

_PING_SECONDS = 2.0
# A real balancer waits 10 seconds after an idle round and 1 second after one that moved something.
_BUSY_FRACTION = 0.1

log = logging.getLogger(__name__)


class Balancer:
    """Rounds of moves, and the commands that start, stop and watch them."""

    def __init__(self, cluster: Cluster, round_seconds: float, zone: ZoneInfo | None) -> None:
        self._cluster = cluster
        self._seconds = round_seconds
        self._zone = zone
        self._idle = threading.Condition()
        self._in_round = False
        self._rounds = 0
        self._pinged = 0.0
        self._wake = threading.Event()

    def run(self) -> None:
        """Balance until the process ends."""
        while not self._cluster.stopping.is_set():
            moved = 0
            try:
                self._ping()
                self._cluster.faults.notice()
                mend_interrupted(self._cluster)
                moved = self._round()
            except (CommandFailed, PyMongoError):
                log.warning("a balancer round failed", exc_info=True)
            self._wake.wait(self._seconds * (_BUSY_FRACTION if moved else 1))
            self._wake.clear()

    def _ping(self) -> None:
        """Show that this router lives, and give the shards the chunk size that is in force."""
        if time.monotonic() - self._pinged < _PING_SECONDS:
            return
        self._pinged = time.monotonic()
        catalog = self._cluster.catalog
        catalog.ping(self._cluster.started)
        try:
            size = parse_settings(catalog.settings()).chunk_bytes
        except CommandFailed:
            # With settings that cannot be read, shards keep showing the last ones that could.
            return
        status = {"configsvrConnectionString": self._cluster.config.host, "maxChunkSizeInBytes": long(size)}
        for shard in self._cluster.shards().values():
            shard.run("admin", {SHARDING_COMMAND: status})

    def _round(self) -> int:
        """Do one round and return how many chunks it moved."""
        with self._idle:
            # Under the lock: whoever waits for the end of a round must not miss its beginning.
            if parse_mode(self._cluster.catalog.settings()) != "full":
                return 0
            self._in_round = True
        try:
            self._mark_jumbo()
            settings = parse_settings(self._cluster.catalog.settings())
            return self._balance(settings)
        except CommandFailed as error:
            log.warning("skipping the balancer round: %s", error.message)
            return 0
        finally:
            with self._idle:
                self._in_round = False
                self._rounds += 1
                self._idle.notify_all()

    def _balance(self, settings: Settings) -> int:
        """Move the chunks that are due."""
        if not settings.open_at(datetime.now(self._zone)):
            return 0
        began = time.monotonic()
        self._cluster.forget_tables()
        moves = self._due()
        if not moves:
            return 0
        moved, failed = 0, False
        for move in moves:
            try:
                self._locked_move(move)
                moved += 1
            except CommandFailed as error:
                log.warning("the move from %s to %s failed: %s", move.donor, move.recipient, error.message)
            except PyMongoError:
                failed = True
                log.warning("the move from %s to %s failed", move.donor, move.recipient, exc_info=True)
        took = int((time.monotonic() - began) * 1000)
        details = {"executionTimeMillis": took, "errorOccured": failed, "candidateChunks": len(moves)}
        self._log("balancer.round", {**details, "chunksMoved": moved})
        return moved

    def _due(self) -> list[Move]:
        """Return moves between disjoint pairs of shards; they are made one after the other."""
        busy: set[str] = set()
        due = []
        for collection in self._cluster.catalog.collections():
            table = self._cluster.table(collection["_id"])
            if table is None or collection.get("noBalance") or collection.get("permitMigrations") is False:
                continue
            while move := choose_move(table, [name for name in self._cluster.shards() if name not in busy]):
                due.append(move)
                busy |= {move.donor, move.recipient}
        return due

    def _locked_move(self, move: Move) -> None:
        """Move a chunk while config.locks shows that the collection is taken."""
        locks = self._cluster.catalog.db.locks
        held = {"state": 2, "process": "ConfigServer", "ts": ObjectId(), "when": now(), "who": "ConfigServer:Balancer"}
        why = f"Migrating chunk(s) in collection {move.ns}"
        locks.update_one({"_id": move.ns}, {"$set": {**held, "why": why}}, upsert=True)
        try:
            move_chunk(self._cluster, move)
        finally:
            locks.update_one({"_id": move.ns}, {"$set": {"state": 0}})

    def _mark_jumbo(self) -> None:
        """Mark as many chunks jumbo as the fault orders, on the shard that has most."""
        for collection in self._cluster.catalog.collections():
            table = self._cluster.table(collection["_id"])
            if table is None:
                continue
            donor = Counter(chunk.shard for chunk in table.chunks).most_common(1)[0][0]
            candidates = [chunk for chunk in table.chunks if chunk.shard == donor and not chunk.jumbo]
            number = self._cluster.faults.take("jumbo", len(candidates))
            self._cluster.catalog.mark_jumbo(candidates[:number])

    def _log(self, what: str, details: Document) -> None:
        """Append to config.actionlog."""
        self._cluster.catalog.log(self._cluster.config, what, "", details, log="actionlog")

    def start(self, _cluster: Cluster, _request: Document, _peer: Peer) -> Document:
        """Answer balancerStart; it fails, and changes nothing, while the settings cannot be read."""
        try:
            parse_settings(self._cluster.catalog.settings())
        except CommandFailed as error:
            told = f"Failed to refresh the balancer settings :: caused by :: {error.message}"
            raise CommandFailed(error.code, told) from error
        self._persist("full", stopped=False)
        self._log("balancer.start", {})
        self._wake.set()
        return {"ok": 1.0}

    def stop(self, _cluster: Cluster, request: Document, _peer: Peer) -> Document:
        """Answer balancerStop: off from now on; then wait for the round under way."""
        self._persist("off", stopped=True)
        self._log("balancer.stop", {})
        limit = request.get("maxTimeMS")
        with self._idle:
            if not self._idle.wait_for(lambda: not self._in_round, limit / 1000 if limit else None):
                raise CommandFailed(50, "operation exceeded time limit")
        return {"ok": 1.0}

    def _persist(self, mode: str, stopped: bool) -> None:
        """Write the mode, and autosplit with it, as MongoDB up to 6.0.2 does."""
        settings = self._cluster.catalog.db.settings
        settings.update_one({"_id": "balancer"}, {"$set": {"mode": mode, "stopped": stopped}}, upsert=True)
        settings.update_one({"_id": "autosplit"}, {"$set": {"enabled": not stopped}}, upsert=True)

    def status(self, _cluster: Cluster, _request: Document, _peer: Peer) -> Document:
        """Answer balancerStatus, which knows nothing of malformed settings."""
        mode = parse_mode(self._cluster.catalog.settings())
        return {"mode": mode, "inBalancerRound": self._in_round, "numBalancerRounds": long(self._rounds), "ok": 1.0}

    def collection_status(self, cluster: Cluster, request: Document, _peer: Peer) -> Document:
        """Answer balancerCollectionStatus, which overlooks jumbo chunks, windows and noBalance."""
        ns = request["balancerCollectionStatus"]
        table = cluster.table(ns)
        if table is None:
            raise CommandFailed(118, f"Collection {ns} is not sharded.")
        if choose_move(table, list(cluster.shards())) is None:
            return {"balancerCompliant": True, "ok": 1.0}
        return {"balancerCompliant": False, "firstComplianceViolation": "chunksImbalance", "ok": 1.0}

    def current_operations(self) -> list[Document]:
        """Return the migrations under way as $currentOp shows them."""
        return [_operation(self._cluster, move) for move in self._cluster.moves]


def choose_move(table: RoutingTable, shards: list[str]) -> Move | None:
    """Return the move that is due next: from the shard with most chunks to the one with fewest, if they differ by 2."""
    counts = {name: sum(1 for chunk in table.chunks if chunk.shard == name) for name in shards}
    if len(counts) < 2:
        return None
    recipient = min(counts, key=lambda name: counts[name])
    for donor in sorted(counts, key=lambda name: -counts[name]):
        if counts[donor] - counts[recipient] <= 1:
            return None
        for chunk in table.chunks:
            if chunk.shard == donor and not chunk.jumbo:
                return Move(table.ns, chunk, donor, recipient)
    return None


def _operation(cluster: Cluster, move: Move) -> Document:
    """Return a migration's entry in $currentOp."""
    host = cluster.shard(move.donor).address
    running = time.monotonic() - move.started
    command = {"moveChunk": move.ns, "fromShard": move.donor, "toShard": move.recipient}
    return {
        "shard": move.donor,
        "type": "op",
        "host": host,
        "desc": "conn1",
        "connectionId": 1,
        "active": True,
        "currentOpTime": now().isoformat(timespec="milliseconds"),
        "opid": f"{move.donor}:{int(move.started)}",
        "secs_running": long(running),
        "microsecs_running": long(running * 1e6),
        "op": "command",
        "ns": "admin.$cmd",
        "command": {**command, "min": move.chunk.low, "max": move.chunk.high, "$db": "admin"},
    }
