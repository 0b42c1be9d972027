"""Where the documents of a backup come to lie, and which engine brings them there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from credscale.mongo.backup.engine import Name, Tool, read_mongodump, require_fit
from credscale.mongo.cluster import facts

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.backup.external import Declared
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.backup.mongodump import Access
    from credscale.mongo.backup.reading import Engine
    from credscale.mongo.backup.remote import Place

PASS_BYTES = 20e6  # a second: one pass over a slow network


@dataclass(frozen=True)
class Source:
    """Where the documents come to lie, and how.

    Args:
        id: names the place where that is not the backup's own folder; empty where it is.
        words: the change in words, up to the folder.
        needed: bytes that will be written to this machine.
        read: the engine.
    """

    id: str
    words: str
    needed: int
    read: Engine


def source_of(
    ctx: Context,
    namespace: str,
    server: facts.Server,
    chosen: Name,
    tool: Tool | None,
    declared: Declared | None,
    place: Place | None,
) -> Source:
    """Return the engine with all it needs; an external backup is checked here."""
    size = facts.data_size(ctx.clients.mongo(), namespace)
    words = f"back up {namespace} ({size.documents} documents, {size.bytes / 1e6:.1f} MB)"
    if declared is not None:
        return _external_source(ctx, server, namespace, declared, size.documents)
    if place is not None:
        return _remote_source(ctx, namespace, place, size, words)
    if chosen == "mongodump":
        read: Engine = partial(read_mongodump, tool=require_fit(tool), access=_access(ctx))
        return Source("", f"{words} with mongodump", size.bytes, read)
    return Source("", words, size.bytes, _native(ctx, server, namespace, size.bytes))


def _native(ctx: Context, server: facts.Server, namespace: str, size: int) -> Engine:
    from credscale.mongo.backup.native import read_native
    from credscale.mongo.documents.snapshot import view_of

    if not server.is_mongos:
        return read_native
    # Twice the time expected: when the shards forget the moment, the whole pass was for nothing.
    return partial(read_native, moment=partial(view_of, ctx, namespace, 2 * size / PASS_BYTES))


def _external_source(ctx: Context, server: facts.Server, namespace: str, declared: Declared, documents: int) -> Source:
    from credscale.mongo.backup.baseline import NEEDED_BYTES, read_hashes
    from credscale.mongo.backup.external import check_external

    client = ctx.clients.mongo()
    shards = facts.shards(client) if server.is_mongos else ()
    checked = check_external(
        client, declared, namespace=namespace, shards=shards, version=server.version, now=datetime.now(UTC)
    )
    words = f"record {declared.text} as the backup of {namespace}, with the hashes of {documents} documents,"
    read = partial(read_hashes, tool=declared.text, external=checked.to_json())
    return Source(declared.text, words, documents * NEEDED_BYTES, read)


def _remote_source(ctx: Context, namespace: str, place: Place, size: facts.DataSize, words: str) -> Source:
    from credscale.mongo.backup.baseline import NEEDED_BYTES
    from credscale.mongo.backup.remote import KIND, find_remote, read_remote

    machine = ctx.clients.machine(place.host)
    read = partial(
        read_remote,
        machine=machine,
        tool=find_remote(machine),
        access=_access(ctx),
        place=place,
        parent=folder_there(ctx, namespace, place),
        size=size.bytes,
    )
    words = f"{words} with mongodump on {place.host} to {place.root}, and the documents' hashes"
    return Source(f"{KIND}:{place.text}", words, size.documents * NEEDED_BYTES, read)


def folder_there(ctx: Context, namespace: str, place: Place) -> str:
    """Return the folder on the other machine that holds the collection's backups, arranged as on this one."""
    return f"{place.root}/{ctx.environment.name}/{namespace}"


def source_id(manifest: Manifest) -> str:
    """Return the name of the place where the documents lie; empty for the backup's own folder."""
    return "" if manifest.external is None else f"{manifest.external['kind']}:{manifest.external['id']}"


def _access(ctx: Context) -> Access:
    from pymongo.uri_parser import parse_uri

    from credscale.mongo.backup.mongodump import Access

    uri = ctx.clients.mongo_uri()
    return Access(re.sub(r"(//[^:@/]*):[^@/]*@", r"\1@", uri), parse_uri(uri)["password"])
