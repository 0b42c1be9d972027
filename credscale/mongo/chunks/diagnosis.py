"""Why chunks do not move: the reasons in the order in which they hide each other (reference §3.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.mongo.chunks.distribution import movable
from credscale.mongo.chunks.moves import UNTOLD, explain
from credscale.mongo.cluster.settings import seconds_until_open

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from credscale.mongo.chunks.distribution import Distribution
    from credscale.mongo.chunks.moves import MoveEvent
    from credscale.mongo.cluster.facts import ShardedCollection
    from credscale.mongo.cluster.settings import BalancerSettings

LONG_SECONDS = 600.0
ELECTION_SECONDS = 600.0


@dataclass(frozen=True)
class StallFacts:
    """What is looked at when nothing moves. What could not be asked keeps its empty default and stands in ``unasked``.

    Args:
        settings: the balancer's.
        sharded: the collection.
        found: its distribution.
        jumbo: jumbo chunks by shard.
        moves: migration events, newest first.
        now: the config primary's local time.
        draining: names of shards that are being removed.
        full: shards that have reached their maxSize (4.4).
        zones: the zones the collection's ranges are assigned to, each with the shards that belong to it.
        range_deletions: pending range deletions of this collection by shard.
        transitions: members whose feature compatibility version is being changed.
        elected: seconds since the config servers elected their primary.
        building: index builds and other changes of the collection under way, in words.
        conflicts: migrations each shard has given up for an index operation since it started.
        long_running: transactions and cursors open for minutes, in words.
        chunk_bytes: the chunk size that each shard's primary works with.
        unasked: what could not be read and why, one sentence each.
    """

    settings: BalancerSettings
    sharded: ShardedCollection
    found: Distribution
    jumbo: Mapping[str, int]
    moves: Sequence[MoveEvent]
    now: datetime
    draining: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    zones: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    range_deletions: Mapping[str, int] = field(default_factory=dict)
    transitions: tuple[str, ...] = ()
    elected: float | None = None
    building: tuple[str, ...] = ()
    conflicts: Mapping[str, int] = field(default_factory=dict)
    long_running: tuple[str, ...] = ()
    chunk_bytes: Mapping[str, int] = field(default_factory=dict)
    unasked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """The most likely reason and what to do about it, a sentence each."""

    reason: str
    action: str

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.reason} {self.action}"


def diagnose(facts: StallFacts) -> Diagnosis:
    """Return the first reason that holds, in the order of §3.5."""
    for cause in CAUSES:
        if (found := cause(facts)) is not None:
            return found
    asked = "" if not facts.unasked else f" Not asked: {'; '.join(facts.unasked)}."
    return Diagnosis(
        f"Migrations neither succeed nor fail, and none of the known causes is there.{asked}",
        "Read the log of the config servers' primary for lines of the balancer.",
    )


def _settings(facts: StallFacts) -> Diagnosis | None:
    settings = facts.settings
    if settings.problems:
        return Diagnosis(
            f"The balancer can't read its settings: {'; '.join(settings.problems)}.", "Correct config.settings."
        )
    if settings.mode != "full":
        return Diagnosis(f"The balancer is {settings.mode}.", "Run start_balancer.")
    if settings.window is not None and seconds_until_open(settings.window, facts.now) > 0:
        return Diagnosis(
            f"The balancer window {'-'.join(settings.window)} is closed.", "Wait, or widen it with set_balancer_window."
        )
    return None


def _forbidden(facts: StallFacts) -> Diagnosis | None:
    if not facts.sharded.no_balance:
        return None
    return Diagnosis(
        "Balancing is disabled for this collection (noBalance, or allowMigrations or permitMigrations false, in "
        "config.collections).",
        "Run sh.enableBalancing; a resharding or a broken DDL operation leaves migrations forbidden: finish it first.",
    )


def _jumbo(facts: StallFacts) -> Diagnosis | None:
    if facts.found.by_bytes or not any(facts.jumbo.values()) or movable(facts.found.chunks, facts.jumbo):
        return None
    marked = ", ".join(f"{shard} {count}" for shard, count in sorted(facts.jumbo.items()))
    return Diagnosis(
        f"Only jumbo chunks are left on the fuller shards ({marked}); the balancer does not move them.",
        "Split them, clear the flag with clearJumboFlag, or raise the chunk size.",
    )


def _no_recipient(facts: StallFacts) -> Diagnosis | None:
    open_to = [name for name in facts.found.chunks if name not in (*facts.draining, *facts.full)]
    emptier = [name for name in open_to if facts.found.chunks[name] < max(facts.found.chunks.values())]
    if facts.draining and facts.found.remaining and not emptier:
        return Diagnosis(
            f"{', '.join(facts.draining)} is draining and no other shard takes more chunks.",
            "Add a shard, or end the removal.",
        )
    if facts.full and not emptier:
        return Diagnosis(
            f"{', '.join(facts.full)} has reached its maxSize and takes no more chunks.",
            "Raise or unset maxSize in config.shards.",
        )
    homeless = [zone for zone, shards in facts.zones.items() if not set(shards) & set(open_to)]
    if homeless:
        return Diagnosis(
            f"No shard takes the chunks of zone {', '.join(homeless)}.", "Add a shard to it with sh.addShardToZone."
        )
    if facts.zones and not facts.found.by_bytes and facts.found.remaining:
        crowded = ", ".join(f"{zone} on {', '.join(shards)}" for zone, shards in sorted(facts.zones.items()))
        if all(len(shards) == 1 for shards in facts.zones.values()):
            return Diagnosis(
                f"Each zone has one shard ({crowded}), so its chunks can't lie evenly.",
                "Add shards to the zones, or take this distribution as it is.",
            )
    return None


def _content(facts: StallFacts) -> Diagnosis | None:
    if facts.found.remaining:
        return None
    if facts.draining:
        return Diagnosis(
            f"{', '.join(facts.draining)} is draining and still holds chunks.", "Wait for removeShard to complete."
        )
    return Diagnosis(
        "The chunks lie evenly, but balancerCollectionStatus is not content.",
        "Look at zones (config.tags) and at draining shards.",
    )


def _aborted(facts: StallFacts) -> Diagnosis | None:
    """Return what aborts the newest migrations; only the recipient's event carries the reason (§0.6)."""
    failed = []
    for move in facts.moves:
        if move.outcome == "success":
            break
        failed.append(move)
    if not failed:
        return None
    text = next((move.error for move in failed if move.error), "")
    reason = explain(text)
    if reason is UNTOLD:
        return Diagnosis(
            "Migrations are aborted without a reason in config.changelog.",
            "Read the config primary's log, which has it.",
        )
    meaning = f" ({reason.meaning})" if reason.meaning != text else ""
    return Diagnosis(f"Migrations to {failed[0].recipient} are aborted: {text!r}{meaning}.", f"To do: {reason.action}.")


def _range_deletion(facts: StallFacts) -> Diagnosis | None:
    # Every donor has some for 15 minutes; in the way are those of shards that are to receive.
    most = max(facts.found.chunks.values(), default=0)
    pending = {shard: n for shard, n in facts.range_deletions.items() if n and facts.found.chunks.get(shard, 0) < most}
    if not pending:
        return None
    where = ", ".join(f"{shard} {count}" for shard, count in sorted(pending.items()))
    return Diagnosis(
        f"Ranges given away wait for their deletion ({where}); a chunk that overlaps one can't come back before.",
        "Wait: 15 minutes after each migration by default (orphanCleanupDelaySecs).",
    )


def _transition(facts: StallFacts) -> Diagnosis | None:
    if not facts.transitions:
        return None
    return Diagnosis(
        f"The feature compatibility version is being changed on {', '.join(facts.transitions)}; no chunk leaves.",
        "Run setFeatureCompatibilityVersion again until it succeeds.",
    )


def _election(facts: StallFacts) -> Diagnosis | None:
    if facts.elected is None or facts.elected > ELECTION_SECONDS:
        return None
    return Diagnosis(
        f"The config servers elected a primary {facts.elected:.0f} s ago; the balancer recovers its migrations first.",
        "Wait, and look at why they elected.",
    )


def _index_build(facts: StallFacts) -> Diagnosis | None:
    if facts.building:
        return Diagnosis(f"Under way on the collection: {', '.join(facts.building)}.", "Wait until it is done.")
    aborted = {shard: count for shard, count in facts.conflicts.items() if count}
    if not aborted:
        return None
    where = ", ".join(f"{shard} {count}" for shard, count in sorted(aborted.items()))
    return Diagnosis(f"Migrations were given up for index operations ({where}).", "Build indexes before balancing.")


def _long_running(facts: StallFacts) -> Diagnosis | None:
    if not facts.long_running:
        return None
    return Diagnosis(
        f"Open for minutes: {', '.join(facts.long_running)}; a migration waits for such transactions and cursors.",
        "End them with killOp or killSessions.",
    )


def _not_in_effect(facts: StallFacts) -> Diagnosis | None:
    """Settings the servers could not parse: up to 5.0 the only sign is that shards keep the old chunk size (§3.3)."""
    if facts.sharded.range_bytes:  # the collection's own size holds for it; what the shards show is the cluster's
        return None
    wanted = facts.found.range_bytes
    other = {shard: size for shard, size in facts.chunk_bytes.items() if size != wanted}
    if not other:
        return None
    where = ", ".join(f"{shard} {size >> 20} MB" for shard, size in sorted(other.items()))
    return Diagnosis(
        f"Shards work with another chunk size than the {wanted >> 20} MB set ({where}): they can't read "
        "config.settings, or have not done so yet (every 30 s).",
        "Wait a minute; if it stays, compare every document of config.settings with the manual.",
    )


CAUSES: tuple[Callable[[StallFacts], Diagnosis | None], ...] = (
    _settings, _forbidden, _jumbo, _no_recipient, _content, _aborted, _range_deletion, _transition, _election,
    _index_build, _long_running, _not_in_effect,
)  # fmt: skip
