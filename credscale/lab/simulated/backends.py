"""The servers behind the simulated mongos: how commands reach them, and what is known of each one's shard keys."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson
from pymongo import MongoClient
from pymongo.errors import ConnectionFailure

from credscale.lab.simulated.contract import CHANGES_COMMAND, MIGRATION_COMMENT
from credscale.lab.simulated.replies import CommandFailed, Document, refuse_failure
from credscale.lab.simulated.wire import PLAIN, RAW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bson.raw_bson import RawBSONDocument

    from credscale.lab.simulated.routing import Position, RoutingTable

# SecantusDB looks up 100 _ids in 10 ms, but 500 in 200 ms: above about 100 it scans.
LOOKUP = 100
_SERVER_SELECTION_SECONDS = 2
# What belongs to the client's own connection and session is not passed on.
_NOT_FORWARDED = frozenset(
    {"$db", "lsid", "$clusterTime", "txnNumber", "$readPreference", "readConcern", "writeConcern", "apiVersion"}
)


@dataclass(frozen=True)
class Backend:
    """One shard, or the config server."""

    name: str
    host: str
    client: MongoClient[Document]

    @property
    def address(self) -> str:
        """The host:port of the member that is talked to."""
        return self.host.partition("/")[2].partition(",")[0]

    def run(self, db: str, command: Mapping[str, Any], raw: bool = False) -> Any:
        """Run a command and return its reply, whether it succeeded or not."""
        request = {name: value for name, value in command.items() if name not in _NOT_FORWARDED}
        try:
            return self.client[db].command(request, check=False, codec_options=RAW if raw else PLAIN)
        except ConnectionFailure as error:
            if "maxTimeMS" in command:
                raise CommandFailed(50, "operation exceeded time limit") from error
            unreachable = f'Could not find host matching read preference {{ mode: "primary" }} for set {self.name}'
            raise CommandFailed(133, unreachable) from error

    def demand(self, db: str, command: Mapping[str, Any], raw: bool = False) -> Any:
        """Run a command that has to succeed."""
        reply = self.run(db, command, raw)
        refuse_failure(reply)
        return reply

    def read(self, db: str, command: Mapping[str, Any]) -> Iterator[RawBSONDocument]:
        """Run a command that opens a cursor and yield every document, byte for byte."""
        cursor = self.demand(db, command, raw=True)["cursor"]
        yield from cursor["firstBatch"]
        collection = cursor["ns"].partition(".")[2]
        while cursor["id"]:
            cursor = self.demand(db, {"getMore": cursor["id"], "collection": collection}, raw=True)["cursor"]
            yield from cursor["nextBatch"]

    def find(self, ns: str, query: Mapping[str, Any], **options: Any) -> Iterator[RawBSONDocument]:
        """Yield the documents of a find."""
        db, _, collection = ns.partition(".")
        return self.read(db, {"find": collection, "filter": query, **options})

    def lookup(self, ns: str, identities: Sequence[Any]) -> Iterator[RawBSONDocument]:
        """Yield the documents with these _ids."""
        for batch in batches(identities):
            yield from self.find(ns, {"_id": {"$in": batch}}, batchSize=LOOKUP)

    def insert_moved(self, ns: str, documents: Sequence[RawBSONDocument]) -> None:
        """Insert documents that a migration brings."""
        db, _, collection = ns.partition(".")
        for batch in batches(documents):
            command = {"insert": collection, "documents": batch, "comment": MIGRATION_COMMENT}
            reply = self.demand(db, command)
            if reply.get("writeErrors"):
                raise CommandFailed(96, str(reply["writeErrors"][0]["errmsg"]))

    def delete_moved(self, ns: str, identities: Sequence[Any]) -> None:
        """Delete documents that a migration takes away."""
        db, _, collection = ns.partition(".")
        for start in range(0, len(identities), 1000):
            deletes = [{"q": {"_id": identity}, "limit": 1} for identity in identities[start : start + 1000]]
            self.demand(db, {"delete": collection, "deletes": deletes, "comment": MIGRATION_COMMENT})


def connect(name: str, host: str) -> Backend:
    """Return the backend at `set/host:port,…`; nothing is sent yet."""
    address = host.partition("/")[2].partition(",")[0]
    client: MongoClient[Document] = MongoClient(
        f"mongodb://{address}/",
        directConnection=True,
        retryWrites=False,
        retryReads=False,
        heartbeatFrequencyMS=500,
        serverSelectionTimeoutMS=_SERVER_SELECTION_SECONDS * 1000,
        document_class=dict,
    )
    return Backend(name, host, client)


def batches(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Cut a sequence into pieces that a lookup takes well."""
    for start in range(0, len(items), LOOKUP):
        yield list(items[start : start + LOOKUP])


def token(identity: Any) -> bytes:
    """Return an _id as bytes that can be a dictionary's key whatever the _id's type."""
    return bson.encode({"": identity})


class KeyIndex:
    """The shard key of every document that one shard holds of one collection, orphans included.

    SecantusDB has no hashed indexes, and finding a chunk's documents by scanning would make each move cost a scan.
    One scan fills this index; after that the shard tells which _ids were written, by whomever, and only these are
    read again.
    """

    def __init__(self, backend: Backend, table: RoutingTable) -> None:
        self._backend = backend
        self._table = table
        self._lock = threading.Lock()
        self._places: dict[bytes, Position | None] = {}
        self._epoch = ""
        self._since = 0

    def refresh(self) -> dict[bytes, Position | None]:
        """Catch up with the shard and return the places of its documents by _id token."""
        with self._lock:
            ask = {CHANGES_COMMAND: self._table.ns, "epoch": self._epoch, "since": self._since}
            answer = self._backend.demand("admin", ask)
            if not answer["known"]:
                self._fill()
            elif answer["ids"]:
                self._reread(answer["ids"])
            self._epoch, self._since = answer["epoch"], answer["now"]
            return self._places

    def mark(self) -> tuple[str, int]:
        """Return the position in the shard's writes that this index has caught up to."""
        self.refresh()
        return self._epoch, self._since

    def written_since(self, mark: tuple[str, int]) -> tuple[list[Any], tuple[str, int]]:
        """Return the _ids written after a mark, each once, and the next mark."""
        ask = {CHANGES_COMMAND: self._table.ns, "epoch": mark[0], "since": mark[1]}
        answer = self._backend.demand("admin", ask)
        if not answer["known"]:
            raise CommandFailed(96, f"shard {self._backend.name} was restarted or dropped {self._table.ns}")
        once = {token(identity): identity for identity in answer["ids"]}
        return list(once.values()), (answer["epoch"], answer["now"])

    def _fill(self) -> None:
        """Read the keys of all documents."""
        projection = {"_id": 1, **dict.fromkeys(self._table.key, 1)}
        found = self._backend.find(self._table.ns, {}, projection=projection)
        self._places = {token(document["_id"]): self._table.position_of(document) for document in found}

    def _reread(self, identities: list[Any]) -> None:
        """Read the keys of the documents written since the last time."""
        changed = {token(identity): identity for identity in identities}
        places = dict(self._places)
        for gone in changed:
            places.pop(gone, None)
        for document in self._backend.lookup(self._table.ns, list(changed.values())):
            places[token(document["_id"])] = self._table.position_of(document)
        # Replaced as a whole: someone may be walking through the former one.
        self._places = places

    def census(self, table: RoutingTable) -> tuple[int, int]:
        """Return how many documents the shard owns, and how many it merely holds."""
        places = self.refresh()
        owned = sum(1 for place in places.values() if table.owner(place) == self._backend.name)
        return owned, len(places) - owned

    def between(self, low: Position, high: Position) -> list[Any]:
        """Return the _ids of the documents in a range."""
        # The highest bound takes in a key value of MaxKey itself.
        last = all(part[0] == 127 for part in high)
        found = (key for key, place in self.refresh().items() if place and low <= place and (place < high or last))
        return [bson.decode(key, PLAIN)[""] for key in found]
