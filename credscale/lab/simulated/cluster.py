"""The state that all commands of the simulated mongos share."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.lab.simulated.backends import Backend, KeyIndex, connect
from credscale.lab.simulated.catalog import Catalog
from credscale.lab.simulated.cursors import Cursors
from credscale.lab.simulated.replies import CommandFailed, Document, shell_text
from credscale.lab.simulated.routing import Chunk, RoutingTable, SharedLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bson import ObjectId

    from credscale.lab.simulated.faults import Faults


@dataclass(frozen=True)
class Move:
    """One chunk on its way from a shard to another."""

    ns: str
    chunk: Chunk
    donor: str
    recipient: str
    started: float = field(default_factory=time.monotonic)


class Cluster:
    """Backends, metadata and locks.

    Every command on user data holds its collection's lock as a user. A migration copies without the lock, and takes
    it as the changer for its last moment: to catch up with what was written meanwhile and to commit. So a read or a
    write sees one routing table from beginning to end, and no write falls between the copy and the commit. A real
    cluster locks the moving range only, and for reads keeps the donor's documents; here the whole collection waits.
    """

    def __init__(self, config: Backend, faults: Faults) -> None:
        self.catalog = Catalog(config)
        self.config = config
        self.faults = faults
        self.cursors = Cursors()
        # Taken after a collection's lock, never before: a write that holds its collection's may create the database.
        self.ddl = threading.RLock()
        self.started = time.monotonic()
        self.stopping = threading.Event()
        self._guard = threading.Lock()
        self._shards: dict[str, Backend] = {}
        self._tables: dict[str, RoutingTable | None] = {}
        self._generation = 0
        self._locks: defaultdict[str, SharedLock] = defaultdict(SharedLock)
        self._indexes: dict[tuple[str, str, object], KeyIndex] = {}
        self._moves: list[Move] = []
        # The records of migrations that have begun and are neither finished nor undone.
        self.unmended: set[ObjectId] = set()
        # Held while a migration is entered or while interrupted ones are mended, so that no new one is mistaken.
        self.starting = threading.Lock()

    def shards(self) -> dict[str, Backend]:
        """Return the registered shards by name."""
        registered = {each["_id"]: each["host"] for each in self.catalog.shards()}
        with self._guard:
            for name, host in registered.items():
                if name not in self._shards or self._shards[name].host != host:
                    self._shards[name] = connect(name, host)
            return {name: self._shards[name] for name in registered}

    def shard(self, name: str) -> Backend:
        """Return one shard."""
        known = self._shards.get(name) or self.shards().get(name)
        if known is None:
            raise CommandFailed(70, f"Shard {name} not found")
        return known

    def forget_tables(self) -> None:
        """Read routing tables anew from now on; someone wrote to the config database."""
        with self._guard:
            self._tables.clear()
            self._generation += 1

    def table(self, ns: str) -> RoutingTable | None:
        """Return the routing table of a collection, None when it is not sharded."""
        with self._guard:
            if ns in self._tables:
                return self._tables[ns]
            generation = self._generation
        table = self.catalog.table(ns)
        with self._guard:
            # What was read before a change must not be kept after it.
            if generation == self._generation:
                self._tables[ns] = table
        return table

    @contextmanager
    def using(self, ns: str) -> Iterator[RoutingTable | None]:
        """Hold a collection's routing still while reading or writing it."""
        with self._locks[ns].shared():
            yield self.table(ns)

    @contextmanager
    def changing(self, ns: str) -> Iterator[RoutingTable | None]:
        """Keep readers and writers of a collection out while its routing changes."""
        with self._locks[ns].exclusive():
            try:
                self.forget_tables()
                yield self.table(ns)
            finally:
                self.forget_tables()

    def keys(self, shard: str, table: RoutingTable) -> KeyIndex:
        """Return what is known of the shard keys on one shard."""
        backend = self.shard(shard)
        with self._guard:
            slot = (shard, table.ns, table.epoch)
            if slot not in self._indexes:
                self._indexes[slot] = KeyIndex(backend, table)
            return self._indexes[slot]

    def primary(self, db: str) -> Backend | None:
        """Return the primary shard of a database; None when no such database exists."""
        if db in ("admin", "config"):
            return self.config
        document = self.catalog.database(db)
        return self.shard(document["primary"]) if document else None

    def ensure_primary(self, db: str) -> Backend:
        """Return the primary shard of a database, creating the database where least data is."""
        with self.ddl:
            return self.primary(db) or self.shard(self.create_database(db, None)["primary"])

    def create_database(self, db: str, primary: str | None, partitioned: bool = False) -> Document:
        """Register a database on the given shard, or on the one with the least data."""
        shards = self.shards()
        if not shards:
            raise CommandFailed(70, "No shards found")
        if primary is not None and primary not in shards:
            raise CommandFailed(70, f"Could not find shard: {primary}")
        chosen = primary or min(shards, key=lambda name: _total_bytes(shards[name]))
        return self.catalog.add_database(db, chosen, partitioned)

    @property
    def moves(self) -> list[Move]:
        """The migrations under way."""
        with self._guard:
            return list(self._moves)

    @contextmanager
    def moving(self, move: Move) -> Iterator[None]:
        """Let a shard take part in one migration at a time."""
        with self.starting, self._guard:
            for busy in self._moves:
                for shard in (move.donor, move.recipient):
                    _refuse_busy(shard, busy)
            self._moves.append(move)
        try:
            yield
        finally:
            with self._guard:
                self._moves.remove(move)


def _refuse_busy(shard: str, busy: Move) -> None:
    """Raise if a shard takes part in a migration already."""
    span = f"[{shell_text(busy.chunk.low)}, {shell_text(busy.chunk.high)})"
    doing = "Unable to start new migration because this shard is currently"
    if shard == busy.recipient:
        raise CommandFailed(117, f"{doing} receiving chunk {span} for namespace {busy.ns} from {busy.donor}")
    if shard == busy.donor:
        raise CommandFailed(117, f"{doing} donating chunk {span} for namespace {busy.ns} to {busy.recipient}")


def _total_bytes(backend: Backend) -> int:
    """Return how much data a shard holds."""
    return int(backend.demand("admin", {"listDatabases": 1}).get("totalSize", 0))
