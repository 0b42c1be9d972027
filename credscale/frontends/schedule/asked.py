"""What is to be scheduled: a runbook with its parameters on an environment, checked before a file is written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, Refused, UnknownTarget

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook

_FIELD = r"[0-9A-Za-z*?,/-]+"
_CRON = re.compile(rf"@(?:hourly|daily|midnight|weekly|monthly|yearly|annually)|{_FIELD}(?: {_FIELD}){{4}}")


@dataclass(frozen=True)
class Asked:
    """What is to be scheduled.

    Args:
        runbook: the procedure.
        environment: where.
        given: the parameters from the command line, coerced.
        params: every parameter of the runbook: given, the environment's, or the default.
        ticket: the change ticket, may be empty.
        cron: when; empty for a person to start it.
        command: the command that asked, for people who read the file.
    """

    runbook: Runbook
    environment: Environment
    given: dict[str, Any]
    params: dict[str, Any]
    ticket: str
    cron: str
    command: str

    @property
    def confirms(self) -> bool:
        """Whether a person must confirm each run."""
        return not self.runbook.reads_only and self.environment.policy.confirm != "none"

    @property
    def timezone(self) -> str:
        """The time zone of the environment's maintenance window; UTC where it has none."""
        window = self.environment.policy.maintenance_window
        return window.timezone if window is not None else "UTC"

    def require_ticket(self) -> None:
        """Refuse what nobody could give a ticket to later.

        Raises:
            Refused: the policy wants a ticket and there is none.
        """
        if self.environment.policy.require_ticket and not self.runbook.reads_only and not self.ticket:
            raise Refused(
                f"{self.environment.name} requires a change ticket (policy.require_ticket). Nothing was written. "
                "Add --ticket ID"
            )


def ask(runbook: str, env: str, ticket: str, cron: str, settings: Iterable[str], command: str) -> Asked:
    """Check what is to be scheduled.

    Args:
        runbook: its task name.
        env: as ``--env``.
        ticket: the change ticket, may be empty.
        cron: five fields or ``@daily`` and the like; empty for a person to start it.
        settings: ``name=value``, one for each parameter.
        command: as for ``Asked``.

    Raises:
        EnvironmentInvalid: a parameter, the cron expression or the environment file is wrong.
        UnknownTarget: there is no such runbook or environment.
        Refused: a schedule would have to confirm by itself, or its notebook is stale.
    """
    from credscale.core.environment import load
    from credscale.frontends import notebook

    found = find_runbook(runbook)
    if not env:
        raise EnvironmentInvalid(f"--env NAME is missing: on which environment is {found.name} to run?")
    environment = load(env)
    given = parse_settings(settings)
    if not _is_utf8(ticket):
        raise EnvironmentInvalid(f"--ticket {ticket!r} is not UTF-8")
    params = found.coerce(environment.defaults_for(found.name, found.inherited) | given)
    if cron and not _CRON.fullmatch(cron):
        raise EnvironmentInvalid(
            f"--cron {cron!r} is not five fields, minute hour day month weekday, such as '0 2 * * 6', nor @daily"
        )
    if notebook.stale([found]):
        raise Refused(
            f"{notebook.path_of(found)} does not match {found.module}. Nothing was written. "
            "Build it again and look at the difference: invoke notebooks.build"
        )
    asked = Asked(found, environment, {name: params[name] for name in given}, params, ticket, cron, command)
    if cron and asked.confirms:
        raise Refused(
            f"{environment.name} wants every run of {found.name} confirmed (policy.confirm: "
            f"{environment.policy.confirm}), which a schedule cannot do. Nothing was written. Leave --cron out and "
            "start each run by hand, or set policy.confirm: none in an environment file made for the schedule"
        )
    if cron:
        asked.require_ticket()
    return asked


def find_runbook(name: str) -> Runbook:
    """Return a runbook by its task name.

    Raises:
        UnknownTarget: names those that there are.
    """
    from credscale.frontends import catalogue

    known = {runbook.name: runbook for runbook in catalogue.runbooks()}
    if name not in known:
        raise UnknownTarget(f"no runbook {name!r}. Runbooks: {', '.join(sorted(known))}")
    return known[name]


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """Return ``name=value`` texts as a mapping; dashes in a name are underscores.

    Raises:
        EnvironmentInvalid: one is not of this form, or a name stands twice.
    """
    values: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise EnvironmentInvalid(f"--set {setting!r} is not name=value, such as --set chunk_size_mb=64")
        if not _is_utf8(value):
            raise EnvironmentInvalid(f"--set {name}: the value {value!r} is not UTF-8")
        if name in values:
            raise EnvironmentInvalid(f"--set gives {name} twice")
        values[name] = value
    return values


def _is_utf8(text: str) -> bool:
    """Tell whether a word of the command line was UTF-8; Python keeps other bytes as surrogates."""
    return not re.search(r"[\ud800-\udfff]", text)


def write(path: Path, text: str, *, force: bool) -> str:
    """Write a generated file as a whole or not at all.

    Args:
        path: the file; its folder is made.
        text: what it is to hold.
        force: replace a file that holds something else.

    Returns:
        what was done, in words.

    Raises:
        Refused: the file is there and differs, or cannot be written.
    """
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return f"{path} is as it should be already"
        if path.exists() and not force:
            raise Refused(
                f"{path} is there and differs. Nothing was written. Compare it with what this prints without --out, "
                "then add --force to replace it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(text.encode())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}. Nothing was changed") from None
    return f"wrote {path}"
