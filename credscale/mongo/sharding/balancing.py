"""The balancer's steps: stop, settings, start, and put back as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.core.step import Finding, step
from credscale.mongo.chunks.distribution import distribution
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.settings import balancer_settings, check_chunk_size, parse_window
from credscale.mongo.sharding import balancer_memory
from credscale.mongo.sharding.balancer_switch import await_off, is_on, seen, set_fields, set_mode, switch
from credscale.mongo.sharding.plan import Move, plan_migration
from credscale.mongo.sharding.state import migration_state, wanted_state

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.settings import BalancerSettings

READ_BACK_SECONDS = 30.0
NO_AUTOSPLIT = (6, 0, 3)  # from here on balancerStart and balancerStop leave autosplit alone (§1.4)


@step()
def stop_balancer(
    ctx: Context, *, namespace: str = "", shard_key: str = "", chunk_size_mb: int = 0, window: str = ""
) -> Finding:
    """Stop the balancer and wait for its last round.

    Within a migration, that is with a namespace, only if anything is left to change. Its mode and autosplit flag are
    then remembered in the target before, so that ``restore_balancer`` puts them back even after this run was killed,
    unless somebody else sets the balancer meanwhile. Without a namespace it is the operator's own will: the balancer
    stays off, and what a migration had remembered is forgotten. MongoDB 4.4 and later.

    Args:
        namespace: for use within a migration only: its ``database.collection``; empty stops the balancer for good.
        shard_key: such as ``createdAt:hashed,userId:1``.
        chunk_size_mb: the wanted chunk size in MB.
        window: the wanted window ``HH:MM-HH:MM`` in the config primary's local time; empty leaves it as it is.
    """
    client = ctx.clients.mongo()
    settings = balancer_settings(client)
    output: dict[str, Any] = {"mode": settings.mode}
    needed = not settings.is_off
    if namespace:
        wanted = wanted_state(shard_key, chunk_size_mb, window)
        before = balancer_memory.before(ctx, settings.mode)
        state = migration_state(client, namespace, shard_key)
        moves = plan_migration(replace(state, before=str(before["mode"]) if before else None), wanted)
        output["plan"] = [str(move) for move in moves]
        needed = Move.STOP_BALANCER in moves
    elif not ctx.dry_run:
        balancer_memory.forget(ctx)
    if not needed:
        reason = "it is off already" if settings.is_off else "there is nothing to change that it would disturb"
        return Finding(f"the balancer was left as it is: {reason}", output)
    what = f"stop the balancer (mode {settings.mode}) and wait for its round"
    ctx.apply(what, _stop, ctx, client, remember=bool(namespace))
    await_off(ctx, client)
    if ctx.planning:
        _plan_left(ctx, client, settings, "off", within=bool(namespace))
        return Finding("the balancer would be stopped before anything else is changed", output)
    if namespace:
        balancer_memory.left(ctx, "off")
    return Finding("the balancer is off and its last round is over", output | {"mode": "off"})


def _stop(ctx: Context, client: Client, *, remember: bool) -> None:
    if remember:
        balancer_memory.remember(ctx, balancer_settings(client))
    switch(client, "balancerStop")


def _plan_left(ctx: Context, client: Client, settings: BalancerSettings, mode: str, *, within: bool) -> None:
    """Keep in a dry run what would be put back; without a migration nothing would."""
    if within:
        writes_autosplit = facts.server(client).numbers < NO_AUTOSPLIT
        autosplit = mode == "full" if writes_autosplit else settings.autosplit
        balancer_memory.plan(ctx, settings, mode, autosplit=autosplit)


def _require_off(ctx: Context, settings: BalancerSettings, change: str) -> None:
    ctx.require(
        settings.is_off,
        PreconditionFailed(
            f"the balancer must be off before {change}; it is {settings.mode}"
            f"{' and in a round' if settings.in_round else ''}. Nothing was changed. Run stop_balancer first"
        ),
    )


@step()
def set_chunk_size(ctx: Context, *, chunk_size_mb: int) -> Finding:
    """Set the cluster's chunk size with majority and read it back.

    Up to 6.0.2 shardCollection makes chunks of half this size (§1.3). A value the server refuses would stop all
    balancing without a word, so it is checked before (§1.6).

    Args:
        chunk_size_mb: 1 to 1024 MB.
    """
    client, wanted = ctx.clients.mongo(), check_chunk_size(chunk_size_mb)
    settings = balancer_settings(client)
    output = {"before": settings.chunk_size_mb, "chunk_size_mb": wanted}
    if settings.chunk_size_mb == wanted:
        return Finding(f"the chunk size is {wanted} MB already", output)
    _require_off(ctx, settings, "the chunk size is changed")
    before = f"{settings.chunk_size_mb} MB" if settings.chunk_size_mb is not None else "the server's default"
    ctx.apply(f"set the chunk size to {wanted} MB (was {before})", set_fields, client, "chunksize", {"value": wanted})
    ctx.wait_until(
        f"config.settings says {wanted} MB",
        lambda: seen(balancer_settings(client).chunk_size_mb, wanted),
        READ_BACK_SECONDS,
    )
    verb = "would be" if ctx.planning else "is"
    return Finding(f"the chunk size {verb} {wanted} MB, was {before}", output)


@step()
def set_balancer_window(ctx: Context, *, window: str) -> Finding:
    """Set the hours in which the balancer may move chunks, and read them back.

    Only ``activeWindow`` is written: the other fields of the document stay. The hours are in the local time of the
    config primary (§1.5). A migration under way when the window closes runs to its end.

    Args:
        window: ``HH:MM-HH:MM``, may cross midnight; empty leaves the window as it is.
    """
    client, wanted = ctx.clients.mongo(), parse_window(window)
    settings = balancer_settings(client)
    before = "-".join(settings.window) if settings.window is not None else "none"
    if wanted is None:
        return Finding(f"no window was asked for, so it stays as it is ({before})", {"window": before})
    text = "-".join(wanted)
    output = {"before": before, "window": text}
    if settings.window == wanted:
        return Finding(f"the balancer window is {text} already", output)
    _require_off(ctx, settings, "its window is changed")
    value = {"activeWindow": {"start": wanted[0], "stop": wanted[1]}}
    ctx.apply(f"set the balancer window to {text} (was {before})", set_fields, client, "balancer", value)
    ctx.wait_until(
        f"config.settings says {text}", lambda: seen(balancer_settings(client).window, wanted), READ_BACK_SECONDS
    )
    verb = "would be" if ctx.planning else "is"
    return Finding(f"the balancer window {verb} {text} in the config primary's local time, was {before}", output)


@step()
def start_balancer(ctx: Context, *, namespace: str = "") -> Finding:
    """Start the balancer.

    Within a migration, that is with a namespace, only while the collection's data do not lie evenly yet; its mode from
    before is then remembered in the target for ``restore_balancer``. Without a namespace it is the operator's own will:
    the balancer stays on, and what a migration had remembered is forgotten.

    The settings must be readable for the server: with a malformed window balancerStart fails on 4.4, and written
    later the window stops all balancing while the mode stays full (measured, §1.5).

    Args:
        namespace: for use within a migration only: its ``database.collection``; empty starts the balancer for good.
    """
    client = ctx.clients.mongo()
    settings = balancer_settings(client)
    sharded = facts.sharded_collection(client, namespace) if namespace else None
    if not namespace and not ctx.dry_run:
        balancer_memory.forget(ctx)
    if not namespace and settings.mode == "full" and not settings.problems:
        return Finding("the balancer is on already and its settings are valid", {"mode": "full"})
    problem = PreconditionFailed(f"{namespace} is not sharded. Run shard_collection first")
    ctx.require(sharded is not None or not namespace, problem)
    if sharded is not None:
        found = distribution(client, facts.server(client), sharded, settings.chunk_size_mb)
        if not found.remaining:
            return Finding(f"the balancer was left {settings.mode}: {found.content} ({found.text})")
        _refuse_blocked(settings, sharded)
        if _as_left(ctx, settings).mode == "full":
            return Finding("the balancer is on already and its settings are valid", {"mode": "full"})
    ctx.apply("start the balancer", _start, ctx, client, remember=bool(namespace))
    ctx.wait_until("the balancer is on with valid settings", lambda: is_on(client), READ_BACK_SECONDS)
    if ctx.planning:
        _plan_left(ctx, client, settings, "full", within=bool(namespace))
        return Finding("the balancer would be started once the collection is sharded", {"mode": settings.mode})
    if namespace:
        balancer_memory.left(ctx, "full")
    return Finding("the balancer is on and its settings are valid", {"mode": "full"})


def _refuse_blocked(settings: BalancerSettings, sharded: facts.ShardedCollection) -> None:
    if settings.problems:
        raise PreconditionFailed(
            "the balancer can't read its settings and would move nothing: " + "; ".join(settings.problems)
            + ". Correct config.settings, then run again"
        )  # fmt: skip
    if sharded.no_balance:
        raise PreconditionFailed(
            f"balancing is disabled for {sharded.namespace} (noBalance or allowMigrations: false in "
            "config.collections). Enable it with sh.enableBalancing, then run again"
        )


def _start(ctx: Context, client: Client, *, remember: bool) -> None:
    if remember:
        balancer_memory.remember(ctx, balancer_settings(client))
    switch(client, "balancerStart")


@step()
def restore_balancer(ctx: Context) -> Finding:
    """Put the balancer's mode and autosplit flag back as they were before a run changed them.

    What they were is remembered in the target, so this also puts back what a killed run left behind. Window and chunk
    size are wanted results and stay. Nothing is put back while a shardCollection may be half done, nor where somebody
    else has set the balancer since.
    """
    kept = balancer_memory.kept(ctx)
    if kept is None:
        return Finding("nothing to put back: no run has changed the balancer")
    client, reason = ctx.clients.mongo(), balancer_memory.reason_to_keep_off(ctx)
    settings = _as_left(ctx, balancer_settings(client))
    mode, autosplit = str(kept["mode"]), bool(kept["autosplit"])
    if reason:
        return Finding(
            f"the balancer was left {settings.mode} and not put back to {mode}: {reason}. Run the migration again, or "
            f"once that is settled: invoke mongo.restore-balancer --env {ctx.environment.name}",
            {"mode": settings.mode, "kept": mode, "reason": reason},
        )
    if balancer_memory.before(ctx, settings.mode) is None:
        if not ctx.dry_run:
            balancer_memory.forget(ctx)
        return Finding(f"the balancer was left {settings.mode}: somebody else has set it so since the run did")
    _put_back(ctx, client, settings.mode, mode, autosplit=autosplit)
    if not ctx.dry_run:
        balancer_memory.forget(ctx)
    verb = "would be" if ctx.planning else "is"
    summary = f"the balancer {verb} {mode} again, as before the run"
    return Finding(summary, {"mode": mode, "autosplit": autosplit, "found": settings.mode})


def _as_left(ctx: Context, settings: BalancerSettings) -> BalancerSettings:
    """Return the settings as a dry run would have left them, else as they are."""
    planned = balancer_memory.planned(ctx)
    return replace(settings, mode=str(planned["mode"]), autosplit=bool(planned["autosplit"])) if planned else settings


def _put_back(ctx: Context, client: Client, found_mode: str, mode: str, *, autosplit: bool) -> None:
    if found_mode != mode:
        be = "will be" if ctx.planning else "is"
        ctx.apply(f"put the balancer back to {mode} ({be} {found_mode})", set_mode, client, mode)
    # balancerStart and balancerStop also write autosplit, so it is looked at after them.
    if (found := _after_switch(ctx, client, switched=found_mode != mode, to=mode)).autosplit != autosplit:
        ctx.apply(
            f"put autosplit back to {autosplit} (is {found.autosplit})",
            set_fields,
            client,
            "autosplit",
            {"enabled": autosplit},
        )
    wanted = (mode, autosplit)
    ctx.wait_until(f"mode {mode}, autosplit {autosplit}", lambda: seen(_kept_values(client), wanted), READ_BACK_SECONDS)


def _after_switch(ctx: Context, client: Client, *, switched: bool, to: str) -> BalancerSettings:
    """Return the settings after the mode was put back, or as a dry run expects them then."""
    found = _as_left(ctx, balancer_settings(client))
    if ctx.planning and switched and facts.server(client).numbers < NO_AUTOSPLIT:
        return replace(found, autosplit=to == "full")
    return found


def _kept_values(client: Client) -> tuple[str, bool]:
    settings = balancer_settings(client)
    return settings.mode, settings.autosplit
