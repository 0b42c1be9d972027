"""Fill the lab with documents, once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed
from credscale.lab.cluster import LOCK_SECONDS, connect
from credscale.lab.documents import SEED, make_documents
from credscale.lab.state import LabState, only_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo import MongoClient
    from pymongo.collection import Collection

NAMESPACE = "credibility_prod.analyses"
DOCUMENTS = 20_000
BATCH = 1000
MARKERS = ("credscale_lab", "seed")
SECONDARY_INDEX = [("userId", 1), ("createdAt", -1)]


@dataclass(frozen=True)
class Seeding:
    """What a seeding did.

    Args:
        action: ``created``, ``recreated`` (an earlier one had been cut off) or ``kept``.
        documents: how many were written.
        summary: one sentence.
    """

    action: str
    documents: int
    summary: str


def seed(
    state: LabState, namespace: str = NAMESPACE, documents: int = DOCUMENTS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Seeding:  # fmt: skip
    """Fill a collection with documents unless it is there already.

    A collection that nobody seeded, or that was seeded completely, is left as it is: it may hold somebody's work.
    One whose seeding was cut off is made anew.

    Args:
        state: a running lab.
        namespace: ``database.collection``.
        documents: how many.
        on_progress: called with documents written and documents in all.

    Returns:
        what was done.

    Raises:
        ConnectFailed: the router does not answer or refuses a write.
        Refused: another command is seeding this lab.
    """
    from pymongo.errors import PyMongoError

    router = state.process("mongos").plan
    with only_one(state.directory, "seed", LOCK_SECONDS), connect(router) as client:
        try:
            return _seed(client, namespace, documents, on_progress)
        except PyMongoError as error:
            raise ConnectFailed(
                f"seeding {namespace} through {router.address} failed: {error}. Start the lab again (invoke lab.up), "
                "then the seeding; it begins anew"
            ) from error


def _seed(
    client: MongoClient[dict[str, Any]], namespace: str, documents: int, on_progress: Callable[[int, int], None] | None
) -> Seeding:
    database, _, name = namespace.partition(".")
    markers = client[MARKERS[0]][MARKERS[1]]
    there = name in client[database].list_collection_names()
    marker = markers.find_one({"_id": namespace})
    if there and marker is None:
        return Seeding("kept", 0, f"{namespace} was not seeded by the lab and is left as it is")
    if there and marker is not None and marker["finished"]:
        return Seeding("kept", 0, f"{namespace} was seeded with {marker['documents']:,} documents before and is kept")
    mark = {"_id": namespace, "documents": documents, "seed": SEED, "finished": False}
    markers.replace_one({"_id": namespace}, mark, upsert=True)
    if there:
        client[database].drop_collection(name)
    _fill(client[database][name], documents, on_progress)
    markers.replace_one({"_id": namespace}, mark | {"finished": True}, upsert=True)
    if there:
        return Seeding("recreated", documents, f"{namespace}: an earlier seeding was cut off; wrote {documents:,} anew")
    return Seeding("created", documents, f"{namespace}: wrote {documents:,} documents")


def _fill(
    collection: Collection[dict[str, Any]], documents: int, on_progress: Callable[[int, int], None] | None
) -> None:
    from bson import encode
    from bson.raw_bson import RawBSONDocument

    made, done = make_documents(documents), 0
    while batch := [RawBSONDocument(encode(document)) for document in itertools.islice(made, BATCH)]:
        collection.insert_many(batch, ordered=False)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, documents)
    collection.create_index(SECONDARY_INDEX)
