"""A reason: one thing that is wrong or worth knowing about a cluster, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.phrases import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["failed", "warn", "note"]
_ORDER: dict[str, int] = {"failed": 0, "warn": 1, "note": 2}


@dataclass(frozen=True)
class Reason:
    """One finding.

    Args:
        severity: ``failed`` ends a probe in failure; ``warn`` is a risk; ``note`` is only worth knowing.
        where: a node's address, a host, or ``cluster``.
        rule: the short name of the rule that found it; stable, for code that waits for one rule to be quiet.
        what: what was seen, and what was expected where that is not plain.
        action: what to do.
    """

    severity: Severity
    where: str
    rule: str
    what: str
    action: str

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "severity": self.severity, "where": self.where, "rule": self.rule, "what": self.what,
            "what to do": self.action,
        }  # fmt: skip

    @property
    def text(self) -> str:
        """Where and what, as a part of a sentence."""
        return f"{self.where}: {self.what}"


def ordered(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Return reasons with the worst first, otherwise in their order."""
    return tuple(sorted(reasons, key=lambda reason: _ORDER[reason.severity]))


def failed(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Return those that mean failure."""
    return tuple(reason for reason in reasons if reason.severity == "failed")


def sentence(reasons: Iterable[Reason], most: int = 6) -> str:
    """Return reasons as a part of a sentence; what several places have in common is said once.

    Args:
        reasons: in the order in which they are told.
        most: how many different ones are told before ``and N more``.
    """
    places: dict[str, list[str]] = {}
    for reason in reasons:
        places.setdefault(reason.what, []).append(reason.where)
    texts = [f"{listed(where, 3)}: {what}" for what, where in places.items()]
    return listed(texts, most, "; ")
