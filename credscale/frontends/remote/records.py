"""What this machine remembers of the runs it sent away: where they are, until their evidence is here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from credscale.core.errors import UnknownTarget
from credscale.frontends.session import artifacts_root

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


def find(run: str) -> Sent | None:
    """Return a run that was sent from here by the beginning of its id, ``last`` for the newest; None for none.

    Raises:
        UnknownTarget: several begin so.
    """
    runs = away()
    if run == "last":
        return runs[0] if runs else None
    found = [sent for sent in runs if run and (sent.run.startswith(run) or sent.run.partition("-")[2].startswith(run))]
    if len(found) > 1:
        names = ", ".join(sent.run for sent in found[:5])
        raise UnknownTarget(f"{len(found)} runs begin with {run!r}: {names}. Give more of the id")
    return found[0] if found else None
