"""A terminal that watches a run elsewhere: shows what comes, answers what is asked, survives a lost connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.journal import utc_now
from credscale.frontends.remote.host import is_lost

if TYPE_CHECKING:
    from types import TracebackType

    from credscale.frontends.front import Terminal, View
    from credscale.frontends.remote.host import RemoteHost

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
GIVE_UP_SECONDS = 1800.0
MOST_FAILURES = 5
LAST = {"ended", "died", "gone"}
MENU = (
    "The run goes on at {host}. [d]etach, [s]top before its next step, [i]nterrupt its step now, "
    "anything else goes on watching: "
)


class Detached(Exception):
    """The terminal lets go; the run goes on."""


class Screen:
    """Shows a stream's records on a terminal.

    Args:
        front: the terminal.
    """

    def __init__(self, front: Terminal) -> None:
        self._front = front
        self._view: View | None = None
        self.question = ""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""
        self._close()

    def show(self, record: dict[str, Any]) -> None:
        """Show one record; see ``worker.Stream``."""
        if "title" in record:
            self._close()
            self._view = self._front.view(record["title"])
            self._view.__enter__()
        elif "event" in record and self._view is not None:
            self._view.update(record["event"])
        elif "close" in record:
            self._close()
        elif "said" in record:
            self._front.console.print(record["said"], end="", markup=False, highlight=False, soft_wrap=True)
        elif "ask" in record:
            self.question = record["ask"]
        elif "answered" in record:
            self.question = ""

    def note(self, text: str) -> None:
        """Show a sentence of this terminal's own."""
        if self._view is not None:
            self._view.update({"event": "note", "time": utc_now(), "text": text})
        else:
            self._front.console.print(f"  · {text}", markup=False, soft_wrap=True)

    def ask(self, question: str) -> str | None:
        """Put a question; None where nobody can answer."""
        if self._front.ask is None:
            return None
        view, plain = self._view, not self._front.console.is_terminal
        if view is not None and not plain:
            view.__exit__(None, None, None)  # two cannot draw at once
        try:
            return self._front.ask(question)
        finally:
            if view is not None and not plain:
                view.__enter__()

    def _close(self) -> None:
        if self._view is not None:
            self._view.__exit__(None, None, None)
            self._view = None


def follow(host: RemoteHost, run: str, front: Terminal) -> dict[str, Any]:
    """Watch a run until its end.

    Args:
        host: where it is.
        run: its id.
        front: where it is shown.

    Returns:
        the last record: ``ended`` with the outcome, ``died`` with the last words of a process that was killed, or
        ``gone`` when the host knows of no such run.

    Raises:
        Detached: the person wants to watch no longer.
        ConnectFailed: the host was not reached for half an hour, or does not let us in any more.
        PreconditionFailed: what follows it there failed again and again.
    """
    with Screen(front) as screen:
        watcher = _Watcher(host, run, screen)
        while True:
            try:
                last = watcher.watch()
                if last is not None:
                    return last
            except (ConnectFailed, PreconditionFailed) as error:
                watcher.wait_for_connection(error)
            except KeyboardInterrupt:
                _decide(host, run, screen)


class _Watcher:
    def __init__(self, host: RemoteHost, run: str, screen: Screen) -> None:
        self._host, self._run, self._screen = host, run, screen
        self._offset, self._lost, self._tries = 0, 0.0, 0

    def watch(self) -> dict[str, Any] | None:
        """Show what comes; returns the last record, None when the agent ended without one."""
        for offset, record in self._host.stream("follow", self._run, str(self._offset)):
            if self._lost:
                self._screen.note(f"connected to {self._host.name} again")
                self._lost, self._tries = 0.0, 0
            if LAST & record.keys():
                return dict(record)
            self._screen.show(record)
            self._offset = offset  # not before: after Ctrl-C it comes again
            if not record and self._screen.question:  # all that came before has been shown, and nobody answered yet
                self._answer()
        return None

    def _answer(self) -> None:
        question = self._screen.question
        answer = self._screen.ask(question)
        if answer is None:
            self._screen.note(f"it waits for an answer from a terminal: {question}")
        elif self._host.call("answer", self._run, stdin=answer.encode())["done"] != "answered":
            self._screen.note("it was answered at another terminal before")
        self._screen.question = ""  # not before: it is put again after Ctrl-C and after a lost connection

    def wait_for_connection(self, error: ConnectFailed | PreconditionFailed) -> None:
        """Pause before the next try.

        Raises:
            ConnectFailed: trying on makes no sense.
            PreconditionFailed: likewise.
        """
        now = time.monotonic()
        # What follows the run there may have been killed like any process.
        worth = is_lost(error) if isinstance(error, ConnectFailed) else self._tries < MOST_FAILURES
        if not worth or (self._lost and now - self._lost > GIVE_UP_SECONDS):
            raise error
        if not self._lost:
            self._lost = now
            reason = error.why if isinstance(error, ConnectFailed) else error
            self._screen.note(f"the connection is lost; the run goes on at {self._host.name}, trying again ({reason})")
        try:
            time.sleep(PAUSES[min(self._tries, len(PAUSES) - 1)])
        except KeyboardInterrupt:
            _decide(self._host, self._run, self._screen)
        self._tries += 1


def _decide(host: RemoteHost, run: str, screen: Screen) -> None:
    """Ask what Ctrl-C means: the run is not this terminal's child.

    Raises:
        Detached: chosen, or nobody is there to choose.
    """
    try:
        answer = screen.ask("\n" + MENU.format(host=host.name))
        choice = "detach" if answer is None else answer.strip().lower()
        verb = {"s": "stop", "stop": "stop", "i": "interrupt", "interrupt": "interrupt"}.get(choice)
        if verb is not None:
            host.call(verb, run)
            screen.note("it stops before its next step" if verb == "stop" else "its step is interrupted")
    except (ConnectFailed, PreconditionFailed) as error:
        screen.note(f"it could not be told, ask again when the connection is back ({error})")
    except (KeyboardInterrupt, EOFError):
        raise Detached from None
    if choice in ("d", "detach"):
        raise Detached
