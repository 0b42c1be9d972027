"""A run elsewhere as this terminal sees it: watched to its end, its evidence brought here, its outcome told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, CredscaleError, PreconditionFailed
from credscale.frontends.remote.bringing import bring
from credscale.frontends.remote.following import Detached, follow
from credscale.frontends.remote.preparing import patiently
from credscale.frontends.remote.records import Sent, forget
from credscale.frontends.run import FAILED, Outcome
from credscale.frontends.telling import changes_in

if TYPE_CHECKING:
    from credscale.core.secrets import Secrets
    from credscale.frontends.front import Terminal
    from credscale.frontends.remote.host import RemoteHost

NO_WORDS = "its process is gone without a word, as after a reboot or kill -9"


def watch(host: RemoteHost, sent: Sent, secrets: Secrets, front: Terminal) -> Outcome:
    """Watch a run to its end and bring its evidence here.

    Args:
        host: where it is.
        sent: the run.
        secrets: must not stand in its evidence.
        front: where it is shown.
    """
    again = f"invoke report.attach {sent.run}"
    try:
        last = follow(host, sent.run, front)
    except Detached:
        front.console.print(f"Detached; the run goes on at {host.name}. Watch it again: {again}", soft_wrap=True)
        return Outcome(FAILED, "detached")
    except (ConnectFailed, PreconditionFailed) as error:
        _say(front, f"✗ {host.name} was lost", f"{error}\nThe run may go on there. Watch it again: {again}")
        return Outcome(FAILED, "detached", problem=str(error))
    ended: dict[str, Any] = last.get("ended", {})
    status = ended.get("status", "killed")
    if ended and not ended["evidence"]:
        forget(sent.run)
        return Outcome(ended["code"], status, None, ended["changes"], ended["problem"])
    try:
        told = patiently(lambda: bring(host, sent.run, sent.folder, secrets, ended.get("signer", "")))
    except (CredscaleError, KeyboardInterrupt) as error:
        text = str(error) or "interrupted by the operator"
        _say(front, f"✗ {sent.runbook} ended ({status}), but its evidence is not here", f"{text}\nFetch it: {again}")
        return Outcome(FAILED, status, changes=ended.get("changes", 0), problem=text)
    forget(sent.run)
    if ended:
        front.console.print(told, markup=False, soft_wrap=True)
        return Outcome(ended["code"], status, sent.folder, ended["changes"], ended["problem"], ended["signer"])
    changes = changes_in(sent.folder)
    words = last["died"].splitlines()
    why = f"{words[-1] if words else NO_WORDS}. Running it again goes on from there\n{changes.text}\n{told}"
    _say(front, f"✗ {sent.runbook} was killed on {host.name}", why)
    return Outcome(FAILED, status, sent.folder if sent.folder.exists() else None, len(changes.made))


def _say(front: Terminal, verdict: str, text: str) -> None:
    front.console.print(f"[bold red]{verdict}[/]: ", end="")
    front.console.print(text, markup=False, soft_wrap=True)
