"""One simulated shard or config server: a SecantusDB process that answers the questions a sharded mongod answers.

SecantusDB is a single-node MongoDB on WiredTiger. Three things are added around it, at two seams (its command
dispatch and its oplog append), because they must hold for every writer and survive any client:

- writes that carry the comment of a migration are marked `fromMigrate: true` in the oplog, as on a real shard, so
  that whoever follows the oplog can tell a moved document from a user's document;
- the _ids touched in a watched collection are remembered, so that a migration can catch up with writes made while it
  copied (`_transferMods` on a real shard) without scanning the oplog;
- the answers name the shard's role, and say that this is a simulation.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import secantus.server
from bson import ObjectId

from credscale.lab.simulated import process
from credscale.lab.simulated.contract import (
    CHANGES_COMMAND,
    IDENTITY_COMMAND,
    MIGRATION_COMMENT,
    MODULE,
    SHARDING_COMMAND,
)

NAMESPACE_EXISTS = 48
Document = dict[str, Any]
Dispatch = Callable[[Document, Any], Document]


@dataclass(frozen=True)
class Running:
    """The command that this thread is running."""

    migrating: bool
    touched: list[tuple[str, Any]] = field(default_factory=list)


_running: ContextVar[Running | None] = ContextVar("running", default=None)


class Changes:
    """The _ids written in watched namespaces, in order, since the watching began."""

    def __init__(self) -> None:
        self._epoch = ObjectId()
        self._lock = threading.Lock()
        self._watched: dict[str, list[Any]] = {}
        self._restarts: dict[str, int] = {}

    def record(self, touched: list[tuple[str, Any]]) -> None:
        """Remember the writes of one finished command; a dropped collection starts its list anew."""
        with self._lock:
            for ns, identity in touched:
                if ns.endswith(".$cmd"):
                    self._restart(ns.removesuffix("$cmd"))
                elif ns in self._watched:
                    self._watched[ns].append(identity)

    def _restart(self, prefix: str) -> None:
        """Void what readers know about the collections of one database."""
        for ns in self._watched:
            if ns.startswith(prefix):
                self._watched[ns] = []
                self._restarts[ns] += 1

    def answer(self, request: Document) -> Document:
        """Return the _ids after the reader's position, or tell the reader to scan again."""
        ns = request[CHANGES_COMMAND]
        with self._lock:
            written = self._watched.setdefault(ns, [])
            epoch = f"{self._epoch}/{self._restarts.setdefault(ns, 0)}"
            known = request.get("epoch") == epoch
            ids = written[request["since"] :] if known else []
            return {"known": known, "epoch": epoch, "now": len(written), "ids": ids, "ok": 1.0}


class Shard:
    """The additions to one SecantusDB server."""

    def __init__(self, arguments: argparse.Namespace, dispatch: Dispatch, storage: Any) -> None:
        self._arguments = arguments
        self._dispatch = dispatch
        self._storage = storage
        self._changes = Changes()
        self._sharding: Document = {}
        self._started = process.now()
        self._amendments: dict[str, Callable[[Document, Document], None]] = {
            "buildInfo": self._amend_build_info,
            "buildinfo": self._amend_build_info,
            "getCmdLineOpts": self._amend_options,
            "serverStatus": self._amend_status,
            "dbStats": self._amend_db_stats,
            "dbstats": self._amend_db_stats,
            "getParameter": self._amend_parameters,
            "hostInfo": self._amend_host,
            "getLog": self._amend_log,
            "replSetGetStatus": self._amend_members,
        }

    def dispatch(self, request: Document, context: Any) -> Document:
        """Run one command and add what only a shard knows."""
        name = next(iter(request), "")
        if name == CHANGES_COMMAND:
            return self._changes.answer(request)
        if name == SHARDING_COMMAND:
            self._sharding = dict(request[SHARDING_COMMAND])
            return {"ok": 1.0}
        if name == IDENTITY_COMMAND:
            return self._create_with_uuid(request, context)
        running = Running(migrating=request.get("comment") == MIGRATION_COMMENT)
        token = _running.set(running)
        try:
            reply = self._dispatch(request, context)
        finally:
            _running.reset(token)
            # Recorded when the command is over: by then its writes are committed and whoever asks can read them.
            self._changes.record(running.touched)
        if name in self._amendments and reply.get("ok"):
            self._amendments[name](request, reply)
        return reply

    def _create_with_uuid(self, request: Document, context: Any) -> Document:
        """Give a collection, created if need be, the UUID that it has elsewhere."""
        own = {IDENTITY_COMMAND, "uuid"}
        options = {key: value for key, value in request.items() if key not in own}
        reply = self._dispatch({"create": request[IDENTITY_COMMAND], **options}, context)
        if reply.get("ok") or reply.get("code") == NAMESPACE_EXISTS:
            reply = {"ok": 1.0}
            identity = UUID(bytes=bytes(request["uuid"]))
            self._storage.set_collection_options(request["$db"], request[IDENTITY_COMMAND], uuid=identity)
        return reply

    def observe(self, append: Callable[..., int]) -> Callable[..., int]:
        """Wrap the oplog append: mark migrated writes and note what each entry touches."""

        def observed(entries: list[Document], pre_images: list[bytes | None] | None = None) -> int:
            running = _running.get()
            touched = [(entry["ns"], _identity(entry)) for entry in entries]
            if running is None:
                # No command is under way: the sweeper of expired documents writes on its own.
                last = append(entries, pre_images)
                self._changes.record(touched)
                return last
            if running.migrating:
                entries = [{**entry, "fromMigrate": True} for entry in entries]
            running.touched.extend(touched)
            return append(entries, pre_images)

        return observed

    def _amend_build_info(self, _request: Document, reply: Document) -> None:
        """Say that this is a simulation."""
        reply |= {"simulated": True, "modules": [MODULE]}
        if self._arguments.server_version:
            numbers = [int(part) for part in self._arguments.server_version.split(".")]
            reply |= {"version": self._arguments.server_version, "versionArray": [*numbers, 0]}

    def _amend_options(self, _request: Document, reply: Document) -> None:
        """Name the role and the replica set, as the options of a mongod do."""
        arguments = self._arguments
        reply["parsed"] = {
            "net": {"bindIp": "127.0.0.1", "port": arguments.port},
            "replication": {"replSet": arguments.replica_set},
            "sharding": {"clusterRole": arguments.role},
            "storage": {"dbPath": str(arguments.data)},
        }

    def _amend_status(self, _request: Document, reply: Document) -> None:
        """Pose as a mongod, and show the settings that the last good refresh of the balancer gave this shard."""
        port = self._arguments.port
        reply |= {"host": process.host_name(port), "process": "mongod"}
        if self._arguments.server_version:
            reply["version"] = self._arguments.server_version
        reply["connections"] = {**reply["connections"], **process.connections(port)}
        if self._sharding:
            reply["sharding"] = dict(self._sharding)

    def _amend_host(self, _request: Document, reply: Document) -> None:
        """Add the limit that this process runs under."""
        reply["system"]["hostname"] = process.host_name(self._arguments.port)
        reply["extra"]["maxOpenFiles"] = process.open_files()

    def _amend_members(self, _request: Document, reply: Document) -> None:
        """Let the only member have been primary since it started; SecantusDB says that it became it just now."""
        for member in reply["members"]:
            uptime = int((process.now() - self._started).total_seconds())
            member |= {"electionDate": self._started, "uptime": uptime}

    def _amend_log(self, request: Document, reply: Document) -> None:
        """Write the log as MongoDB does, and tell warnings of the start from the rest."""
        if request["getLog"] == "startupWarnings":
            reply["log"] = process.startup_warnings(self._started)
        elif "log" in reply:
            reply["log"] = process.structured(reply["log"])
        reply["totalLinesWritten"] = len(reply.get("log", []))

    def _amend_db_stats(self, request: Document, reply: Document) -> None:
        """Add the file system's figures, divided by the scale asked for like all the others."""
        usage = shutil.disk_usage(self._arguments.data)
        scale = request.get("scale", 1)
        reply |= {"fsUsedSize": usage.used / scale, "fsTotalSize": usage.total / scale}

    def _amend_parameters(self, _request: Document, reply: Document) -> None:
        """Report the compatibility version of the release this shard poses as."""
        if self._arguments.server_version and "featureCompatibilityVersion" in reply:
            release = ".".join(self._arguments.server_version.split(".")[:2])
            reply["featureCompatibilityVersion"] = {"version": release}


def remembered(storage: Any) -> Callable[[], list[Document]]:
    """Wrap the reading of the oplog: SecantusDB decodes all of it for every question, which is needed once a change."""
    scan = storage._scan_oplog_entries  # noqa: SLF001
    kept: tuple[Any, list[Document]] = (None, [])

    def entries() -> list[Document]:
        nonlocal kept
        reach = (storage.oplog_floor_seq(), storage.oplog_visible_tail_seq())  # looked at first: a later entry shows
        if kept[0] != reach:
            kept = (reach, scan())
        return kept[1]

    return entries


def _identity(entry: Document) -> Any:
    """Return the _id of the document that an oplog entry touches."""
    return (entry.get("o2") or entry.get("o") or {}).get("_id")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run one simulated shard or config server.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replica-set", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--role", choices=["shardsvr", "configsvr"], default="shardsvr")
    parser.add_argument("--oplog-entries", type=int, default=35_000, help="how far the oplog reaches back")
    parser.add_argument("--server-version", help="pose as this release, such as 5.0.28, instead of SecantusDB's own")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING)
    arguments = parse_arguments()
    arguments.data.mkdir(parents=True, exist_ok=True)
    server = secantus.server.SecantusDBServer(
        host="127.0.0.1",
        port=arguments.port,
        storage_path=str(arguments.data),
        replica_set_name=arguments.replica_set,
        enable_test_commands=False,
        oplog_max_entries=arguments.oplog_entries,  # SecantusDB reads its whole oplog for every question about it
        cache_size="256M",
    )
    shard = Shard(arguments, secantus.server.dispatch, server.storage)
    # SecantusDB offers no hooks; these three names are all that is relied on, and the tests cover them.
    secantus.server.dispatch = shard.dispatch
    server.storage._emit_oplog = shard.observe(server.storage._emit_oplog)  # noqa: SLF001
    server.storage._scan_oplog_entries = remembered(server.storage)  # noqa: SLF001
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server.start()
    stopping.wait()
    server.stop()


if __name__ == "__main__":
    main()
