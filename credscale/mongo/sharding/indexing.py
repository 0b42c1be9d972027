"""Building an index through a cluster that may lose the connection meanwhile; the server goes on by itself."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import WaitTimeout
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import DEADLINE, is_passing
from credscale.mongo.cluster.failures import advised, explain_failure
from credscale.mongo.cluster.operations import INDEX_BUILD, builds, current

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.core.context import Context

POLL_SECONDS = 5.0  # each look asks every shard for all of its operations, maybe for hours


def build_index(ctx: Context, namespace: str, spec: Mapping[str, Any]) -> None:
    """Run createIndexes and tell its progress; after a lost connection wait for the build before asking again.

    Asked again it joins a build under way and does nothing for an index that is there, so there is one build whatever
    happens. No time limit is set on it: a build of hours is no failure (§1.2).

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        spec: key, name and options of the index.

    Raises:
        Exception: what the driver raised last, its text ending with what to do about it.
    """
    give_up = 0.0
    while True:
        started = time.monotonic()
        error = _build_once(ctx, namespace, spec)
        if error is None:
            return
        now = time.monotonic()
        if give_up == 0.0 or now - started > DEADLINE:
            give_up = now + DEADLINE
        if not is_passing(error) or now >= give_up:
            raise advised(error)
        ctx.note(f"createIndexes was interrupted ({explain_failure(error).code_name}); looking for the build it began")
        time.sleep(POLL_SECONDS)
        if await_builds(ctx, namespace):
            give_up = 0.0


def _build_once(ctx: Context, namespace: str, spec: Mapping[str, Any]) -> Exception | None:
    """Send createIndexes beside this thread, which tells the progress; return what it failed with."""
    from pymongo.errors import PyMongoError

    name, coll = facts.split_namespace(namespace)
    builder, failures = ctx.clients.mongo(timeout=LONG_SECONDS), []

    def build() -> None:
        try:
            builder[name].command({"createIndexes": coll, "indexes": [dict(spec)]})
        except PyMongoError as error:
            failures.append(error)

    thread = threading.Thread(target=build, name="createIndexes", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        # Progress is a courtesy: without the right to read $currentOp the build goes on all the same.
        with contextlib.suppress(PyMongoError):
            _tell(ctx, builds(current(ctx.clients.mongo()), namespace), namespace)
    return failures[0] if failures else None


def await_builds(ctx: Context, namespace: str) -> bool:
    """Wait until no index of a collection is being built, as far as $currentOp shows.

    listIndexes names an index from the beginning of its build on, so being listed is no proof that it is ready.

    Returns:
        whether one was.

    Raises:
        WaitTimeout: it took more than a day.
    """
    deadline, waited = time.monotonic() + LONG_SECONDS, False
    while found := _under_way(ctx, namespace):
        if not waited:
            ctx.note(f"an index of {namespace} is being built; waiting for its end")
        waited = True
        _tell(ctx, found, namespace)
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"an index of {namespace} has been in the making for {LONG_SECONDS / 3600:.0f} hours. A secondary that "
                "is down holds a build up (commit quorum): check rs.status() of the shard, then run the same command "
                "again"
            )
        time.sleep(POLL_SECONDS)
    return waited


def _under_way(ctx: Context, namespace: str) -> list[Mapping[str, Any]] | None:
    """Return the builds that $currentOp shows; None where it can't be read, which holds nothing up."""
    from pymongo.errors import PyMongoError

    try:
        return builds(current(ctx.clients.mongo()), namespace)
    except PyMongoError as error:
        ctx.note(f"it can't be told whether an index is being built: {explain_failure(error).code_name} on $currentOp")
        return None


def _tell(ctx: Context, operations: Iterable[Mapping[str, Any]], namespace: str) -> None:
    done = build_progress(operations, namespace)
    if done is not None:
        ctx.progress(*done, "documents")


def build_progress(operations: Iterable[Mapping[str, Any]], namespace: str) -> tuple[int, int] | None:
    """Return documents done and in all of an index build on a namespace, from $currentOp; None when it shows none."""
    for operation in operations:
        progress = operation.get("progress")
        building = str(operation.get("msg", "")).startswith(INDEX_BUILD)
        command = operation.get("command", {})
        ours = operation.get("ns") == namespace or command.get("createIndexes") == namespace.partition(".")[2]
        if building and ours and progress:
            return int(progress["done"]), int(progress["total"])
    return None
