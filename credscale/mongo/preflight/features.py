"""What a sharded collection does not allow, or allows differently: validators, encryption, joins, $out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from credscale.mongo.facts import split_namespace
from credscale.mongo.preflight.check import Seen, check, unreadable
from credscale.mongo.preflight.collection import READ_MILLISECONDS, no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from credscale.mongo.preflight.look import Look

MOST_VIEWS = 1000
JOINS_SHARDED = (5, 1)
JOINS = ("$lookup", "$graphLookup")
TAKES_OTHER = (*JOINS, "$unionWith", "$out", "$merge")


@check(
    39,
    "features",
    command="listCollections: options and views; pipelines in $currentOp",
    reason="A $lookup from a sharded collection fails up to 5.0, and $out can never write into one.",
)
def features(look: Look) -> Iterator[Seen]:
    """Look for validators, encrypted fields, and pipelines that a sharded collection does not allow."""
    from pymongo.errors import PyMongoError

    if look.collection is None:
        yield no_collection(look)
        return
    views = look.client[look.database_name].list_collections(filter={"type": "view"}, maxTimeMS=READ_MILLISECONDS)
    pipelines = {f"the view {view['name']}": _view_stages(view) for view in itertools.islice(views, MOST_VIEWS)}
    try:
        pipelines |= running_pipelines(look.operations, look.database_name)
    except PyMongoError as error:
        told = unreadable(error)
        yield Seen("unknown", f"aggregates under way: {told.finding}", told.remedy)
    yield from judge_options(look.collection.options)
    yield from judge_pipelines(pipelines, look.namespace, look.server.numbers)


def running_pipelines(operations: Iterable[Mapping[str, Any]], database: str) -> dict[str, list[Any]]:
    """Return the pipelines of the aggregates under way in a database, by what they are."""
    found = {}
    for operation in operations:
        command = operation.get("command") or {}
        if command.get("$db") == database and isinstance(command.get("pipeline"), list):
            found[f"an aggregate under way on {operation.get('ns')}"] = list(command["pipeline"])
    return found


def _view_stages(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(view.get("options", {}).get("pipeline", []))


def judge_options(options: Mapping[str, Any]) -> list[Seen]:
    """Judge the collection's options that matter on several shards."""
    rows = []
    if options.get("validator"):
        level, action = options.get("validationLevel", "strict"), options.get("validationAction", "error")
        seen = f"a validator ({level}, {action}) goes with the collection to every shard; moved documents pass it by"
        rows.append(Seen("note", seen, "change it by collMod on mongos only"))
    if options.get("encryptedFields"):
        seen = "encrypted fields keep their metadata in collections that are not sharded along"
        rows.append(Seen("warn", seen, "see that no field of the key is encrypted at random, and test the clients"))
    return rows


def judge_pipelines(found: Mapping[str, Iterable[Any]], namespace: str, version: tuple[int, ...]) -> list[Seen]:
    """Judge the pipelines that use the collection.

    Args:
        found: the stages of each, by what it is.
        namespace: ``database.collection``.
        version: the server's.
    """
    rows: list[Seen] = []
    name = split_namespace(namespace)[1]
    for what, stages in sorted(found.items()):
        used = sorted(set(uses(stages, namespace)))
        refused = [stage for stage in used if stage in JOINS and version < JOINS_SHARDED]
        if refused:
            remedy = "take the join out or upgrade to 5.1 or later before the sharding"
            rows.append(Seen("stop", f"{what} has {', '.join(refused)} from {name}, which fails up to 5.0", remedy))
        elif "$out" in used:
            seen = f"{what} writes into {name} by $out, which fails for a sharded collection"
            rows.append(Seen("stop", seen, "make it $merge before the sharding"))
        elif used:
            rows.append(Seen("note", f"{what} uses {name} in {', '.join(used)}: it will ask every shard"))
    if not any(row.severity == "stop" for row in rows):
        seen = f"none of {len(found)} pipelines seen (views, and aggregates at this moment) is forbidden"
        rows.append(Seen("ok", f"{seen}; those of the applications are not seen"))
    return rows


def uses(stages: Iterable[Any], namespace: str) -> Iterator[str]:
    """Return the stages, nested ones too, that read or write another collection of this name."""
    database, name = split_namespace(namespace)
    for stage in stages:
        for operator, value in stage.items() if isinstance(stage, Mapping) else ():
            if operator in TAKES_OTHER and _other(value, database) == name:
                yield operator
            if operator == "$facet" and isinstance(value, Mapping):
                for inner in value.values():
                    yield from uses(inner, namespace)
            elif isinstance(value, Mapping) and isinstance(value.get("pipeline"), list):
                yield from uses(value["pipeline"], namespace)


def _other(value: Any, database: str) -> str:
    """Return the collection of the same database that a stage names, plainly or as ``from``, ``coll`` or ``into``."""
    if not isinstance(value, Mapping):
        return str(value)
    if value.get("db", database) != database:
        return ""
    return next((_other(value[part], database) for part in ("from", "coll", "into") if part in value), "")
