"""What the cluster's catalogue says: one function per noun, each a read and a pure parser of the reply.

Balancer settings are in ``settings``, chunks and moves in ``distribution``, single members in ``members``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.cluster.commands import config_collection, hello, retrying, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.mongo.cluster.commands import Client

Key = dict[str, int | str]
NAMESPACE_NOT_FOUND = 26
LAB_MODULE = "credscale-lab"
DUE_BYTES = 100 * 10**9  # above this the guide shards a collection


@dataclass(frozen=True)
class Server:
    """What answers.

    Args:
        version: such as 5.0.28.
        engine: ``simulated``, or ``mongodb`` and the version.
        is_mongos: whether it is a router.
        cluster_id: the cluster's own identity, empty where there is none.
    """

    version: str
    engine: str
    is_mongos: bool
    cluster_id: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, for comparisons."""
        return version_numbers(self.version)


@dataclass(frozen=True)
class Shard:
    """A registered shard; ``members`` are host:port, state 1 is usable."""

    id: str
    replica_set: str
    members: tuple[str, ...]
    state: int
    draining: bool


@dataclass(frozen=True)
class Database:
    """A registered database; ``partitioned`` has a meaning up to 5.0."""

    name: str
    primary: str
    partitioned: bool


@dataclass(frozen=True)
class Collection:
    """A collection as listCollections shows it; ``uuid`` is 32 hex characters."""

    name: str
    type: str
    options: dict[str, Any]
    uuid: str

    @property
    def collation(self) -> str:
        """The locale of the default collation, ``simple`` where there is none."""
        return str(self.options.get("collation", {}).get("locale", "simple"))


@dataclass(frozen=True)
class ShardedCollection:
    """A sharded collection.

    Args:
        namespace: ``database.collection``.
        key: the shard key in its order.
        uuid: 32 hex characters.
        unique: whether the key is unique.
        no_balance: whether the balancer leaves it alone, or migrations are forbidden for it.
        selector: finds its chunks in config.chunks.
        range_bytes: its own chunk size, which it may have since 5.3; 0 where the cluster's holds.
    """

    namespace: str
    key: Key
    uuid: str
    unique: bool
    no_balance: bool
    selector: dict[str, Any] = field(compare=False)
    range_bytes: int = 0

    @property
    def key_text(self) -> str:
        """The key as parameters write it; two keys are equal exactly when these are."""
        return key_text(self.key)


@dataclass(frozen=True)
class Index:
    """An index; ``ttl`` is in seconds, ``collation`` a locale or ``simple``."""

    name: str
    key: Key
    unique: bool = False
    sparse: bool = False
    partial: bool = False
    hidden: bool = False
    ttl: float | None = None
    collation: str = "simple"
    seed: int = 0

    def supports(self, key: Mapping[str, int | str]) -> bool:
        """Tell whether this index can carry a shard key, by the server's rules apart from arrays (S44, §1.2)."""
        prefix = list(self.key.items())[: len(key)] == list(key.items())
        plain = not (self.sparse or self.partial or self.hidden) and self.collation == "simple"
        return prefix and plain and self.seed == 0


@dataclass(frozen=True)
class DataSize:
    """How big a collection is: bytes, uncompressed unless called storage; ``shards`` has the bytes of each shard."""

    documents: int
    bytes: int
    storage: int
    indexes: int
    shards: dict[str, int]


def version_numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers; a suffix such as -rc1 is left out."""
    return tuple(int(part) for part in version.split("-")[0].split("."))


def split_namespace(namespace: str) -> tuple[str, str]:
    """Return database and collection.

    Raises:
        EnvironmentInvalid: not ``database.collection``.
    """
    database, dot, collection = namespace.partition(".")
    if not dot or not database or not collection:
        raise EnvironmentInvalid(f"namespace must be database.collection, not {namespace!r}")
    return database, collection


def parse_key(shard_key: str) -> Key:
    """Return a shard key written as ``createdAt:hashed,userId:1``.

    Raises:
        EnvironmentInvalid: it is not written so.
    """
    from credscale.mongo.cluster.shard_key import parse_shard_key

    try:
        return parse_shard_key(shard_key)
    except ValueError as error:
        raise EnvironmentInvalid(str(error)) from None


def key_text(key: Mapping[str, Any]) -> str:
    """Return a key as parameters write it, in its order."""
    return ",".join(f"{name}:{kind if isinstance(kind, str) else int(kind)}" for name, kind in key.items())


def server(client: Client) -> Server:
    """Read version, engine, role and cluster identity."""
    greeting = hello(client)
    is_mongos = greeting.get("msg") == "isdbgrid"
    version = retrying(lambda: config_collection(client, "version").find_one({})) if is_mongos else None
    return parse_server(run(client, "admin", {"buildInfo": 1}), greeting, version)


def parse_server(build: Mapping[str, Any], greeting: Mapping[str, Any], version: Mapping[str, Any] | None) -> Server:
    """Understand buildInfo, hello and config.version."""
    number = str(build["version"])
    simulated = bool(build.get("simulated")) or LAB_MODULE in build.get("modules", [])
    engine = "simulated" if simulated else f"mongodb {number}"
    return Server(number, engine, greeting.get("msg") == "isdbgrid", str((version or {}).get("clusterId", "")))


def shards(client: Client) -> tuple[Shard, ...]:
    """Read the registered shards."""
    return parse_shards(run(client, "admin", {"listShards": 1}))


def parse_shards(reply: Mapping[str, Any]) -> tuple[Shard, ...]:
    """Understand listShards; ordered by name."""
    found = []
    for document in sorted(reply["shards"], key=lambda each: str(each["_id"])):
        name, _, hosts = document["host"].rpartition("/")
        members, state = tuple(hosts.split(",")), int(document.get("state", 1))
        found.append(Shard(document["_id"], name, members, state, bool(document.get("draining", False))))
    return tuple(found)


def database(client: Client, name: str) -> Database | None:
    """Read a database's registration; None when the cluster does not know it."""
    return parse_database(retrying(lambda: config_collection(client, "databases").find_one({"_id": name})))


def parse_database(document: Mapping[str, Any] | None) -> Database | None:
    """Understand a document of config.databases."""
    if document is None:
        return None
    return Database(document["_id"], document["primary"], bool(document.get("partitioned", False)))


def collection(client: Client, namespace: str) -> Collection | None:
    """Read a collection's kind, options and identity; None when it does not exist."""
    name, coll = split_namespace(namespace)
    return parse_collection(retrying(lambda: next(client[name].list_collections(filter={"name": coll}), None)))


def parse_collection(entry: Mapping[str, Any] | None) -> Collection | None:
    """Understand an entry of listCollections."""
    if entry is None:
        return None
    uuid = uuid_hex(entry.get("info", {}).get("uuid"))
    return Collection(entry["name"], entry.get("type", "collection"), dict(entry.get("options", {})), uuid)


def sharded_collection(client: Client, namespace: str) -> ShardedCollection | None:
    """Read how a collection is sharded; None when it is not."""
    return parse_sharded(retrying(lambda: config_collection(client, "collections").find_one({"_id": namespace})))


def parse_sharded(document: Mapping[str, Any] | None) -> ShardedCollection | None:
    """Understand a document of config.collections; 8.0 also lists unsharded ones, as unsplittable."""
    if document is None or document.get("dropped") or document.get("unsplittable"):
        return None
    key = {name: kind if isinstance(kind, str) else int(kind) for name, kind in document["key"].items()}
    forbidden = not document.get("allowMigrations", True) or not document.get("permitMigrations", True)
    return ShardedCollection(
        namespace=document["_id"],
        key=key,
        uuid=uuid_hex(document.get("uuid")),
        unique=bool(document.get("unique", False)),
        no_balance=bool(document.get("noBalance", False)) or forbidden,
        selector=chunk_selector(document),
        range_bytes=int(document.get("maxChunkSizeBytes", 0)),
    )


def chunk_selector(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filter for config.chunks: by uuid since FCV 5.0, which is where ``timestamp`` is present (§3.3)."""
    return {"uuid": document["uuid"]} if "timestamp" in document else {"ns": document["_id"]}


def indexes(client: Client, namespace: str) -> tuple[Index, ...]:
    """Read a collection's indexes; none when it does not exist."""
    from pymongo.errors import OperationFailure

    name, coll = split_namespace(namespace)
    try:
        return parse_indexes(retrying(lambda: list(client[name][coll].list_indexes())))
    except OperationFailure as error:
        if error.code == NAMESPACE_NOT_FOUND:
            return ()
        raise


def parse_indexes(documents: Iterable[Mapping[str, Any]]) -> tuple[Index, ...]:
    """Understand the documents of listIndexes."""
    return tuple(
        Index(
            name=document["name"],
            key={name: _direction(kind) for name, kind in document["key"].items()},
            unique=bool(document.get("unique", False)),
            sparse=bool(document.get("sparse", False)),
            partial="partialFilterExpression" in document,
            hidden=bool(document.get("hidden", False)),
            ttl=float(document["expireAfterSeconds"]) if "expireAfterSeconds" in document else None,
            collation=str(document.get("collation", {}).get("locale", "simple")),
            seed=int(document.get("seed", document.get("hashVersion", 0)) or 0),
        )
        for document in documents
    )


def _direction(kind: Any) -> int | str:
    return kind if isinstance(kind, str) else int(kind)


def supporting_index(found: Iterable[Index], key: Mapping[str, int | str]) -> Index | None:
    """Return the first index that can carry a shard key."""
    return next((index for index in found if index.supports(key)), None)


def data_size(client: Client, namespace: str) -> DataSize:
    """Read a collection's size; orphans are counted in (§3.3)."""
    name, coll = split_namespace(namespace)
    return parse_data_size(run(client, name, {"collStats": coll}))


def parse_data_size(reply: Mapping[str, Any]) -> DataSize:
    """Understand collStats of mongos or of a replica set."""
    by_shard = {name: int(stats.get("size", 0)) for name, stats in sorted(reply.get("shards", {}).items())}
    return DataSize(
        documents=int(reply.get("count", 0)),
        bytes=int(reply.get("size", 0)),
        storage=int(reply.get("storageSize", 0)),
        indexes=int(reply.get("totalIndexSize", 0)),
        shards=by_shard,
    )


def uuid_hex(value: Any) -> str:
    """Return a UUID, as Binary or uuid.UUID, as 32 hex characters; empty for None."""
    if value is None:
        return ""
    return value.hex if isinstance(getattr(value, "hex", None), str) else bytes(value).hex()
