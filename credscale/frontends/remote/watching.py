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
    try:
        last = follow(host, sent.run, front)
    except Detached:
        told = f"Detached; the run goes on at {host.name}. Watch it again: {attach_command(sent)}"
        front.console.print(told, markup=False, soft_wrap=True)
        return Outcome(FAILED, "detached", changes=None, run=sent.run)
    except (ConnectFailed, PreconditionFailed) as error:
        return may_go_on(host.name, sent, str(error), front)
    if "gone" in last:
        forget(sent.run)
        text = f"{last['gone']}. What it has changed can only be seen at its target: the same command looks first"
        _say(front, f"✗ {host.name} knows nothing of this run", text)
        return Outcome(FAILED, "gone", changes=None, problem=text, run=sent.run)
    ended: dict[str, Any] = last.get("ended", {})
    if ended and not ended["evidence"]:
        forget(sent.run)
        return Outcome(ended["code"], ended["status"], None, ended["changes"], ended["problem"])
    return _ended(host, sent, secrets, front, ended, str(last.get("died", "")))


def attach_command(sent: Sent) -> str:
    """Return the command that watches a run again."""
    return f"invoke report.attach {sent.run}"


def may_go_on(host: str, sent: Sent, problem: str, front: Terminal) -> Outcome:
    """Tell that this terminal lost sight of a run, whose changes nobody knows here."""
    _say(front, f"✗ {host} was lost", f"{problem}\nThe run may go on there. Watch it again: {attach_command(sent)}")
    return Outcome(FAILED, "detached", changes=None, problem=problem, run=sent.run)


def _ended(
    host: RemoteHost, sent: Sent, secrets: Secrets, front: Terminal, ended: dict[str, Any], last_words: str
) -> Outcome:
    """Bring the evidence of a run that came to its end, or died."""
    status = ended.get("status", "killed")
    try:
        told = patiently(lambda: bring(host, sent.run, sent.folder, secrets, ended.get("signer", "")))
    except (CredscaleError, KeyboardInterrupt) as error:
        text = str(error) or "interrupted by the operator"
        verdict = f"✗ {sent.runbook} ended ({status}), but its evidence is not here"
        _say(front, verdict, f"{text}\nTry again: {attach_command(sent)}")
        return Outcome(FAILED, status, changes=ended.get("changes"), problem=text, run=sent.run)
    forget(sent.run)
    folder = sent.folder if sent.folder.exists() else None
    if ended:
        front.console.print(told, markup=False, soft_wrap=True)
        return Outcome(ended["code"], status, folder, ended["changes"], ended["problem"], ended["signer"], sent.run)
    changes = changes_in(folder)
    words = last_words.splitlines()
    known = changes.text if folder is not None else "What it has changed is not known here"
    why = f"{words[-1] if words else NO_WORDS}. Running it again goes on from there\n{known}\n{told}"
    _say(front, f"✗ {sent.runbook} was killed on {host.name}", why)
    return Outcome(FAILED, status, folder, len(changes.made) if folder is not None else None, run=sent.run)


def _say(front: Terminal, verdict: str, text: str) -> None:
    front.console.print(f"[bold red]{verdict}[/]: ", end="")
    front.console.print(text, markup=False, soft_wrap=True)
