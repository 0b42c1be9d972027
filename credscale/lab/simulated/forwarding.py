"""Commands on what is not sharded: passed on to the primary shard of the database, or to the config server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.lab.simulated.replies import CommandFailed, Document

if TYPE_CHECKING:
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.wire import Peer

SCRATCH = "credscale_lab_scratch_"


def namespace(request: Document) -> str:
    """Return the collection that a command is about."""
    collection = next(iter(request.values()))
    if not isinstance(collection, str):
        raise CommandFailed(73, f"collection name has invalid type {type(collection).__name__}")
    return f"{request['$db']}.{collection}"


def forward(cluster: Cluster, request: Document, _peer: Peer | None = None) -> Document:
    """Pass a command on and hand its answer back, with a cursor number of our own."""
    # A database that no shard has cannot be on the config server either, which therefore answers that it is empty.
    backend = cluster.primary(request["$db"]) or cluster.config
    return _answer(cluster, backend.run(request["$db"], request, raw=True), backend)


def forward_write(cluster: Cluster, request: Document, _peer: Peer | None = None) -> Document:
    """Pass on a command that creates its database if need be."""
    backend = cluster.ensure_primary(request["$db"])
    reply = backend.run(request["$db"], request, raw=True)
    if backend is cluster.config:
        cluster.forget_tables()
    return _answer(cluster, reply, backend)


def _answer(cluster: Cluster, reply: Any, backend: Any) -> Document:
    """Turn a backend's answer into ours."""
    if reply.get("ok") and "cursor" in reply:
        return cluster.cursors.adopt(backend, reply)
    private = ("$clusterTime", "operationTime", "electionId", "opTime")
    return {name: value for name, value in reply.items() if name not in private}
