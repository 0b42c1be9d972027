"""What every engine of a backup is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed

if TYPE_CHECKING:
    from pathlib import Path

    from bson import Timestamp
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from credscale.mongo.backup.dump_files import Survey
    from credscale.mongo.documents.digest import Progress

# What replaces a backup by this library for each kind that it refuses.
_REMEDIES = {
    "view": "it holds no documents of its own; back up the collection it is on",
    "timeseries": "its documents lie packed in buckets; use the program mongodump by hand, or an external backup",
    "capped": "its order is that of its insertions, which a pass along _id loses; use the program mongodump by hand",
    "clustered": "it has no index _id_, along which everything here reads; use the program mongodump by hand",
    "encrypted": "its documents come back only with their state collections; use an external backup (pbm or snapshot)",
    "system": "the server keeps it; use an external backup",
}


@dataclass(frozen=True)
class Job:
    """One pass over a collection into the unfinished dump of a folder.

    Args:
        collection: the collection, through mongos or a replica set.
        folder: the backup's folder; what is written goes below ``dump.partial`` in it.
        entry: the collection's listCollections entry.
        on_progress: called with documents and bytes so far.
    """

    collection: Collection[Any]
    folder: Path
    entry: Mapping[str, Any]
    on_progress: Progress | None = None


@dataclass(frozen=True)
class Reading:
    """What an engine read.

    Args:
        engine: ``native``, ``mongodump`` or ``external``.
        tool: the program and its version.
        survey: size, checksum and digest of what was read.
        at: the cluster time of all documents; None where they are of no single moment.
        remark: what else to know about the moment, one sentence without its end; may be empty.
        external: what is known of the backup where somebody else has the documents, JSON data; None for a dump here.
    """

    engine: str
    tool: str
    survey: Survey
    at: Timestamp | None = None
    remark: str = ""
    external: Mapping[str, Any] | None = None


# Reads a collection; the causally consistent session has seen the state from which the oplogs explain later changes.
Engine = Callable[[Job, "ClientSession"], Reading]


def refuse_unsupported(entry: Mapping[str, Any]) -> None:
    """Refuse what is no plain collection.

    Args:
        entry: the collection's listCollections entry.

    Raises:
        PreconditionFailed: names the collection, its kind and what to use instead.
    """
    kind = kind_of(entry)
    if kind != "collection":
        remedy = _REMEDIES.get(kind, "use an external backup")
        raise PreconditionFailed(
            f"{entry['name']} is of the kind {kind!r}; only plain collections can be backed up here: {remedy}."
        )


def kind_of(entry: Mapping[str, Any]) -> str:
    """Return ``collection`` for a plain one, else the kind that sets it apart.

    Args:
        entry: the collection's listCollections entry.
    """
    options = entry.get("options", {})
    if entry["name"].startswith("system."):
        return "system"
    if options.get("capped"):
        return "capped"
    if options.get("clusteredIndex"):
        return "clustered"
    if options.get("encryptedFields"):
        return "encrypted"
    return str(entry.get("type", "collection"))
