"""What the checks look at: read once, when first asked for, and shared by all of them.

Everything is bounded and read-only, so that it is safe on a loaded production cluster: members are asked directly, side
by side, with short deadlines; documents are sampled; every long read has a limit on the server.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.mongo import facts, members, operations
from credscale.mongo.commands import retrying, run
from credscale.mongo.settings import balancer_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from credscale.core.context import Context
    from credscale.mongo.commands import Client
    from credscale.mongo.settings import BalancerSettings

LOOK_AT_ALL = 100_000  # documents; of more a sample is taken
SAMPLE = 50_000
SAMPLE_MILLISECONDS = 60_000
WORKERS = 16
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
)


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
    """

    address: str
    role: Literal["shard", "config"]
    replica_set: str
    shard: str
    replies: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    errors: Mapping[str, Exception] = field(default_factory=dict)
    problem: str = ""

    def reply(self, name: str) -> dict[str, Any]:
        """Return the reply to one question, or raise the error that came instead."""
        if name in self.errors:
            raise self.errors[name]
        return self.replies.get(name, {})


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

    @cached_property
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
        from dataclasses import replace

        from pymongo.errors import ConnectionFailure, PyMongoError

        client = self.ctx.clients.mongo_member(member.address)
        replies: dict[str, dict[str, Any]] = {}
        errors: dict[str, Exception] = {}
        for name, command in QUESTIONS:
            try:
                replies[name] = run(client, "admin", command, deadline=members.MEMBER_DEADLINE)
            except ConnectionFailure as error:
                return replace(member, replies=replies, problem=f"{type(error).__name__}: it does not answer")
            except PyMongoError as error:
                errors[name] = error
        return replace(member, replies=replies, errors=errors)

    @cached_property
    def settings(self) -> BalancerSettings:
        """The balancer's settings."""
        return balancer_settings(self.client)

    @cached_property
    def database(self) -> facts.Database | None:
        """The collection's database, as the catalogue has it."""
        return facts.database(self.client, self.database_name)

    @cached_property
    def collection(self) -> facts.Collection | None:
        """The collection; None when there is none."""
        return facts.collection(self.client, self.namespace)

    @property
    def is_plain(self) -> bool:
        """Whether there is a collection that is neither a view nor a time series."""
        return self.collection is not None and self.collection.type == "collection"

    @cached_property
    def sharded(self) -> facts.ShardedCollection | None:
        """The collection as a sharded one; None when it is not."""
        return facts.sharded_collection(self.client, self.namespace)

    @cached_property
    def size(self) -> facts.DataSize:
        """The collection's size; with orphans up to 6.0.2."""
        return facts.data_size(self.client, self.namespace)

    @cached_property
    def indexes(self) -> tuple[facts.Index, ...]:
        """The collection's indexes; none when there is no collection."""
        return tuple(facts.indexes(self.client, self.namespace)) if self.is_plain else ()

    @cached_property
    def operations(self) -> list[operations.Operation]:
        """What is under way on every shard's primary."""
        return operations.current(self.client)

    @cached_property
    def sample(self) -> tuple[dict[str, Any], ...]:
        """The key fields of all documents, or of a random sample of ``SAMPLE``."""
        if not self.is_plain:
            return ()
        fields = dict.fromkeys(["_id", *self.key], 1)
        collection = self.ctx.clients.mongo(timeout=LONG_SECONDS)[self.database_name][self.collection_name]
        if self.size.documents <= LOOK_AT_ALL:
            found = retrying(lambda: list(collection.find({}, fields, max_time_ms=SAMPLE_MILLISECONDS)))
        else:
            pipeline: list[dict[str, Any]] = [{"$sample": {"size": SAMPLE}}, {"$project": fields}]
            found = retrying(
                lambda: list(collection.aggregate(pipeline, allowDiskUse=True, maxTimeMS=SAMPLE_MILLISECONDS))
            )
        return tuple(found)

    @property
    def sampled_all(self) -> bool:
        """Whether the sample is every document."""
        return self.size.documents <= LOOK_AT_ALL
