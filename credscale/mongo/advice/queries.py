"""The queries an application really sends: from the profilers of the shards, from $queryStats, or from a file.

Every read is bounded in documents and in time; nothing is switched on here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.advice.shapes import READS, Shape, group, make_shape
from credscale.mongo.advice.targeting import VALUE
from credscale.mongo.advice.writes import OPERATIONS
from credscale.mongo.cluster import facts, members
from credscale.mongo.cluster.commands import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

NEWEST = 10_000
READ_MILLISECONDS = 15_000
REPLY_SECONDS = 20.0  # longer than the server may take, so that its own error is seen
WORKERS = 16
STATISTICS = 2000
STATISTICS_FROM = (6, 0, 7)
LARGEST_FILE, MOST_LINES = 64 << 20, 200_000
OURS = "credscale"

SWITCH_ON = (
    "to record a sample on each shard's primary for an hour: note db.getProfilingStatus(), run "
    "db.setProfilingLevel(1, {slowms: 0, sampleRate: 0.01}), then set back what it said. Risk: slowms and sampleRate "
    "hold for the whole server and its log too, each sampled operation is one more write, and system.profile "
    "holds the users' values (capped at 1 MB unless made larger)"
)


@dataclass
class Reading:
    """The queries found, and what could not be looked at, one sentence each."""

    shapes: list[Shape] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many queries the shapes stand for."""
        return sum(shape.count for shape in self.shapes)


def read_queries(ctx: Context, namespace: str, path: str, server: facts.Server) -> Reading:
    """Gather the queries on a collection from every source there is.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        path: a file of queries, one JSON document a line; empty for none.
        server: the mongos.
    """
    client = ctx.clients.mongo()
    parts = [profiled(ctx, namespace, facts.shards(client))]
    if server.numbers >= STATISTICS_FROM:
        parts.append(query_statistics(client, namespace))
    if path:
        parts.append(Reading(read_file(path)))
    shapes = group(shape for part in parts for shape in part.shapes)
    missing = [sentence for part in parts for sentence in part.not_checked]
    if not shapes:
        missing.append(f"no real query on {namespace} is known; give a file of them with queries")
    return Reading(shapes, missing)


def profiled(ctx: Context, namespace: str, shards: Sequence[facts.Shard]) -> Reading:
    """Read the newest operations that the profilers of the shards' primaries recorded; mongos has no profiler.

    The shards are asked side by side, so that one that hangs does not make the others wait.
    """
    with ThreadPoolExecutor(WORKERS, "profilers") as pool:
        parts = list(pool.map(lambda shard: _profile_of(ctx, shard, namespace), shards))
    found = Reading(
        [shape for part in parts for shape in part.shapes],
        [sentence for part in parts for sentence in part.not_checked],
    )
    if len(shards) > 1 and found.shapes:
        text = "what went to several shards was recorded on each of them, so such queries count more than once"
        found.not_checked.append(text)
    if not found.shapes:
        found.not_checked.append(f"no profiler has recorded a query on {namespace}; {SWITCH_ON}")
    return found


def _profile_of(ctx: Context, shard: facts.Shard, namespace: str) -> Reading:
    """Read one shard's profiler, or say why it can't be read."""
    from pymongo.errors import PyMongoError

    found = Reading()
    try:
        _read_profile(members.first_answering(ctx, shard, timeout=REPLY_SECONDS), shard.id, namespace, found)
    except PyMongoError as error:
        why = getattr(error, "code", None) or type(error).__name__
        found.not_checked.append(f"the profiler of {shard.id} can't be read ({why})")
    return found


def _read_profile(member: Client, shard: str, namespace: str, found: Reading) -> None:
    """Add what one member's profiler recorded."""
    from pymongo.errors import OperationFailure

    database = facts.split_namespace(namespace)[0]
    try:
        status = run(member, database, {"profile": -1}, deadline=members.MEMBER_DEADLINE)
    except OperationFailure as error:
        found.not_checked.append(f"the profiler's settings on {shard} can't be read ({error.code})")
        status = {"was": 2}
    level, slow, rate = int(status.get("was", 0)), status.get("slowms", 0), status.get("sampleRate", 1)
    if level == 0:
        found.not_checked.append(f"the profiler of {shard} is off; what it recorded before is counted")
    elif level == 1 and int(slow) > 0:
        text = f"the profiler of {shard} records only operations slower than {slow} ms, so quick ones are missing"
        found.not_checked.append(text)
    elif float(rate) < 1:
        found.not_checked.append(f"the profiler of {shard} records a sample of {float(rate):.2%}")
    cursor = member[database]["system.profile"].find(
        {"ns": namespace, "appName": {"$ne": OURS}, "op": {"$in": ["query", "update", "remove", "command"]}},
        {"op": 1, "ns": 1, "command": 1, "query": 1, "updateobj": 1},
        sort=[("$natural", -1)],
        limit=NEWEST,
        max_time_ms=READ_MILLISECONDS,
    )
    parsed = [parse_profiled(document) for document in cursor]
    unreadable = sum(shape is None for shape in parsed)
    if unreadable:
        found.not_checked.append(f"{unreadable} operations recorded by {shard} are cut off or of no known kind")
    found.shapes += group(shape for shape in parsed if shape is not None)


def parse_profiled(document: Mapping[str, Any]) -> Shape | None:
    """Understand a document of system.profile; None when its command is cut off or of no kind that has a filter."""
    kind, command = document.get("op"), document.get("command")
    if not isinstance(command, Mapping) or "$truncated" in command:
        return None
    if kind in ("update", "remove"):
        return _profiled_write(str(kind), command)
    return parse_command(command, "profiler")


def _profiled_write(kind: str, command: Mapping[str, Any]) -> Shape | None:
    """Understand a profiled update or remove: since 3.6 one statement of the batch, as ``q``, ``u`` and ``limit``."""
    query = command.get("q")
    if not isinstance(query, Mapping):
        return None
    if kind == "remove":
        name = "delete_one" if int(command.get("limit", 0) or 0) == 1 else "delete_many"
        return make_shape(name, query, collation=_collation(command), source="profiler")
    update, many = command.get("u"), bool(command.get("multi"))
    name = "update_many" if many else _update_name(update)
    upsert = bool(command.get("upsert"))
    return make_shape(name, query, update, upsert=upsert, collation=_collation(command), source="profiler")


def _update_name(update: Any) -> str:
    plain = isinstance(update, Mapping) and not str(next(iter(update), "$")).startswith("$")
    return "replace_one" if plain else "update_one"


def _collation(command: Mapping[str, Any]) -> str:
    collation = command.get("collation")
    return str(collation.get("locale", "")) if isinstance(collation, Mapping) else ""


def parse_command(command: Mapping[str, Any], source: str) -> Shape | None:
    """Understand a command that reads, or a findAndModify; None for any other."""
    collation = _collation(command)
    if "find" in command:
        return make_shape("find", _document(command.get("filter")), collation=collation, source=source)
    if "aggregate" in command:
        query = initial_match(command.get("pipeline"))
        return make_shape("aggregate", query, collation=collation, source=source)
    for name in ("count", "distinct"):
        if name in command:
            return make_shape(name, _document(command.get("query")), collation=collation, source=source)
    if "findAndModify" in command or "findandmodify" in command:
        return make_shape(
            "find_and_modify", _document(command.get("query")), command.get("update"),
            upsert=bool(command.get("upsert")), collation=collation, source=source,
        )  # fmt: skip
    return None


def _document(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def initial_match(pipeline: Any) -> dict[str, Any]:
    """Return the filter by which mongos targets a pipeline: its $match stages before any other but $sort."""
    parts = []
    for stage in pipeline if isinstance(pipeline, list) else []:
        name = next(iter(stage), "") if isinstance(stage, Mapping) else ""
        if name == "$match" and isinstance(stage["$match"], Mapping):
            parts.append(dict(stage["$match"]))
        elif name != "$sort":
            break
    if len(parts) > 1:
        return {"$and": parts}
    return parts[0] if parts else {}


def query_statistics(client: Client, namespace: str) -> Reading:
    """Read $queryStats of mongos, which Atlas has switched on; elsewhere the server refuses and nothing is known."""
    from pymongo.errors import PyMongoError

    database, collection = facts.split_namespace(namespace)
    pipeline: list[dict[str, Any]] = [
        {"$queryStats": {}},
        {"$match": {"key.queryShape.cmdNs.db": database, "key.queryShape.cmdNs.coll": collection}},
        {"$limit": STATISTICS},
    ]
    try:
        documents = list(client["admin"].aggregate(pipeline, maxTimeMS=READ_MILLISECONDS))
    except PyMongoError as error:
        why = getattr(error, "code", None) or type(error).__name__
        return Reading(not_checked=[f"$queryStats can't be read ({why}); it is there on Atlas, from M10 on"])
    found = [parse_statistics(document) for document in documents]
    return Reading([shape for shape in found if shape is not None])


def parse_statistics(document: Mapping[str, Any]) -> Shape | None:
    """Understand a document of $queryStats, whose values are already placeholders such as ``?string``."""
    shape = _document(_document(document.get("key")).get("queryShape"))
    name = str(shape.get("command", ""))
    count = int(_document(document.get("metrics")).get("execCount", 0))
    if name not in READS or not count:
        return None
    query = initial_match(shape.get("pipeline")) if name == "aggregate" else shape.get("filter", shape.get("query"))
    plain = _from_placeholders(_document(query))
    collation = _collation(shape)
    return make_shape(name, plain, collation=collation, count=count, source="$queryStats")


_PLACEHOLDER = re.compile(r"\?(\w+)(<.*>)?")


def _from_placeholders(value: Any) -> Any:
    """Put a stand-in for each placeholder; the type decides little, arrays do."""
    if isinstance(value, Mapping):
        return {name: _from_placeholders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_from_placeholders(item) for item in value]
    found = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    if found[1] == "array":
        return [VALUE, VALUE]
    return {"null": None, "bool": True, "number": 1}.get(found[1], VALUE)


def read_file(path: str) -> list[Shape]:
    """Read queries that the application's owners wrote down.

    Args:
        path: a file with a JSON document a line, such as ``{"op": "find", "filter": {"userId": "u"}, "count": 900}``;
            also ``update``, ``upsert``, ``collation`` (a locale) and, for ``aggregate``, ``pipeline``. Extended JSON is
            understood. Operations have the driver's names in either spelling: ``updateOne``, ``find_one_and_update``.

    Raises:
        EnvironmentInvalid: it can't be read, or a line is not such a document.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise EnvironmentInvalid(f"{path} is larger than {LARGEST_FILE >> 20} MB; give a sample of the queries")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentInvalid(f"queries: {path} can't be read: {error}") from None
    if len(lines) > MOST_LINES:
        raise EnvironmentInvalid(f"{path} has {len(lines)} lines, at most {MOST_LINES} are read; use the field count")
    return group(_line(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())


def _line(where: str, line: str) -> Shape:
    from bson import json_util
    from bson.errors import BSONError

    try:
        document = json_util.loads(line)
    except (ValueError, TypeError, BSONError) as error:
        raise EnvironmentInvalid(f"{where}: not JSON: {error}") from None
    operation = operation_name(str(document.get("op", ""))) if isinstance(document, Mapping) else None
    if operation is None:
        known = ", ".join([*READS, *OPERATIONS])
        raise EnvironmentInvalid(f"{where}: op must be one of {known}")
    query, count = document.get("filter", {}), document.get("count", 1)
    if operation == "aggregate" and "pipeline" in document:
        query = initial_match(document["pipeline"])
    if not isinstance(query, Mapping):
        raise EnvironmentInvalid(f"{where}: filter must be a document, not {type(query).__name__}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise EnvironmentInvalid(f"{where}: count must be a positive whole number, not {count!r}")
    return make_shape(
        operation, query, document.get("update"), upsert=bool(document.get("upsert", False)),
        collation=str(document.get("collation", "")), count=int(count), source="file",
    )  # fmt: skip


_FAMILY = {
    "find_one": "find", "count_documents": "count", "find_one_and_update": "find_and_modify",
    "find_one_and_replace": "find_and_modify", "find_one_and_delete": "find_and_modify",
    "find_one_and_remove": "find_and_modify", "insert_one": "insert",
}  # fmt: skip


def operation_name(name: str) -> str | None:
    """Return our name of a driver's operation in either spelling; None for what has no filter or is unknown."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower()
    found = _FAMILY.get(snake, snake)
    return found if found in READS or found in OPERATIONS else None
