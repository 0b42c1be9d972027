"""What the checks look at: read once, when first asked for, and shared by all of them.

Everything is bounded and read-only, so that it is safe on a loaded production cluster: members are asked directly, side
by side, with short deadlines; documents are sampled; every long read has a limit on the server.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from credscale.core.clients import LONG_SECONDS
from credscale.mongo import facts, members, operations
from credscale.mongo.advice.queries import read_queries
from credscale.mongo.commands import config_collection, retrying, run
from credscale.mongo.preflight.check import Seen, unreadable
from credscale.mongo.settings import parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    from credscale.core.context import Context
    from credscale.mongo.advice.queries import Reading
    from credscale.mongo.commands import Client
    from credscale.mongo.settings import BalancerSettings

T = TypeVar("T")
LOOK_AT_ALL = 100_000  # documents; of more a sample is taken
SAMPLE = 50_000
SAMPLE_MILLISECONDS = 60_000
WORKERS = 16
MEMBER_SECONDS = members.MEMBER_DEADLINE  # that one reply of a member may take
CATALOGUE_MILLISECONDS = 10_000
MOST_DOCUMENTS = 10_000  # of a collection of the catalogue that could grow
AUTHENTICATION_FAILED = 18
MOST_OPERATIONS = 10_000
CURRENT_MILLISECONDS = 10_000
# What is asked of every member: (name here, database, command).
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("build", {"buildInfo": 1}),
    ("hello", {"hello": 1}),
    ("status", {"replSetGetStatus": 1}),
    ("options", {"getCmdLineOpts": 1}),
    ("compatibility", {"getParameter": 1, "featureCompatibilityVersion": 1}),
    ("server_status", {"serverStatus": 1}),
    ("host", {"hostInfo": 1}),
    ("warnings", {"getLog": "startupWarnings"}),
    ("replica_config", {"replSetGetConfig": 1}),
    ("login", {"connectionStatus": 1, "showPrivileges": True}),
)


@dataclass(frozen=True)
class Clock:
    """A server's clock beside this machine's, as one question showed it; all in seconds since 1970.

    Args:
        before: this machine's when the question left.
        after: this machine's when the reply was here.
        server: the server's in between.
    """

    before: float
    after: float
    server: float

    @property
    def least(self) -> float:
        """How far the server is ahead at least; negative when it is behind."""
        return self.server - self.after

    @property
    def most(self) -> float:
        """How far the server is ahead at most."""
        return self.server - self.before


@dataclass(frozen=True)
class Member:
    """One mongod, asked directly.

    Args:
        address: ``host:port``.
        role: ``shard`` or ``config``.
        replica_set: as the cluster's catalogue names it.
        shard: the shard's name; empty for a config server.
        replies: reply by name of ``QUESTIONS``; missing where the member refused or did not answer.
        errors: the driver's error by the same names.
        problem: why it did not answer at all; empty when it did.
        barred: whether it answers, but does not let the user log in: shards have users of their own (§2.5).
        clock: its clock beside ours; None where it did not say.
    """

    address: str
    role: Literal["shard", "config"]
    replica_set: str
    shard: str
    replies: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    errors: Mapping[str, Exception] = field(default_factory=dict)
    problem: str = ""
    barred: bool = False
    clock: Clock | None = None

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes; 4.4.1 and older say so by the older name."""
        hello = self.replies.get("hello", {})
        return bool(hello.get("isWritablePrimary", hello.get("ismaster", False)))

    def reply(self, name: str) -> dict[str, Any]:
        """Return the reply to one question, or raise the error that came instead."""
        if name in self.errors:
            raise self.errors[name]
        return self.replies.get(name, {})


@dataclass(frozen=True)
class Replies:
    """What members said to one question.

    Args:
        found: reply by address.
        missing: why there is none, by address.
    """

    found: Mapping[str, dict[str, Any]]
    missing: Mapping[str, str]

    def unseen(self) -> list[Seen]:
        """Return one row that names all members that were not looked at; none when all were."""
        if not self.missing:
            return []
        reasons = "; ".join(f"{address}: {reason}" for address, reason in sorted(self.missing.items()))
        return [Seen("unknown", f"not looked at: {reasons}", "let them answer this user, then run again")]

    @property
    def share(self) -> str:
        """How many members were looked at, in words."""
        return f"{len(self.found)} of {len(self.found) + len(self.missing)} members"


class remembered(Generic[T]):  # noqa: N801 - used as cached_property is
    """A property that is read once; a failure is kept as well, since the next check would only wait as long for it."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read, self._name, self.__doc__ = read, read.__name__, read.__doc__

    def __get__(self, look: Look, _owner: type[Look] | None = None) -> T:
        """Return what was read, or raise why it could not be."""
        from pymongo.errors import PyMongoError

        if self._name in look.failures:
            raise look.failures[self._name]
        try:
            value = self._read(look)
        except PyMongoError as error:
            look.failures[self._name] = error
            raise
        look.__dict__[self._name] = value  # found before this descriptor from now on
        return value


class Look:
    """The cluster and the collection, as the checks see them.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        key: the wanted shard key.
        chunk_size_mb: what a later step will set.
        window: what a later step will set; empty leaves it.
        backup_directory: where backups lie; empty where none is known.
    """

    def __init__(
        self, ctx: Context, namespace: str, key: facts.Key, chunk_size_mb: int, window: str, backup_directory: str = ""
    ) -> None:
        self.ctx, self.namespace, self.key = ctx, namespace, key
        self.chunk_size_mb, self.window, self.backup_directory = chunk_size_mb, window, backup_directory
        self.database_name, self.collection_name = facts.split_namespace(namespace)
        self.failures: dict[str, Exception] = {}

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

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Every member of the shards and of the config servers, asked side by side."""
        wanted = [
            Member(address, "shard", shard.replica_set, shard.id) for shard in self.shards for address in shard.members
        ]
        if self.server.is_mongos:
            wanted += [Member(address, "config", "", "") for address in members.config_members(self.client)]
        with ThreadPoolExecutor(WORKERS, "preflight") as pool:
            return tuple(pool.map(self._ask, wanted))

    @property
    def answering(self) -> tuple[Member, ...]:
        """The members that answered."""
        return tuple(member for member in self.members if not member.problem)

    def _ask(self, member: Member) -> Member:
        from pymongo.errors import ConnectionFailure, PyMongoError

        client = self.member(member.address)
        replies: dict[str, dict[str, Any]] = {}
        errors: dict[str, Exception] = {}
        clock: Clock | None = None
        for name, command in QUESTIONS:
            asked = time.time()
            try:
                # The driver has waited for the member already; asking again would only double that.
                replies[name] = run(client, "admin", command, deadline=0.0)
            except ConnectionFailure as error:
                return replace(member, replies=replies, problem=f"{type(error).__name__}: it does not answer")
            except PyMongoError as error:
                if getattr(error, "code", None) == AUTHENTICATION_FAILED:
                    return replace(member, problem="it does not let this user log in (code 18)", barred=True)
                errors[name] = error
            else:
                if name == "hello" and "localTime" in replies[name]:
                    clock = Clock(asked, time.time(), replies[name]["localTime"].replace(tzinfo=UTC).timestamp())
        return replace(member, replies=replies, errors=errors, clock=clock)

    def member(self, address: str) -> Client:
        """Return a connection to a member on which a reply may take ``MEMBER_SECONDS``."""
        return self.ctx.clients.mongo_member(address, timeout=MEMBER_SECONDS)

    def replies(self, question: str, *roles: Literal["shard", "config"]) -> Replies:
        """Return what members said to one of ``QUESTIONS``.

        Args:
            question: its name.
            roles: of which members; none means all.
        """
        found, missing = {}, {}
        for member in self.members:
            if roles and member.role not in roles:
                continue
            if member.problem:
                missing[member.address] = member.problem
            elif question in member.errors:
                missing[member.address] = unreadable(member.errors[question]).finding
            else:
                found[member.address] = member.reply(question)
        return Replies(found, missing)

    def ask_each(self, addresses: Sequence[str], question: Callable[[Client], T]) -> dict[str, T | Seen]:
        """Read something of several members side by side.

        Args:
            addresses: of members that answer.
            question: reads it.

        Returns:
            what was read by address; a row that says why not where it could not be.
        """
        from pymongo.errors import PyMongoError

        def ask(address: str) -> T | Seen:
            try:
                return question(self.member(address))
            except PyMongoError as error:
                return unreadable(error)

        with ThreadPoolExecutor(WORKERS, "preflight") as pool:
            return dict(zip(addresses, pool.map(ask, addresses), strict=True))

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
    def sample(self) -> tuple[dict[str, Any], ...]:
        """The key fields of all documents, or of a random sample of ``SAMPLE``."""
        from bson.codec_options import CodecOptions, DatetimeConversion

        if not self.is_plain:
            return ()
        fields = dict.fromkeys(["_id", *self.key], 1)
        # Dates beyond the year 9999 and texts that are no UTF-8 are no reason to look at nothing.
        lenient: CodecOptions[dict[str, Any]] = CodecOptions(
            datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
        )
        database = self.ctx.clients.mongo(timeout=LONG_SECONDS)[self.database_name]
        collection = database.get_collection(self.collection_name, codec_options=lenient)
        if self.size.documents <= LOOK_AT_ALL:
            found = retrying(lambda: list(collection.find({}, fields, max_time_ms=SAMPLE_MILLISECONDS)))
        else:
            # Below 5 % of the collection the server takes documents at random; above it would read and sort them all.
            size = min(SAMPLE, self.size.documents // 21)
            pipeline: list[dict[str, Any]] = [{"$sample": {"size": size}}, {"$project": fields}]
            found = retrying(
                lambda: list(collection.aggregate(pipeline, allowDiskUse=True, maxTimeMS=SAMPLE_MILLISECONDS))
            )
        return tuple(found)

    @property
    def sampled_all(self) -> bool:
        """Whether the sample is every document."""
        return self.size.documents <= LOOK_AT_ALL
