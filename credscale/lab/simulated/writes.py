"""Writes to sharded collections, with the targeting rules and errors of MongoDB before 7.1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from credscale.lab.simulated.backends import batches
from credscale.lab.simulated.forwarding import forward_write, namespace
from credscale.lab.simulated.reads import matching, options
from credscale.lab.simulated.replies import CommandFailed, Document, shell_text
from credscale.lab.simulated.routing import RoutingTable, equalities, position
from credscale.mongo.cluster.shard_key import has_array

if TYPE_CHECKING:
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.wire import Peer


@dataclass
class Outcome:
    """What a write command has done so far."""

    n: int = 0
    modified: int = 0
    upserted: list[Document] = field(default_factory=list)
    errors: list[Document] = field(default_factory=list)

    def reply(self, **counts: int) -> Document:
        """Return the command's answer."""
        answer: Document = {"n": self.n, **counts}
        if self.upserted:
            answer["upserted"] = self.upserted
        if self.errors:
            answer["writeErrors"] = sorted(self.errors, key=lambda error: int(error["index"]))
        return {**answer, "ok": 1.0}

    def add(self, reply: Mapping[str, Any], positions: list[int]) -> None:
        """Add a shard's answer to the statements that stood at these positions."""
        self.n += reply["n"]
        self.modified += reply.get("nModified", 0)
        for each in reply.get("upserted", []):
            self.upserted.append({**each, "index": positions[each["index"]]})
        for error in reply.get("writeErrors", []):
            self.errors.append({**error, "index": positions[error["index"]]})


def insert(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Insert each document on the shard that owns its chunk."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward_write(cluster, request)
        documents = request["documents"]
        if any(has_array(document, table.key) for document in documents):
            raise CommandFailed(61, "Shard key cannot contain array values or array descendants.")
        ordered = request.get("ordered", True)
        targets = [(table.owner(table.position_of(document)), index) for index, document in enumerate(documents)]
        # Ordered inserts go out in runs for one shard after the other; unordered ones all at once for each shard.
        runs = targets if ordered else sorted(targets, key=lambda target: str(target[0]))
        outcome = Outcome()
        for name, run in groupby(runs, key=lambda target: target[0]):
            positions = [index for _, index in run]
            command = {"insert": request["insert"], "documents": [documents[index] for index in positions]}
            reply = cluster.shard(str(name)).demand(request["$db"], {**command, "ordered": ordered})
            outcome.add(reply, positions)
            if ordered and outcome.errors:
                break
    return outcome.reply()


def update(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Update documents where they are owned."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward_write(cluster, request)
        outcome = _each(_update, cluster, table, request["updates"], request.get("ordered", True))
    return outcome.reply(nModified=outcome.modified)


def _each(
    run: Callable[[Cluster, RoutingTable, Document, int, Outcome], None],
    cluster: Cluster,
    table: RoutingTable,
    statements: list[Document],
    ordered: bool,
) -> Outcome:
    """Run the statements of one command; an ordered one ends with the first that fails."""
    outcome = Outcome()
    for index, statement in enumerate(statements):
        try:
            run(cluster, table, statement, index, outcome)
        except CommandFailed as error:
            outcome.errors.append(error.write_error(index))
        if outcome.errors and ordered:
            break
    return outcome


def _update(cluster: Cluster, table: RoutingTable, statement: Document, index: int, outcome: Outcome) -> None:
    """Run one update statement."""
    query, multi = statement["q"], bool(statement.get("multi"))
    _refuse_new_key(table, query, statement["u"])
    if statement.get("upsert"):
        owner = _owner_of_exact_key(table, query)
        if owner is None:
            raise CommandFailed(61, "Failed to target upsert by query :: could not extract exact shard key")
        _send(cluster, table, owner, "update", statement, index, outcome)
        return
    if not multi and "_id" not in equalities(query):
        _demand_one_shard(table, statement)
    _send_to_owned(cluster, table, "update", statement, multi, index, outcome)


def _demand_one_shard(table: RoutingTable, statement: Document) -> None:
    """Raise unless an update of one document concerns one shard."""
    # A replacement names its shard itself: the new document has the same key as the old one.
    if len(table.targets(statement["q"])) == 1 or _replacement(statement["u"]) is not None:
        return
    shown = {"q": statement["q"], "u": statement["u"], "multi": False, "upsert": False}
    raise CommandFailed(
        72,
        "A {multi:false} update on a sharded collection must either contain an exact match on _id or must target a "
        "single shard but this update targeted _id (and have the collection default collation) or must target a "
        "single shard (and have the simple collation), but this update targeted "
        f"{len(table.targets(statement['q']))} shards. Update request: {shell_text(shown)}, "
        f"shard key pattern: {shell_text(table.key)}",
    )


def delete(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Delete documents where they are owned."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward_write(cluster, request)
        outcome = _each(_delete, cluster, table, request["deletes"], request.get("ordered", True))
    return outcome.reply()


def _delete(cluster: Cluster, table: RoutingTable, statement: Document, index: int, outcome: Outcome) -> None:
    """Run one delete statement."""
    query, multi = statement["q"], statement.get("limit", 0) == 0
    if not multi and "_id" not in equalities(query) and table.exact_key(query) is None:
        shown = {"q": query, "limit": 1}
        raise CommandFailed(
            61,
            "A single delete on a sharded collection must contain an exact match on _id (and have the collection "
            "default collation) or contain the shard key (and have the simple collation). Delete request: "
            f"{shell_text(shown)}, shard key pattern: {shell_text(table.key)}",
        )
    _send_to_owned(cluster, table, "delete", statement, multi, index, outcome)


def find_and_modify(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Run a findAndModify on the one shard that its shard key names."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward_write(cluster, request)
        owner = _owner_of_exact_key(table, request.get("query") or {})
        if owner is None:
            raise CommandFailed(61, "Query for sharded findAndModify must contain the shard key")
        if "update" in request:
            _refuse_new_key(table, request["query"], request["update"])
        command = {name: value for name, value in request.items() if name != "hint"}
        reply = cluster.shard(owner).demand(request["$db"], command, raw=True)
        return {name: reply[name] for name in ("lastErrorObject", "value", "ok") if name in reply}


def _owner_of_exact_key(table: RoutingTable, query: Mapping[str, Any]) -> str | None:
    """Return the shard that owns the key a query names in full."""
    exact = table.exact_key(query)
    return None if exact is None else table.owner(position(exact))


def _send_to_owned(
    cluster: Cluster, table: RoutingTable, name: str, statement: Document, multi: bool, index: int, outcome: Outcome
) -> None:
    """Run a statement on the documents it matches, named by _id so that no orphan is touched."""
    found = matching(cluster, table, statement["q"], options(cluster, table, statement))
    for shard, (documents, _) in found.items():
        chosen = documents if multi else documents[:1]
        _refuse_moving_replacement(table, statement.get("u"), chosen)
        for batch in batches([document["_id"] for document in chosen]):
            query = {**statement["q"], "_id": {"$in": batch} if multi else batch[0]}
            _send(cluster, table, shard, name, {**statement, "q": query}, index, outcome)
        if chosen and not multi:
            return


def _send(
    cluster: Cluster, table: RoutingTable, shard: str, name: str, statement: Document, index: int, outcome: Outcome
) -> None:
    """Run one statement on one shard."""
    db, _, collection = table.ns.partition(".")
    passed = {option: value for option, value in statement.items() if option != "hint"}
    reply = cluster.shard(shard).demand(db, {name: collection, f"{name}s": [passed]})
    outcome.add(reply, [index])


def _replacement(change: Any) -> Mapping[str, Any] | None:
    """Return the new document of an update that replaces the whole, None for any other."""
    return change if isinstance(change, Mapping) and not next(iter(change), "").startswith("$") else None


def _refuse_new_key(table: RoutingTable, query: Mapping[str, Any], change: Any) -> None:
    """Raise if an update may change a shard key value, which could make its document an orphan."""
    if _replacement(change) is not None:
        return
    fixed = equalities(query)
    stages = change if isinstance(change, list) else [change]
    for stage in stages:
        for operator, fields in stage.items():
            named = fields if isinstance(fields, Mapping) else {}
            for path in table.key:
                root = path.partition(".")[0]
                touched = next((name for name in named if name.partition(".")[0] == root), None)
                same = touched == path and path in fixed and named[path] == fixed[path]
                if touched and not same and operator != "$setOnInsert":
                    _refuse_moved_key(table, query)


def _refuse_moving_replacement(table: RoutingTable, change: Any, documents: list[Any]) -> None:
    """Raise if a replacement has another shard key than the document it replaces."""
    replacement = _replacement(change)
    if replacement is not None and any(table.position_of(replacement) != table.position_of(each) for each in documents):
        _refuse_moved_key(table, {})


def _refuse_moved_key(table: RoutingTable, query: Mapping[str, Any]) -> None:
    """Raise for a change of the shard key."""
    if table.exact_key(query) is None:
        told = "Shard key update is not allowed without specifying the full shard key in the query"
        raise CommandFailed(31025, told)
    raise CommandFailed(20, "the lab's simulated mongos does not update shard key values")
