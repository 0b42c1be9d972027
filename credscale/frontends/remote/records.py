"""What this machine remembers of the runs it sent away: where they are, until their evidence is here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from credscale.core.errors import UnknownTarget
from credscale.frontends.session import artifacts_root

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(".credscale/remote/runs")


@dataclass(frozen=True)
class Sent:
    """A run that was sent to a host.

    Args:
        run: its id.
        runbook: the runbook's name.
        environment: the environment's name.
        env: what ``--env`` said.
        on: the host.
        flags: the other flags it was asked for with.
    """

    run: str
    runbook: str
    environment: str
    env: str
    on: str
    flags: dict[str, object]

    @property
    def folder(self) -> Path:
        """Where its evidence comes."""
        return artifacts_root() / self.environment / self.runbook / self.run


def remember(sent: Sent) -> None:
    """Keep where a run went, before it begins."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draft = FOLDER / f".{sent.run}"
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(asdict(sent)), encoding="utf-8")
    draft.replace(FOLDER / f"{sent.run}.json")


def forget(run: str) -> None:
    """Forget a run: its evidence is here, or there never was any."""
    (FOLDER / f"{run}.json").unlink(missing_ok=True)


def away() -> list[Sent]:
    """Return the runs whose evidence is not here yet, newest first."""
    return [
        Sent(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(FOLDER.glob("*.json"), reverse=True)
    ]


def chosen(wanted: str, runs: Sequence[Sent]) -> Sent | None:
    """Return a run by the beginning of its id, ``last`` for the newest; None for none.

    Raises:
        UnknownTarget: several begin so.
    """
    if wanted == "last":
        return max(runs, key=lambda sent: sent.run, default=None)
    found = [sent for sent in runs if wanted and any(name.startswith(wanted) for name in _names(sent))]
    if len(found) > 1:
        names = ", ".join(f"{sent.run} on {sent.on}" for sent in found[:5])
        raise UnknownTarget(f"{len(found)} runs begin with {wanted!r}: {names}. Give more of the id")
    return found[0] if found else None


def _names(sent: Sent) -> tuple[str, str]:
    return sent.run, sent.run.partition("-")[2]
