"""What a sharded collection does not allow, or allows differently: validators, encryption, joins, $out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.facts import split_namespace
from credscale.mongo.preflight.check import Seen, check, unreadable
from credscale.mongo.preflight.collection import READ_MILLISECONDS, no_collection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from credscale.mongo.cluster.facts import Key
    from credscale.mongo.preflight.look import Look

MOST_VIEWS = 1000
JOINS_SHARDED = (5, 1)
JOINS = ("$lookup", "$graphLookup")
TAKES_OTHER = (*JOINS, "$unionWith", "$out", "$merge")


@check(
    39,
    "features",
    command="listCollections: options and views; pipelines and mapReduce in $currentOp",
    reason="A $lookup from a sharded collection fails up to 5.0, and $out or a replacing mapReduce never writes there.",
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
        yield from judge_map_reduce(look.operations, look.namespace)
    except PyMongoError as error:
        told = unreadable(error)
        yield Seen("warn", f"aggregates under way: {told.finding}", told.remedy)
    yield from judge_options(look.collection.options, look.key)
    yield from judge_pipelines(pipelines, look.namespace, look.server.numbers)


def running_pipelines(operations: Iterable[Mapping[str, Any]], database: str) -> dict[str, list[Any]]:
    """Return the pipelines of the aggregates under way in a database, by what they are."""
    found = {}
    for operation in operations:
        command = begun_by(operation)
        if command.get("$db") == database and isinstance(command.get("pipeline"), list):
            found[f"an aggregate under way on {operation.get('ns')}"] = list(command["pipeline"])
    return found


def begun_by(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the command that began what is under way: a getMore only tells it with its cursor."""
    cursor = operation.get("cursor") or {}
    command = cursor.get("originatingCommand") or operation.get("originatingCommand") or operation.get("command")
    return command if isinstance(command, Mapping) else {}


def judge_map_reduce(operations: Iterable[Mapping[str, Any]], namespace: str) -> list[Seen]:
    """Judge the mapReduce commands under way that read the collection or write into it.

    Args:
        operations: what $currentOp shows.
        namespace: ``database.collection``.
    """
    database, name = split_namespace(namespace)
    rows = []
    for operation in operations:
        command = begun_by(operation)
        source = next((command[each] for each in ("mapReduce", "mapreduce") if each in command), None)
        if source is None:
            continue
        at_home, out = command.get("$db") == database, command.get("out")
        ways = out if isinstance(out, Mapping) else {"replace": out}
        way = next((each for each in ("replace", "merge", "reduce") if ways.get(each) == name), "")
        if way and ways.get("db", command.get("$db")) == database:
            seen = f"a mapReduce under way on {source} writes into {name} ({way})"
            remedy = "make it an aggregate with $merge before the sharding"
            rows.append(Seen("stop" if way == "replace" else "warn", seen, remedy))
        elif at_home and source == name:
            rows.append(Seen("note", f"a mapReduce under way reads {name}: it will ask every shard"))
    return list(dict.fromkeys(rows))


def _view_stages(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(view.get("options", {}).get("pipeline", []))


def judge_options(options: Mapping[str, Any], key: Key) -> list[Seen]:
    """Judge the collection's options that matter on several shards.

    Args:
        options: as listCollections shows them.
        key: the wanted shard key.
    """
    rows = []
    if options.get("validator"):
        level, action = options.get("validationLevel", "strict"), options.get("validationAction", "error")
        seen = f"a validator ({level}, {action}) goes with the collection to every shard; moved documents pass it by"
        rows.append(Seen("note", seen, "change it by collMod on mongos only"))
    rows += _judge_encrypted(set(encrypted_fields(_schemas(options.get("validator") or {}))), key)
    if options.get("encryptedFields"):
        seen = "encrypted fields keep their metadata in collections that are not sharded along"
        rows.append(Seen("warn", seen, "see that no field of the key is encrypted at random, and test the clients"))
    return rows


def _judge_encrypted(found: Collection[str], key: Key) -> list[Seen]:
    """Judge the fields that clients encrypt by themselves (CSFLE)."""
    if not found:
        return []
    hit = sorted(
        name for name in key if any(name == path or name.startswith(f"{path}.") or "*" in path for path in found)
    )
    if hit:
        seen = f"{', '.join(hit)} of the key may be encrypted by the clients (encrypt in the validator's $jsonSchema)"
        remedy = (
            "take the deterministic algorithm for fields of the key: what is encrypted at random can't be asked for"
        )
        return [Seen("warn", seen, remedy)]
    listed = ", ".join(sorted(found))
    return [Seen("note", f"clients encrypt {listed} by themselves; the key has none of them", "test them with mongos")]


def _schemas(validator: Any) -> Iterator[Mapping[str, Any]]:
    """Return the $jsonSchema documents of a validator, also within $and and $or."""
    if isinstance(validator, Mapping):
        for name, value in validator.items():
            if name == "$jsonSchema" and isinstance(value, Mapping):
                yield value
            else:
                yield from _schemas(value)
    elif isinstance(validator, list):
        for each in validator:
            yield from _schemas(each)


def encrypted_fields(schemas: Iterable[Mapping[str, Any]], within: str = "") -> Iterator[str]:
    """Return the paths that schemas mark with ``encrypt``; ``*`` for fields that are given by a pattern."""
    for schema in schemas:
        named = {f"{within}{name}": value for name, value in (schema.get("properties") or {}).items()}
        named |= {f"{within}*": value for value in (schema.get("patternProperties") or {}).values()}
        for path, value in named.items():
            if not isinstance(value, Mapping):
                continue
            if "encrypt" in value:
                yield path
            yield from encrypted_fields([value], f"{path}.")


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
