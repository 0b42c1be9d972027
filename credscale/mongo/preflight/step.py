"""The pre-flight as one probe and one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.core.step import Finding, probe
from credscale.mongo import facts
from credscale.mongo.preflight.catalogue import CHECKS
from credscale.mongo.preflight.check import ORDER, Row, Seen, chosen, skips
from credscale.mongo.preflight.look import Look
from credscale.mongo.settings import SMALLEST_CHUNK_MB
from credscale.mongo.state import wanted_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context


@probe()
def preflight(
    ctx: Context,
    *,
    namespace: str,
    shard_key: str,
    chunk_size_mb: int = SMALLEST_CHUNK_MB,
    window: str = "",
    backup_directory: str = "",
    only: str = "",
    skip: str = "",
) -> Finding:
    """Check servers, catalogue, indexes, data, settings and workload before anything is changed.

    The 56 checks of the reference, each with what it asked, what it saw, how bad that is, and what to do.
    Safe on a loaded production cluster: every read is bounded, members are asked with short deadlines, documents are
    sampled.

    Args:
        namespace: ``database.collection``.
        shard_key: such as ``createdAt:hashed,userId:1``.
        chunk_size_mb: the chunk size that a later step will set; judged here, so that a wrong one fails early.
        window: the balancer window that a later step will set.
        backup_directory: where backups lie; looked at for a fresh one.
        only: names of checks, separated by commas; empty runs all.
        skip: ``name=reason; name=reason``: checks left out, with the reason that the report records.
    """
    facts.split_namespace(namespace)
    wanted_state(shard_key, chunk_size_mb, window)
    wanted, left_out = chosen(CHECKS, only), skips(CHECKS, skip)
    look = Look(ctx, namespace, facts.parse_key(shard_key), chunk_size_mb, window, backup_directory)
    if not look.server.is_mongos:
        raise PreconditionFailed(
            "mongo.uri leads to a mongod, not to a mongos. Nothing was changed. Name a mongos in mongo.uri; "
            "invoke mongo-deploy builds a cluster around an existing replica set"
        )
    rows: list[Row] = []
    for number, each in enumerate(wanted, 1):
        ctx.progress(number, len(wanted), "checks", what=each.name)
        if each.name in left_out:
            rows.append(Row(each, Seen("skipped", f"left out: {left_out[each.name]}")))
        else:
            rows += each.run(look)
    return _judge(ctx, rows, look.server.engine)


def _judge(ctx: Context, rows: Sequence[Row], engine: str) -> Finding:
    """Return the table, worst first, or raise one error that lists every stop with its remedy."""
    rows = sorted(rows, key=lambda row: (ORDER.index(row.severity), row.check.number))
    checks = len({row.check.number for row in rows})
    stops = [row for row in rows if row.severity == "stop"]
    output: dict[str, Any] = {
        "rows": [row.flat() for row in rows],
        "engine": engine,
        "checks": checks,
        "warnings": sum(row.severity == "warn" for row in rows),
        "not_checked": [row.sentence for row in rows if row.severity in ("unknown", "skipped")],
    }
    if stops:
        listed = "; ".join(row.sentence for row in stops)
        raise PreconditionFailed(
            f"{len(stops)} findings of {checks} checks forbid the migration. Nothing was changed. {listed}", output
        )
    for row in rows:
        if row.severity == "skipped":
            ctx.note(f"skipped by the operator: {row.sentence}")
    warnings = output["warnings"]
    tails = [f"{warnings} warning{'s' if warnings > 1 else ''}"] if warnings else []
    tails += [f"{len(output['not_checked'])} not looked at"] if output["not_checked"] else []
    return Finding(f"{checks} checks allow the migration" + "".join(f", {tail}" for tail in tails), output)
