"""Whether a drill ended as expected. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from credscale.redis_cluster.drill.plan import Expectation, Target

BACK = "back by itself"


@dataclass(frozen=True)
class Outcome:
    """What came of a drill.

    Args:
        new_primary: who took over; empty for nobody.
        flip_seconds: from the fault to the takeover; None without one.
        unhealthy: why the cluster is not healthy after the restoration; empty when it is.
        role: of the node that was broken, in words, after the restoration.
        lost: acknowledged writes that are gone.
        unread: acknowledged writes that nobody could be asked for.
        back: whether the node was up again before anybody took over, and not by us.
    """

    new_primary: str
    flip_seconds: float | None
    unhealthy: str
    role: str
    lost: int
    unread: int
    back: bool = False


def judge(target: Target, expected: Expectation, outcome: Outcome) -> list[dict[str, Any]]:
    """Return what was expected and what was seen, a row for each question.

    ``ok`` is yes, no, or differs: not as expected, but nothing that is wrong with the cluster.
    """
    wanted = "a replica takes over" if expected.fails_over else "nobody takes over"
    seen = f"{outcome.new_primary} took over" if outcome.new_primary else "nobody took over"
    if outcome.flip_seconds is not None:
        seen += f" after {outcome.flip_seconds:.2f} s"
    if outcome.back:
        seen += ": what supervises the node started it again before that; --fault freeze shows a takeover"
    agrees = bool(outcome.new_primary) == expected.fails_over
    rows = [_answer("failover", wanted, seen, agrees, counts=not outcome.back)]
    if outcome.flip_seconds is not None and expected.fails_over:
        times = f"{expected.least:.1f} to {expected.most:.1f} s, by the rule of thumb"
        within = outcome.flip_seconds <= expected.most
        rows.append(_answer("role flip", times, f"{outcome.flip_seconds:.2f} s", within, counts=False))
    role = f"replica of {outcome.new_primary}" if outcome.new_primary else _role_before(target)
    rows += [
        _answer(f"{target.address} afterwards", role, outcome.role, outcome.role == role),
        _answer("cluster afterwards", "healthy", outcome.unhealthy or "healthy", not outcome.unhealthy),
        _answer("acknowledged writes", "none lost", _losses(outcome), not outcome.lost and not outcome.unread),
    ]
    return rows


def against(rows: Iterable[dict[str, Any]]) -> str:
    """Return as a part of a sentence which answers are not as expected; empty when the drill went well."""
    wrong = [row for row in rows if row["ok"] == "no"]
    return "; ".join(f"{row['question']}: expected {row['expected']}, seen {row['seen']}" for row in wrong)


def _answer(question: str, expected: str, seen: str, agrees: bool, *, counts: bool = True) -> dict[str, Any]:
    ok = "yes" if agrees else "no" if counts else "differs"
    return {"question": question, "expected": expected, "seen": seen, "ok": ok}


def _losses(outcome: Outcome) -> str:
    unread = f", {outcome.unread} could not be read back" if outcome.unread else ""
    return f"{outcome.lost or 'none'} lost{unread}"


def _role_before(target: Target) -> str:
    return "primary" if target.primary == target.address else f"replica of {target.primary}"
