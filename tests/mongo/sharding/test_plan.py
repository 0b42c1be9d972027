"""The plan is safe at each instant and leads to the same end from wherever a run was interrupted."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import PreconditionFailed
from credscale.mongo.sharding.plan import MigrationState, Move, Wanted, plan_migration

WANTED = Wanted("createdAt:hashed,userId:1", 64, ("02:00", "06:00"))
FRESH = MigrationState(
    sharded_key=None, sharding_enabled=False, index_ready=False, mode="full", in_round=False,
    chunk_size_mb=None, window=None, balanced=False,
)  # fmt: skip
DONE = MigrationState(WANTED.shard_key, True, True, "full", False, 64, WANTED.window, True)

states = st.builds(
    MigrationState,
    sharded_key=st.sampled_from([None, WANTED.shard_key]),
    sharding_enabled=st.booleans(),
    index_ready=st.booleans(),
    mode=st.sampled_from(["full", "autoSplitOnly", "off"]),
    in_round=st.booleans(),
    chunk_size_mb=st.sampled_from([None, 1, 64]),
    window=st.sampled_from([None, ("00:00", "01:00"), WANTED.window]),
    balanced=st.booleans(),
).map(lambda state: state if state.sharded_key is not None else replace(state, balanced=False))
wanteds = st.sampled_from([WANTED, Wanted(WANTED.shard_key, 1)])


def make(state: MigrationState, move: Move, wanted: Wanted) -> MigrationState:
    """Return what a move makes of the state; what switches the balancer remembers the mode before, like the steps."""
    before: dict[str, object] = {"before": state.before if state.before is not None else state.mode}
    changes: dict[Move, dict[str, object]] = {
        Move.STOP_BALANCER: {"mode": "off", "in_round": False} | before,
        Move.SET_CHUNK_SIZE: {"chunk_size_mb": wanted.chunk_size_mb},
        Move.SET_WINDOW: {"window": wanted.window},
        Move.ENABLE_SHARDING: {"sharding_enabled": True},
        Move.CREATE_INDEX: {"index_ready": True},
        Move.SHARD_COLLECTION: {"sharded_key": wanted.shard_key},
        Move.START_BALANCER: {"mode": "full"} | before,
        Move.RESTORE_BALANCER: {"mode": before["before"], "balanced": True, "before": None},
    }
    return replace(state, **changes[move])  # type: ignore[arg-type]


def check_invariant(state: MigrationState, move: Move) -> None:
    """Fail when a move would be made with the balancer at work, or on a state that is not ready for it."""
    if move not in (Move.STOP_BALANCER, Move.START_BALANCER, Move.RESTORE_BALANCER):
        assert state.mode == "off"
        assert not state.in_round
    if move is Move.SHARD_COLLECTION:
        assert state.index_ready
        assert state.sharding_enabled
    if move in (Move.START_BALANCER, Move.RESTORE_BALANCER):
        assert state.sharded_key is not None
    if move is Move.RESTORE_BALANCER:
        assert state.balanced or state.mode == "full"


def run(state: MigrationState, wanted: Wanted, most: int | None = None) -> MigrationState:
    """Make the planned moves, or only the first few, and check the invariant before each."""
    for move in plan_migration(state, wanted)[:most]:
        check_invariant(state, move)
        state = make(state, move, wanted)
    return state


def goal(state: MigrationState) -> dict[str, object]:
    """Return what a migration is about; the mode is put back by restore_balancer and not compared."""
    fields = ("sharded_key", "index_ready", "chunk_size_mb", "window")
    return {name: getattr(state, name) for name in fields}


def test_the_whole_migration_in_its_order() -> None:
    assert plan_migration(replace(FRESH, mode="autoSplitOnly"), WANTED) == tuple(Move)
    assert plan_migration(FRESH, WANTED) == tuple(Move)[:-1], "it is full at the end as it was before"


def test_nothing_to_do() -> None:
    assert plan_migration(DONE, WANTED) == ()


def test_a_window_of_none_is_left_as_it_is() -> None:
    assert Move.SET_WINDOW not in plan_migration(FRESH, replace(WANTED, window=None))


def test_killed_before_the_start_only_starts() -> None:
    killed = replace(DONE, mode="off", balanced=False, before="full")
    assert plan_migration(killed, WANTED) == (Move.START_BALANCER,)


def test_a_balancer_that_was_off_is_off_again() -> None:
    moves = (Move.START_BALANCER, Move.RESTORE_BALANCER)
    assert plan_migration(replace(DONE, mode="off", balanced=False), WANTED) == moves
    assert plan_migration(replace(DONE, balanced=False, before="off"), WANTED) == (Move.RESTORE_BALANCER,)


def test_a_setting_alone_stops_and_puts_back() -> None:
    moves = (Move.STOP_BALANCER, Move.SET_CHUNK_SIZE, Move.RESTORE_BALANCER)
    assert plan_migration(replace(DONE, chunk_size_mb=1), WANTED) == moves


def test_mode_off_with_a_round_under_way_is_waited_for() -> None:
    assert plan_migration(replace(FRESH, mode="off", in_round=True), WANTED)[0] is Move.STOP_BALANCER


def test_another_key_plans_nothing() -> None:
    with pytest.raises(PreconditionFailed, match="sharded by _id:hashed, wanted is createdAt"):
        plan_migration(replace(FRESH, sharded_key="_id:hashed"), WANTED)


def finished(state: MigrationState, wanted: Wanted) -> MigrationState:
    """Make all moves and let the chunks move."""
    state = run(state, wanted)
    return replace(state, balanced=True) if state.mode == "full" else state


@given(state=states, wanted=wanteds)
def test_a_second_run_changes_nothing(state: MigrationState, wanted: Wanted) -> None:
    end = replace(finished(state, wanted), balanced=True, before=None)
    assert plan_migration(end, wanted) == ()


@given(state=states, wanted=wanteds, kill=st.lists(st.integers(0, 8), max_size=4))
def test_interrupted_anywhere_leads_to_the_same_end(state: MigrationState, wanted: Wanted, kill: list[int]) -> None:
    undisturbed = finished(state, wanted)
    for most in kill:
        state = run(state, wanted, most)
    state = finished(state, wanted)
    assert goal(state) == goal(undisturbed)
    assert state.balanced
    assert state.mode == undisturbed.mode, "put back as the first run found it"


@given(state=states, wanted=wanteds, kill=st.integers(0, 8))
def test_restored_in_between_leads_to_the_same_end(state: MigrationState, wanted: Wanted, kill: int) -> None:
    """After a failure the balancer is put back as it was, and may move what is sharded already."""
    undisturbed = finished(state, wanted)
    state = replace(run(state, wanted, kill), mode=state.mode, before=None)
    assert goal(finished(state, wanted)) == goal(undisturbed)


def every_state() -> list[MigrationState]:
    """Return every start state there is, also those that a killed run leaves."""
    keys = [(None, False), (WANTED.shard_key, False), (WANTED.shard_key, True)]
    modes, flags = ["full", "autoSplitOnly", "off"], [False, True]
    sizes, windows = [None, 1, 64], [None, ("00:00", "01:00"), WANTED.window]
    return [
        MigrationState(key, enabled, index, mode, in_round, size, window, balanced, before)
        for (key, balanced), enabled, index, mode, in_round, size, window, before in product(
            keys, flags, flags, modes, flags, sizes, windows, [None, *modes]
        )
    ]


@pytest.mark.parametrize("wanted", [WANTED, Wanted(WANTED.shard_key, 1)], ids=["window", "no window"])
def test_every_state_interrupted_after_every_move(wanted: Wanted) -> None:
    """No sampling: each start state, killed after each of its moves, with the invariant before each move.

    What a kill leaves is a start state again, so any number of kills is covered.
    """
    starts = set(every_state())
    for start in starts:
        undisturbed = finished(start, wanted)
        for most in range(len(plan_migration(start, wanted)) + 1):
            killed = run(start, wanted, most)
            assert killed in starts
            end = finished(killed, wanted)
            assert (goal(end), end.mode, end.balanced) == (goal(undisturbed), undisturbed.mode, True)
