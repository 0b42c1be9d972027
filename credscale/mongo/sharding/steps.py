"""The steps that shard a collection."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, step
from credscale.mongo.chunks.distribution import chunks_by_shard, range_problem
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import BUSY, is_passing, run
from credscale.mongo.cluster.failures import advised, explain_failure, text_of
from credscale.mongo.cluster.operations import sharding_at_work
from credscale.mongo.cluster.settings import balancer_settings
from credscale.mongo.sharding import balancer_memory
from credscale.mongo.sharding.indexing import await_builds, build_index
from credscale.mongo.sharding.state import ENABLES_ITSELF

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

READ_BACK_SECONDS = 30.0
POLL_SECONDS = 0.5
BUSY_POLL_SECONDS = 5.0
LOST_SECONDS = 90.0
ALREADY_INITIALIZED, MANUAL_INTERVENTION = 23, 51


@step()
def enable_sharding(ctx: Context, *, namespace: str) -> Finding:
    """Allow the database to hold sharded collections.

    Needed up to 5.0; since 6.0 shardCollection does it by itself (manual, §1).

    Args:
        namespace: ``database.collection``.
    """
    client, name = ctx.clients.mongo(), facts.split_namespace(namespace)[0]
    server, found = facts.server(client), facts.database(client, name)
    if server.numbers >= ENABLES_ITSELF:
        return Finding(f"not needed: MongoDB {server.version} enables sharding with the collection")
    if found is None:
        # Unknown databases would be created on the shard with the least data (§1.1).
        raise PreconditionFailed(
            f"the cluster does not know the database {name}. Add the replica set that holds it as a shard first"
        )
    output = {"database": name, "primary": found.primary}
    if found.partitioned:
        return Finding(f"sharding is enabled for {name} already (primary shard {found.primary})", output)
    ctx.apply(f"enable sharding for the database {name}", run, client, "admin", {"enableSharding": name})
    ctx.wait_until(f"config.databases has {name} partitioned", lambda: _partitioned(client, name), READ_BACK_SECONDS)
    verb = "would be" if ctx.planning else "is"
    return Finding(f"sharding {verb} enabled for {name} (primary shard {found.primary})", output)


def _partitioned(client: Client, name: str) -> tuple[bool, str]:
    found = facts.database(client, name)
    return found is not None and found.partitioned, str(found)


@step()
def create_shard_key_index(ctx: Context, *, namespace: str, shard_key: str) -> Finding:
    """Build the index that the shard key needs, unless one serves already.

    It gets the name MongoDB itself would give it, and the simple collation, which sharding demands (§1.2). A build that
    an earlier run began is waited for.

    Args:
        namespace: ``database.collection``.
        shard_key: such as ``createdAt:hashed,userId:1``.
    """
    from credscale.mongo.cluster.shard_key import index_name

    client, key = ctx.clients.mongo(), facts.parse_key(shard_key)
    if not ctx.dry_run:
        await_builds(ctx, namespace)
    name, existing = index_name(key), facts.indexes(client, namespace)
    found = facts.supporting_index(existing, key)
    if found is not None:
        return Finding(f"the index {found.name} serves the shard key already", {"index": found.name})
    collection = facts.collection(client, namespace)
    if collection is None:
        raise PreconditionFailed(f"{namespace} does not exist. Check the namespace")
    if any(index.name == name for index in existing):
        raise PreconditionFailed(
            f"{namespace} has an index named {name} that can't carry a shard key (sparse, partial, hidden or with a "
            "collation). Drop or rename it, then run again"
        )
    spec: dict[str, Any] = {"key": dict(key), "name": name}
    if collection.collation != "simple":
        spec["collation"] = {"locale": "simple"}
    started = time.monotonic()
    ctx.apply(f"create the index {name} on {namespace}", build_index, ctx, namespace, spec)
    ctx.wait_until(f"the index {name} is listed", lambda: _listed(client, namespace, key), READ_BACK_SECONDS)
    if ctx.planning:
        return Finding(f"the index {name} would be built", {"index": name})
    seconds = round(time.monotonic() - started, 1)
    return Finding(f"the index {name} is built", {"index": name, "seconds": seconds})


def _listed(client: Client, namespace: str, key: facts.Key) -> tuple[bool, str]:
    found = facts.indexes(client, namespace)
    return facts.supporting_index(found, key) is not None, ", ".join(index.name for index in found)


@step()
def shard_collection(ctx: Context, *, namespace: str, shard_key: str) -> Finding:
    """Shard the collection and read back key, chunks and their ranges.

    The command splits a collection that holds data and can take hours; reads and writes go on meanwhile. Issued again
    with the same options it joins the one under way (§1.2); after a lost connection it is issued again only when
    neither the catalogue nor $currentOp shows it. Until key, chunks and ranges were read back the target remembers that
    the balancer must stay off. There is no way back before MongoDB 8.0.

    Args:
        namespace: ``database.collection``.
        shard_key: such as ``createdAt:hashed,userId:1``.
    """
    client, key = ctx.clients.mongo(), facts.parse_key(shard_key)
    wanted, found = facts.key_text(key), facts.sharded_collection(client, namespace)
    if found is not None:
        _refuse_other_key(found, wanted)
        return Finding(f"{namespace} is sharded by {wanted} already", _read_back(ctx, client, namespace, wanted))
    _require_ready(ctx, client, namespace, key)
    command: dict[str, Any] = {"shardCollection": namespace, "key": dict(key)}
    collection = facts.collection(client, namespace)
    if collection is not None and collection.collation != "simple":
        command["collation"] = {"locale": "simple"}
    ctx.apply(f"shard {namespace} by {wanted} (no way back before MongoDB 8.0)", _shard, ctx, command, wanted)
    ctx.wait_until(
        f"config.collections has {namespace} by {wanted}", lambda: _sharded(client, namespace), READ_BACK_SECONDS
    )
    if ctx.planning:
        return Finding(f"{namespace} would be sharded by {wanted}")
    output = _read_back(ctx, client, namespace, wanted)
    return Finding(f"{namespace} is sharded by {wanted} in {output['chunks']} chunks", output)


def _refuse_other_key(found: facts.ShardedCollection, wanted: str) -> None:
    if found.key_text != wanted:
        raise PreconditionFailed(
            f"{found.namespace} is sharded by {found.key_text}, wanted is {wanted}. A shard key can't be changed here: "
            "use reshardCollection (MongoDB 5.0 and later), or run with the existing key. Nothing was changed"
        )


def _require_ready(ctx: Context, client: Client, namespace: str, key: facts.Key) -> None:
    settings = balancer_settings(client)
    ctx.require(
        settings.is_off,
        PreconditionFailed(
            f"the balancer must be off before {namespace} is sharded; it is {settings.mode}. Nothing was changed. "
            "Run stop_balancer first"
        ),
    )
    ctx.require(
        facts.supporting_index(facts.indexes(client, namespace), key) is not None,
        PreconditionFailed(
            f"{namespace} has no index that starts with {facts.key_text(key)}. Run create_shard_key_index first"
        ),
    )


def _sharded(client: Client, namespace: str) -> tuple[bool, str]:
    found = facts.sharded_collection(client, namespace)
    return found is not None, "not sharded" if found is None else f"sharded by {found.key_text}"


def _shard(ctx: Context, command: dict[str, Any], wanted: str) -> None:
    """Run shardCollection, with no time limit of its own; look for what it has done before asking again."""
    from pymongo.errors import ConnectionFailure, OperationFailure

    client, namespace = ctx.clients.mongo(), command["shardCollection"]
    patience = _Patience(lost=balancer_memory.is_kept_off(ctx, namespace))
    balancer_memory.keep_off(ctx, namespace, f"shardCollection of {namespace} was sent and not read back")
    while True:
        started = time.monotonic()
        try:
            ctx.clients.mongo(timeout=LONG_SECONDS).admin.command(dict(command))
        except (ConnectionFailure, OperationFailure) as error:
            if not is_passing(error):
                problem = _explained(error, namespace)
                if problem is not None:
                    raise problem from error
            if not is_passing(error) or patience.is_over(error, started):
                advised(error)
                raise
            patience.tell(ctx, explain_failure(error).code_name)
        else:
            return
        if _was_done(ctx, client, namespace, wanted, patience):
            return


def _was_done(ctx: Context, client: Client, namespace: str, wanted: str, patience: _Patience) -> bool:
    """Look into the catalogue, and wait while $currentOp shows the lost command at work; tell whether it was done."""
    while True:
        time.sleep(BUSY_POLL_SECONDS if patience.at_work else POLL_SECONDS)
        # In this order: what ends between the two looks is found in the catalogue.
        at_work = patience.lost and sharding_at_work(ctx, namespace)
        found = facts.sharded_collection(client, namespace)
        if found is not None:
            _refuse_other_key(found, wanted)
            return True
        if not at_work or not patience.works():
            return False
        patience.tell(ctx)


@dataclass
class _Patience:
    """How long errors of shardCollection are borne.

    Most pass within ``LOST_SECONDS``. But once an answer was lost, by this run or by one that died, a server that says
    it is busy is busy with our own command, which may take hours.

    Args:
        lost: whether a command of ours may be at work in the cluster.
    """

    lost: bool
    at_work: bool = False
    first: float = 0.0
    began: float = 0.0
    told: str = ""

    def is_over(self, error: Exception, started: float) -> bool:
        """Tell whether an error is one too many.

        Args:
            error: a passing one.
            started: when the command that failed was sent; one that worked for long starts the count anew.
        """
        now, was_at_work, busy = time.monotonic(), self.at_work, explain_failure(error).code in BUSY
        self.first = self.first or now
        self.at_work = self.lost and busy
        self.lost = self.lost or not busy
        if self.began == 0.0 or now - started > LOST_SECONDS or was_at_work != self.at_work:
            self.began = now
        return now >= self.first + LONG_SECONDS or (not self.at_work and now >= self.began + LOST_SECONDS)

    def works(self) -> bool:
        """Note that the command was seen at work, which starts the count anew; tell whether to wait on."""
        self.at_work, self.began = True, time.monotonic()
        return self.began < self.first + LONG_SECONDS

    def tell(self, ctx: Context, error: str = "") -> None:
        """Say what is waited for, once for each kind of error."""
        what = "is still at work" if self.at_work else f"was interrupted ({error})"
        if what != self.told:
            ctx.note(f"shardCollection {what}; looking into the catalogue")
        self.told = what


def _explained(error: Exception, namespace: str) -> PreconditionFailed | None:
    code = getattr(error, "code", None)
    if code == ALREADY_INITIALIZED:
        return PreconditionFailed(
            f"{namespace} was sharded by somebody else with other options meanwhile: {text_of(error)}. This run has "
            "not sharded it. Compare key, unique and collation in config.collections with yours, then run with those"
        )
    if code == MANUAL_INTERVENTION:
        return PreconditionFailed(
            f"an earlier shardCollection of {namespace} died after writing some chunks (4.4, §1.2); this one has "
            "changed nothing. Make sure that db.currentOp() shows nobody sharding it, and that "
            f"db.getSiblingDB('config').collections.find({{_id: '{namespace}', dropped: {{$ne: true}}}}) finds "
            f"nothing. Only then run db.getSiblingDB('config').chunks.deleteMany({{ns: '{namespace}'}}), and this again"
        )
    return None


def _read_back(ctx: Context, client: Client, namespace: str, wanted: str) -> dict[str, Any]:
    found = facts.sharded_collection(client, namespace)
    if found is None or found.key_text != wanted:
        raise VerificationFailed(f"{namespace} should be sharded by {wanted}, config.collections says {found}")
    problem = range_problem(client, found)
    if problem:
        balancer_memory.keep_off(ctx, namespace, f"{namespace} was read back after it was sharded")
        env = ctx.environment.name
        raise VerificationFailed(
            f"the chunks of {namespace} do not cover the key space: {problem}. The balancer must stay off, so it is "
            f"not put back while this lasts (if it is on: invoke mongo.stop-balancer --env {env}). Compare "
            "config.chunks with the manual or ask MongoDB's support, then run again"
        )
    balancer_memory.allow(ctx, namespace)
    chunks = chunks_by_shard(client, found, [shard.id for shard in facts.shards(client)])
    rows = [{"shard": shard, "chunks": count} for shard, count in sorted(chunks.items())]
    return {"key": wanted, "chunks": sum(chunks.values()), "rows": rows, "uuid": found.uuid}
