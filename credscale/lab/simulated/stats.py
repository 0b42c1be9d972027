"""Figures of collections, databases and of the simulated mongos itself."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING, Any

from bson import Int64, ObjectId

from credscale.core.addresses import port_of
from credscale.lab.simulated import process
from credscale.lab.simulated.catalog import VERSION, now
from credscale.lab.simulated.contract import MODULE
from credscale.lab.simulated.forwarding import SCRATCH, forward, namespace
from credscale.lab.simulated.replies import CommandFailed, Document, long

if TYPE_CHECKING:
    from credscale.lab.simulated.backends import Backend
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.wire import Peer

_PROCESS = ObjectId()
_SUMMED = ("collections", "views", "objects", "dataSize", "storageSize", "indexes", "indexSize", "totalSize")
_COLLECTION_SUMS = ("count", "size", "storageSize", "totalIndexSize")


def hello(cluster: Cluster, request: Document, peer: Peer) -> Document:
    """Introduce this process as a mongos."""
    if "topologyVersion" in request and "maxAwaitTimeMS" in request:
        # The topology of one mongos never changes, so the driver's monitor waits to the end.
        cluster.stopping.wait(request["maxAwaitTimeMS"] / 1000)
    legacy = {} if "hello" in request else {"ismaster": True}
    if request.get("helloOk"):
        legacy["helloOk"] = True
    return {
        **legacy,
        "isWritablePrimary": True,
        "msg": "isdbgrid",
        "maxBsonObjectSize": 16777216,
        "maxMessageSizeBytes": 48000000,
        "maxWriteBatchSize": 100000,
        "localTime": now(),
        "logicalSessionTimeoutMinutes": 30,
        "connectionId": peer.number,
        "maxWireVersion": 13,
        "minWireVersion": 0,
        "topologyVersion": {"processId": _PROCESS, "counter": Int64(0)},
        "ok": 1.0,
    }


def build_info(_cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Name the release whose behaviour is followed, and that this is not it."""
    return {
        "version": VERSION,
        "gitVersion": "nogit",
        "modules": [MODULE],
        "simulated": True,
        "versionArray": [*(int(part) for part in VERSION.split(".")), 0],
        "bits": 64,
        "debug": False,
        "maxBsonObjectSize": 16777216,
        "ok": 1.0,
    }


def server_status(cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Report what monitoring reads first."""
    uptime = time.monotonic() - cluster.started
    return {
        "host": cluster.catalog.router,
        "version": VERSION,
        "process": "mongos",
        "pid": long(os.getpid()),
        "uptime": float(int(uptime)),
        "uptimeMillis": long(uptime * 1000),
        "uptimeEstimate": long(uptime),
        "localTime": now(),
        "asserts": dict.fromkeys(("regular", "warning", "msg", "user", "rollovers"), 0),
        "connections": process.connections(port_of(cluster.catalog.router)),
        "ok": 1.0,
    }


def host_info(cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Describe this machine."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = os.cpu_count() or 1
    return {
        "system": {
            "currentTime": now(),
            "hostname": cluster.catalog.router,
            "cpuAddrSize": 64,
            "memSizeMB": long(pages * page / 1024**2),
            "memLimitMB": long(pages * page / 1024**2),
            "numCores": cores,
            "cpuArch": platform.machine(),
            "numaEnabled": False,
        },
        "os": {"type": platform.system(), "name": platform.platform(), "version": f"Kernel {platform.release()}"},
        "extra": {"pageSize": long(page), "numPages": pages, "maxOpenFiles": process.open_files()},
        "ok": 1.0,
    }


def list_databases(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """List databases with their size on every shard."""
    listed: dict[str, Document] = {}
    for backend in (cluster.config, *cluster.shards().values()):
        for each in backend.demand("admin", {"listDatabases": 1})["databases"]:
            name = each["name"]
            on_config = backend is cluster.config
            if name == "local" or (on_config != (name in ("admin", "config"))):
                continue
            sizes = listed.setdefault(name, {"name": name, "sizeOnDisk": 0, "empty": False, "shards": {}})
            sizes["sizeOnDisk"] += each.get("sizeOnDisk", 0)
            sizes["shards"]["config" if on_config else backend.name] = each.get("sizeOnDisk", 0)
    databases = [listed[name] for name in sorted(listed)]
    wanted = request.get("filter", {}).get("name")
    if isinstance(wanted, str):
        databases = [each for each in databases if each["name"] == wanted]
    if request.get("nameOnly"):
        return {"databases": [{"name": each["name"]} for each in databases], "ok": 1.0}
    total = sum(each["sizeOnDisk"] for each in databases)
    return {"databases": databases, "totalSize": total, "totalSizeMb": total // 1024**2, "ok": 1.0}


def list_collections(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """List a database's collections as its primary shard has them, without those of our own making."""
    reply = forward(cluster, request)
    if not reply.get("ok"):
        return reply
    ours = (SCRATCH, "credscale_lab")
    kept = [each for each in reply["cursor"]["firstBatch"] if not each["name"].startswith(ours)]
    return {**reply, "cursor": {**reply["cursor"], "firstBatch": kept}}


def db_stats(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Sum a database's figures over all shards; those of the file systems stand in `raw` only."""
    db = request["$db"]
    backends = [cluster.config] if db in ("admin", "config") else list(cluster.shards().values())
    raw = {backend.host: backend.demand(db, _only(request, "dbStats", "dbstats", "scale")) for backend in backends}
    totals: Document = {name: sum(each.get(name, 0) for each in raw.values()) for name in _SUMMED}
    average = totals["dataSize"] / totals["objects"] if totals["objects"] else 0.0
    figures = {"avgObjSize": average, "scaleFactor": request.get("scale", 1)}
    return {"raw": raw, "db": db, **totals, **figures, "fileSize": 0, "ok": 1.0}


def _only(request: Document, *names: str) -> Document:
    """Return the named parts of a command."""
    return {name: value for name, value in request.items() if name in names}


def _shard_stats(cluster: Cluster, ns: str, backend: Backend, scale: Any = 1) -> Document:
    """Return one shard's figures of a collection, hashed indexes included."""
    db, _, collection = ns.partition(".")
    reply = backend.run(db, {"collStats": collection, "scale": scale})
    if not reply.get("ok"):
        if reply.get("code") != 26:
            raise CommandFailed(reply.get("code"), str(reply.get("errmsg")))
        reply = {"ns": ns, "size": 0, "count": 0, "storageSize": 0, "totalIndexSize": 0, "indexSizes": {}}
    for spec in cluster.catalog.hidden_indexes(ns):
        # The figure of an index that does not exist: as large as the one on _id.
        reply["indexSizes"][spec["name"]] = reply["indexSizes"].get("_id_", 0)
    reply["totalIndexSize"] = sum(reply["indexSizes"].values())
    sizes = {"freeStorageSize": 0, "totalSize": reply["storageSize"] + reply["totalIndexSize"], "capped": False}
    reply |= {**sizes, "nindexes": len(reply["indexSizes"]), "indexBuilds": [], "scaleFactor": scale, "ok": 1.0}
    return {name: value for name, value in reply.items() if not name.startswith("$") and name != "operationTime"}


def coll_stats(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Sum a collection's figures over the shards that have chunks of it, orphans included."""
    ns = namespace(request)
    table = cluster.table(ns)
    primary = cluster.primary(request["$db"])
    if primary is None:
        raise CommandFailed(26, f"Database [{request['$db']}] not found.")
    names = table.shards if table else [primary.name]
    backends = {name: primary if name == primary.name else cluster.shard(name) for name in names}
    shards = {name: _shard_stats(cluster, ns, each, request.get("scale", 1)) for name, each in backends.items()}
    sums = {name: sum(each[name] for each in shards.values()) for name in _COLLECTION_SUMS}
    index_sizes: dict[str, int] = {}
    for each in shards.values():
        for index, size in each["indexSizes"].items():
            index_sizes[index] = index_sizes.get(index, 0) + size
    return {
        "sharded": table is not None,
        **({} if table else {"primary": primary.name}),
        "capped": False,
        "ns": ns,
        **sums,
        "totalSize": sums["storageSize"] + sums["totalIndexSize"],
        "indexSizes": index_sizes,
        "avgObjSize": sums["size"] / sums["count"] if sums["count"] else 0.0,
        "maxSize": long(0),
        "nindexes": len(index_sizes),
        "nchunks": len(table.chunks) if table else 1,
        "shards": shards,
        "ok": 1.0,
    }


def collection_stages(cluster: Cluster, ns: str, wanted: Document) -> list[Document]:
    """Return what a $collStats stage yields: one document per shard."""
    table = cluster.table(ns)
    primary = cluster.primary(ns.partition(".")[0])
    if primary is None:
        raise CommandFailed(26, f"collection {ns} not found")
    stages = []
    for backend in [cluster.shard(name) for name in table.shards] if table else [primary]:
        figures = _shard_stats(cluster, ns, backend)
        stage: Document = {"ns": ns, "shard": backend.name, "host": backend.address, "localTime": now()}
        if "storageStats" in wanted:
            stage["storageStats"] = {name: value for name, value in figures.items() if name not in ("ns", "ok")}
        if "count" in wanted:
            stage["count"] = figures["count"]
        stages.append(stage)
    return stages
