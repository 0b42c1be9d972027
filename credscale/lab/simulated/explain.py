"""explain of a find on a sharded collection: per shard, what it owns and what it skips as orphans."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.lab.simulated.catalog import VERSION
from credscale.lab.simulated.forwarding import forward
from credscale.lab.simulated.reads import matching, options
from credscale.lab.simulated.replies import CommandFailed, Document, long
from credscale.lab.simulated.routing import RoutingTable, equalities

if TYPE_CHECKING:
    from credscale.lab.simulated.backends import Backend
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.wire import Peer


def explain(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Answer an explain of a find."""
    asked = request["explain"]
    ns = f"{request['$db']}.{next(iter(asked.values()))}"
    with cluster.using(ns) as table:
        if table is None:
            return forward(cluster, request)
        if "find" not in asked:
            raise CommandFailed(59, "the lab's simulated mongos explains nothing but find on sharded collections")
        backends = [cluster.shard(name) for name in table.targets(asked.get("filter") or {})]
        stage = "SINGLE_SHARD" if len(backends) == 1 else "SHARD_MERGE"
        plans = [_plan(backend, table, asked) for backend in backends]
        planner = {"mongosPlannerVersion": 1, "winningPlan": {"stage": stage, "shards": plans}}
        reply: Document = {"queryPlanner": planner}
        if request.get("verbosity", "allPlansExecution") != "queryPlanner":
            reply["executionStats"] = _execution(cluster, table, asked, stage)
    return {**reply, "serverInfo": _server(cluster.catalog.router), "ok": 1.0}


def _server(address: str) -> Document:
    """Return an explain's serverInfo."""
    host, _, port = address.partition(":")
    return {"host": host, "port": int(port), "version": VERSION, "gitVersion": "nogit"}


def _plan(backend: Backend, table: RoutingTable, asked: Document) -> Document:
    """Return one shard's entry in the query plan."""
    return {
        "shardName": backend.name,
        "connectionString": backend.host,
        "serverInfo": _server(backend.address),
        "plannerVersion": 1,
        "namespace": table.ns,
        "indexFilterSet": False,
        "parsedQuery": asked.get("filter") or {},
        "winningPlan": _stages(table, asked, None),
        "rejectedPlans": [],
    }


def _stages(table: RoutingTable, asked: Document, counted: tuple[int, int] | None) -> Document:
    """Nest the stages that MongoDB would choose, with figures if there are any.

    A hint at the shard key's index with a projection of its fields needs no documents; equality on the key's first
    field looks up that index; anything else scans the collection.
    """
    query = asked.get("filter") or {}
    scan: Document = {"stage": "COLLSCAN", "direction": "forward"}
    if asked.get("hint") or next(iter(table.key)) in equalities(query):
        bounds = {field: ["[MinKey, MaxKey]"] for field in table.key}
        name = "_".join(f"{field}_{kind}" for field, kind in table.key.items())
        scan = {"stage": "IXSCAN", "keyPattern": table.key, "indexName": name, "indexBounds": bounds}
    if counted is not None:
        owned, orphans = counted
        scan |= _figures(owned + orphans, 0)
        examined = "keysExamined" if scan["stage"] == "IXSCAN" else "docsExamined"
        scan[examined] = owned + orphans
    filtering: Document = {"stage": "SHARDING_FILTER"}
    if counted is not None:
        filtering |= {**_figures(counted[0], counted[1]), "chunkSkips": counted[1]}
    if scan["stage"] == "IXSCAN" and not is_covered(table, asked):
        scan = {"stage": "FETCH", **(_figures(sum(counted), 0) if counted else {}), "inputStage": scan}
    filtering["inputStage"] = scan
    if not asked.get("projection"):
        return filtering
    kind = "PROJECTION_COVERED" if is_covered(table, asked) else "PROJECTION_SIMPLE"
    figures = _figures(counted[0], counted[1]) if counted else {}
    return {"stage": kind, **figures, "transformBy": asked["projection"], "inputStage": filtering}


def is_covered(table: RoutingTable, asked: Document) -> bool:
    """Tell whether the shard key's index alone answers a find: MongoDB returns no hashed field from it."""
    projection = asked.get("projection") or {}
    wanted = {name for name, value in projection.items() if value}
    plain = {field for field, kind in table.key.items() if kind != "hashed"}
    return bool(asked.get("hint")) and bool(wanted) and wanted <= plain and projection.get("_id") == 0


def _figures(returned: int, skipped: int) -> Document:
    """Return the figures that every stage has."""
    works = {"works": returned + skipped + 1, "advanced": returned, "needTime": skipped, "needYield": 0}
    return {"nReturned": returned, "executionTimeMillisEstimate": 0, **works, "isEOF": 1}


def _execution(cluster: Cluster, table: RoutingTable, asked: Document, stage: str) -> Document:
    """Count owned documents and orphans on every shard."""
    query = asked.get("filter") or {}
    began = time.monotonic()
    if query:
        found = matching(cluster, table, query, options(cluster, table, asked))
        counted = {name: (len(mine), orphans) for name, (mine, orphans) in found.items()}
    else:
        counted = {name: cluster.keys(name, table).census(table) for name in table.shards}
    millis = int((time.monotonic() - began) * 1000)
    covered = is_covered(table, asked)
    shards = [
        _shard_execution(name, _stages(table, asked, each), each, covered, millis) for name, each in counted.items()
    ]
    totals = {
        "nReturned": sum(owned for owned, _ in counted.values()),
        "executionTimeMillis": millis,
        "totalKeysExamined": sum(each["totalKeysExamined"] for each in shards),
        "totalDocsExamined": sum(each["totalDocsExamined"] for each in shards),
    }
    stages = {"stage": stage, **totals, "totalChildMillis": long(millis), "shards": shards}
    return {**totals, "executionStages": stages}


def _shard_execution(name: str, stages: Document, counted: tuple[int, int], covered: bool, millis: int) -> Document:
    """Return one shard's entry in the execution statistics."""
    examined = sum(counted)
    by_index = _uses(stages, "IXSCAN")
    figures: dict[str, Any] = {"nReturned": counted[0], "executionTimeMillis": millis}
    figures["totalKeysExamined"] = examined if by_index else 0
    figures["totalDocsExamined"] = 0 if covered else examined
    return {"shardName": name, "executionSuccess": True, **figures, "executionStages": stages}


def _uses(stages: Document, wanted: str) -> bool:
    """Tell whether a stage is part of a plan."""
    return stages["stage"] == wanted or ("inputStage" in stages and _uses(stages["inputStage"], wanted))
