"""What the checks look at: read once, when first asked for, and shared by all of them.

Everything is bounded and read-only, so that it is safe on a loaded production cluster: members are asked directly, side
by side, with short deadlines; documents are sampled; every long read has a limit on the server.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from credscale.mongo.advice.queries import read_queries
from credscale.mongo.chunks.distribution import default_chunk_mb
from credscale.mongo.cluster import facts, members, operations
from credscale.mongo.cluster.commands import config_collection, retrying, run
from credscale.mongo.cluster.settings import parse_settings
from credscale.mongo.documents.sampling import LOOK_AT_ALL, documents_of, read_sample
from credscale.mongo.preflight.check import Seen, unreadable
from credscale.mongo.preflight.members_asked import Member, Replies, ask, replies_of, silent
from credscale.mongo.preflight.remembered import remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    from credscale.core.context import Context
    from credscale.mongo.advice.queries import Reading
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.settings import BalancerSettings

T = TypeVar("T")
WORKERS = 16
MEMBER_SECONDS = members.MEMBER_DEADLINE  # that one reply of a member may take
CATALOGUE_MILLISECONDS = 10_000
MOST_DOCUMENTS = 10_000  # of a collection of the catalogue that could grow
MOST_OPERATIONS = 10_000
CURRENT_MILLISECONDS = 10_000


class Look:
    """The cluster and the collection, as the checks see them.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        key: the wanted shard key.
        chunk_size_mb: what a later step will set; 0 for what holds now.
        window: what a later step will set; empty leaves it.
        backup_directory: where backups lie; empty where none is known.
    """

    def __init__(
        self, ctx: Context, namespace: str, key: facts.Key, chunk_size_mb: int, window: str, backup_directory: str = ""
    ) -> None:
        self.ctx, self.namespace, self.key = ctx, namespace, key
        self.wanted_chunk_size_mb, self.window, self.backup_directory = chunk_size_mb, window, backup_directory
        self.database_name, self.collection_name = facts.split_namespace(namespace)
        self.failures: dict[str, Exception] = {}
        self.lost: dict[str, Seen] = {}

    def read(self, action: Callable[[], T]) -> T:
        """Repeat a read for ``MEMBER_SECONDS`` at most while it fails for a passing reason."""
        return retrying(action, deadline=MEMBER_SECONDS)

    @property
    def rehearsal(self) -> bool:
        """Whether this is a lab on one machine."""
        return self.ctx.environment.lab is not None

    @cached_property
    def client(self) -> Client:
        """The pinned mongos."""
        return self.ctx.clients.mongo()

    @cached_property
    def server(self) -> facts.Server:
        """What answers behind ``mongo.uri``."""
        return facts.server(self.client)

    @remembered
    def shards(self) -> tuple[facts.Shard, ...]:
        """The registered shards; none when a mongod answers."""
        return facts.shards(self.client) if self.server.is_mongos else ()

    @property
    def chunk_size_mb(self) -> int:
        """The chunk size to judge by: the wanted one, else the one that is set, else the server's default."""
        return self.wanted_chunk_size_mb or self.settings.chunk_size_mb or default_chunk_mb(self.server)

    @remembered
    def members(self) -> tuple[Member, ...]:
        """Every member of the shards and of the config servers, asked side by side."""
        wanted = [
            Member(address, "shard", shard.replica_set, shard.id) for shard in self.shards for address in shard.members
        ]
        if self.server.is_mongos:
            wanted += [Member(address, "config", "", "") for address in members.config_members(self.client)]
        with ThreadPoolExecutor(WORKERS, "preflight") as pool:
            return tuple(pool.map(lambda each: ask(each, self.member(each.address)), wanted))

    @property
    def answering(self) -> tuple[Member, ...]:
        """The members that answered."""
        return tuple(member for member in self.members if not member.problem)

    def member(self, address: str) -> Client:
        """Return a connection to a member on which a reply may take ``MEMBER_SECONDS``."""
        return self.ctx.clients.mongo_member(address, timeout=MEMBER_SECONDS)

    def replies(self, question: str, *roles: Literal["shard", "config"]) -> Replies:
        """Return what members said to one of ``QUESTIONS``.

        Args:
            question: its name.
            roles: of which members; none means all.
        """
        return replies_of([each for each in self.members if not roles or each.role in roles], question)

    def ask_each(self, addresses: Sequence[str], question: Callable[[Client], T]) -> dict[str, T | Seen]:
        """Read something of several members side by side; one that does not answer any more is not asked again.

        Args:
            addresses: of members that answered.
            question: reads it.

        Returns:
            what was read by address; a row that says why not where it could not be.
        """
        from pymongo.errors import ConnectionFailure, PyMongoError

        def ask_one(address: str) -> T | Seen:
            if address in self.lost:
                return self.lost[address]
            try:
                return question(self.member(address))
            except ConnectionFailure as error:
                self.lost[address] = silent(address, f"{type(error).__name__}: it does not answer any more")
                return self.lost[address]
            except PyMongoError as error:
                return unreadable(error)

        with ThreadPoolExecutor(WORKERS, "preflight") as pool:
            return dict(zip(addresses, pool.map(ask_one, addresses), strict=True))

    def primary(self, shard: str) -> Member | None:
        """Return the primary of a shard among those that answered."""
        return next((each for each in self.answering if each.shard == shard and each.is_primary), None)

    def catalogue(self, name: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Read a collection of the database config through mongos, at most ``MOST_DOCUMENTS`` of it."""
        collection = config_collection(self.client, name)
        options = {"limit": MOST_DOCUMENTS, "max_time_ms": CATALOGUE_MILLISECONDS}
        return self.read(lambda: list(collection.find(query or {}, **options)))

    @remembered
    def router_signs(self) -> tuple[dict[str, Any], ...]:
        """The documents of config.mongos: every router that ever was, with its last sign of life."""
        return tuple(self.catalogue("mongos"))

    @remembered
    def settings(self) -> BalancerSettings:
        """The balancer's settings."""
        status = run(self.client, "admin", {"balancerStatus": 1}, deadline=MEMBER_SECONDS)
        return parse_settings(self.catalogue("settings"), status)

    @remembered
    def database(self) -> facts.Database | None:
        """The collection's database, as the catalogue has it."""
        databases = config_collection(self.client, "databases")
        return facts.parse_database(self.read(lambda: databases.find_one({"_id": self.database_name})))

    @remembered
    def collection(self) -> facts.Collection | None:
        """The collection; None when there is none."""
        database, wanted = self.client[self.database_name], {"name": self.collection_name}
        return facts.parse_collection(self.read(lambda: next(database.list_collections(filter=wanted), None)))

    @property
    def is_plain(self) -> bool:
        """Whether there is a collection that is neither a view nor a time series."""
        return self.collection is not None and self.collection.type == "collection"

    @remembered
    def sharded(self) -> facts.ShardedCollection | None:
        """The collection as a sharded one; None when it is not."""
        return facts.parse_sharded(self.entry)

    @remembered
    def size(self) -> facts.DataSize:
        """The collection's size; with orphans up to 6.0.2."""
        command = {"collStats": self.collection_name}
        return facts.parse_data_size(run(self.client, self.database_name, command, deadline=MEMBER_SECONDS))

    @remembered
    def indexes(self) -> tuple[facts.Index, ...]:
        """The collection's indexes; none when there is no collection."""
        if not self.is_plain:
            return ()
        collection = self.client[self.database_name][self.collection_name]
        return facts.parse_indexes(self.read(lambda: list(collection.list_indexes())))

    @remembered
    def operations(self) -> list[operations.Operation]:
        """What is under way on every shard's primary, with open transactions and with cursors that wait for changes."""
        options = {"allUsers": True, "idleConnections": False, "idleSessions": True, "idleCursors": True}
        # Of idle cursors only the tailable ones are wanted, change streams among them: there may be thousands.
        match = {"$or": [{"type": {"$ne": "idleCursor"}}, {"cursor.tailable": True}]}
        pipeline: list[dict[str, Any]] = [{"$currentOp": options}, {"$match": match}, {"$limit": MOST_OPERATIONS}]
        return retrying(
            lambda: list(self.client["admin"].aggregate(pipeline, maxTimeMS=CURRENT_MILLISECONDS)),
            deadline=members.MEMBER_DEADLINE,
        )

    @remembered
    def entry(self) -> dict[str, Any] | None:
        """The document of config.collections; 8.0 lists unsharded collections too."""
        collections = config_collection(self.client, "collections")
        return self.read(lambda: collections.find_one({"_id": self.namespace}))

    @remembered
    def home(self) -> str:
        """The shard where the collection lies while it is not sharded; empty when the cluster knows no database."""
        if self.entry is not None and self.entry.get("unsplittable"):  # 8.0: moveCollection takes it off the primary
            uuid, chunks = self.entry.get("uuid"), config_collection(self.client, "chunks")
            chunk = self.read(lambda: chunks.find_one({"uuid": uuid}))
            return str((chunk or {}).get("shard", ""))
        return self.database.primary if self.database is not None else ""

    @cached_property
    def found_on(self) -> dict[str, str | Exception | None]:
        """The UUID under which each shard itself holds the namespace; None where it does not, or why it is not told."""
        with ThreadPoolExecutor(WORKERS, "preflight") as pool:
            return dict(zip((shard.id for shard in self.shards), pool.map(self._uuid_on, self.shards), strict=True))

    def _uuid_on(self, shard: facts.Shard) -> str | Exception | None:
        from pymongo.errors import PyMongoError

        try:
            return members.uuid_on_shard(self.on_primary(shard.id), self.namespace)
        except PyMongoError as error:
            return error

    def on_primary(self, shard: str) -> Client:
        """Return a connection to a shard's primary.

        Raises:
            ServerSelectionTimeoutError: none of those that answered is the primary.
        """
        from pymongo.errors import ServerSelectionTimeoutError

        found = self.primary(shard)
        if found is None:
            raise ServerSelectionTimeoutError(f"no member of {shard} that answers is its primary")
        return self.member(found.address)

    @remembered
    def queries(self) -> Reading:
        """The queries that profilers and $queryStats have recorded."""
        return read_queries(self.ctx, self.namespace, "", self.server)

    @remembered
    def _sampled(self) -> tuple[list[dict[str, Any]], list[int] | None]:
        if not self.is_plain:
            return [], None
        return read_sample(documents_of(self.client, self.namespace), self.key, self.size.documents)

    @property
    def sample(self) -> Sequence[Mapping[str, Any]]:
        """The key fields of all documents, or of a random sample, read from secondaries where there are any."""
        return self._sampled[0]

    @property
    def sample_sizes(self) -> Sequence[int] | None:
        """The bytes of each document of the sample; None where the server can't tell."""
        return self._sampled[1]

    @remembered
    def index_refusal(self) -> Exception | None:
        """What the primary of the collection's shard says against the index of the key; None when it would take it.

        The only one that knows whether documents have arrays there, and it looks at the index's metadata alone.
        """
        from pymongo.errors import OperationFailure

        command = {"checkShardingIndex": self.namespace, "keyPattern": dict(self.key)}
        try:
            run(self.on_primary(self.home), "admin", command, deadline=MEMBER_SECONDS)
        except OperationFailure as error:
            return error
        return None

    @property
    def sampled_all(self) -> bool:
        """Whether the sample is every document."""
        return self.size.documents <= LOOK_AT_ALL
