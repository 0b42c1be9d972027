"""Rules that must hold before a run may change anything; every refusal says what would satisfy it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from credscale.core.errors import Refused

if TYPE_CHECKING:
    from credscale.core.environment import Environment, Policy

Ask = Callable[[str], str]


def check(environment: Environment, ticket: str, now: datetime | None = None) -> None:
    """Refuse a run that lacks its ticket or lies outside the maintenance window.

    Args:
        environment: with its policy.
        ticket: the id given, may be empty.
        now: an aware moment; the present when left out.

    Raises:
        Refused: names the rule and what would satisfy it.
    """
    policy = environment.policy
    if policy.require_ticket and not ticket:
        raise Refused(
            f"{environment.name} requires a change ticket (policy.require_ticket). Nothing was changed. Add --ticket ID"
        )
    window = policy.maintenance_window
    if window is not None and not window.contains(now if now is not None else datetime.now(UTC)):
        raise Refused(
            f"{environment.name} may be changed only {'/'.join(window.days)} {window.start}-{window.stop} "
            f"{window.timezone} (policy.maintenance_window). Nothing was changed. Run it then, or plan with --dry-run"
        )


def confirm(policy: Policy, name: str, changes: int, *, yes: bool, ask: Ask | None) -> None:
    """Ask for the confirmation that the policy wants.

    Args:
        policy: the environment's rules.
        name: the environment's name, to be typed under ``type-name``.
        changes: how many changes are planned.
        yes: ``--yes`` was given.
        ask: puts a question and returns the answer; None where nobody can answer.

    Raises:
        Refused: not confirmed.
    """
    if yes or changes == 0 or policy.confirm == "none":
        return
    if ask is None:
        raise Refused(
            "nobody is here to confirm (no terminal). Nothing was changed. Add --yes to run without a question"
        )
    if policy.confirm == "type-name":
        answer, wanted = ask(f"Type {name} to make these {changes} changes: "), name
    else:
        answer, wanted = ask(f"Make these {changes} changes on {name}? [yes/no] ").lower(), "yes"
    if answer.strip() not in ({wanted, "y"} if wanted == "yes" else {wanted}):
        raise Refused(f"not confirmed (answered {answer.strip()!r}, wanted {wanted!r}). Nothing was changed")
