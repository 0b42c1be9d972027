"""Whose backups are wanted, where they lie, and what the collection holds now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from credscale.core.errors import PreconditionFailed
from credscale.mongo.cluster import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from bson import Timestamp
    from pymongo.client_session import ClientSession

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.documents.digest import Digest


@dataclass(frozen=True)
class Target:
    """A collection as a backup knows it, and the folder that holds its backups."""

    namespace: str
    cluster_id: str
    uuid: str
    sharded: bool
    engine: str
    root: Path

    def backups(self) -> list[Manifest]:
        """Return the finished backups of exactly this collection, newest first."""
        from credscale.mongo.backup.manifest import find_backups

        return find_backups(self.root, self.namespace, self.cluster_id, self.uuid)

    def from_before_sharding(self) -> Manifest | None:
        """Return the newest verified backup from before a sharded collection was sharded: the only full baseline."""
        found = self.backups() if self.sharded else []
        return next((each for each in found if each.verified and not each.sharded_at_start), None)

    def newest(self) -> Manifest | None:
        """Return the newest finished backup of the collection in its present state; its data may be others."""
        return next((each for each in self.backups() if each.sharded_at_start or not self.sharded), None)

    def verified(self) -> Manifest | None:
        """Return the backup to rely on: one from before the sharding, else the newest that was found whole."""
        return self.from_before_sharding() or next((each for each in self.backups() if each.verified), None)

    def baseline(self) -> Manifest:
        """Return the backup to compare with.

        Raises:
            PreconditionFailed: there is no verified one.
        """
        found = self.verified()
        if found is None:
            raise PreconditionFailed(
                f"there is no verified backup of {self.namespace} under {self.root}. Run backup first, with the same "
                "backup_directory"
            )
        return found


def target_of(ctx: Context, namespace: str, backup_directory: str) -> Target:
    """Read whose backups are wanted and where they lie: ``<backup_directory>/<environment>/<namespace>``.

    Raises:
        PreconditionFailed: the collection does not exist.
    """
    client = ctx.clients.mongo()
    collection = facts.collection(client, namespace)
    if collection is None:
        raise PreconditionFailed(f"{namespace} does not exist. Check the namespace")
    server = facts.server(client)
    return Target(
        namespace=namespace,
        cluster_id=server.cluster_id,
        uuid=collection.uuid,
        sharded=facts.sharded_collection(client, namespace) is not None,
        engine=server.engine,
        root=Path(backup_directory).expanduser() / ctx.environment.name / namespace,
    )


def live_digest(ctx: Context, client: Client, namespace: str, session: ClientSession | None = None) -> Digest:
    """Digest a collection as it is now, telling the progress.

    Args:
        ctx: the run.
        client: a connection to mongos.
        namespace: ``database.collection``.
        session: a causally consistent session, to see at least what it has seen.
    """
    from credscale.mongo.documents.digest import digest_documents
    from credscale.mongo.documents.scan import scan_raw

    name, coll = facts.split_namespace(namespace)
    size = facts.data_size(client, namespace)
    return digest_documents(scan_raw(client[name][coll], session=session), bytes_progress(ctx, size.bytes))


def logical_time(client: Client, namespace: str) -> Timestamp | None:
    """Return the time now, such that what is written from here on has a later one in the oplogs."""
    from credscale.mongo.backup.dump import majority_time

    name, coll = facts.split_namespace(namespace)
    with client.start_session(causal_consistency=True) as session:
        return majority_time(client[name][coll], session)


def timed_digest(ctx: Context, client: Client, namespace: str) -> tuple[Digest, Timestamp | None, Timestamp | None]:
    """Digest a collection and return the logical times around it, as a backup has them.

    What the digest may not have seen has a later time in the oplogs than the first one.
    """
    from credscale.mongo.backup.dump import majority_time

    name, coll = facts.split_namespace(namespace)
    with client.start_session(causal_consistency=True) as session:
        since = majority_time(client[name][coll], session)
        digest = live_digest(ctx, client, namespace, session)
        return digest, since, majority_time(client[name][coll], session)


def bytes_progress(ctx: Context, total: int) -> Callable[[int, int], None]:
    """Return what tells a pass's progress in bytes of so many."""
    return lambda _documents, done: ctx.progress(done, max(total, done), "bytes")
