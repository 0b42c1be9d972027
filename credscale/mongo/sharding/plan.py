"""The order of a sharding migration: facts in, ordered moves out. Nothing here reads or changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from credscale.core.errors import PreconditionFailed


class Move(StrEnum):
    """One change of a migration; its value is what it does in words."""

    STOP_BALANCER = "stop the balancer"
    SET_CHUNK_SIZE = "set the chunk size"
    SET_WINDOW = "set the balancer window"
    ENABLE_SHARDING = "enable sharding for the database"
    CREATE_INDEX = "create the shard-key index"
    SHARD_COLLECTION = "shard the collection"
    START_BALANCER = "start the balancer"
    RESTORE_BALANCER = "put the balancer back as it was, once the data lie evenly"


@dataclass(frozen=True)
class MigrationState:
    """What is there.

    Args:
        sharded_key: the shard key in words, or None.
        sharding_enabled: whether the database may hold sharded collections.
        index_ready: whether an index can carry the wanted key.
        mode: the balancer's mode: full, autoSplitOnly or off.
        in_round: whether a round is under way; one that began before the mode was turned off still moves chunks.
        chunk_size_mb: the persisted size, or None.
        window: the persisted window, or None.
        balanced: whether the collection is sharded and its data lie evenly.
        before: the mode that an earlier run has changed and not put back; None when there is none.
    """

    sharded_key: str | None
    sharding_enabled: bool
    index_ready: bool
    mode: str
    in_round: bool
    chunk_size_mb: int | None
    window: tuple[str, str] | None
    balanced: bool
    before: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What shall be; a window of None leaves the window as it is."""

    shard_key: str
    chunk_size_mb: int
    window: tuple[str, str] | None = None


def plan_migration(state: MigrationState, wanted: Wanted) -> tuple[Move, ...]:
    """Return what is missing, in the only safe order (reference §0.1).

    Invariant: from before the first change of a setting, an index or the catalogue until the collection is read back
    as sharded, the balancer is off. The balancer would start within ten seconds of the collection being sharded, and
    up to 6.0.2 the first split takes the chunk size that stands in the settings at that moment. So an interrupted
    run leaves at worst a stopped balancer and data that have not moved.

    Planning again after any move, or in the middle of the moving of chunks, leads to the same end: the plan looks
    only at what is there, and at the mode that the first run found, which is remembered in the target. That mode is
    put back at the very end, and also when a run fails before.

    Args:
        state: what is there.
        wanted: what shall be.

    Raises:
        PreconditionFailed: the collection is sharded by another key; then nothing else is planned either.
    """
    if state.sharded_key not in (None, wanted.shard_key):
        raise PreconditionFailed(
            f"the collection is sharded by {state.sharded_key}, wanted is {wanted.shard_key}. A shard key can't be "
            "changed here: use reshardCollection (MongoDB 5.0 and later), or run with the existing key. "
            "Nothing was changed"
        )
    missing = {
        Move.SET_CHUNK_SIZE: state.chunk_size_mb != wanted.chunk_size_mb,
        Move.SET_WINDOW: wanted.window is not None and state.window != wanted.window,
        Move.ENABLE_SHARDING: not state.sharding_enabled and state.sharded_key is None,
        Move.CREATE_INDEX: not state.index_ready,
        Move.SHARD_COLLECTION: state.sharded_key is None,
    }
    moves = [move for move, needed in missing.items() if needed]
    stop = bool(moves) and (state.mode != "off" or state.in_round)
    if stop:
        moves.insert(0, Move.STOP_BALANCER)
    unbalanced = state.sharded_key is None or not state.balanced
    if unbalanced and (stop or state.mode != "full"):
        moves.append(Move.START_BALANCER)
    before = state.before if state.before is not None else state.mode
    if before != _mode_after(moves, state.mode):
        moves.append(Move.RESTORE_BALANCER)
    return tuple(moves)


def _mode_after(moves: list[Move], mode: str) -> str:
    """Return the balancer's mode once the moves are made."""
    if Move.START_BALANCER in moves:
        return "full"
    return "off" if Move.STOP_BALANCER in moves else mode
