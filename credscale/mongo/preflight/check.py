"""The frame of the checks: what one is, what it says, and which are run."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from credscale.mongo.preflight.look import Look

# unknown: it could not be looked at, and the finding says why; skipped: the operator gave a reason
Severity = Literal["stop", "warn", "note", "ok", "unknown", "skipped"]
ORDER: tuple[Severity, ...] = ("stop", "warn", "unknown", "skipped", "note", "ok")
UNAUTHORIZED = 13
# 59 CommandNotFound, 115 CommandNotSupported, 8000 AtlasError: this deployment has no such command
ABSENT = {59, 115, 8000}
# What a reply of another shape than foreseen leads to; an AssertionError is a mistake of ours and stays loud.
NOT_UNDERSTOOD = (LookupError, TypeError, ValueError, AttributeError)
# The rows of reference §5 that block (B, or B/W), but for 34, 39 and 47: what applications do can never be known
# wholly, so what is not known there is a warning. Where one of these is unknown, a real cluster is not migrated.
BLOCKING = frozenset({*range(1, 9), *range(13, 32), 35, *range(41, 47), 49, 54, 55})


@dataclass(frozen=True)
class Seen:
    """What a check saw.

    Args:
        severity: ``stop`` forbids the migration, ``warn`` and ``note`` are to be read, ``ok`` is fine, ``unknown``
            could not be looked at.
        finding: what was seen and where, one sentence.
        remedy: what to do, one sentence; empty where there is nothing to do.
        member: the server that could not be looked at at all; rows of several checks that only say so become one.
        real_only: whether it is about machines, processes or redundancy that a lab on one machine does not have; in a
            lab it is a note.
    """

    severity: Severity
    finding: str
    remedy: str = ""
    member: str = ""
    real_only: bool = False


@dataclass(frozen=True)
class Check:
    """One check of reference §5.

    Args:
        number: its row there.
        name: what ``--only`` and ``--skip`` take.
        command: what it asks the servers, in words of the reference.
        reason: why it matters, one sentence.
        look: reads through the shared ``Look`` and says what it saw; never nothing.
        real_only: whether all that it sees is ``Seen.real_only``.
    """

    number: int
    name: str
    command: str
    reason: str
    look: Callable[[Look], Iterable[Seen]]
    real_only: bool = False

    @property
    def blocks(self) -> bool:
        """Whether a real cluster may not be migrated while this is unknown."""
        return self.number in BLOCKING

    def run(self, look: Look) -> list[Row]:
        """Look, keep what was seen before anything failed, and turn what can't be looked at into a row that says so."""
        from bson.errors import BSONError
        from pymongo.errors import PyMongoError

        seen: list[Seen] = []
        try:
            for each in self.look(look):
                seen.append(each)  # noqa: PERF402 - one by one: a later failure does not take back what was seen
        except (PyMongoError, BSONError) as error:
            seen.append(unreadable(error))
        except NOT_UNDERSTOOD as error:
            told = f"reply not understood ({type(error).__name__}: {error})"
            seen.append(Seen("unknown", told, "look at it by hand, and report it: this server answers otherwise"))
        if not seen:
            raise AssertionError(f"the check {self.name} said nothing")
        return [Row(self, self._in_a_lab(each) if look.rehearsal else each) for each in seen]

    def _in_a_lab(self, seen: Seen) -> Seen:
        if not (self.real_only or seen.real_only) or seen.severity not in ("stop", "warn", "unknown"):
            return seen
        return replace(seen, severity="note", finding=f"{seen.finding} (a lab goes on)")


@dataclass(frozen=True)
class Row:
    """One line of the table: a check and one thing that it saw.

    Args:
        check: the check.
        seen: what it saw.
        also: further checks that could not look for the same reason.
    """

    check: Check
    seen: Seen
    also: tuple[Check, ...] = ()

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.seen.severity

    @property
    def blocks(self) -> bool:
        """Whether something is unknown that has to be known."""
        return self.severity == "unknown" and any(each.blocks for each in (self.check, *self.also))

    @property
    def finding(self) -> str:
        """What was seen, with the checks concerned where it is about several."""
        names = ", ".join(each.name for each in (self.check, *self.also))
        return f"{self.seen.finding}; this concerns {names}" if self.also else self.seen.finding

    def flat(self) -> dict[str, Any]:
        """Return the table row."""
        return {
            "no": self.check.number,
            "check": f"{len(self.also) + 1} checks" if self.also else self.check.name,
            "severity": self.seen.severity,
            "finding": self.finding,
            "remedy": self.seen.remedy,
            "reason": self.check.reason,
            "command": self.check.command,
        }

    @property
    def sentence(self) -> str:
        """The row in words."""
        remedy = f" ({self.seen.remedy})" if self.seen.remedy else ""
        return f"{self.finding}{remedy}" if self.also else f"{self.check.name}: {self.finding}{remedy}"


def united(rows: Iterable[Row]) -> list[Row]:
    """Make one row of those that only say that the same server could not be looked at."""
    found: dict[Any, Row] = {}
    for number, row in enumerate(rows):
        place = row.seen if row.seen.member else number
        if place not in found:
            found[place] = row
        elif row.check not in (found[place].check, *found[place].also):
            found[place] = replace(found[place], also=(*found[place].also, row.check))
    return list(found.values())


def check(
    number: int, name: str, *, command: str, reason: str, real_only: bool = False
) -> Callable[[Callable[[Look], Iterable[Seen]]], Check]:
    """Make a function a check; see ``Check``."""
    return lambda function: Check(number, name, command, reason, function, real_only)


def unreadable(error: Exception) -> Seen:
    """Return the row of something that the servers did not let us see."""
    code = getattr(error, "code", None)
    if code == UNAUTHORIZED:
        return Seen("unknown", "the user may not look (code 13)", "give the user the roles that docs/how-to.md lists")
    if code in ABSENT:
        return Seen("unknown", f"this deployment has no such command (code {code})", "look at it by other means")
    told = str(error).split(", full error")[0].split(", Timeout")[0]
    return Seen("unknown", f"it could not be read: {type(error).__name__}: {told}", "see why, then run again")


def chosen(checks: Sequence[Check], only: str) -> list[Check]:
    """Return the checks that ``--only`` names, all when it is empty.

    Raises:
        EnvironmentInvalid: there is no such check.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        _known(checks, name)
    return [each for each in checks if not names or each.name in names]


def skips(checks: Sequence[Check], text: str) -> dict[str, str]:
    """Read ``--skip``: ``name=reason; name=reason``; a name is that of a check, or the address of a server.

    Raises:
        EnvironmentInvalid: there is no such check, or the reason is missing.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, reason = (piece.strip() for piece in part.partition("="))
        if not is_address(name):
            _known(checks, name)
        if not reason:
            raise EnvironmentInvalid(
                f"skip: {name!r} needs a reason, which the report records: --skip '{name}=why it may be skipped' "
                "(shard-migrate: --skip-checks)"
            )
        found[name] = reason
    return found


def is_address(name: str) -> bool:
    """Tell whether a name of ``--skip`` is a server's ``host:port``; no check has a colon in its name."""
    return ":" in name


def _known(checks: Sequence[Check], name: str) -> None:
    names = [each.name for each in checks]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise EnvironmentInvalid(f"there is no check {name!r}.{hint} There are: {', '.join(names)}")
