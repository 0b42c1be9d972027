"""The pre-flight as one probe and one table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.core.step import Finding, probe
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.settings import SMALLEST_CHUNK_MB
from credscale.mongo.preflight.catalogue import CHECKS
from credscale.mongo.preflight.check import ORDER, Row, Seen, chosen, is_address, skips, united
from credscale.mongo.preflight.look import Look
from credscale.mongo.sharding.state import wanted_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.core.context import Context


@probe()
def preflight(
    ctx: Context,
    *,
    namespace: str,
    shard_key: str,
    chunk_size_mb: int = 0,
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
        chunk_size_mb: the chunk size that a later step will set; judged here, so that a wrong one fails early. 0 takes
            what holds now: the one that is set, or the server's default.
        window: the balancer window that a later step will set.
        backup_directory: where backups lie; looked at for a fresh one.
        only: names of checks, separated by commas; empty runs all.
        skip: ``name=reason; name=reason``: checks left out, with the reason that the report records; in the place of a
            check the ``host:port`` of a server that can't be looked at. What has to be known and is not stops the run
            otherwise, but in a lab.
    """
    facts.split_namespace(namespace)
    wanted_state(shard_key, chunk_size_mb or SMALLEST_CHUNK_MB, window)
    wanted, left_out = chosen(CHECKS, only), skips(CHECKS, skip)
    look = Look(ctx, namespace, facts.parse_key(shard_key), chunk_size_mb, window, backup_directory)
    if not look.server.is_mongos:
        raise PreconditionFailed(
            "mongo.uri leads to a mongod, not to a mongos. Nothing was changed. Name a mongos in mongo.uri; "
            "invoke mongo-deploy builds a cluster around an existing replica set"
        )
    _refuse_strangers(look, left_out)
    rows: list[Row] = []
    for number, each in enumerate(wanted, 1):
        ctx.progress(number, len(wanted), "checks", what=each.name)
        if each.name in left_out:
            rows.append(Row(each, Seen("skipped", f"left out: {left_out[each.name]}")))
        else:
            rows += [_excused(row, left_out) for row in each.run(look)]
    return _judge(ctx, rows, look)


def _refuse_strangers(look: Look, left_out: Mapping[str, str]) -> None:
    """Refuse to leave out a server that the cluster does not have: it would be a typing error."""
    named = sorted(name for name in left_out if is_address(name))
    known = [member.address for member in look.members] if named else []
    for name in named:
        if name not in known:
            raise EnvironmentInvalid(f"skip: no member of the cluster is called {name}. There are: {', '.join(known)}")


def _excused(row: Row, left_out: Mapping[str, str]) -> Row:
    """Return the row of a server that the operator goes on without as one that was skipped for that reason."""
    if row.severity != "unknown" or row.seen.member not in left_out:
        return row
    told = f"{row.seen.finding} (left out: {left_out[row.seen.member]})"
    return replace(row, seen=replace(row.seen, severity="skipped", finding=told, remedy=""))


def _judge(ctx: Context, found: Sequence[Row], look: Look) -> Finding:
    """Return the table, worst first, or raise one error that lists with its remedy whatever forbids to go on."""
    checks = len({row.check.number for row in found})
    rows = sorted(united(found), key=lambda row: (ORDER.index(row.severity), row.check.number))
    stops = [row for row in rows if row.severity == "stop"]
    blind = [] if look.rehearsal else [row for row in rows if row.blocks]
    output: dict[str, Any] = {
        "rows": [row.flat() for row in rows],
        "engine": look.server.engine,
        "checks": checks,
        "warnings": sum(row.severity == "warn" for row in rows),
        "not_checked": [row.sentence for row in rows if row.severity in ("unknown", "skipped")],
    }
    if stops or blind:
        raise PreconditionFailed(_refusal(stops, blind, checks), output)
    for row in rows:
        if row.severity == "skipped":
            ctx.note(f"skipped by the operator: {row.sentence}")
    warnings = output["warnings"]
    tails = [f"{warnings} warning{'s' if warnings > 1 else ''}"] if warnings else []
    tails += [f"{len(output['not_checked'])} not looked at"] if output["not_checked"] else []
    return Finding(f"{checks} checks allow the migration" + "".join(f", {tail}" for tail in tails), output)


def _refusal(stops: Sequence[Row], blind: Sequence[Row], checks: int) -> str:
    """Return the error's text: what forbids the migration, and what has to be known first."""
    parts = []
    if stops:
        listed = "; ".join(row.sentence for row in stops)
        parts.append(f"{len(stops)} findings of {checks} checks forbid the migration. Nothing was changed. {listed}")
    if blind:
        listed = "; ".join(row.sentence for row in blind)
        parts.append(
            f"{len(blind)} findings of {checks} checks are not known, and must be known first. Nothing was changed. "
            f"Let them be looked at, or go on without with a reason: --skip 'NAME=REASON' "
            f"(shard-migrate: --skip-checks). {listed}"
        )
    return ". ".join(parts)
