"""The order of a rolling restart: a pure function of what the members say."""

from __future__ import annotations

from dataclasses import dataclass

RESTART, STEP_DOWN, WAIT, REFUSE, DONE = "restart", "step_down", "wait", "refuse", "done"
HEALTHY = ("PRIMARY", "SECONDARY", "ARBITER")


@dataclass(frozen=True)
class MemberFacts:
    """A member of a replica set.

    Args:
        address: ``host:port``.
        state: as replSetGetStatus calls it.
        votes: whether it votes.
        caught_up: whether it has the writes of the primary.
        converted: whether it runs with the new options.
    """

    address: str
    state: str
    votes: bool = True
    caught_up: bool = True
    converted: bool = False


@dataclass(frozen=True)
class Turn:
    """What comes next: a kind, and the member it is about."""

    kind: str
    address: str = ""


def plan_turn(members: tuple[MemberFacts, ...], *, allow_downtime: bool) -> Turn:
    """Return the next turn of a rolling restart.

    Invariant: a member is taken down only while every other one is healthy and has caught up, so at most one is down at
    a time; what remains holds a majority of the votes, or ``allow_downtime`` accepts that it does not; and the primary
    is restarted only after it stepped down, last, unless nobody else could take over. Asking again after any turn gives
    the next one, also after the run was killed.

    Args:
        members: every member of the set.
        allow_downtime: whether a set that cannot spare a voter may be without a primary for a moment.
    """
    pending = [member for member in members if not member.converted]
    if not pending:
        return Turn(DONE if all(_is_well(member) for member in members) else WAIT)
    chosen = min(pending, key=lambda member: (member.state == "PRIMARY", member.address))
    if any(not _is_well(member) for member in members):
        return Turn(WAIT)
    if chosen.votes and not _majority_without(chosen, members) and not allow_downtime:
        return Turn(REFUSE, chosen.address)
    heirs = [member for member in members if member.state == "SECONDARY" and member.votes]
    return Turn(STEP_DOWN if chosen.state == "PRIMARY" and heirs else RESTART, chosen.address)


def _is_well(member: MemberFacts) -> bool:
    return member.state in HEALTHY and member.caught_up


def _majority_without(one: MemberFacts, members: tuple[MemberFacts, ...]) -> bool:
    voters = [member for member in members if member.votes]
    return len([member for member in voters if member is not one]) > len(voters) // 2
