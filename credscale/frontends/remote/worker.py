"""The run itself on the host, started detached by ``agent.launch`` with the run's folder as its argument.

It is the same run as one at a terminal there; what it would show and ask goes into the run's stream.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

from rich.console import Console

from credscale.core import handed
from credscale.core.context import STOP_FILE
from credscale.core.errors import CredscaleError, Refused
from credscale.core.journal import masked, to_json
from credscale.core.secrets import Secrets
from credscale.core.signals import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from credscale.core.journal import Event
    from credscale.frontends.policy import Ask
    from credscale.frontends.run import Outcome

ANSWER_SECONDS = 900.0
END_SECONDS = 60.0  # in which the last word is tried to be written
POLL_SECONDS = 0.1


class Stream:
    """The file of all that a run tells its terminals: one JSON object per line.

    Records: ``title`` a phase begins; ``event`` a journal event; ``close`` the phase ends; ``said`` text for people;
    ``ask`` a question and ``answered`` its end; ``ended`` the outcome, always last.

    Args:
        path: the file.
        mask: hides secrets: it lies on a disk.
    """

    def __init__(self, path: Path, mask: Callable[[str], str]) -> None:
        self._path, self._mask = path, mask
        self._lock = threading.Lock()

    def write(self, **record: Any) -> bool:
        """Append one record; tell whether that could be done.

        What only shows a run must not end it, so on a full disk a record is left out. Each begins a new line, because
        the one before may have been cut off.
        """
        data = b"\n" + to_json(masked(record, self._mask)).encode() + b"\n"
        with self._lock:
            try:
                with self._path.open("ab", buffering=0) as file:
                    return file.write(data) == len(data)
            except OSError:
                return False


class _Said:
    """A text file whose text becomes records of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if text:
            self._stream.write(said=text)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""


class _Log(io.TextIOWrapper):
    """This process's own output, which lies on the host's disk: what a step prints, a traceback."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        super().__init__(os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0), encoding="utf-8", write_through=True)
        self._mask = mask

    def write(self, text: str) -> int:
        return super().write(self._mask(text))


class _View:
    """Passes a phase's events on."""

    def __init__(self, stream: Stream, title: str) -> None:
        self._stream, self._title = stream, title

    def __enter__(self) -> Self:
        self._stream.write(title=self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.write(close=True)

    def update(self, event: Event) -> None:
        self._stream.write(event=event)


class Distant:
    """A front whose people are at terminals of other machines.

    Args:
        stream: what they read.
        folder: the run's, where their answers come.
        width: columns of the first one's terminal.
        answers: whether somebody is there to be asked.
    """

    def __init__(self, stream: Stream, folder: Path, *, width: int, answers: bool) -> None:
        self._stream, self._folder = stream, folder
        self.console = Console(file=cast("TextIO", _Said(stream)), width=width, highlight=False)
        self.ask: Ask | None = self._ask if answers else None

    def view(self, title: str) -> _View:
        """Return what passes a phase's events on.

        Raises:
            Refused: somebody asked to stop before it began.
        """
        if (self._folder / STOP_FILE).exists():
            raise Refused("stopped before it began, as asked. Nothing was changed")
        return _View(self._stream, title)

    def _ask(self, question: str) -> str:
        answer, stop = self._folder / "answer", self._folder / STOP_FILE
        self._stream.write(ask=question)
        deadline = time.monotonic() + ANSWER_SECONDS
        while not answer.exists():
            if stop.exists():
                self._stream.write(answered=True)
                raise Refused("stopped before anything was confirmed. Nothing was changed")
            if time.monotonic() >= deadline:
                self._stream.write(answered=True)
                raise Refused(f"nobody answered within {ANSWER_SECONDS / 60:.0f} minutes. Nothing was changed")
            time.sleep(POLL_SECONDS)
        self._stream.write(answered=True)
        return answer.read_text(encoding="utf-8")


def work(folder: Path, secrets: dict[str, str]) -> Outcome:
    """Carry out what was asked for, in the present working folder.

    Args:
        folder: the run's, with ``order.json``.
        secrets: values by reference that this machine does not have.
    """
    from credscale.frontends.catalogue import named, runbook_behind
    from credscale.frontends.run import Flags, run_here

    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    inventory = folder / "environment" / order["file"]
    inventory.parent.mkdir(mode=0o700, exist_ok=True)
    inventory.write_text(order["inventory"], encoding="utf-8")
    flags = Flags(**order["flags"], run=folder.name, file=str(inventory))
    with handed.held(secrets):
        mask = _secrets_in(inventory).mask
        sys.stdout = sys.stderr = _Log(mask)
        stream = Stream(folder / "stream.jsonl", mask)
        front = Distant(stream, folder, width=order["width"], answers=order["answers"])
        outcome = run_here(runbook_behind(named(order["runbook"])), flags, front)
    ended = {
        "code": outcome.code, "status": outcome.status, "changes": outcome.changes, "problem": outcome.problem,
        "signer": outcome.signer, "evidence": outcome.folder is not None,
    }  # fmt: skip
    with uninterrupted(drop=True):
        until = time.monotonic() + END_SECONDS
        while not stream.write(ended=ended) and time.monotonic() < until:
            time.sleep(1.0)
    return outcome


def _secrets_in(inventory: Path) -> Secrets:
    """Return what must not be shown; nothing of a file with a mistake, with which no run begins."""
    from credscale.core.environment import load
    from credscale.frontends.masking import secrets_of

    try:
        return secrets_of(load(str(inventory)))
    except CredscaleError:
        return Secrets()


def main() -> int:
    """Read the secrets, forget the way they came, run."""
    secrets = json.load(sys.stdin)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)  # a process started in the background ignores it
    return work(Path(sys.argv[1]), secrets).code


if __name__ == "__main__":
    sys.exit(main())
